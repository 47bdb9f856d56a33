//! The slabs of a heap by the numbers of their slices: what a free that cannot trust its pointer asks first.
//!
//! One load from the table says which slab to ask, that it is a slab, and that it is this heap's; and one beside it where
//! the heap has the bin of its blocks, so that nothing that is found by way of the slab's record has to be waited for
//! before the block is in its bin. The table is found by its address and a mask, so it can be small in the heap of a
//! thread that has one block, and reach over all slabs of one that has millions. A slice that is nobody's leads to a slab
//! without blocks, so that there is nothing to test: that slab says of every address that no block of it starts there.
//!
//! The table grows when a slab's places are another's, as long as it is not sparse, and shrinks when the heap gives back
//! what is free. What has no place in it, because it could not grow or another's slab took the place later, is found the
//! long way, and enters again when that happens. A table that is left is another heap's next: see [`Tables`].

use super::Heaps;
use crate::base::SLICE;
use crate::heap::record::Slab;
#[cfg(any(test, feature = "simulated"))]
use crate::heap::record::Usage;
use crate::pal::Platform;
use crate::region::{Link, Linked, STACK_ALIGN, Stack};
use crate::sync::{Cell, ZERO_IS_VALID, in_order, seeded, signal_fence};
use crate::{atomic_array, const_unless_model};
use core::ptr;

/// What a heap knows of a slice.
#[repr(C)]
pub struct OwnSlab {
    /// A slab of the heap, or the one without blocks.
    slab: Cell<*const Slab>,
    /// Of a slab of the heap, what [`Slab::bin`] says.
    bin: Cell<usize>,
}

/// A mask counts bytes, for a free then needs no instruction to scale what it looks up.
const BYTES: usize = size_of::<OwnSlab>();
const _: () = assert!(BYTES.is_power_of_two());

impl OwnSlab {
    /// Zero, and in no table yet. (What leads somewhere costs a static heap a relocation.)
    pub(super) const fn unused() -> OwnSlab {
        OwnSlab { slab: Cell::new(ptr::null()), bin: Cell::new(0) }
    }

    /// Knows of none.
    const fn new() -> OwnSlab {
        OwnSlab { slab: Cell::new(none()), bin: Cell::new(0) }
    }

    /// The slab that a block of this slice may lie in.
    #[inline(always)]
    pub fn slab(&self) -> *const Slab {
        self.slab.get()
    }

    /// The place of the bin for blocks of that slab.
    #[inline(always)]
    pub fn bin(&self) -> usize {
        self.bin.get()
    }

    fn is(&self, slab: *const Slab) -> bool {
        ptr::eq(self.slab(), slab)
    }

    /// Never one slab's bin with another slab, whenever a thread vanishes (fork).
    fn set(&self, slab: &Slab) {
        self.clear();
        signal_fence();
        let note = || {
            self.bin.set(slab.bin());
            signal_fence();
        };
        in_order(note, || self.slab.set(slab), "heap.entered_without_bin");
    }

    fn clear(&self) {
        self.slab.set(none());
    }
}

/// Entries that a heap begins with, in its own record; and how many a table grows to: slabs of 64 GiB in a row.
pub(super) const FIRST: usize = if cfg!(shuttle) { 2 } else { 8 };
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
struct Nothing(OwnSlab);
// SAFETY: nobody writes it.
unsafe impl Sync for Nothing {}
static NOTHING: Nothing = Nothing(OwnSlab::new());

/// Where a heap's table is. Touched by the heap's possessor only.
#[repr(C)]
pub(super) struct OwnSlabs {
    entries: Cell<*const OwnSlab>,
    /// Bytes from the first entry to the last, a power of two of entries: never more than there are.
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
    pub unsafe fn begin(&self, first: *mut OwnSlab) {
        // SAFETY: the caller's.
        unsafe { OwnSlabs::clear(first, FIRST) };
        self.change_to(first, FIRST);
    }

    /// # Safety
    /// `entries` is memory for so many.
    #[inline(never)]
    unsafe fn clear(entries: *mut OwnSlab, count: usize) {
        for at in 0..count {
            // SAFETY: the caller's.
            unsafe { entries.add(at).write(OwnSlab::new()) };
        }
    }

    /// A thread that vanishes in between (fork) leaves a table of which only the first part is looked at: where it is the
    /// larger of the two, some slabs are not in their places, and are found the long way.
    fn change_to(&self, entries: *const OwnSlab, count: usize) {
        if !seeded("heap.table_mask_kept") {
            self.mask.set(self.mask.get().min((count - 1) * BYTES));
        }
        signal_fence();
        self.entries.set(entries);
        signal_fence();
        self.mask.set((count - 1) * BYTES);
    }

    /// What the table knows of the slice of `address`.
    #[inline(always)]
    pub fn of(&self, address: usize) -> &OwnSlab {
        // SAFETY: the mask ends at the last of the entries, which live as long as the heap, and has no bit within one.
        unsafe { &*self.entries.get().byte_add((address / (SLICE / BYTES)) & self.mask.get()) }
    }

    fn at(&self, slice: usize) -> &OwnSlab {
        self.of(slice * SLICE)
    }

    /// The entries of the slices of a slab.
    fn places(&self, slab: &Slab) -> impl Iterator<Item = &OwnSlab> {
        let first = slab.base() / SLICE;
        (first..first + slab.slices() as usize).map(|slice| self.at(slice))
    }

    /// Enters a slab that has become this heap's, or that it uses, under each of its slices.
    pub fn enter(&self, slab: &Slab) {
        self.places(slab).for_each(|entry| entry.set(slab));
    }

    /// Forgets a slab before it stops being this heap's.
    pub fn leave(&self, slab: &Slab) {
        self.places(slab).filter(|entry| entry.is(slab)).for_each(OwnSlab::clear);
    }

    fn count(&self) -> usize {
        self.mask.get() / BYTES + 1
    }

    /// Grows the table if that is needed to hold the heap's slabs, of `held` slices in all, or if it may give the fresh
    /// `slab` places of its own.
    pub fn make_room<P: Platform>(&self, from: &Heaps<P>, slab: &Slab, held: usize) {
        let is_taken = || self.places(slab).any(|entry| !entry.is(none()));
        while self.count() < MOST
            && (self.count() < held || self.count() < SPARSE * held && is_taken())
            && self.grow(from, held)
        {}
    }

    #[cold]
    fn grow<P: Platform>(&self, from: &Heaps<P>, held: usize) -> bool {
        let count = (2 * self.count()).max(held.next_power_of_two()).min(MOST);
        self.move_to(from, count, from.tables().take(from, count))
    }

    /// Leaves a table that is sparse for the heap's slabs, of `held` slices in all, for a smaller one. `first` is the table
    /// that the heap began with.
    pub fn shrink<P: Platform>(&self, from: &Heaps<P>, first: &[OwnSlab; FIRST], held: usize) {
        let count = (SPARSE * held).next_power_of_two().max(FIRST);
        if count < self.count() {
            let first = (count == FIRST).then(|| first.as_ptr().cast_mut());
            self.move_to(from, count, first.or_else(|| from.tables().take(from, count)));
        }
    }

    /// Moves to the table `to`, of `count` entries, if there is one.
    fn move_to<P: Platform>(&self, from: &Heaps<P>, count: usize, to: Option<*mut OwnSlab>) -> bool {
        let Some(entries) = to else { return false };
        // SAFETY: memory for so many, which nobody uses: the first table is not used beside another.
        unsafe { OwnSlabs::clear(entries, count) };
        for at in 0..self.count() {
            // SAFETY: a slab in the table is this heap's, and open; in models there may be none.
            let Some(slab) = (unsafe { self.at(at).slab().as_ref() }) else { continue };
            let first = slab.base() / SLICE;
            for slice in first..first + slab.slices() as usize {
                if self.at(slice).is(slab) {
                    // SAFETY: of the entries cleared above.
                    unsafe { (*entries.add(slice & (count - 1))).set(slab) };
                }
            }
        }
        let (left, had) = (self.entries.get(), self.count());
        let give = || {
            if had > FIRST {
                // SAFETY: of more than the first entries, so it was taken there; this heap has just left it.
                unsafe { from.tables().give(left, had) };
            }
        };
        in_order(|| self.change_to(entries, count), give, "heap.table_given_early");
        true
    }

    /// Demands that what the table knows are slabs of `owner`, each under the numbers of its slices, and that it is no
    /// shorter than its mask says. `first` is the table that the heap began with. Returns the one that it has, if that is
    /// another.
    #[cfg(any(test, feature = "simulated"))]
    pub fn audit(&self, owner: *const super::Heap, first: &[OwnSlab; FIRST]) -> Option<usize> {
        let entries = self.entries.get();
        let (taken, most) = if ptr::eq(entries, first.as_ptr()) {
            (None, FIRST)
        } else if ptr::eq(entries, &raw const NOTHING.0) {
            (None, 1)
        } else {
            // SAFETY: any other comes from `Tables`.
            (Some(entries.addr()), unsafe { Tables::head(entries) }.count)
        };
        assert!(
            self.count() <= most,
            "the table of own slabs has {most} places, and {} are used",
            self.count()
        );
        for at in (0..self.count()).filter(|&at| !self.at(at).is(none())) {
            // SAFETY: a record of an arena that is mapped, or this fails.
            let slab = unsafe { &*self.at(at).slab() };
            let is_own = slab.usage() == Usage::Slab && ptr::eq(slab.owner(), owner);
            assert!(is_own, "the table of own slabs knows another");
            assert_eq!(self.at(at).bin(), slab.bin(), "the table of own slabs has another bin");
            let first = slab.base() / SLICE;
            let mut places = (first..first + slab.slices() as usize).map(|slice| slice & (self.count() - 1));
            assert!(places.any(|place| place == at), "a slab in another's place");
        }
        taken
    }

    /// Whether a slab is known under `address`.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub fn knows(&self, address: usize) -> bool {
        !self.of(address).is(none())
    }

    /// Entries in the table.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub fn entries(&self) -> usize {
        self.count()
    }
}

/// How many sizes of tables there are beyond the first: each is twice as large as the one before.
const SIZES: usize = (MOST.ilog2() - FIRST.ilog2()) as usize;

/// The head of a table that lies in metadata; its entries follow.
#[repr(C, align(64))]
struct Table {
    link: Link,
    /// How many follow, for the audit.
    #[cfg(any(test, feature = "simulated"))]
    count: usize,
}

// SAFETY: metadata is immortal, aligned as `Tables::take` asks and below 2^48; the entries lie behind the link.
unsafe impl Linked for Table {
    fn link(&self) -> &Link {
        &self.link
    }
}

/// Tables that no heap uses. Without this the heaps of a thousand threads that came and went would hold the largest
/// tables that each of them ever needed, and all the smaller ones, for ever.
pub struct Tables {
    unused: [Stack<Table>; SIZES],
}

impl Tables {
    const_unless_model! {
        /// None yet.
        pub fn new() -> Tables {
            Tables { unused: atomic_array!(Stack::new(); SIZES) }
        }
    }

    /// Those of `count` entries: there is a stack for each power of two above [`FIRST`].
    fn of(&self, count: usize) -> Option<&Stack<Table>> {
        let doublings = count.trailing_zeros() - FIRST.trailing_zeros();
        self.unused.get(doublings as usize - 1)
    }

    /// A table of `count` entries, a power of two above [`FIRST`], for the caller alone; `None` if there is no memory for
    /// one. What is in it is old.
    fn take<P: Platform>(&self, from: &Heaps<P>, count: usize) -> Option<*mut OwnSlab> {
        if let Some(table) = self.of(count)?.take() {
            return Some(Tables::entries(ptr::from_ref(table)));
        }
        let (os, bytes) = (from.os(), size_of::<Table>() + count * size_of::<OwnSlab>());
        let memory = from.space().metadata().allocate(os, bytes, STACK_ALIGN).ok()?.cast::<Table>();
        if !ZERO_IS_VALID || cfg!(any(test, feature = "simulated")) {
            // SAFETY: fresh memory for one.
            unsafe {
                memory.write(Table {
                    link: Link::new(),
                    #[cfg(any(test, feature = "simulated"))]
                    count,
                });
            }
        }
        Some(Tables::entries(memory.as_ptr()))
    }

    /// Gives back a table of `count` entries.
    ///
    /// # Safety
    /// [`Tables::take`] gave it, for as many, and nobody uses it any more.
    unsafe fn give(&self, entries: *const OwnSlab, count: usize) {
        // SAFETY: the caller's.
        let table = unsafe { Tables::head(entries) };
        if let Some(unused) = self.of(count) {
            unused.give(table);
        }
    }

    /// # Safety
    /// [`Tables::take`] gave the entries.
    unsafe fn head(entries: *const OwnSlab) -> &'static Table {
        let head = entries.expose_provenance() - size_of::<Table>();
        // SAFETY: they lie behind their head, which lives forever.
        unsafe { &*ptr::with_exposed_provenance::<Table>(head) }
    }

    /// The entries of each table that no heap uses, while nobody takes or gives any. Demands that none is taken for a
    /// larger one than it is.
    #[cfg(any(test, feature = "simulated"))]
    pub fn audit(&self) -> impl Iterator<Item = usize> {
        self.unused.iter().enumerate().flat_map(|(doublings, unused)| {
            unused.each().map(move |table| {
                assert!(table.count >= FIRST << (doublings + 1), "{} places are given as more", table.count);
                Tables::entries(table).addr()
            })
        })
    }

    /// The entries behind a head, by the exposed provenance of the memory that holds both.
    fn entries(table: *const Table) -> *mut OwnSlab {
        ptr::with_exposed_provenance_mut(table.expose_provenance() + size_of::<Table>())
    }
}
