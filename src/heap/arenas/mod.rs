//! The arenas of a process: where runs of slices come from and go back to.
//!
//! A claim walks the table of arenas inside a reader section and takes slices by compare-and-swap on an arena's bitmap;
//! when no arena has room the claimant maps another. No lock is common to any two of these: who maps an arena keeps
//! nobody waiting, and an arena that is being unmapped answers claims with "no room".
//!
//! Freed slices are dirty until they are purged: see `giving_back`, which also unmaps arenas.

mod giving_back;

use crate::base::{GRANULE, GRANULE_SLICES, SLICE};
use crate::heap::Allocator;
use crate::heap::local::Heap;
use crate::heap::slab::Slab;
use crate::pal::Platform;
use crate::region::{Kind, Prefer, Region, Run};
use crate::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{ZERO_IS_VALID, acquire, release, seeded};
use crate::{atomic_array, const_unless_model};
use core::ptr;

/// Arenas that can exist at a time: 2 TiB of slabs and large blocks.
const MAX_ARENAS: usize = if cfg!(any(loom, shuttle)) { 2 } else { 1 << 16 };
const WORD: usize = u64::BITS as usize;
/// Smallest arena, mapped when address space is short.
const SMALLEST: usize = if cfg!(any(loom, shuttle)) { GRANULE } else { 1 << 20 };
/// The note of an arena's region that keeps its position in the table.
const POSITION: usize = 0;
/// The note of an arena's region that counts the ticks since it became empty.
const EMPTY_FOR: usize = 1;
/// The note by which models know an arena that found no place in the table.
#[cfg(all(test, shuttle))]
const OUTSIDE: usize = 3;
/// A heap changes so many slices, or as many as there are arenas, between two looks at how much is dirty.
const LOOK: usize = if cfg!(any(loom, shuttle)) { 1 } else { 16 };

/// A run of slices that the caller holds.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Address of the first slice.
    pub base: usize,
    /// Whether every byte is known to be zero.
    pub zero: bool,
    /// Slices that were not resident.
    clean: usize,
}

/// Every arena of the process.
pub struct Arenas {
    table: [AtomicPtr<Region>; MAX_ARENAS],
    /// A bit per table position: set when a single slice may be free there.
    room: [AtomicU64; MAX_ARENAS.div_ceil(WORD)],
    /// Positions ever used.
    high: AtomicUsize,
    purged: AtomicU64,
}

impl Arenas {
    const_unless_model! {
        /// No arenas.
        pub(super) fn new() -> Arenas {
            Arenas {
                table: atomic_array!(AtomicPtr::new(ptr::null_mut()); MAX_ARENAS),
                room: atomic_array!(AtomicU64::new(0); MAX_ARENAS.div_ceil(WORD)),
                high: AtomicUsize::new(0),
                purged: AtomicU64::new(0),
            }
        }
    }

    /// Claims `slices` slices starting at a multiple of `align` slices. `None` when there is no memory.
    pub fn claim<P: Platform>(
        &self,
        from: &Allocator<P>,
        heap: &Heap,
        slices: usize,
        align: usize,
        prefer: Prefer,
    ) -> Option<Claim> {
        let claim = self
            .claim_mapped(from, heap, slices, align, prefer)
            .or_else(|| self.claim_or_grow(from, heap, slices, align))
            .or_else(|| {
                // Out of memory or address space: give back what is free, and try once more.
                from.make_room(heap);
                self.claim_or_grow(from, heap, slices, align)
            })?;
        // What is live has grown beside what is free and resident.
        self.count_change(from, heap, claim.clean);
        Some(claim)
    }

    /// Before another arena is mapped all of them are asked, whatever the hints say of their room: one may be forgotten when
    /// slices are given back, or held for a moment only, while somebody finds none.
    fn claim_or_grow<P: Platform>(
        &self,
        from: &Allocator<P>,
        heap: &Heap,
        slices: usize,
        align: usize,
    ) -> Option<Claim> {
        let claim = {
            let _section = heap.section(from);
            if seeded("heap.room_believed") {
                None
            } else {
                self.claim_once(heap, slices, align, Prefer::Any, false)
            }
        };
        claim.or_else(|| self.grow(from, heap, slices, align))
    }

    pub(super) fn claim_mapped<P: Platform>(
        &self,
        from: &Allocator<P>,
        heap: &Heap,
        slices: usize,
        align: usize,
        prefer: Prefer,
    ) -> Option<Claim> {
        let _section = heap.section(from);
        // Dirty slices of any arena before clean ones of the nearest: else each arena keeps dirty slices of its own.
        let claim = self.claim_once(heap, slices, align, prefer, true);
        if claim.is_none() && prefer == Prefer::Dirty {
            return self.claim_once(heap, slices, align, Prefer::Any, true);
        }
        claim
    }

    /// Asks each arena, or only those that have room as far as the `hints` say, the one that served this heap last first. The
    /// caller is inside a section.
    fn claim_once(
        &self,
        heap: &Heap,
        slices: usize,
        align: usize,
        prefer: Prefer,
        hints: bool,
    ) -> Option<Claim> {
        let high = self.high();
        for step in 0..high {
            let position = (heap.home().get() + step) % high;
            if hints && !self.may_have_room(position) {
                continue;
            }
            let Some(region) = self.region(position) else { continue };
            let claimed = region.slices().claim(slices, prefer, align.max(1));
            if claimed.is_some() || prefer != Prefer::Dirty {
                heap.count_lookup(claimed.is_some());
            }
            if let Some(run) = claimed {
                heap.home().set(position);
                self.has_room(position);
                return Some(self.claimed_run(region, run));
            }
            if slices == 1 && prefer != Prefer::Dirty {
                self.no_room(position, region);
            }
        }
        None
    }

    fn claimed_run(&self, region: &Region, run: Run) -> Claim {
        // The run is ours: the region cannot change under us, whichever generation this is.
        // Relaxed (both): a figure; a tick that misses this looks at the claimed slices, too. Looked at first, because
        // threads that claim at the same time would pass the line around.
        if region.note(EMPTY_FOR).load(Ordering::Relaxed) != 0 {
            region.note(EMPTY_FOR).store(0, Ordering::Relaxed);
        }
        let clean = run.len - region.slices().dirty_within(run.start, run.len);
        Claim { base: region.base() + run.start * SLICE, zero: run.all_clean, clean }
    }

    /// Claims the `extra` slices behind a large block's run of `slices` at `base`, if they are free.
    pub fn extend<P: Platform>(&self, from: &Allocator<P>, base: usize, slices: usize, extra: usize) -> bool {
        let region = from.region_of_arena(base);
        let start = (base - region.base()) / SLICE;
        seeded("heap.extend_unclaimed") || region.slices().extend_claim(start, slices, extra)
    }

    /// Maps another arena and claims the run in it before anybody else can.
    fn grow<P: Platform>(
        &self,
        from: &Allocator<P>,
        heap: &Heap,
        slices: usize,
        align: usize,
    ) -> Option<Claim> {
        // The first slice, the header, is not for use, so an aligned run starts `align` slices in. Nor is the last one, with
        // the guard page.
        let least = ((align.max(1) + slices + 1) * SLICE).next_power_of_two();
        let mut len = from.arena_bytes().max(least).min(GRANULE);
        let region = loop {
            match from.space().map_region(Kind::Arena, len, GRANULE, 0) {
                Ok(region) => break region,
                Err(_) if len / 2 >= SMALLEST.max(least) => len /= 2,
                Err(_) => return None,
            }
        };
        if !ZERO_IS_VALID {
            for slice in 0..GRANULE_SLICES {
                // SAFETY: the header slice of an arena that nobody else knows yet.
                unsafe { Slab::construct(Slab::of(region.base() + slice * SLICE)) };
            }
        }
        // The map was published closed. It is opened and claimed from inside a section, so that the arena is still there
        // if others take everything and leave again in between.
        let section = heap.section(from);
        region.slices().reopen();
        let claim =
            region.slices().claim(slices, Prefer::Any, align.max(1)).map(|run| self.claimed_run(region, run));
        match self.enter_table(region) {
            Some(position) => heap.home().set(position),
            None if claim.is_some() => {}
            None => {
                let _retired = from.space().retire_arena(region, &section, || {});
            }
        }
        claim
    }

    fn enter_table(&self, region: &'static Region) -> Option<usize> {
        let new = ptr::from_ref(region).cast_mut();
        for position in 0..MAX_ARENAS {
            // Relaxed: a hint; the exchange decides.
            if !self.table[position].load(Ordering::Relaxed).is_null() {
                continue;
            }
            // Relaxed: published with the entry below.
            region.note(POSITION).store(position, Ordering::Relaxed);
            // Release: pairs with the Acquire in `region`: whoever finds the arena finds it complete.
            let entered = self.table[position].compare_exchange(
                ptr::null_mut(),
                new,
                release("heap.table_publish"),
                Ordering::Relaxed,
            );
            if entered.is_ok() {
                self.has_room(position);
                // Relaxed: a bound for scans; who does not see it yet maps an arena of their own.
                self.high.fetch_max(position + 1, Ordering::Relaxed);
                return Some(position);
            }
        }
        #[cfg(all(test, shuttle))]
        region.note(OUTSIDE).store(1, Ordering::Relaxed);
        None
    }

    /// Gives the run of `slices` slices at `base` back. The records are closed already.
    pub fn release<P: Platform>(&self, from: &Allocator<P>, heap: &Heap, base: usize, slices: usize) {
        let region = from.region_of_arena(base);
        // Relaxed: written before the arena was entered in the table.
        let position = region.note(POSITION).load(Ordering::Relaxed);
        {
            // The last access to the arena gives it away: what follows happens inside the section that starts here.
            let section = heap.section(from);
            if seeded("heap.ring_before_release") {
                from.stir();
            }
            region.slices().release((base - region.base()) / SLICE, slices);
            self.has_room(position);
            self.look_if_empty(from, position, region, &section);
        }
        if !seeded("heap.ring_before_release") {
            from.stir();
        }
        self.count_change(from, heap, slices);
        // What was retired, now or before, is unmapped by whoever comes by after its grace period.
        from.space().reap(Some(heap.slot()));
    }

    /// Whether the slice at `base`, which the caller has just claimed, was written to before.
    pub fn is_dirty<P: Platform>(&self, from: &Allocator<P>, base: usize) -> bool {
        let region = from.region_of_arena(base);
        region.slices().dirty_within((base - region.base()) / SLICE, 1) > 0
    }

    /// Counts bytes purged behind a large block.
    pub fn count_purged(&self, bytes: usize) {
        // Relaxed: a figure.
        self.purged.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts slices that were released, or claimed although they were not resident: once in a while somebody looks how much is
    /// dirty.
    fn count_change<P: Platform>(&self, from: &Allocator<P>, heap: &Heap, slices: usize) {
        if heap.has_changed(slices, self.high().max(LOOK)) || from.retention().is_held() {
            from.bound_dirty(heap);
        }
    }

    /// Calls `visit` with the record of every first slice of a slab or large block. The caller is inside a section.
    pub fn each_run(&self, mut visit: impl FnMut(&Slab)) {
        for position in 0..self.high() {
            let Some(region) = self.region(position) else { continue };
            for slice in 1..region.len() / SLICE {
                // SAFETY: the section keeps the arena; records are readable at any time.
                let record = unsafe { &*Slab::of(region.base() + slice * SLICE) };
                visit(record);
            }
        }
    }

    /// The arena at `position`. The caller is inside a section.
    pub(super) fn region(&self, position: usize) -> Option<&'static Region> {
        // Acquire: pairs with the Release in `enter_table`.
        // SAFETY: descriptors live forever; the section keeps this one from being recycled.
        unsafe { self.table[position].load(acquire("heap.table_read")).as_ref() }
    }

    /// Whether the arena is in the table: one that found no place there is not met again, and goes when it is empty.
    fn is_listed(&self, position: usize, region: &Region) -> bool {
        // Relaxed: only the value counts. An entry stays from before the arena's first slice is found by others until the
        // arena is retired.
        ptr::eq(self.table[position].load(Ordering::Relaxed), region)
    }

    /// Whether an arena found no place in the table when it was mapped.
    #[cfg(all(test, shuttle))]
    pub(super) fn is_outside(region: &Region) -> bool {
        region.note(OUTSIDE).load(Ordering::Relaxed) != 0
    }

    /// Arenas that are in the table.
    #[cfg(all(test, shuttle))]
    pub(super) fn listed(&self) -> usize {
        (0..self.high()).filter(|&position| self.region(position).is_some()).count()
    }

    fn high(&self) -> usize {
        // Relaxed: see `enter_table`.
        self.high.load(Ordering::Relaxed)
    }

    fn may_have_room(&self, position: usize) -> bool {
        // Relaxed: a hint.
        self.room[position / WORD].load(Ordering::Relaxed) & (1 << (position % WORD)) != 0
    }

    fn has_room(&self, position: usize) {
        if !self.may_have_room(position) {
            // Relaxed: a hint.
            self.room[position / WORD].fetch_or(1 << (position % WORD), Ordering::Relaxed);
        }
    }

    fn no_room(&self, position: usize, region: &Region) {
        // Relaxed: a hint.
        self.room[position / WORD].fetch_and(!(1 << (position % WORD)), Ordering::Relaxed);
        // A slice freed between the failed claim and the line above would be forgotten: look again.
        if region.slices().free_count() > 0 {
            self.has_room(position);
        }
    }

    /// Free slices in the arenas other than the one at `position`.
    pub fn free_elsewhere(&self, position: usize) -> usize {
        self.sum(|other, region| if other == position { 0 } else { region.slices().free_count() })
    }

    /// Slices that slabs and large blocks hold.
    pub fn claimed_slices(&self) -> usize {
        self.sum(|_, region| region.slices().claimed_count())
    }

    /// Free slices whose pages may be resident.
    pub fn dirty_slices(&self) -> usize {
        self.sum(|_, region| region.slices().dirty_count())
    }

    /// Adds up what `count` says of every arena. The bitmaps are the only record of what is claimed and what is dirty: a
    /// common counter would be a line that all threads write. No section is needed: descriptors live forever, and a figure
    /// may be that of a moment ago.
    fn sum(&self, count: impl Fn(usize, &Region) -> usize) -> usize {
        (0..self.high())
            .map(|position| self.region(position).map_or(0, |region| count(position, region)))
            .sum()
    }

    /// Bytes purged so far.
    pub fn purged_bytes(&self) -> u64 {
        // Relaxed: a figure.
        self.purged.load(Ordering::Relaxed)
    }
}
