//! Large blocks: runs of slices. And how much of the last slice is resident beyond the block.
//!
//! A run of slices is up to 64 KiB longer than what was asked for. In memory that nobody has used that is address space
//! only; slices that were slabs before are resident to their end. So each slice's record says how much at its end is
//! known not to be, and a block that would waste more than an eighth of its size gives the rest of its last slice back
//! before it is handed out. The same size again in the same slice finds nothing to give back.
//!
//! Blocks of different sizes by turns would purge and fault at each turn. So a heap purges a tail for each large block
//! that it allocates more than it frees, and besides those one every 10 ms: a program that exchanges small blocks for
//! large ones has its tails given back, and one that exchanges large ones all the time spends a thousandth of its time
//! on that.

use super::Backend;
use crate::base::{SLICE, align_up};
use crate::heap::ground::{Claimant, Count, MOST_SPARE};
use crate::heap::record::Slab;
use crate::pal::Platform;
use crate::region::Prefer;
use core::ptr;

/// One part in `WASTE_PARTS` of a block's size may be resident behind it.
const WASTE_PARTS: usize = 8;

impl<P: Platform> Backend<P> {
    pub(in crate::heap) fn allocate_large(
        &self,
        by: &Claimant,
        size: usize,
        align: usize,
        zero: bool,
    ) -> *mut u8 {
        let slices = size.max(1).div_ceil(SLICE);
        let kept = if align <= SLICE { by.spares().take(slices) } else { None };
        let claimed = match kept {
            Some(base) => Some((base, false)),
            None => self
                .claim(by, slices, align.div_ceil(SLICE), Prefer::Dirty)
                .map(|claim| (claim.base, claim.zero)),
        };
        let Some((base, is_zero)) = claimed else { return ptr::null_mut() };
        // SAFETY: the slices are the heap's; their records are ours.
        let slab = unsafe { &*Slab::of(base) };
        slab.open_large(slices as u32, size);
        self.tally().add(by, Count::LargeBlocks, 1);
        self.tally().add(by, Count::LargeBytes, size);
        by.tails().add(1);
        self.bound_tail(by, slab, kept.is_none());
        let block = ptr::with_exposed_provenance_mut::<u8>(base);
        if zero && !is_zero {
            // SAFETY: the run holds at least `size` bytes and is ours.
            unsafe { block.write_bytes(0, size) };
        }
        block
    }

    pub(in crate::heap) fn free_large(&self, by: &Claimant, slab: &Slab) {
        let (base, slices) = (slab.base(), slab.slices() as usize);
        self.tally().take_off(by, Count::LargeBlocks, 1);
        self.tally().take_off(by, Count::LargeBytes, slab.requested());
        slab.close();
        by.tails().add(-1);
        self.keep_slices(by, base, slices, MOST_SPARE);
    }

    pub(in crate::heap) fn resize_large(&self, by: &Claimant, slab: &Slab, size: usize) -> Option<*mut u8> {
        let (base, old) = (slab.base(), slab.slices() as usize);
        let new = size.max(1).div_ceil(SLICE);
        if new > old && !self.arenas.extend(&self.ground, by, base, old, new - old) {
            return None;
        }
        self.tally().add(by, Count::LargeBytes, size.wrapping_sub(slab.requested()));
        slab.resize_large(new as u32, size);
        if new < old {
            for slice in new..old {
                // SAFETY: records of slices of the run, which is the caller's.
                unsafe { &*Slab::of(base + slice * SLICE) }.forget();
            }
            self.release(by, base + new * SLICE, old - new);
        }
        self.bound_tail(by, slab, new > old);
        Some(ptr::with_exposed_provenance_mut(base))
    }

    /// Notes how much of the last slice of a large block is not resident, and gives back what is, behind the block, if
    /// that is much. The slice was claimed just now if `fresh`. The caller holds the block.
    fn bound_tail(&self, by: &Claimant, slab: &Slab, fresh: bool) {
        let size = slab.requested();
        let (end, os) = (slab.base() + slab.bytes(), self.os());
        let used = align_up(size.max(1), os.page_size()).unwrap_or(slab.bytes());
        let tail = slab.bytes().saturating_sub(used);
        // SAFETY: a record of a slice of the run, which is the caller's.
        let last = unsafe { &*Slab::of(end - SLICE) };
        let soiled = tail.saturating_sub(last.spared());
        let given_back = soiled * WASTE_PARTS > size
            && (fresh && !self.arenas.is_dirty(&self.ground, end - SLICE)
                || by.tails().take(os.now_ms()) && self.purge_tail(slab.base() + used, soiled));
        last.spare(if given_back { tail } else { last.spared().min(tail) });
    }

    /// Gives back `len` bytes at `at`, which are behind a block and inside its run.
    fn purge_tail(&self, at: usize, len: usize) -> bool {
        // SAFETY: nobody uses what is behind a block that its holder is about to be given or to get back; one mapping.
        let purged = unsafe { self.os().purge(at, len) }.is_ok();
        if purged {
            self.count_purged(len);
        }
        purged
    }
}
