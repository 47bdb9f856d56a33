//! Large blocks: runs of slices. And how much of the last slice is resident beyond the block.
//!
//! A run of slices is up to 64 KiB longer than what was asked for. In memory that nobody has used that is address space only; slices
//! that were slabs before are resident to their end. So each slice's record says how much at its end is known not to be, and
//! a block that would waste more than an eighth of its size gives the rest of its last slice back before it is handed out.
//! The same size again in the same slice finds nothing to give back.
//!
//! Blocks of different sizes by turns would purge and fault at each turn. So a heap purges a tail for each large block that it
//! allocates more than it frees, and besides those so many in a while: a program that exchanges small blocks for large ones
//! has its tails given back, and one that exchanges large ones all the time spends a thousandth of its time on that.

use super::local::Heap;
use super::tally::Count;
use super::{Allocator, Slab};
use crate::base::{SLICE, align_up};
use crate::const_unless_model;
use crate::pal::Platform;
use crate::region::Prefer;
use crate::sync::Cell;
use core::ptr;

/// One part in so many of a block's size may be resident behind it.
const WASTE_PARTS: usize = 8;
/// Milliseconds after which a heap may purge one tail more.
const EACH_MS: u64 = 10;
/// What a heap may spend in a row, and how far it may be behind.
const MOST: i64 = 64;
const LEAST: i64 = -256;

/// How many tails a heap may purge. Touched by its possessor only.
pub struct Tails {
    left: Cell<i64>,
    /// Milliseconds on the clock up to which what comes with time was added.
    then: Cell<u64>,
}

impl Tails {
    const_unless_model! {
        /// None yet.
        pub fn new() -> Tails {
            Tails { left: Cell::new(0), then: Cell::new(0) }
        }
    }

    fn add(&self, count: i64) {
        self.left.set((self.left.get() + count).clamp(LEAST, MOST));
    }

    /// Whether one may be purged at the time `now`, in milliseconds.
    fn take(&self, now: u64) -> bool {
        let steps = now.saturating_sub(self.then.get()) / EACH_MS;
        if steps > 0 {
            self.then.set(now);
            self.add(steps.min((MOST - LEAST) as u64) as i64);
        }
        let may = self.left.get() > 0;
        if may {
            self.add(-1);
        }
        may
    }
}

impl<P: Platform> Allocator<P> {
    pub(super) fn allocate_large(&self, heap: &Heap, size: usize, align: usize, zero: bool) -> *mut u8 {
        let slices = size.max(1).div_ceil(SLICE);
        let kept = if align <= SLICE { heap.spare(slices) } else { None };
        let claimed = match kept {
            Some(base) => Some((base, false)),
            None => self
                .arenas()
                .claim(self, heap, slices, align.div_ceil(SLICE), Prefer::Dirty)
                .map(|claim| (claim.base, claim.zero)),
        };
        let Some((base, is_zero)) = claimed else { return ptr::null_mut() };
        // SAFETY: the slices are the heap's; their records are ours.
        let slab = unsafe { &*Slab::of(base) };
        slab.open_large(slices as u32, size);
        self.tally().add(heap, Count::LargeBlocks, 1);
        self.tally().add(heap, Count::LargeBytes, size);
        heap.tails().add(1);
        self.bound_tail(heap, slab, kept.is_none());
        let block = ptr::with_exposed_provenance_mut::<u8>(base);
        if zero && !is_zero {
            // SAFETY: the run holds at least `size` bytes and is ours.
            unsafe { block.write_bytes(0, size) };
        }
        block
    }

    pub(super) fn free_large(&self, heap: &Heap, slab: &Slab) {
        let (base, slices) = (slab.base(), slab.slices() as usize);
        self.tally().take_off(heap, Count::LargeBlocks, 1);
        self.tally().take_off(heap, Count::LargeBytes, slab.requested());
        slab.close();
        heap.tails().add(-1);
        heap.keep_slices(self, base, slices);
    }

    pub(super) fn resize_large(&self, heap: &Heap, slab: &Slab, size: usize) -> Option<*mut u8> {
        let (base, old) = (slab.base(), slab.slices() as usize);
        let new = size.max(1).div_ceil(SLICE);
        if new > old && !self.arenas().extend(self, heap, base, old, new - old) {
            return None;
        }
        self.tally().add(heap, Count::LargeBytes, size.wrapping_sub(slab.requested()));
        slab.resize_large(new as u32, size);
        if new < old {
            for slice in new..old {
                // SAFETY: records of slices of the run, which is the caller's.
                unsafe { &*Slab::of(base + slice * SLICE) }.forget();
            }
            self.arenas().release(self, heap, base + new * SLICE, old - new);
        }
        self.bound_tail(heap, slab, new > old);
        Some(ptr::with_exposed_provenance_mut(base))
    }

    /// Notes how much of the last slice of a large block is not resident, and gives back what is, behind the block, if that
    /// is much. The slice was claimed just now if `fresh`. The caller holds the block.
    fn bound_tail(&self, heap: &Heap, slab: &Slab, fresh: bool) {
        let size = slab.requested();
        let (end, os) = (slab.base() + slab.bytes(), self.space().os());
        let used = align_up(size.max(1), os.page_size()).unwrap_or(slab.bytes());
        let tail = slab.bytes().saturating_sub(used);
        // SAFETY: a record of a slice of the run, which is the caller's.
        let last = unsafe { &*Slab::of(end - SLICE) };
        let soiled = tail.saturating_sub(last.spared());
        let given_back = soiled * WASTE_PARTS > size
            && (fresh && !self.arenas().is_dirty(self, end - SLICE)
                || heap.tails().take(os.now_ms()) && self.purge_tail(slab.base() + used, soiled));
        last.spare(if given_back { tail } else { last.spared().min(tail) });
    }

    /// Gives back `len` bytes at `at`, which are behind a block and inside its run.
    fn purge_tail(&self, at: usize, len: usize) -> bool {
        // SAFETY: nobody uses what is behind a block that its holder is about to be given or to get back; one mapping.
        let purged = unsafe { self.space().os().purge(at, len) }.is_ok();
        if purged {
            self.arenas().count_purged(len);
        }
        purged
    }
}
