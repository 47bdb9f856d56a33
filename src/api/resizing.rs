//! realloc of the C interface.

use super::figures;
use super::lookup::{find_own, in_large, look_up};
use super::raw::{free, free_stray, malloc};
use super::samples;
use crate::base::SMALL_MAX;
use crate::global::{Options, Thread, process, tell_if_due, with_heap};
use crate::heap::{BlockKind, Heap, LARGE_MAX, Place, Slab};
use crate::pal::Call;
use crate::region::Region;
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
    let own = find_own::<T>(block);
    if own.is_none() && stays_large::<T>(block, size) {
        return block;
    }
    let place = match own.map_or_else(|| look_up::<T>(Call::Realloc, block), |slab| Ok(Place::Slab(slab))) {
        Ok(place) => place,
        // It moves in any case: of a guarded one whoever keeps the old pointer is found so.
        // SAFETY: the caller hands over the block, which is another allocator's to free.
        Err(stray) => unsafe {
            let moved = malloc::<T>(size);
            return move_to(moved, block, stray.usable.min(size), |block| free_stray(block, stray));
        },
    };
    let usable = place.usable();
    // A block that fits and wastes less than half stays. (A block of a slab has no smaller form worth a copy below 64.)
    let fits = size <= usable && (size >= usable / 2 || usable <= 64);
    // A sample that stands for a slab's block stays when that would, and moves when that would.
    let stands_for = if place.sample() == 0 { 0 } else { place.stands_for() };
    if stands_for != 0 && fits && process().settings().sample_rate() == 0 {
        return block;
    }
    // A large block for less than one, which was made to grow, stays while it does.
    let grows = size <= usable && size >= place.requested() && stands_for == 0;
    let sample = samples::lift(place, block, samples::NO_CALLER);
    let stays = match (place, BlockKind::of(size, 1)) {
        (Place::Slab(_), _) => fits.then_some(block),
        // A large block that stays is told its size, too.
        (Place::Large(_), kind) if kind != BlockKind::Large && !fits && !grows => None,
        // A huge block stays one down to half of that: between the two sizes nothing is copied to and fro.
        (Place::Huge(_), kind) if kind != BlockKind::Huge && !(fits && size >= LARGE_MAX / 2) => None,
        // A huge block whose pages are all needed still, and no others.
        (Place::Huge(region), _) if is_as_long(region, size) => Some(block),
        _ => with_heap::<T, _>(Options::NONE, |heap| {
            // A region that a huge block moves to begins with a page. (realloc promises no more than malloc.)
            // SAFETY: the heap is possessed here, the block is the caller's, the kinds agree or the block fits.
            heap.and_then(|heap| unsafe { process().resize(heap, place, size, process().page_size()) })
        }),
    };
    if let Some(stays) = stays {
        tell_if_due::<T>(size);
        let counts = sample.is_some() || process().settings().sample_rate() != 0;
        match place {
            Place::Slab(_) => {}
            _ if stands_for != 0 && fits => {
                samples::resized_in_class::<T>(sample, stays, stands_for, samples::NO_CALLER);
            }
            _ if counts => samples::resized::<T>(sample, stays, size, samples::NO_CALLER),
            _ => {}
        }
        return stays;
    }
    samples::put_back(place, sample);
    let with_room = if size > usable && !matches!(place, Place::Huge(_)) {
        let block = to_grow::<T>(Options::NONE, size, matches!(place, Place::Large(_)));
        if !block.is_null() && process().settings().sample_rate() != 0 {
            samples::resized::<T>(None, block, size, samples::NO_CALLER);
        }
        block
    } else {
        ptr::null_mut()
    };
    let moved = if with_room.is_null() { malloc::<T>(size) } else { with_room };
    // SAFETY: the caller hands over the block.
    let moved = unsafe { move_to(moved, block, usable.min(size), |block| free::<T>(block)) };
    // Without memory for a smaller one, this one will do.
    if moved.is_null() && size <= usable { block } else { moved }
}

/// Whether the huge block in `region` uses as many pages for `size` bytes as it has.
fn is_as_long(region: &Region, size: usize) -> bool {
    region.huge().used_for(size, process().page_size()) == Some(region.huge().used())
}

/// Whether the block is a large one that stays one in the slices that it has; then it has been told its size.
#[inline(always)]
fn stays_large<T: Thread>(block: *mut u8, size: usize) -> bool {
    if size > LARGE_MAX {
        return false;
    }
    if process().settings().sample_rate() != 0 {
        return samples::stays_large::<T>(block, size);
    }
    let stays = |heap: &Heap, slab: &Slab| {
        let may_stay = size > SMALL_MAX || size >= slab.requested();
        (may_stay && process().resize_in_run(heap.claimant(), slab, size)).then_some(())
    };
    in_large::<T, _>(block, stays).is_some()
}

/// A block of `size` bytes for one, large or not, that has to move to grow: where it has room to go on growing. Null if
/// there is none, or no reason for it. Begins with a slice.
#[cold]
#[inline(never)]
pub(super) fn to_grow<T: Thread>(options: &Options, size: usize, was_large: bool) -> *mut u8 {
    if size <= SMALL_MAX / 2 || size > LARGE_MAX {
        return ptr::null_mut();
    }
    let block = with_heap::<T, _>(options, |heap| match heap {
        Some(heap) => process().allocate_to_grow(heap.claimant(), size, was_large),
        None => ptr::null_mut(),
    });
    if !block.is_null() {
        tell_if_due::<T>(size);
        figures::pulse::<T>();
    }
    block
}

/// Has the block at `moved`, if it is not null, begin with the `len` bytes of the one at `block`, and frees that.
///
/// # Safety
/// The caller has both blocks, which hold `len` bytes, and hands over the second, which `free` may be called with.
unsafe fn move_to(moved: *mut u8, block: *mut u8, len: usize, free: impl FnOnce(*mut u8)) -> *mut u8 {
    if !moved.is_null() {
        // SAFETY: two live blocks, both at least as long as what is copied.
        unsafe { ptr::copy_nonoverlapping(block, moved, len) };
        free(block);
    }
    moved
}
