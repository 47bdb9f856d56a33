//! The C interface's semantics, for whoever keeps a heap pointer per thread ([`Thread`]): the preload library.
//!
//! The fast paths of malloc and free are the first two functions. They check everything that is checked by default:
//! that a freed pointer is the start of a block that was handed out and is not free, and that a block was not written
//! while it was free. Everything else of them is out of line.

use super::lookup::{look_up, usable};
use super::{figures, samples};
use crate::base::{LINE, SMALL_MAX, class_of_aligned};
use crate::global::{
    Stray, Thread, attach_to, enter_step, leave_step, process, tell_if_due, undo_step, with_heap,
    with_heap_to_free, with_relief,
};
use crate::heap::{Along, Bin, Block, Checks, Heap, LARGE_MAX, Piece, Place, Slab, Usage};
use crate::pal::{Call, Misuse, Platform, broken_contract};
use core::ptr;

pub use crate::global::{
    OnPressure, OptionError, Options, Pressure, get_option, honours_deepbind, on_pressure, set_option,
};

/// malloc: `size` bytes at a multiple of 16, or null with `ENOMEM`. Zero bytes are a block of their own.
#[inline(always)]
pub fn malloc<T: Thread>(size: usize) -> *mut u8 {
    match Bin::of_size(size) {
        Some(at) => take::<T, true>(size, 1, at),
        None => malloc_medium::<T>(size),
    }
}

/// malloc for sizes that are not in the first table. Out of line, so that the others do not pay for the choice.
#[inline(never)]
fn malloc_medium<T: Thread>(size: usize) -> *mut u8 {
    match Bin::of_granules(size) {
        Some(at) => take::<T, false>(size, 1, at),
        None => malloc_large::<T>(size),
    }
}

/// malloc for what is no block of a slab: gives a large one a run of slices that such a block of the thread's has left.
#[inline(never)]
fn malloc_large<T: Thread>(size: usize) -> *mut u8 {
    let heap = T::heap();
    if size > LARGE_MAX || process().settings().sample_rate() != 0 {
        return allocate::<T>(size, 1, false);
    }
    // SAFETY: a thread's heap is one.
    if !unsafe { enter_step::<T>(heap) } {
        return malloc_refused::<T>(size, 1, heap);
    }
    // SAFETY: the thread possesses its heap and is inside, or it is NOBODY or EXITED, which keep nothing.
    let block = process().reuse_large(unsafe { (*heap).claimant() }, size);
    // SAFETY: as above.
    unsafe { leave_step::<T>(heap) };
    if block.is_null() {
        return allocate::<T>(size, 1, false);
    }
    figures::pulse::<T>();
    block
}

/// The block that was freed last of those in the bin that lies `at` words from the first, which serves `size` bytes at a
/// multiple of `align`. Has the next one fetched if blocks are `SMALL`, of which there may be many.
#[inline(always)]
fn take<T: Thread, const SMALL: bool>(size: usize, align: usize, at: usize) -> *mut u8 {
    let heap = T::heap();
    // SAFETY: a thread's heap is one.
    if !unsafe { enter_step::<T>(heap) } {
        return malloc_refused::<T>(size, align, heap);
    }
    // SAFETY: the thread possesses its heap and is inside, or it is NOBODY or EXITED, whose bins are empty.
    let block = unsafe { (*heap).bin_at(at).try_pop::<T::Checks, SMALL>((*heap).secret()) };
    if block.is_null() {
        return malloc_slow::<T>(size, align, at, heap);
    }
    // SAFETY: as above.
    unsafe { leave_step::<T>(heap) };
    block.cast()
}

/// free: gives back a block of this allocator, or null.
///
/// # Safety
/// `block` is null or a live block of this allocator, which nobody uses any more. (Most pointers that are neither are
/// recognised, and end the process with a message.)
#[inline(always)]
pub unsafe fn free<T: Thread>(block: *mut u8) {
    let heap = T::heap();
    // SAFETY: a thread's heap is one.
    if !unsafe { enter_step::<T>(heap) } {
        // SAFETY: the caller's.
        return unsafe { free_refused::<T>(block, heap) };
    }
    // SAFETY: the thread possesses its heap and is inside, or it is NOBODY or EXITED, which have no slab.
    let own = unsafe { (*heap).own_slab(block.expose_provenance()) };
    let slab = own.slab();
    // SAFETY: a slab that the heap knows is its own, and open, or it is the one without blocks.
    if !unsafe { (*slab).has_own_block(block.addr()) } {
        // SAFETY: the caller's.
        return unsafe { free_slow::<T>(block, heap) };
    }
    // SAFETY: as above.
    let key = Block::key(block.cast(), unsafe { (*heap).secret() });
    // SAFETY: the block is one of the slab's.
    if T::Checks::ON && unsafe { Block::is_free(block.cast(), key) } {
        // SAFETY: none is needed: this ends in a message. (Not called here, so that `free` needs no stack.)
        return unsafe { free_slow::<T>(block, heap) };
    }
    // SAFETY: as above.
    unsafe { free_own::<T>(heap, &*slab, own.bin(), block.cast(), key) }
}

/// Frees a block of a slab that the thread's heap owns, and ends the step.
///
/// # Safety
/// `slab` belongs to `heap`, which the thread possesses and is inside; a live block of it starts at `block`, and `key`
/// is its key, and `bin` what [`Slab::bin`] says.
#[inline(always)]
unsafe fn free_own<T: Thread>(heap: *const Heap, slab: &Slab, bin: usize, block: *mut Block, key: usize) {
    // SAFETY: the caller's.
    let bin = unsafe { (*heap).bin_at(bin) };
    if !bin.take_room() {
        return free_beyond::<T>(block, slab, heap);
    }
    // SAFETY: the caller's.
    unsafe {
        bin.push::<T::Checks>(block, key);
        leave_step::<T>(heap);
    }
}

/// The rest of a free for which there was no room at hand, and the end of the step. Out of line and called last, so
/// that `free` needs no stack; nor does this.
#[inline(never)]
fn free_beyond<T: Thread>(block: *mut Block, slab: &Slab, heap: *const Heap) {
    // SAFETY: the thread possesses its heap, which lives forever and owns the slab, and the block; and it is inside.
    unsafe {
        if !(*heap).free_home::<T::Checks>(slab, block) {
            return free_with_care::<T>(block, slab, heap);
        }
        leave_step::<T>(heap);
    }
}

/// The rest of that, if something is to be done beside.
#[cold]
#[inline(never)]
fn free_with_care<T: Thread>(block: *mut Block, slab: &Slab, heap: *const Heap) {
    // SAFETY: as above.
    unsafe {
        (*heap).free_beyond::<T::Checks, _>(process(), slab, block);
        leave_step::<T>(heap);
    }
}

/// The rest of a malloc for which there was no block at hand, still in the same step: takes a slab's list, or goes the
/// long way, which begins with what other threads have sent.
#[inline(never)]
fn malloc_slow<T: Thread>(size: usize, align: usize, at: usize, heap: *const Heap) -> *mut u8 {
    let class = at / Bin::WORDS;
    // SAFETY: a thread's heap is one.
    if unsafe { samples::are_counted(heap) } {
        return samples::malloc_counted::<T>(size, align, class, heap);
    }
    // SAFETY: as in `take`; NOBODY and EXITED have no slab. A list that is still there has a block on it that was
    // written while it was free, as `pop` will tell.
    let block = unsafe {
        let own = &*heap;
        let is_filled = !own.has_none(class) || !own.has_mail() && own.take_over(class).is_some();
        if is_filled { own.pop::<T::Checks>(class) } else { ptr::null_mut() }
    };
    // SAFETY: as above.
    unsafe { leave_step::<T>(heap) };
    if block.is_null() {
        return allocate_small::<T>(size, align, class);
    }
    // A thread that replaces blocks comes by no other slow path.
    figures::pulse::<T>();
    block.cast()
}

/// The thread was refused at its heap's gate.
#[cold]
#[inline(never)]
fn malloc_refused<T: Thread>(size: usize, align: usize, heap: *const Heap) -> *mut u8 {
    // SAFETY: a thread's heap is one.
    unsafe { undo_step::<T>(heap) };
    allocate::<T>(size, align, false)
}

/// The rest of a free whose block the heap does not find by one load: another heap's, or one of its own whose slab has
/// no place in its table. First the blocks of others that wait to be sent are asked: that needs no stack.
///
/// # Safety
/// As for [`free`]; the thread is in a step.
#[cold]
#[inline(never)]
unsafe fn free_slow<T: Thread>(block: *mut u8, heap: *const Heap) {
    // SAFETY: the thread possesses its heap and is inside, or it has no blocks; the block is the caller's to give.
    unsafe {
        match (*heap).free_along::<T::Checks>(block.cast()) {
            Along::Freed => leave_step::<T>(heap),
            Along::ToSend(piece) => send_along::<T>(heap, piece),
            // Null lies in no slice of a heap's.
            Along::NotFreed if block.is_null() => leave_step::<T>(heap),
            Along::NotFreed => free_lost::<T>(block, heap),
        }
    }
}

/// # Safety
/// As for [`free_slow`].
#[inline(never)]
unsafe fn send_along<T: Thread>(heap: *const Heap, piece: &Piece) {
    // SAFETY: the thread is inside its heap.
    unsafe {
        (*heap).send_along::<T::Checks, _>(process(), piece);
        leave_step::<T>(heap);
    }
}

/// Frees a block that is to be looked up. What is no block of a slab is freed outside the step, what ends in a message
/// included.
///
/// # Safety
/// As for [`free_slow`].
#[inline(never)]
unsafe fn free_lost<T: Thread>(block: *mut u8, heap: *const Heap) {
    let address = block.expose_provenance();
    // SAFETY: a thread's heap is one.
    let own = unsafe { &*heap };
    // A heap that stands for none has no secret.
    if own.secret() != 0 {
        let section = own.section(process());
        if let Some(record) = process().near_record(&section, address) {
            let slab = record.first();
            let (block, owner) = (block.cast::<Block>(), slab.owner());
            let key = Block::key(block, own.secret());
            // SAFETY: asked of the start of one of the slab's blocks.
            let is_live = || unsafe {
                match slab.starts_block(address) {
                    true => !(T::Checks::ON && Block::is_free(block, key)),
                    false => slab.has_live_block::<T::Checks>(block, key),
                }
            };
            // A slab that has an owner is open.
            if !owner.is_null() && is_live() {
                // SAFETY: a live block, and the caller's.
                let slab = unsafe { slab.held_by_block() };
                drop(section);
                // SAFETY: the thread is inside its heap, and the block is the caller's to give.
                return unsafe {
                    if ptr::eq(owner, heap) {
                        own.learn_own(slab);
                        own.use_fallow::<T::Checks>(slab);
                        free_own::<T>(heap, slab, slab.bin(), block, key);
                    } else {
                        own.free_remote::<T::Checks, _>(process(), slab, block);
                        leave_step::<T>(heap);
                    }
                };
            }
            if slab.usage() == Usage::Large && slab.begins_at(address) {
                // SAFETY: as above.
                let slab = unsafe { slab.held_by_block() };
                drop(section);
                // SAFETY: the thread is inside its heap, and the large block is the caller's to give.
                return unsafe {
                    let is_kept = slab.sample() == 0 && process().keep_large(own.claimant(), slab);
                    leave_step::<T>(heap);
                    if !is_kept {
                        free_at::<T>(block.cast(), Place::Large(slab));
                    }
                };
            }
        }
    }
    // SAFETY: the caller's.
    unsafe {
        leave_step::<T>(heap);
        free_anywhere::<T>(block);
    }
}

/// The thread was refused at its heap's gate.
#[cold]
#[inline(never)]
unsafe fn free_refused<T: Thread>(block: *mut u8, heap: *const Heap) {
    // SAFETY: a thread's heap is one; the rest is the caller's.
    unsafe {
        undo_step::<T>(heap);
        free_anywhere::<T>(block);
    }
}

/// Frees a block outside a step, wherever it lies.
unsafe fn free_anywhere<T: Thread>(block: *mut u8) {
    if block.is_null() {
        return;
    }
    // Not by one load: `free` has tried that.
    let place = match look_up::<T>(Call::Free, block) {
        Ok(place) => place,
        // SAFETY: the caller's: the block is another allocator's to free.
        Err(stray) => return unsafe { free_stray(block, stray) },
    };
    if let Place::Slab(slab) = place
        // SAFETY: heaps live forever. (None, if the block is not live after all, and its slab goes at this moment.)
        && let Some(owner) = unsafe { slab.owner().as_ref() }
    {
        attach_to::<T>(owner);
    }
    // SAFETY: the caller's.
    unsafe { free_at::<T>(block, place) }
}

/// Frees a block outside a step.
///
/// # Safety
/// The block is live, lies at `place`, and is the caller's to give.
unsafe fn free_at<T: Thread>(block: *mut u8, place: Place) {
    if place.sample() != 0 {
        samples::freed::<T>(place, block, samples::NO_CALLER);
    }
    with_heap_to_free::<T, _>(Options::NONE, |heap| match (heap, place) {
        // SAFETY: as below. In a borrowed heap nothing waits.
        (Some(heap), Place::Slab(slab)) if !ptr::eq(heap, T::heap()) && !ptr::eq(slab.owner(), heap) => unsafe {
            heap.free_remote_at_once::<T::Checks, _>(process(), slab, block.cast());
        },
        // SAFETY: the caller's, as far as `place` could not tell; the heap is possessed here.
        (Some(heap), place) => unsafe { process().free::<T::Checks>(heap, block, place) },
        // No memory for a heap: the owner gets the block directly. Anything larger stays where it is.
        // SAFETY: as above; an owner is a heap, and lives forever.
        (None, Place::Slab(slab)) => unsafe {
            let owner = &*slab.owner();
            owner.inbox().push::<T::Checks>(block.cast(), block.cast(), owner.secret());
        },
        (None, _) => {}
    });
    figures::pulse::<T>();
}

/// Gives another allocator's block back to it.
///
/// # Safety
/// The caller hands over the block, which `stray` was found for.
#[cold]
pub(super) unsafe fn free_stray(block: *mut u8, stray: Stray) {
    if let Some(free) = stray.free {
        // SAFETY: the caller's; it is a block of the allocator that this function belongs to.
        unsafe { free(block.cast()) };
    }
}

/// A block of `class`, which serves `size` bytes at a multiple of `align`, by a thread that has none at hand and is not
/// sampled.
#[inline(never)]
fn allocate_small<T: Thread>(size: usize, align: usize, class: usize) -> *mut u8 {
    let block = with_heap::<T, _>(Options::NONE, |heap| match heap {
        // (The first allocation of all finds out about sampling only now, and is counted below.)
        Some(heap) if process().settings().sample_rate() == 0 => {
            // SAFETY: the heap is possessed here.
            unsafe { small_in::<T>(heap, size, align, class) }
        }
        _ => ptr::null_mut(),
    });
    if block.is_null() {
        return allocate::<T>(size, align, false);
    }
    tell_if_due::<T>(size);
    figures::pulse::<T>();
    block
}

/// A block of `class`, or of the one for `size` bytes that lies apart if it is to; null without memory.
///
/// # Safety
/// The heap is possessed by the caller.
#[inline(always)]
pub(super) unsafe fn small_in<T: Thread>(heap: &Heap, size: usize, align: usize, class: usize) -> *mut u8 {
    let class = class_of_aligned(size, align.max(apart::<T>(heap))).unwrap_or(class);
    // SAFETY: the caller's.
    unsafe { process().try_allocate_small::<T::Checks>(heap, class) }
}

#[inline(always)]
fn allocate_once<T: Thread>(size: usize, align: usize, zero: bool) -> *mut u8 {
    with_heap::<T, _>(Options::NONE, |heap| match heap {
        Some(heap) => {
            let align = align.max(apart::<T>(heap));
            // SAFETY: the heap is possessed here.
            unsafe { process().allocate::<T::Checks>(heap, size, align, zero) }
        }
        None => ptr::null_mut(),
    })
}

/// How a block from `heap` is aligned at least: in a heap that is borrowed its neighbours are other threads', and it has
/// cache lines of its own. (Not in the Rust interface, which frees a block by the class of its layout, and has no guests.)
pub(super) fn apart<T: Thread>(heap: &Heap) -> usize {
    if !T::ANNOUNCED || ptr::eq(heap, T::heap()) { 1 } else { LINE }
}

#[inline(never)]
fn allocate<T: Thread>(size: usize, align: usize, zero: bool) -> *mut u8 {
    if process().settings().sample_rate() != 0 {
        return samples::allocate::<T>(size, align, zero, samples::NO_CALLER);
    }
    if size > isize::MAX as usize {
        return out_of_memory();
    }
    let once = move || allocate_once::<T>(size, align, zero);
    let block = with_relief::<T>(size, once, once);
    figures::pulse::<T>();
    if block.is_null() { out_of_memory() } else { block }
}

/// Null, with the error number that C asks for.
#[cold]
pub(super) fn out_of_memory() -> *mut u8 {
    // SAFETY: libc returns with the address of this thread's errno.
    unsafe { *libc::__errno_location() = libc::ENOMEM };
    ptr::null_mut()
}

/// calloc: `count` times `size` zero bytes, or null with `ENOMEM`, also when the product overflows.
#[inline]
pub fn calloc<T: Thread>(count: usize, size: usize) -> *mut u8 {
    let Some(bytes) = count.checked_mul(size) else { return out_of_memory() };
    if bytes > SMALL_MAX {
        return allocate::<T>(bytes, 1, true);
    }
    let block = malloc::<T>(bytes);
    if !block.is_null() {
        // SAFETY: the block holds `bytes` bytes and is ours.
        unsafe { block.write_bytes(0, bytes) };
    }
    block
}

/// `size` bytes at a multiple of `align`, a power of two; null with `ENOMEM`.
#[inline]
pub fn aligned<T: Thread>(align: usize, size: usize) -> *mut u8 {
    debug_assert!(align.is_power_of_two());
    match Bin::of_aligned(size, align) {
        Some(at) => take::<T, false>(size, align, at),
        None => allocate::<T>(size, align, false),
    }
}

/// Frees a block whose size the caller says it knows; a size that is not the block's ends the process.
///
/// # Safety
/// As for [`free`].
pub unsafe fn free_sized<T: Thread>(block: *mut u8, size: usize) {
    if T::Checks::ON && !block.is_null() && size > usable::<T>(Call::FreeSized, block) {
        broken_contract(Misuse::SizeMismatch, Call::FreeSized, block.addr());
    }
    // SAFETY: the caller's.
    unsafe { free::<T>(block) }
}

/// Gives back to the system what is free in whole slices and huge blocks. Returns whether anything was.
pub fn trim<T: Thread>() -> bool {
    crate::global::trim::<T>()
}

/// Bytes that the allocator holds for the process: what counts against the limits.
pub fn held_bytes() -> usize {
    process().held_bytes()
}

/// Bytes in a page.
pub fn page_size() -> usize {
    process().space().os().page_size()
}

pub use super::figures::{exact_statistics, finish_shared, open_shared, statistics};
pub use super::lookup::{heap_of, usable_size};
pub use super::resizing::realloc;
pub use super::walk::walk;
