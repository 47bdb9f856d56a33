//! The slabs of a heap by the numbers of their slices: what a free that cannot trust its pointer asks first.
//!
//! One load from the table says which slab to ask, that it is a slab, and that it is this heap's. The table is found
//! by its address and a mask, so it can be small in the heap of a thread that has one block, and reach over all slabs
//! of one that has millions. A slice that is nobody's leads to a slab without blocks, so that there is nothing to test:
//! that slab says of every address that no block of it starts there.
//!
//! The table grows when a slab's places are another's, as long as it is not sparse. What has no place in it, because
//! it could not grow or another's slab took the place later, is found the long way, and enters again when that happens.
//! A table that was outgrown stays with the metadata: all of them together are as large as the last.

use crate::base::SLICE;
use crate::heap::ground::Ground;
use crate::heap::record::Slab;
#[cfg(any(test, feature = "simulated"))]
use crate::heap::record::Usage;
use crate::pal::Platform;
use crate::sync::{Cell, signal_fence};
use core::ptr;

/// A slab of the heap, or the one without blocks.
pub(super) type Entry = Cell<*const Slab>;

/// Entries that a heap begins with, in its own record; and how many a table grows to: slabs of 64 GiB in a row.
pub(super) const FIRST: usize = if cfg!(loom) {
    8
} else if cfg!(shuttle) {
    2
} else {
    16
};
const MOST: usize = if cfg!(any(loom, shuttle)) { 8 } else { 1 << 20 };
/// Entries for each slice of the heap's slabs beyond which a table does not grow.
const SPARSE: usize = 8;

/// The slab without blocks. (In models, which do not ask slabs without looking, null.)
#[cfg(not(any(loom, shuttle)))]
static NO_SLAB: Slab = Slab::unused();

const fn none() -> *const Slab {
    #[cfg(not(any(loom, shuttle)))]
    return &raw const NO_SLAB;
    #[cfg(any(loom, shuttle))]
    return ptr::null();
}

/// The table of a heap that has none of its own.
struct Nothing(Entry);
// SAFETY: nobody writes it.
unsafe impl Sync for Nothing {}
static NOTHING: Nothing = Nothing(Entry::new(none()));

/// Where a heap's table is. Touched by the heap's possessor only.
#[repr(C)]
pub(super) struct OwnSlabs {
    entries: Cell<*const Entry>,
    /// Entries less one, a power of two less one: never more than there are.
    mask: Cell<usize>,
}

impl OwnSlabs {
    /// No slabs, and no place for any.
    pub const fn new() -> OwnSlabs {
        OwnSlabs { entries: Cell::new(&raw const NOTHING.0), mask: Cell::new(0) }
    }

    /// Begins with the table `first`, which lives as long as this.
    ///
    /// # Safety
    /// `first` is memory for [`FIRST`] entries.
    pub unsafe fn begin(&self, first: *mut Entry) {
        // SAFETY: the caller's.
        unsafe { OwnSlabs::clear(first, FIRST) };
        self.change_to(first, FIRST);
    }

    /// # Safety
    /// `entries` is memory for so many.
    unsafe fn clear(entries: *mut Entry, count: usize) {
        for at in 0..count {
            // SAFETY: the caller's.
            unsafe { entries.add(at).write(Entry::new(none())) };
        }
    }

    /// In this order: a thread that vanishes in between (fork) leaves a table of which only the first part is looked
    /// at, where every entry is in its place by the smaller mask, too.
    fn change_to(&self, entries: *const Entry, count: usize) {
        self.entries.set(entries);
        signal_fence();
        self.mask.set(count - 1);
    }

    /// The slab that `address` may lie in, as far as the table knows.
    #[inline(always)]
    pub fn of(&self, address: usize) -> *const Slab {
        self.at(address / SLICE).get()
    }

    #[inline(always)]
    fn at(&self, slice: usize) -> &Entry {
        // SAFETY: the mask is below the number of entries, which live as long as the heap.
        unsafe { &*self.entries.get().add(slice & self.mask.get()) }
    }

    /// The entries of the slices of a slab.
    fn places(&self, slab: &Slab) -> impl Iterator<Item = &Entry> {
        let first = slab.base() / SLICE;
        (first..first + slab.slices() as usize).map(|slice| self.at(slice))
    }

    /// Enters a slab that has become this heap's, or that it uses, under each of its slices.
    pub fn enter(&self, slab: &Slab) {
        self.places(slab).for_each(|entry| entry.set(slab));
    }

    /// Forgets a slab before it stops being this heap's.
    pub fn leave(&self, slab: &Slab) {
        self.places(slab).filter(|entry| ptr::eq(entry.get(), slab)).for_each(|entry| entry.set(none()));
    }

    fn count(&self) -> usize {
        self.mask.get() + 1
    }

    /// Grows the table if that is needed to hold the heap's slabs, of `held` slices in all, or if it may give the fresh
    /// `slab` places of its own.
    pub fn make_room<P: Platform>(&self, ground: &Ground<P>, slab: &Slab, held: usize) {
        let is_taken = || self.places(slab).any(|entry| !ptr::eq(entry.get(), none()));
        while self.count() < MOST
            && (self.count() < held || self.count() < SPARSE * held && is_taken())
            && self.grow(ground, held)
        {}
    }

    #[cold]
    fn grow<P: Platform>(&self, ground: &Ground<P>, held: usize) -> bool {
        let count = (2 * self.count()).max(held.next_power_of_two()).min(MOST);
        let (os, bytes) = (ground.space().os(), count * size_of::<Entry>());
        let Ok(memory) = ground.space().metadata().allocate(os, bytes, align_of::<Entry>()) else {
            return false;
        };
        let entries = memory.cast::<Entry>().as_ptr();
        // SAFETY: fresh memory for so many.
        unsafe { OwnSlabs::clear(entries, count) };
        for at in 0..self.count() {
            // SAFETY: a slab in the table is this heap's, and open; in models there may be none.
            let Some(slab) = (unsafe { self.at(at).get().as_ref() }) else { continue };
            let first = slab.base() / SLICE;
            for slice in first..first + slab.slices() as usize {
                if ptr::eq(self.at(slice).get(), slab) {
                    // SAFETY: of the entries cleared above.
                    unsafe { (*entries.add(slice & (count - 1))).set(slab) };
                }
            }
        }
        self.change_to(entries, count);
        true
    }

    /// Demands that what the table knows are slabs of `owner`, each under the numbers of its slices.
    #[cfg(any(test, feature = "simulated"))]
    pub fn audit(&self, owner: *const super::Heap) {
        for at in (0..self.count()).filter(|&at| !ptr::eq(self.at(at).get(), none())) {
            // SAFETY: a record of an arena that is mapped, or this fails.
            let slab = unsafe { &*self.at(at).get() };
            let is_own = slab.usage() == Usage::Slab && ptr::eq(slab.owner(), owner);
            assert!(is_own, "the table of own slabs knows another");
            let first = slab.base() / SLICE;
            let mut places = (first..first + slab.slices() as usize).map(|slice| slice & self.mask.get());
            assert!(places.any(|place| place == at), "a slab in another's place");
        }
    }

    /// Whether a slab is known under `address`.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub fn knows(&self, address: usize) -> bool {
        !ptr::eq(self.of(address), none())
    }
}
