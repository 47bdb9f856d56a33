//! realloc of the C interface.

use super::lookup::find;
use super::raw::{free, free_stray, malloc};
use super::samples;
use crate::base::is_aligned;
use crate::global::{Options, Thread, process, tell_if_due, with_heap};
use crate::heap::{BlockKind, LARGE_MAX, Place};
use crate::pal::Call;
use core::ptr;

/// realloc, for a `size` above zero: the block with `size` bytes, moved if need be, or null with `ENOMEM` and the block
/// as it was. A null block makes it [`malloc`].
///
/// # Safety
/// `block` is null or a live block of this allocator.
pub unsafe fn realloc<T: Thread>(block: *mut u8, size: usize) -> *mut u8 {
    if block.is_null() {
        return malloc::<T>(size);
    }
    let place = match find::<T>(Call::Realloc, block) {
        Ok(place) => place,
        // SAFETY: the caller hands over the block, which is another allocator's to free.
        Err(stray) => unsafe {
            return move_to::<T>(block, stray.usable, size, |block| free_stray(block, stray));
        },
    };
    let usable = place.usable();
    // A block that fits and wastes less than half stays. (A block of a slab has no smaller form worth a copy below 64.)
    let fits = size <= usable && (size >= usable / 2 || usable <= 64);
    let sample = samples::lift(place, block, samples::NO_CALLER);
    let stays = match (place, BlockKind::of(size, 1)) {
        (Place::Slab(_), _) => fits.then_some(block),
        // A large block that stays is told its size, too.
        (Place::Large(_), kind) if kind != BlockKind::Large && !fits => None,
        // A huge block stays one down to half of that: between the two sizes nothing is copied to and fro.
        (Place::Huge(_), kind) if kind != BlockKind::Huge && !(fits && size >= LARGE_MAX / 2) => None,
        _ => with_heap::<T, _>(Options::NONE, |heap| {
            // SAFETY: the heap is possessed here, the block is the caller's, the kinds agree or the block fits.
            heap.and_then(|heap| unsafe { process().resize(heap, place, size, page_aligned(block)) })
        }),
    };
    if let Some(stays) = stays {
        tell_if_due::<T>(size);
        let counts = sample.is_some() || process().settings().sample_rate() != 0;
        if counts && !matches!(place, Place::Slab(_)) {
            samples::resized::<T>(sample, stays, size, samples::NO_CALLER);
        }
        return stays;
    }
    samples::put_back(place, sample);
    // SAFETY: the caller hands over the block.
    let moved = unsafe { move_to::<T>(block, usable, size, |block| free::<T>(block)) };
    // Without memory for a smaller one, this one will do.
    if moved.is_null() && size <= usable { block } else { moved }
}

/// A block of `size` bytes with what the one at `block`, which holds `usable` bytes, begins with; that one is freed.
/// Null without memory, and the block as it was.
///
/// # Safety
/// The caller hands over the block, which `free` may be called with.
unsafe fn move_to<T: Thread>(
    block: *mut u8,
    usable: usize,
    size: usize,
    free: impl FnOnce(*mut u8),
) -> *mut u8 {
    let moved = malloc::<T>(size);
    if !moved.is_null() {
        // SAFETY: two live blocks, both at least as long as what is copied.
        unsafe { ptr::copy_nonoverlapping(block, moved, size.min(usable)) };
        free(block);
    }
    moved
}

/// The alignment that a huge block keeps when it moves: a page. (realloc promises no more than malloc.)
fn page_aligned(block: *mut u8) -> usize {
    debug_assert!(is_aligned(block.addr(), process().page_size()));
    process().page_size()
}
