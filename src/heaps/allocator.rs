//! A heap as an allocator of collections.

use super::heap::Heap;
use crate::base::is_aligned;
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::Layout;
use core::ptr::{self, NonNull};

/// What is allocated for nothing.
fn nothing(layout: Layout) -> NonNull<[u8]> {
    // SAFETY: alignments are not zero.
    let start = unsafe { NonNull::new_unchecked(ptr::without_provenance_mut(layout.align())) };
    NonNull::slice_from_raw_parts(start, 0)
}

/// Zeros what lies behind the first `from` bytes of a block of the caller's, up to `to`.
///
/// # Safety
/// The block is as long as that, and the caller's.
unsafe fn zero(block: NonNull<[u8]>, from: usize, to: usize) {
    if from < to {
        // SAFETY: the caller's.
        unsafe { block.cast::<u8>().add(from).write_bytes(0, to - from) };
    }
}

impl Heap {
    /// Grows or shrinks a block of `old` to `new`: where it is, or elsewhere. `zeroes`: what lies behind `old` is zero.
    ///
    /// # Safety
    /// As for [`Allocator::grow`] and [`Allocator::shrink`].
    unsafe fn change(
        &self,
        at: NonNull<u8>,
        old: Layout,
        new: Layout,
        zeroes: bool,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let address = at.as_ptr().expose_provenance();
        let lies_well = is_aligned(address, new.align());
        if lies_well && let Some(((block, is_zero), before)) = self.resize(address, new.size()) {
            if zeroes {
                // What is known to be zero begins where the block ended.
                let to = if is_zero { before.min(block.len()) } else { block.len() };
                // SAFETY: the block is the caller's.
                unsafe { zero(block, old.size(), to) };
            }
            return Ok(block);
        }
        let moved = if zeroes { self.allocate_zeroed(new) } else { self.allocate(new) };
        let Ok(moved) = moved else {
            // A block that is longer than it need be will do.
            let fits = lies_well && new.size() <= old.size();
            return if fits { Ok(self.as_it_is(address)) } else { Err(AllocError) };
        };
        // SAFETY: two blocks, both at least as long as what is copied; the old one is the caller's to give.
        unsafe {
            ptr::copy_nonoverlapping(at.as_ptr(), moved.cast().as_ptr(), old.size().min(new.size()));
            self.deallocate(at, old);
        }
        Ok(moved)
    }
}

// SAFETY: blocks are disjoint, at least as large and aligned as their layout asks, and live until they are freed or the
// heap is dropped, wherever the heap is moved to: nothing of it but a pointer and a callback lies in the value.
unsafe impl Allocator for Heap {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(nothing(layout));
        }
        self.take(layout).map(|(block, _)| block).ok_or(AllocError)
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(nothing(layout));
        }
        let (block, is_zero) = self.take(layout).ok_or(AllocError)?;
        if !is_zero {
            // SAFETY: the block is ours.
            unsafe { zero(block, 0, block.len()) };
        }
        Ok(block)
    }

    #[inline]
    unsafe fn deallocate(&self, at: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            self.give(at.as_ptr().expose_provenance());
        }
    }

    #[inline]
    unsafe fn grow(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return self.allocate(new);
        }
        // SAFETY: the caller's.
        unsafe { self.change(at, old, new, false) }
    }

    #[inline]
    unsafe fn grow_zeroed(
        &self,
        at: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return self.allocate_zeroed(new);
        }
        // SAFETY: the caller's.
        unsafe { self.change(at, old, new, true) }
    }

    #[inline]
    unsafe fn shrink(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if new.size() == 0 {
            // SAFETY: the caller's.
            unsafe { self.deallocate(at, old) };
            return Ok(nothing(new));
        }
        // SAFETY: the caller's.
        unsafe { self.change(at, old, new, false) }
    }
}
