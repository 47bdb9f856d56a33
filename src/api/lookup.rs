//! What holds a block, and what can be said of it: `malloc_usable_size` and its like, and the way of a free or a realloc to
//! a block that is not found by one load.

use crate::global::{
    Options, Stray, Thread, enter_or_readmit, enter_step, is_own, leave_step, process, undo_step, with_heap,
};
use crate::heap::{Block, Checks, Heap, Place, Slab, Usage};
use crate::pal::{Call, Misuse, broken_contract};

/// Finds what holds a block that the thread's heap does not know by one load, here or in another allocator; for any other
/// pointer ends the process with a message.
pub(super) fn look_up<T: Thread>(call: Call, block: *mut u8) -> Result<Place, Stray> {
    let address = block.expose_provenance();
    let misuse = match in_section::<T, _>(|| process().place(address)) {
        Ok(place) => return Ok(place),
        Err(misuse) => misuse,
    };
    let is_freed = matches!(call, Call::Free | Call::FreeSized);
    match if misuse == Misuse::Foreign { T::stray(address, is_freed) } else { None } {
        Some(stray) => Err(stray),
        None => broken_contract(misuse, call, address),
    }
}

/// The slab of the thread's own heap that holds the block, if the heap knows it by one load, as in [`super::raw::free`].
#[inline(always)]
pub(super) fn find_own<T: Thread>(block: *mut u8) -> Option<&'static Slab> {
    let heap = T::heap();
    // SAFETY: as in `free`. A slab's record is readable for as long as a block of it is live.
    unsafe {
        if !enter_step::<T>(heap) {
            undo_step::<T>(heap);
            return None;
        }
        let slab = (*heap).own_slab(block.expose_provenance()).slab();
        let key = || Block::key(block.cast(), (*heap).secret());
        let is_live =
            (*slab).has_own_block(block.addr()) && !(T::Checks::ON && Block::is_free(block.cast(), key()));
        leave_step::<T>(heap);
        if is_live { Some(&*slab) } else { None }
    }
}

/// What `look` finds of the large block at `block`, which is no sample, in a step of the thread's own heap: where that is
/// to be had, and the index's near table knows the arena.
#[inline(always)]
pub(super) fn in_large<T: Thread, R>(
    block: *mut u8,
    look: impl FnOnce(&Heap, &Slab) -> Option<R>,
) -> Option<R> {
    let (heap, address) = (T::heap(), block.expose_provenance());
    // SAFETY: a thread's heap is one, and lives forever.
    let (own, entered) = unsafe { (&*heap, enter_step::<T>(heap)) };
    if !entered {
        // SAFETY: as above.
        unsafe { undo_step::<T>(heap) };
        return None;
    }
    // A heap that stands for none has no secret, and no slot.
    let large = if own.secret() != 0 {
        let section = own.section(process());
        let record = process().near_record(&section, address);
        let is_large =
            |slab: &&Slab| slab.usage() == Usage::Large && slab.begins_at(address) && slab.sample() == 0;
        // SAFETY: a large block that is the caller's.
        record.filter(is_large).map(|slab| unsafe { slab.held_by_block() })
    } else {
        None
    };
    let found = large.and_then(|slab| look(own, slab));
    // SAFETY: the thread is inside its heap, or it is one that stands for none.
    unsafe { leave_step::<T>(heap) };
    found
}

/// Looks at something in a reader section: in a step of the thread's own heap, or else as a guest.
#[inline]
fn in_section<T: Thread, R>(look: impl FnOnce() -> R) -> R {
    let heap = T::heap();
    // SAFETY: heaps live forever.
    let own = unsafe { &*heap };
    if is_own(heap) && enter_or_readmit::<T>(own) {
        let section = own.section(process());
        let seen = look();
        drop(section);
        // SAFETY: the thread possesses its heap and is inside.
        unsafe { leave_step::<T>(heap) };
        return seen;
    }
    let _section = process().space().rcu().enter_guest();
    look()
}

/// Bytes that the block can hold; zero for null.
///
/// # Safety
/// `block` is null or a live block of this allocator.
#[inline]
pub unsafe fn usable_size<T: Thread>(block: *mut u8) -> usize {
    usable::<T>(Call::UsableSize, block)
}

/// Bytes that the block can hold; zero for null.
#[inline]
pub(super) fn usable<T: Thread>(call: Call, block: *mut u8) -> usize {
    match find_own::<T>(block) {
        Some(slab) => slab.info().size as usize,
        None if block.is_null() => 0,
        None => usable_elsewhere::<T>(call, block),
    }
}

/// Bytes that a block can hold that the thread's heap does not know by one load.
#[inline(never)]
fn usable_elsewhere<T: Thread>(call: Call, block: *mut u8) -> usize {
    if let Some(bytes) = in_large::<T, _>(block, |_, slab| Some(slab.usable_from(block.addr()))) {
        return bytes;
    }
    look_up::<T>(call, block).map_or_else(|stray| stray.usable, |place| place.usable())
}

/// The heap that the block goes home to: a number, or `None` for large and huge blocks and foreign pointers. Any
/// pointer may be asked about, also one that another thread frees meanwhile.
pub fn heap_of<T: Thread>(block: *const u8) -> Option<usize> {
    with_heap::<T, _>(Options::NONE, |heap| {
        // The section keeps the arena, should the pointer lead to one, whatever becomes of the block.
        let _section = heap?.section(process());
        let Ok(Place::Slab(slab)) = process().place(block.addr()) else { return None };
        // SAFETY: null, or a heap, which lives forever.
        unsafe { slab.owner().as_ref() }.map(|owner| owner.index() as usize)
    })
}
