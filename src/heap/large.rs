//! What a record says of a large block.

use super::record::{Slab, Usage};
use super::seat::{Seat, Tail};
use crate::base::{SLICE, align_down};
use crate::sync::atomic::Ordering;
use core::ptr;

impl Slab {
    /// Makes the record that of a large block in `slices` slices, which begins `colour` bytes behind their start.
    pub fn open_large(&self, slices: u32, colour: usize, requested: usize) {
        if !self.is_marked(slices) {
            self.mark_later(slices);
        }
        // Relaxed (all): as in `Slab::open`.
        self.shared.owner.store(ptr::null_mut(), Ordering::Relaxed);
        self.shared.slices.store(slices, Ordering::Relaxed);
        self.shared.requested.store(requested, Ordering::Relaxed);
        self.shared.touched.store(0, Ordering::Relaxed);
        self.set_sample(0);
        // One block, there: so that a second free of it is recognised after the run was closed.
        self.shared.start.store(self.base() + colour, Ordering::Relaxed);
        self.shared.reciprocal.store(1, Ordering::Relaxed);
        self.shared.limit.store(1, Ordering::Relaxed);
        self.shared.usage.store(Usage::Large as u32, Ordering::Relaxed);
    }

    /// The large block is free, and its run stays whole: that the later slices are later ones need not be said again.
    pub fn close_large(&self) {
        // Relaxed: as in `close`.
        self.shared.usage.store(Usage::Free as u32, Ordering::Relaxed);
    }

    /// Bytes of `page`s at the start of this slice that are known not to be resident: those before the large block that
    /// begins here, or began here last.
    #[inline(always)]
    pub fn gap(&self, page: usize) -> usize {
        align_down(self.colour(), page)
    }

    /// Whether this large block begins at `address`.
    #[inline(always)]
    pub fn begins_at(&self, address: usize) -> bool {
        // Relaxed: see rule 1.
        self.shared.start.load(Ordering::Relaxed) == address
    }

    /// Bytes from there to the end of its run; roughly, if it is not the caller's.
    pub fn usable(&self) -> usize {
        self.bytes().saturating_sub(self.colour())
    }

    /// The same, for its holder, who knows that it begins at the address `block`.
    #[inline(always)]
    pub fn usable_from(&self, block: usize) -> usize {
        self.bytes() - block % SLICE
    }

    /// Bytes that the program asked for (large blocks).
    pub fn requested(&self) -> usize {
        // Relaxed: a figure.
        self.shared.requested.load(Ordering::Relaxed)
    }

    /// Where this large block lies.
    #[inline(always)]
    pub fn seat(&self, page: usize) -> Seat {
        let (slices, colour, size) = (self.slices() as usize, self.colour(), self.requested());
        Seat { slices, colour, size, page, keeps: 0 }
    }

    /// What this large block does not need of its run.
    pub fn tail(&self, page: usize) -> Tail {
        self.seat(page).tail()
    }

    /// Which sample this large block is; zero for none.
    pub fn sample(&self) -> u32 {
        // Relaxed: only the block's holder reads it.
        self.shared.bin.load(Ordering::Relaxed)
    }

    /// Notes which sample this large block is.
    pub fn set_sample(&self, sample: u32) {
        // Relaxed: as above.
        self.shared.bin.store(sample, Ordering::Relaxed);
    }

    /// See [`Place::stands_for`](super::Place::stands_for).
    pub(super) fn stands_for(&self) -> usize {
        // Relaxed: the block's holder reads it, and statistics.
        self.owned.handed_out.load(Ordering::Relaxed) as usize
    }

    /// Bytes of this large block's run that no memory is held for: behind a sample that stands for a slab's block, which
    /// can hold no more than that. Others may come to use all of their slices, and nobody is asked.
    pub fn unheld(&self) -> usize {
        if self.sample() != 0 && self.stands_for() != 0 { self.last().spared() } else { 0 }
    }

    /// Notes a large block's new extent after it grew or shrank in place.
    pub fn resize_large(&self, slices: u32, requested: usize) {
        if slices > self.slices() {
            self.mark_from(self.slices(), slices);
        }
        // Relaxed (both): only the block's holder reads them.
        self.shared.slices.store(slices, Ordering::Relaxed);
        self.shared.requested.store(requested, Ordering::Relaxed);
    }
}
