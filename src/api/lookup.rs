//! What holds a block, and what can be said of it: `malloc_usable_size` and its like, and the way of a free or a realloc to
//! a block that is not found by one load.

use crate::global::{
    Options, Stray, Thread, enter_or_readmit, enter_step, is_own, leave_step, process, undo_step, with_heap,
};
use crate::heap::{Block, Checks, Place, Slab};
use crate::pal::{Call, Misuse, broken_contract};

/// Finds what holds the block, here or in another allocator; for any other pointer ends the process with a message.
pub(super) fn find<T: Thread>(call: Call, block: *mut u8) -> Result<Place, Stray> {
    match find_own::<T>(block) {
        Some(slab) => Ok(Place::Slab(slab)),
        None => look_up::<T>(call, block),
    }
}

/// The same for a block that the thread's heap does not know by one load.
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
fn find_own<T: Thread>(block: *mut u8) -> Option<&'static Slab> {
    let heap = T::heap();
    // SAFETY: as in `free`. A slab's record is readable for as long as a block of it is live.
    unsafe {
        if !enter_step::<T>(heap) {
            undo_step::<T>(heap);
            return None;
        }
        let slab = (*heap).own_slab(block.expose_provenance());
        let key = || Block::key(block.cast(), (*heap).secret());
        let is_live =
            (*slab).has_own_block(block.addr()) && !(T::Checks::ON && Block::is_free(block.cast(), key()));
        leave_step::<T>(heap);
        if is_live { Some(&*slab) } else { None }
    }
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
