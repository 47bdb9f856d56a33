//! The front door: one process's regions, from mapping to unmapping.
//!
//! The order in which a region goes, which is the whole of the argument: exclude (one winner), unlink, grace period,
//! pins drained, munmap, recycle. [`Space::retire_region`] does the first two and never waits; [`Space::reap`] does
//! what is due of the rest; [`Space::unmap_now`] does all of it and waits.

mod unmapping;

pub use unmapping::UnmapError;

use super::hands::{Hands, Held};
use super::placement::{Placed, Placement};
use super::radix::{LIMIT, whole};
use super::tree::Index;
use crate::base::{GRANULE, SLICE, align_up};
use crate::pal::{Access, Errno, Platform, twin};
use crate::rcu::{Rcu, ReaderSlot, Section};
use crate::region::{Descriptors, KINDS, Kind, Metadata, Region, Shape, Stack};
use crate::sync::{Counter, atomic_array};
use core::ops::Range;

/// Above this many mappings, huge regions go without a guard page, which would be a mapping of its own. A quarter of
/// the default `vm.max_map_count`.
const GUARDED_MAPPINGS: usize = 16 << 10;

/// Whether a region is to have a guard page, when there are `mappings` mappings.
pub(super) const fn wants_guard(kind: Kind, mappings: usize) -> bool {
    matches!(kind, Kind::Arena) || mappings < GUARDED_MAPPINGS
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
