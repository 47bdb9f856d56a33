//! A heap's regions: which there are, which slices of them are free, and how much the heap holds.
//!
//! Regions are only ever added to a heap, at the head of a list; all of them go when it is dropped. So whoever walks a
//! list needs no section, and nothing but the heap's borrow.

mod giving_back;

use super::backing::Backing;
use super::record::{AREA, FIRST_AREA, LEAST_AREA, Record, Usage, WORDS, WORDS_ROOM, header_slices};
use crate::base::{CLASSES, GRANULE, SLICE};
use crate::files::{Error, Result, no_memory, slot};
use crate::global::{get_option, process};
use crate::index::Found;
use crate::pal::{Call, Errno, Misuse, broken_contract};
use crate::region::{Kind, Place, Prefer, Region, Stack};
use crate::sync::CachePadded;
use core::ffi::c_void;
use core::ptr::{self, NonNull};
use std::io;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Threads take blocks in so many places.
pub(super) const SHARDS: usize = 8;

/// What a heap knows, in the header of its first area. All zero is a heap that has nothing.
#[repr(C)]
pub(super) struct Words {
    areas: AtomicPtr<Region>,
    huge: AtomicPtr<Region>,
    /// The area that served last.
    served: AtomicPtr<Region>,
    /// How much less than everything the heap may hold: zero is no limit.
    spared: AtomicUsize,
    /// Bytes of listed slabs without a block, roughly.
    pub(super) unused: AtomicUsize,
    /// Bytes of free slices that may be resident.
    dirty: CachePadded<AtomicUsize>,
    held: CachePadded<AtomicUsize>,
    /// Slabs of each class with free blocks; those that are being looked at go into the second list and come back.
    pub(super) listed: [[Stack<Record>; 2]; CLASSES],
    /// The slabs that blocks are taken from.
    pub(super) current: [[Place<Record>; CLASSES]; SHARDS],
}

const _: () = assert!(size_of::<Words>() <= WORDS_ROOM);

/// Why there is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The heap would hold more than it may.
    Limit {
        /// Bytes that it would have to hold more.
        wanted: usize,
    },
    /// The system has no memory, or the disk is full.
    System,
}

/// A run of slices that the caller holds.
pub(super) struct Claim {
    pub(super) record: &'static Record,
    /// Whether it is all zero.
    pub(super) is_zero: bool,
}

/// Slices that were claimed: in which area, from which on, and whether all of it is zero.
type Run = (&'static Region, usize, bool);

/// There are slices, and no blocks of the disk for them.
struct DiskFull;

/// In an area's word: the longest run of slices that may be free, and above that a number that each release changes, so
/// that nobody who looked before it says afterwards that there is none.
const ROOM: usize = (1 << 16) - 1;

/// Free memory that may stay resident, unless whoever makes the heap says otherwise.
pub(super) const DIRTY_MAX: usize = 4 << 20;
/// And beside that, one part of so many of what the heap holds.
const DIRTY_PARTS: usize = 8;

/// A heap's memory. Dropping it gives all of it back.
pub(super) struct Memory {
    words: NonNull<Words>,
    pub(super) backing: Backing,
    /// Bytes of free memory that may stay resident, beside the share of what is held.
    dirty_max: usize,
}

// SAFETY: the words are atomics, which any thread may touch; they are there as long as the value.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// A heap that holds nothing yet, and keeps about `dirty_max` bytes of what becomes free.
    pub(super) fn new(backing: Backing, dirty_max: usize) -> Result<Memory> {
        // The allocator of the process owns the index: this starts it, if nobody has.
        let _reserves = get_option("reserve");
        process().space().reap(slot());
        let area = map_area(FIRST_AREA, &backing, None).or_else(|_| map_area(LEAST_AREA, &backing, None));
        let area = area.map_err(explain)?;
        let words = ptr::with_exposed_provenance_mut(area.base() + WORDS);
        // SAFETY: a region does not lie at zero.
        let memory = Memory { words: unsafe { NonNull::new_unchecked(words) }, backing, dirty_max };
        push(&memory.words().areas, area);
        Ok(memory)
    }

    #[inline]
    pub(super) fn words(&self) -> &Words {
        // SAFETY: they lie in the first area's header, which began as zeros, and stay as long as this value.
        unsafe { self.words.as_ref() }
    }

    /// What its regions know it by.
    #[inline]
    pub(super) fn owner(&self) -> usize {
        self.words.as_ptr().addr()
    }

    /// The region that holds `address`, which is said to be that of a block of this heap.
    #[inline]
    pub(super) fn region_of(&self, address: usize) -> &'static Region {
        match self.find(address) {
            Some(region) => region,
            None => broken_contract(Misuse::Foreign, Call::Free, address),
        }
    }

    /// The heap's region that holds `address`, if one does.
    #[inline]
    pub(super) fn find(&self, address: usize) -> Option<&'static Region> {
        // Outside of a section: a region of this heap stays as long as the heap, and of any other nothing is followed.
        match process().space().index().lookup_coarse(address) {
            Found::Region(region)
                if region.kind() == Kind::Heap
                    && region.heap().owner() == self.owner()
                    && region.contains(address) =>
            {
                Some(region)
            }
            _ => None,
        }
    }

    /// Whether the region is cut into slices.
    #[inline]
    pub(super) fn is_area(region: &Region) -> bool {
        // Of a huge block's region none can be claimed.
        region.slices().usable().end > 0
    }

    pub(super) fn areas(&self) -> impl Iterator<Item = &'static Region> + use<> {
        walk(&self.words().areas)
    }

    pub(super) fn huge(&self) -> impl Iterator<Item = &'static Region> + use<> {
        walk(&self.words().huge)
    }

    /// How much the heap may hold.
    pub(super) fn limit(&self) -> usize {
        // Relaxed, here and below: figures; what is held is counted in single steps.
        usize::MAX - self.words().spared.load(Ordering::Relaxed)
    }

    pub(super) fn set_limit(&self, bytes: usize) {
        self.words().spared.store(usize::MAX - bytes, Ordering::Relaxed);
    }

    /// How much it holds: slices of slabs and large blocks, and huge blocks.
    pub(super) fn held(&self) -> usize {
        self.words().held.load(Ordering::Relaxed)
    }

    /// Counts `bytes` more as held, if that many may be.
    pub(super) fn pay(&self, bytes: usize) -> std::result::Result<(), Refusal> {
        let limit = self.limit();
        let sum = |held: usize| held.checked_add(bytes).filter(|&sum| sum <= limit);
        let paid = self.words().held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
        paid.map_or(Err(Refusal::Limit { wanted: bytes }), |_| Ok(()))
    }

    pub(super) fn pay_back(&self, bytes: usize) {
        self.words().held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Claims `slices` slices at a multiple of `align` slices, and pays for them.
    pub(super) fn claim(
        &self,
        usage: Usage,
        slices: usize,
        align: usize,
    ) -> std::result::Result<Claim, Refusal> {
        self.pay(slices * SLICE)?;
        // Acquire: pairs with the Release in `claim_in`.
        let served = NonNull::new(self.words().served.load(Ordering::Acquire));
        // SAFETY: a descriptor, which lives forever.
        let served = served.map(|region| unsafe { region.as_ref() });
        let (mut areas, mut is_full) = (served.into_iter().chain(self.areas()), false);
        let claim = areas.find_map(|area| {
            self.claim_in(area, slices, align).unwrap_or_else(|DiskFull| {
                is_full = true;
                None
            })
        });
        let claim = match claim {
            // In an area more there were as few blocks of the disk.
            None if !is_full => self.claim_fresh(slices, align),
            claim => claim,
        };
        match claim {
            Some((area, start, is_zero)) => {
                let record = Record::at(area, start);
                record.open(usage, slices);
                Ok(Claim { record, is_zero })
            }
            None => {
                self.pay_back(slices * SLICE);
                Err(Refusal::System)
            }
        }
    }

    fn claim_in(
        &self,
        area: &'static Region,
        slices: usize,
        align: usize,
    ) -> std::result::Result<Option<Run>, DiskFull> {
        let room = area.heap().use_word();
        // Relaxed (all): a hint, whose changes are single steps.
        let before = room.load(Ordering::Relaxed);
        if before & ROOM < slices {
            return Ok(None);
        }
        let attempts = [Prefer::Dirty, Prefer::Any].into_iter().map(|prefer| {
            let attempt = area.slices().claim(slices, prefer, align);
            if attempt.took_back {
                self.renew_room(area);
            }
            attempt.run
        });
        let Some(run) = attempts.flatten().next().inspect(|run| self.uses(area, run.start, run.len)) else {
            if align == 1 {
                let less = before & !ROOM | (slices - 1);
                let _renewed = room.compare_exchange(before, less, Ordering::Relaxed, Ordering::Relaxed);
            }
            return Ok(None);
        };
        if !self.reserve(area, run.start, run.len) {
            return Err(DiskFull);
        }
        let area_at = ptr::from_ref(area).cast_mut();
        if self.words().served.load(Ordering::Relaxed) != area_at {
            // Release: pairs with the Acquire in `claim`: the area may be a new one that is not in the list yet.
            self.words().served.store(area_at, Ordering::Release);
        }
        Ok(Some((area, run.start, run.all_clean)))
    }

    /// Has the blocks of a run reserved that the caller has claimed, or gives it back. What is dirty has its blocks.
    fn reserve(&self, area: &'static Region, start: usize, len: usize) -> bool {
        let (at, bytes) = (area.base() + start * SLICE, len * SLICE);
        let offset = area.heap().offset() + start * SLICE;
        if area.slices().dirty_within(start, len) == len || self.backing.reserve(offset, bytes) {
            return true;
        }
        // What was reserved in part goes, and with it what was dirty.
        // SAFETY: the run is the caller's.
        if unsafe { self.backing.purge(at, offset, bytes) } {
            area.slices().release_clean(start, len);
            self.renew_room(area);
        }
        // (Else it stays claimed: some of it may have no blocks, and nobody could tell.)
        false
    }

    /// Claims the `extra` slices behind a run of the caller's, and pays for them. Says whether they are all zero.
    pub(super) fn extend(&self, record: &'static Record, extra: usize) -> Option<bool> {
        let area = self.region_of(record.base());
        let (start, slices) = ((record.base() - area.base()) / SLICE, record.slices());
        self.pay(extra * SLICE).ok()?;
        let attempt = area.slices().extend_claim(start, slices, extra);
        if attempt.took_back {
            self.renew_room(area);
        }
        match attempt.run.inspect(|run| self.uses(area, run.start, run.len)) {
            Some(run) if self.reserve(area, run.start, run.len) => {
                record.open(record.usage(), slices + extra);
                Some(run.all_clean)
            }
            _ => {
                self.pay_back(extra * SLICE);
                None
            }
        }
    }

    /// Ends a run, if it is one of this `usage`, and gives its slices back, but no pages. Of two threads that say so one
    /// finds it.
    #[must_use]
    pub(super) fn close_run(&self, record: &'static Record, usage: Usage) -> bool {
        let slices = record.slices();
        let ends = record.end(usage);
        if ends {
            self.put_back(record.base(), slices);
        }
        ends
    }

    fn claim_fresh(&self, slices: usize, align: usize) -> Option<Run> {
        let (mut len, least) = (AREA, ((slices + align + 1) * SLICE).next_power_of_two().max(LEAST_AREA));
        let area = loop {
            match map_area(len, &self.backing, Some(self.owner())) {
                Ok(area) => break area,
                Err(_) if (len / 2).next_power_of_two() >= least => len = (len / 2).next_power_of_two(),
                Err(_) => return None,
            }
        };
        // Before anybody else can.
        let claimed = self.claim_in(area, slices, align);
        push(&self.words().areas, area);
        claimed.ok().flatten()
    }

    /// A region of a huge block's, of at least `len` bytes at a multiple of `align`, with `reserve` more behind. The
    /// block is the caller's, before others know of the region.
    pub(super) fn map_huge(&self, len: usize, align: usize, reserve: usize) -> Option<&'static Region> {
        let region = process().space().map_region(Kind::Heap, len, align, reserve).ok()?;
        region.slices().open(0..0);
        // SAFETY: mapped just now, and nobody's yet.
        let Ok(offset) = (unsafe { self.backing.lay_under(region.base(), 0, region.len()) }) else {
            let _retired = process().space().retire_region(region);
            return None;
        };
        region.heap().begin(self.owner(), offset as usize, len);
        Some(region)
    }

    pub(super) fn add_huge(&self, region: &'static Region) {
        push(&self.words().huge, region);
    }

    /// Waits until the file has what was written, if there is one.
    pub(super) fn flush(&self) -> Result<()> {
        if !self.backing.is_file() {
            return Ok(());
        }
        for region in self.areas().chain(self.huge()) {
            let from = if Memory::is_area(region) { region.slices().usable().start * SLICE } else { 0 };
            let at = ptr::with_exposed_provenance_mut::<c_void>(region.base() + from);
            // SAFETY: changes no memory; the range is mapped.
            if unsafe { libc::msync(at, region.len() - from, libc::MS_SYNC) } != 0 {
                return Err(Error::last("msync"));
            }
        }
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let space = process().space();
        // The words lie in the first area: they are read before it goes.
        let (areas, huge) = (self.areas(), self.huge());
        for region in areas.chain(huge) {
            let _retired = space.retire_region(region);
        }
        // One call may end the grace period of what was retired before, the next one is for this. Should a reader be
        // inside at this moment, who comes next goes on.
        let own = slot();
        space.reap(own);
        space.reap(own);
    }
}

fn push(head: &AtomicPtr<Region>, region: &'static Region) {
    let at = ptr::from_ref(region).cast_mut();
    // Relaxed: only the guess for the exchange below.
    let mut first = head.load(Ordering::Relaxed);
    loop {
        // Relaxed: published by the exchange.
        region.heap().next().store(first.expose_provenance(), Ordering::Relaxed);
        // Release: pairs with the Acquire of `walk`: the region is complete. As a read-modify-write it keeps the release
        // sequence of those before.
        match head.compare_exchange_weak(first, at, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => first = now,
        }
    }
}

fn walk(head: &AtomicPtr<Region>) -> impl Iterator<Item = &'static Region> + use<> {
    // SAFETY: null, or a descriptor, which lives forever.
    let region = |at: *const Region| unsafe { at.as_ref() };
    // Acquire: pairs with the Release of `push`.
    let first = region(head.load(Ordering::Acquire));
    std::iter::successors(first, move |last| {
        // Relaxed: written before the region was published.
        region(ptr::with_exposed_provenance(last.heap().next().load(Ordering::Relaxed)))
    })
}

/// Maps an area of the heap `owner`, or of one that begins with it. Every slice behind the header is free.
fn map_area(
    len: usize,
    backing: &Backing,
    owner: Option<usize>,
) -> std::result::Result<&'static Region, Errno> {
    let region = process().space().map_region(Kind::Heap, len, GRANULE, 0)?;
    let header = header_slices(len) * SLICE;
    // SAFETY: mapped just now, and nobody's yet.
    match unsafe { backing.lay_under(region.base(), header, len - header) } {
        Ok(offset) => {
            region.heap().begin(owner.unwrap_or(region.base() + WORDS), offset as usize, ROOM);
            region.slices().open(header / SLICE..len / SLICE);
            region.slices().reopen();
            Ok(region)
        }
        Err(error) => {
            let _retired = process().space().retire_region(region);
            Err(error)
        }
    }
}

fn explain(errno: Errno) -> Error {
    match errno {
        Errno(libc::ENOMEM) => no_memory(),
        Errno(libc::EACCES) => Error::ReadOnly,
        Errno(code) => Error::System { call: "mmap", error: io::Error::from_raw_os_error(code) },
    }
}
