//! The front door: one process's regions, from mapping to unmapping.
//!
//! The order in which a region goes, which is the whole of the argument: exclude (one winner), unlink, grace period,
//! pins drained, munmap, recycle. [`Space::retire_region`] does the first two and never waits; [`Space::reap`] does
//! what is due of the rest; [`Space::unmap_now`] does all of it and waits.

use super::hands::{Hands, Held};
use super::pages::PageNode;
use super::placement::{Placed, Placement};
use super::radix::{LIMIT, whole};
use super::tree::Index;
use crate::base::{GRANULE, SLICE, align_up};
use crate::pal::{Access, Errno, Platform, twin};
use crate::rcu::{GraceError, Rcu, ReaderSlot, RetireLink, Section};
use crate::region::{
    Descriptors, Exclusion, KINDS, Kind, Metadata, Region, Retired, RetiredAs, Shape, Stack,
};
use crate::sync::atomic::AtomicU32;
use crate::sync::{Counter, atomic_array, if_first, seeded};
use core::ops::Range;

/// Above this many mappings, huge regions go without a guard page, which would be a mapping of its own. A quarter of
/// the default `vm.max_map_count`.
const GUARDED_MAPPINGS: usize = 16 << 10;

/// Whether a region is to have a guard page, when there are `mappings` mappings.
pub(super) const fn wants_guard(kind: Kind, mappings: usize) -> bool {
    matches!(kind, Kind::Arena) || mappings < GUARDED_MAPPINGS
}

/// Why an unmap did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmapError {
    /// The caller is inside a reader section of its own and would wait for itself. Nothing was changed.
    InsideSection,
    /// Another thread unmaps the region, or it is gone. Nothing was changed.
    NotThere,
    /// There is no barrier any more: the region is not there for anybody, but its memory stays until one works.
    NoBarrier,
    /// The system refused: the region is not there for anybody, and `reap` tries again.
    Kept(Errno),
}

/// Figures of a [`Space`]; each is exact once nobody is changing it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceCounts {
    /// Regions that are attached, by [`Kind`] as a number.
    pub regions: [usize; KINDS],
    /// Bytes of address space in regions, guards and retired regions included.
    pub mapped: usize,
    /// Mappings (VMAs) that regions and metadata consist of; an upper bound, for neighbours may merge.
    pub mappings: usize,
    /// Regions that are excluded and not unmapped yet.
    pub retired: usize,
    /// Unmaps that the system refused, each time.
    pub failed_unmaps: usize,
    /// Bytes mapped for metadata.
    pub metadata: usize,
}

/// Bytes that may be resident in regions that wait for others to share a grace period with.
const WAITING_MOST: usize = 32 << 20;
/// Bytes in a region whose pages are given back before it is unmapped. The process's map is locked for as long as an unmap
/// takes, and whoever else maps or unmaps waits: for all pages of 128 MiB 6 ms, and two threads that do so by turns fall
/// into step and wait for each other. An madvise before it locks the map for reading, and since Linux 6.17 not at all where
/// its range lies in one mapping.
const EMPTIED: usize = 1 << 20;
/// Looks at what is on its way, for who needs it: those after which another thread runs, and those after a millisecond each.
const SHORT_LOOKS: usize = if cfg!(any(loom, shuttle)) { 1 } else { 32 };
const MOST_LOOKS: usize = SHORT_LOOKS + if cfg!(any(loom, shuttle)) { 0 } else { 100 };

/// The regions of one process.
#[repr(C)] // As `heap::Allocator`.
pub struct Space<P: Platform> {
    os: P,
    rcu: Rcu,
    metadata: Metadata,
    pub(super) descriptors: Descriptors,
    /// Regions past their grace period, with pins to drain or an unmap to try again.
    parked: Stack<Region>,
    /// Those of them that somebody has looked at and that were not ready.
    unready: Stack<Region>,
    hands: Hands,
    regions: [Counter; KINDS],
    mapped: Counter,
    mappings: Counter,
    retired: Counter,
    failed_unmaps: Counter,
    /// Bytes in retired regions that may be resident, since the last [`Space::reap`].
    waiting: Counter,
    /// Bytes given back by purging, ever.
    purged: Counter,
    placement: Placement,
    index: Index,
}

impl<P: Platform> Space<P> {
    crate::const_unless_model! {
        /// A space without regions; [`Space::start`] comes before the first.
        pub fn new(os: P) -> Space<P> {
            Space {
                os,
                rcu: Rcu::new(),
                index: Index::new(),
                metadata: Metadata::new(),
                descriptors: Descriptors::new(),
                placement: Placement::new(),
                parked: Stack::new(),
                unready: Stack::new(),
                hands: Hands::new(),
                regions: atomic_array!(Counter::new(); KINDS),
                mapped: Counter::new(),
                mappings: Counter::new(),
                retired: Counter::new(),
                failed_unmaps: Counter::new(),
                waiting: Counter::new(),
                purged: Counter::new(),
            }
        }
    }

    /// Finds out what the system can do. May run several times, at any moment.
    pub fn start(&self) {
        self.rcu.start(&self.os);
    }

    /// The system below.
    #[inline]
    pub fn os(&self) -> &P {
        &self.os
    }

    /// Readers and grace periods. What is retired through it begins with a [`Retired`] of this layer.
    #[inline]
    pub fn rcu(&self) -> &Rcu {
        &self.rcu
    }

    /// The index.
    #[inline]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Memory for the allocator's own structures.
    #[inline]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Counts bytes given back by purging.
    pub fn count_purged(&self, bytes: usize) {
        self.purged.add(bytes);
    }

    /// Bytes given back by purging so far.
    pub fn purged_bytes(&self) -> usize {
        self.purged.get()
    }

    /// Maps a region of `len` bytes, readable, writable and zero, at a multiple of `align` (a power of two), with
    /// `reserve` more bytes behind it if there is room for them, and publishes it. `len` and `reserve` are rounded up
    /// to whole slices; [`Region::len`] is their sum, and with a reserve what is left of whole granules, the guard
    /// apart.
    ///
    /// An arena lies on a granule and is at most that long; its last page is a guard, so its first and last slice are
    /// never handed out. It is published closed: once its header is written, [`crate::region::SliceMap::reopen`] lets
    /// claims in, and others may retire it from then on whenever it is empty. A huge region has its guard behind it.
    ///
    /// # Errors
    /// The system's, as a rule `ENOMEM`; nothing is lost by that.
    pub fn map_region(
        &self,
        kind: Kind,
        len: usize,
        align: usize,
        reserve: usize,
    ) -> Result<&'static Region, Errno> {
        debug_assert!(align.is_power_of_two() && len > 0);
        let region = self.descriptors.take(&self.os, &self.metadata)?;
        let mut shape = self.map_shape(kind, len, align, reserve);
        if shape.is_err() && reserve > 0 {
            shape = self.map_shape(kind, len, align, 0);
        }
        let shape = match shape {
            Ok(shape) => shape,
            Err(error) => {
                self.descriptors.recycle(region);
                return Err(error);
            }
        };
        if kind == Kind::Arena {
            region.slices().open(1..shape.len / SLICE - 1);
        }
        region.attach(shape);
        debug_assert!(region.is_valid());
        self.count_mapped(region);
        self.publish(region)
    }

    /// Publishes a region that is attached and counted; if that fails unmaps it again.
    pub(super) fn publish(&self, region: &'static Region) -> Result<&'static Region, Errno> {
        let published = {
            let _locked = twin::writing();
            self.index.insert(&self.os, &self.rcu, &self.metadata, region)
        };
        if published.is_err() {
            // Never published: no grace period. Only a handle from an earlier life may be looking at the state word.
            let _ = region.exclude();
            self.count_retired(region);
            self.parked.give(region);
            self.reap_parked(None);
        }
        published.map(|()| region)
    }

    /// Maps the memory of a region and its guard.
    fn map_shape(&self, kind: Kind, len: usize, align: usize, reserve: usize) -> Result<Shape, Errno> {
        let page = self.os.page_size();
        let sum =
            align_up(len, SLICE).zip(align_up(reserve, SLICE)).and_then(|(len, more)| len.checked_add(more));
        let len = sum.ok_or(Errno(libc::ENOMEM))?;
        debug_assert!(kind != Kind::Arena || (3 * SLICE..=GRANULE).contains(&len) && align <= GRANULE);
        let (need, guard) = match kind {
            Kind::Arena => (GRANULE, len - page),
            // What is reserved at all is reserved to the end of what the index knows by one entry.
            Kind::Huge | Kind::Heap if reserve > 0 => {
                (align.max(SLICE), whole(len + page).ok_or(Errno(libc::ENOMEM))? - page)
            }
            // On a slice at least: whoever looks up a pointer of C does not follow nodes of single pages.
            Kind::Huge | Kind::Heap => (align.max(SLICE), len),
            Kind::File => (align.max(page), len),
        };
        let len = if kind == Kind::Arena { len } else { guard };
        let _locked = twin::growing();
        let placed = self.placement.map(&self.os, &self.metadata, guard + page, need)?;
        // Without the guard the region works; only an overrun would go unnoticed.
        let guarded = wants_guard(kind, self.mappings.get())
            // SAFETY: mapped just now; the guard is not handed out to anybody.
            && unsafe { self.os.protect(placed.base + guard, placed.mapped - guard, Access::None) }.is_ok();
        let name = match kind {
            Kind::Arena => c"specmalloc arena",
            Kind::Huge => c"specmalloc huge",
            Kind::File => c"specmalloc file",
            Kind::Heap => c"specmalloc heap",
        };
        // All of the mapping: to the system a part with another name is a mapping of its own.
        self.os.name(placed.base, if guarded { guard } else { placed.mapped }, name);
        let mappings = 1 + u32::from(guarded);
        let Placed { base, mapped, held } = placed;
        Ok(Shape { kind, base, len, mapped, held, mappings })
    }

    /// Whether the system would map `len` bytes somewhere at this moment.
    pub fn has_room(&self, len: usize) -> bool {
        let page = self.os.page_size();
        let Some(len) = align_up(len, page).filter(|&len| len < LIMIT) else { return false };
        let Ok(at) = self.os.map(None, len, Access::None) else { return false };
        // SAFETY: mapped just now, and nobody knows it. If the system refuses, address space stays reserved.
        let _ = unsafe { self.os.unmap(at, len) };
        true
    }

    pub(super) fn count_mapped(&self, region: &Region) {
        self.regions[region.kind() as usize].add(1);
        self.mapped.add(region.mapped());
        self.mappings.add(region.mappings() as usize);
    }

    fn count_retired(&self, region: &Region) {
        self.regions[region.kind() as usize].take_off(1);
        self.retired.add(1);
    }

    fn count_unmapped(&self, region: &Region) {
        self.retired.take_off(1);
        self.mapped.take_off(region.mapped());
        self.mappings.take_off(region.mappings() as usize);
    }

    /// The region that holds `address`: see [`Index::lookup`]. It may be excluded.
    #[inline]
    pub fn find(&self, address: usize, section: &Section<'_>) -> Option<&'static Region> {
        self.index.lookup(address, section)
    }

    /// Takes a region out of use: excludes it and unlinks it, and leaves the rest to [`Space::reap`]. Never waits.
    /// `false` if another thread has excluded it.
    ///
    /// The caller owns the region or is in a section in which it found it, and no block in it is live. Of an arena:
    /// it is frozen by [`Space::freeze_arena`], and the caller in that section still.
    pub fn retire_region(&self, region: &'static Region) -> bool {
        let won = self.take_out(region);
        if won {
            self.retire(region);
        }
        won
    }

    /// Excludes a region and unlinks it. `false` if another thread has excluded it, whichever way it is taken out: so
    /// only one touches the index, the figures and what comes after.
    fn take_out(&self, region: &'static Region) -> bool {
        let exclude = || region.exclude() != Exclusion::Lost;
        if_first(exclude, || self.unlink(region), "index.unlink_first")
    }

    /// Takes an arena out of use to which nothing leads but the index, if no slice of it is claimed. The caller is in a
    /// section in which it found the arena: otherwise the arena's life could have ended.
    pub fn retire_arena(&self, region: &'static Region, section: &Section<'_>) -> bool {
        self.freeze_arena(region, section) && self.retire_region(region)
    }

    /// Closes an arena if no slice of it is claimed: what leads to it beside the index can be cleared then, and the
    /// region retired. The caller is in a section, as for [`Space::retire_arena`].
    pub fn freeze_arena(&self, region: &'static Region, _section: &Section<'_>) -> bool {
        debug_assert!(region.kind() == Kind::Arena);
        // Cheap to ask, and spares those who claim at this moment a map that is closed for a while.
        region.slices().is_empty() && (region.slices().freeze() || seeded("index.no_freeze"))
    }

    /// After exclusion, before the grace period.
    pub(super) fn unlink(&self, region: &'static Region) {
        debug_assert!(region.is_valid());
        self.count_retired(region);
        if !seeded("index.unlink_late") {
            self.index.remove(&self.rcu, region);
        }
    }

    pub(super) fn retire(&self, region: &'static Region) {
        if !seeded("index.no_grace") {
            // SAFETY: unlinked, and this thread alone won the exclusion, so it is retired once. `done` below frees it.
            unsafe { self.rcu.retire(region.retire_link()) };
        } else {
            self.parked.give(region);
        }
    }

    /// Does what is due: moves retired regions on, unmaps those past their grace period that nobody pins, and tries
    /// again where the system refused. Returns how many regions were unmapped. Never waits; `own` is the caller's slot.
    pub fn reap(&self, own: Option<&ReaderSlot>) -> usize {
        if self.waiting.get() != 0 {
            self.waiting.set(0);
        }
        self.rcu.reclaim(&self.os, own, |link| self.grace_over(link));
        if self.parked.is_empty() && self.unready.is_empty() {
            0
        } else {
            self.reap_parked(Some(Rcu::identity(own)))
        }
    }

    /// As [`Space::reap`], and waits until nothing is on its way any more that another thread has in hand, or that waits for
    /// one in the middle of a section: for who would be told that there is no memory. A thread may be preempted there, so
    /// for a tenth of a second at most. The caller is in no section.
    #[cold]
    pub fn reap_all(&self, own: Option<&ReaderSlot>) {
        for look in 0..MOST_LOOKS {
            self.reap(own);
            let waits = self.rcu.statistics();
            // Whatever is parked now is pinned, or the system refuses to take it.
            let is_in_hand = self.parked.is_empty() && self.unready.is_empty();
            if self.retired.get() == 0 || !(is_in_hand || waits.pending > 0 && !waits.stopped) {
                return;
            }
            if look < SHORT_LOOKS {
                self.os.yield_now();
            } else {
                self.os.wait(&AtomicU32::new(0), 0, Some(1));
            }
        }
    }

    /// As [`Space::reap`], if so much waits that it is worth a grace period. For a caller who retires one region after
    /// the other while thousands of threads sleep: each of them would be looked at for each region. `bytes` of the last
    /// one may be resident; when [`WAITING_MOST`] wait, they wait no longer. Fewer wait for the helper's next tick.
    pub fn reap_in_time(&self, own: Option<&ReaderSlot>, bytes: usize) -> usize {
        self.waiting.add(bytes);
        if self.waiting.get() < WAITING_MOST && !self.rcu.has_batch() { 0 } else { self.reap(own) }
    }

    /// Whether [`Space::reap`] may have something to do before long: regions wait for a grace period, for pins, or for
    /// the system to let them go.
    pub fn has_retired(&self) -> bool {
        let rcu = self.rcu.statistics();
        !rcu.stopped && (rcu.pending > 0 || !self.parked.is_empty() || !self.unready.is_empty())
    }

    /// Unmaps what is parked and drained; returns how many regions. One at a time is in this thread's hands, so that no
    /// more are lost should it vanish in a fork; those that are not ready wait in `unready` meanwhile. Bounded, for
    /// another thread may be at it, too.
    fn reap_parked(&self, holder: Option<usize>) -> usize {
        let most = self.counts().retired;
        let mut unmapped = 0;
        for region in (0..most).map_while(|_| self.parked.take()) {
            let drained = region.state().is_drained() || seeded("index.undrained");
            if drained && self.finish(region, holder).is_ok() {
                unmapped += 1;
            } else {
                self.unready.give(region);
            }
        }
        for region in (0..most).map_while(|_| self.unready.take()) {
            self.parked.give(region);
        }
        unmapped
    }

    /// A retired thing has come out of its grace period.
    fn grace_over(&self, link: &RetireLink) {
        // SAFETY: everything retired through this `Rcu` is a region or a page node, and both expose themselves.
        match unsafe { Retired::recover(link) } {
            // SAFETY: the link says that a region begins at the address; descriptors are immortal.
            (RetiredAs::Region, at) => self.parked.give(unsafe { &*core::ptr::with_exposed_provenance(at) }),
            // SAFETY: the link says that a page node begins at the address; their memory is immortal.
            (RetiredAs::PageNode, at) => self.index.recycle(unsafe { PageNode::at(at) }),
        }
    }

    /// Unmaps a drained region past its grace period and recycles its descriptor. `holder` is the caller, if it is known.
    fn finish(&self, region: &'static Region, holder: Option<usize>) -> Result<(), Errno> {
        let (base, mapped, held) = (region.base(), region.left(), region.held());
        let _locked = twin::growing();
        let resident = region.may_be_resident().min(mapped);
        if resident >= EMPTIED {
            // First its pages. From where they are gone a thread that vanishes in a fork takes address space with it alone.
            let _held = holder.map(|holder| self.hands.hold(holder, region, 0..0));
            // SAFETY: the law of the space: excluded, unlinked, a grace period, drained. Nobody uses the memory.
            unsafe { self.os.empty(base, mapped, resident) };
        }
        // SAFETY: as above.
        if let Err(error) = unsafe { self.os.unmap(base, mapped) } {
            self.failed_unmaps.add(1);
            return Err(error);
        }
        self.count_unmapped(region);
        if seeded("index.unlink_late") {
            self.index.remove(&self.rcu, region);
        }
        region.detach();
        self.descriptors.recycle(region);
        self.placement.give_back(&self.os, &self.metadata, base, held);
        Ok(())
    }

    /// Unmaps a region, waiting for the sections and pins of others. The caller holds no pin on it: it would wait for
    /// itself. Otherwise as [`Space::retire_region`].
    ///
    /// # Errors
    /// See [`UnmapError`].
    pub fn unmap_now(&self, region: &'static Region, own: Option<&ReaderSlot>) -> Result<(), UnmapError> {
        if own.is_some_and(ReaderSlot::is_inside) {
            return Err(UnmapError::InsideSection);
        }
        if !self.take_out(region) {
            return Err(UnmapError::NotThere);
        }
        let grace = if !seeded("index.no_grace") { self.rcu.synchronize(&self.os, own) } else { Ok(()) };
        if let Err(error) = grace {
            self.retire(region);
            return Err(match error {
                GraceError::InsideSection => UnmapError::InsideSection,
                GraceError::NoBarrier => UnmapError::NoBarrier,
            });
        }
        if !seeded("index.undrained") {
            region.state().wait_drained(&self.os);
        }
        self.finish(region, Some(Rcu::identity(own))).map_err(|error| {
            self.parked.give(region);
            UnmapError::Kept(error)
        })
    }

    /// Bytes of address space in regions, as [`SpaceCounts::mapped`].
    pub fn mapped(&self) -> usize {
        self.mapped.get()
    }

    /// The figures.
    pub fn counts(&self) -> SpaceCounts {
        SpaceCounts {
            regions: core::array::from_fn(|kind| self.regions[kind].get()),
            mapped: self.mapped.get(),
            mappings: self.mappings.get() + self.metadata.chunks(),
            retired: self.retired.get(),
            failed_unmaps: self.failed_unmaps.get(),
            metadata: self.metadata.mapped(),
        }
    }

    /// Notes that the caller, whose slot is `own`, has `slices` of a region in hand, or all of it if there are none, which
    /// are in no list and belong to no block, while it gives them back: should it vanish in a fork the child finds them.
    pub fn note_in_hand(
        &self,
        own: Option<&ReaderSlot>,
        region: &'static Region,
        slices: Range<usize>,
    ) -> Held<'_> {
        self.hands.hold(Rcu::identity(own), region, slices)
    }

    /// Makes the child of a fork able to go on; `owns` tells the calling thread's slots. What others had in hand (see
    /// [`Space::note_in_hand`]) is free, or retired. Pins of the threads that are gone stay: their regions are never unmapped in
    /// the child. A region that another thread was taking out of use at that moment may stay mapped, unused.
    ///
    /// # Safety
    /// The calling thread is the only one of the process, since a fork.
    pub unsafe fn child_after_fork(&self, owns: &dyn Fn(&ReaderSlot) -> bool) {
        // SAFETY: passed on.
        unsafe { self.rcu.child_after_fork(owns) };
        for (region, slices) in self.hands.left(|holder| self.rcu.is_own(holder, owns)) {
            if !slices.is_empty() {
                region.slices().release(slices.start, slices.len());
            } else if !self.retire_region(region) {
                self.parked.give(region);
            }
        }
    }
}
