//! What the C interface does with an allocation that is a sample: it gets a block that is not one of a slab's, and is
//! noted by [`Thread::allocated`]; and when it is freed, by [`Thread::freed`].
//!
//! Blocks of slabs are freed without a look at what they are. So a sample, however small, has a run of slices of its
//! own, whose free asks the record anyway: it costs a page, and 64 KiB of address space.

use super::lookup::in_large;
use super::{figures, probes, raw};
use crate::base::{SMALL_MAX, class_size};
use crate::global::{
    Caller, Options, Sample, Thread, leave_step, process, tell_if_due, with_heap, with_relief,
};
use crate::heap::{BlockKind, Heap, Place, Slab};
use core::ptr;

/// Where the object that functions belong to tells who has called.
pub(super) const NO_CALLER: Caller = 0;

/// Whether allocations of `heap` are to be made here: it is sampled, or is to be, or was.
///
/// # Safety
/// `heap` is a heap, which lives forever.
#[inline(always)]
pub(super) unsafe fn are_counted(heap: *const Heap) -> bool {
    // SAFETY: the caller's.
    process().settings().sample_rate() != 0 || unsafe { (*heap).has_meter() }
}

/// The rest of a malloc for which there was no block at hand, still in the same step, by a heap that is sampled, or was.
#[cold]
#[inline(never)]
pub(super) fn malloc_counted<T: Thread>(
    size: usize,
    align: usize,
    class: usize,
    heap: *const Heap,
) -> *mut u8 {
    // SAFETY: the thread possesses its heap and is inside, or it is one that stands for none, which is never sampled.
    let (is_sample, follows, block) = unsafe {
        let own = &*heap;
        let follows = own.sample_rate() == process().settings().sample_rate();
        let is_sample = follows && own.counts_as_sample(Some(class), size);
        let is_filled = follows
            && !is_sample
            && (!own.has_none(class) || !own.has_mail() && own.take_counted::<T::Checks>(class));
        (is_sample, follows, if is_filled { own.pop::<T::Checks>(class) } else { ptr::null_mut() })
    };
    // SAFETY: as above.
    unsafe { leave_step::<T>(heap) };
    if is_sample {
        return allocate_sample::<T>(size, align, false, class_size(class), NO_CALLER);
    }
    match (block.is_null(), follows) {
        (false, _) => {
            figures::pulse::<T>();
            block.cast()
        }
        (true, true) => allocate_small::<T>(size, align, class),
        (true, false) => allocate::<T>(size, align, false, NO_CALLER),
    }
}

/// A block of `class`, which serves `size` bytes at a multiple of `align`, by a thread that has none at hand, for an
/// allocation that has turned out to be no sample; null without memory.
#[inline(never)]
fn allocate_small<T: Thread>(size: usize, align: usize, class: usize) -> *mut u8 {
    let block = with_heap::<T, _>(Options::NONE, |heap| {
        // SAFETY: the heap is possessed here.
        heap.map_or(ptr::null_mut(), |heap| unsafe { raw::small_in::<T>(heap, size, align, class) })
    });
    if block.is_null() {
        return uncounted::<T>(size, align, false);
    }
    tell_if_due::<T>(size);
    figures::pulse::<T>();
    block
}

/// Whether the block is a large one that stays one in the slices that it has; then it has been told its size, and the
/// allocation that this is has been counted. Not if it is a sample, or is to be one.
#[cold]
#[inline(never)]
pub(super) fn stays_large<T: Thread>(block: *mut u8, size: usize) -> bool {
    if size <= SMALL_MAX {
        return false;
    }
    let stays = |heap: &Heap, slab: &Slab| {
        let follows = heap.sample_rate() == process().settings().sample_rate();
        let is_none = follows && heap.bytes_before_sample() >= size;
        (is_none && process().resize_in_run(heap.claimant(), slab, size))
            .then(|| heap.counts_as_sample(None, size))
    };
    in_large::<T, _>(block, stays).is_some()
}

/// A block of a heap that is sampled, or was; null without memory.
#[cold]
#[inline(never)]
pub(super) fn allocate<T: Thread>(size: usize, align: usize, zero: bool, caller: Caller) -> *mut u8 {
    let (block, counted) = ask::<T>(Asked::Counted, size, align, zero);
    if counted != 0 {
        return allocate_sample::<T>(size, align, zero, counted, caller);
    }
    if block.is_null() {
        return uncounted::<T>(size, align, zero);
    }
    tell_if_due::<T>(size);
    figures::pulse::<T>();
    block
}

/// An allocation that is a sample, one of those that count as `counted` bytes.
#[cold]
#[inline(never)]
fn allocate_sample<T: Thread>(
    size: usize,
    align: usize,
    zero: bool,
    counted: usize,
    caller: Caller,
) -> *mut u8 {
    let guarded = T::guarded(size, align, counted);
    if !guarded.is_null() {
        let address = guarded.expose_provenance();
        probes::allocated(&Sample { block: address, size, usable: size, counted, caller });
        return guarded;
    }
    let (block, _) = ask::<T>(Asked::Apart, size, align, zero);
    if block.is_null() {
        // Not noted: what matters more is that there may be a block all the same.
        return uncounted::<T>(size, align, zero);
    }
    let small = matches!(BlockKind::of(size, align), BlockKind::Small(_));
    note::<T>(block, counted, if small { counted } else { 0 }, caller);
    tell_if_due::<T>(size);
    block
}

/// A block that is no sample; null without memory.
#[cold]
#[inline(never)]
fn uncounted<T: Thread>(size: usize, align: usize, zero: bool) -> *mut u8 {
    let once = || ask::<T>(Asked::Uncounted, size, align, zero).0;
    let block = with_relief::<T>(size, once, once);
    if block.is_null() { raw::out_of_memory() } else { block }
}

/// What a heap is asked for.
#[derive(Clone, Copy)]
enum Asked {
    /// A block, unless this allocation is a sample.
    Counted,
    /// A block that is no sample.
    Uncounted,
    /// A block that is a sample.
    Apart,
    /// Whether this allocation, whose block is there already and is none of a slab, is a sample.
    Count,
}

/// The block that was asked for, or null; and, if the allocation is a sample, how many bytes it counts as. One function
/// for all, for each other one that takes a heap is a kilobyte.
#[inline(never)]
fn ask<T: Thread>(asked: Asked, size: usize, align: usize, zero: bool) -> (*mut u8, usize) {
    if size > isize::MAX as usize {
        return (ptr::null_mut(), 0);
    }
    with_heap::<T, _>(Options::NONE, |heap| {
        let Some(heap) = heap else { return (ptr::null_mut(), 0) };
        let align = align.max(raw::apart::<T>(heap));
        if matches!(asked, Asked::Counted | Asked::Count) {
            process().follow_sample_rate::<T::Checks>(heap);
        }
        match asked {
            Asked::Count => {
                let counted = if heap.counts_as_sample(None, size) { size } else { 0 };
                return (ptr::null_mut(), counted);
            }
            Asked::Counted => {
                let counted = process().counts_as_sample(heap, size, align);
                if counted != 0 {
                    return (ptr::null_mut(), counted);
                }
            }
            Asked::Uncounted | Asked::Apart => {}
        }
        let block = match asked {
            Asked::Apart => process().allocate_apart(heap, size, align, zero),
            // SAFETY: the heap is possessed here.
            _ => unsafe { process().allocate::<T::Checks>(heap, size, align, zero) },
        };
        (block, 0)
    })
}

/// Notes that the block, which is the caller's, is a sample, and stands for a slab's block of so many bytes, or none.
#[inline(never)]
fn note<T: Thread>(block: *mut u8, counted: usize, stands_for: usize, caller: Caller) {
    // Without a section: a live block holds its region.
    if let Ok(place) = process().place(block.expose_provenance()) {
        place.set_stands_for(stands_for);
        let sample = told(place, block, counted, caller);
        probes::allocated(&sample);
        process().set_sample(place, T::allocated(&sample));
    }
}

/// What is told of the block of `place`.
fn told(place: Place, block: *mut u8, counted: usize, caller: Caller) -> Sample {
    let (size, usable) = (place.requested(), place.usable_of_sample());
    Sample { block: block.expose_provenance(), size, usable, counted, caller }
}

/// (A sample that nobody wanted to know of is not known as one any more.)
fn tell_freed<T: Thread>(number: u32, sample: &Sample) {
    probes::freed(sample);
    T::freed(number, sample);
}

/// The block of `place`, which is a sample, is going to be freed.
#[cold]
#[inline(never)]
pub(super) fn freed<T: Thread>(place: Place, block: *mut u8, caller: Caller) {
    tell_freed::<T>(place.sample(), &told(place, block, 0, caller));
}

/// A sample whose block has no note of it for the moment: what it is known by, and what is told when it is freed.
pub(super) struct Lifted(u32, Sample);

/// Takes the note off a block that may change its size; `None` if it has none.
#[inline(always)]
pub(super) fn lift(place: Place, block: *mut u8, caller: Caller) -> Option<Lifted> {
    let number = place.sample();
    (number != 0).then(|| {
        let sample = told(place, block, 0, caller);
        process().set_sample(place, 0);
        Lifted(number, sample)
    })
}

/// The block has stayed as it was.
pub(super) fn put_back(place: Place, lifted: Option<Lifted>) {
    if let Some(Lifted(number, _)) = lifted {
        process().set_sample(place, number);
    }
}

/// The block has a new size where it is, or its pages have moved: that is a free and an allocation.
#[cold]
#[inline(never)]
pub(super) fn resized<T: Thread>(lifted: Option<Lifted>, block: *mut u8, size: usize, caller: Caller) {
    if let Some(Lifted(number, before)) = lifted {
        tell_freed::<T>(number, &before);
    }
    let (_, counted) = ask::<T>(Asked::Count, size, 1, false);
    if counted != 0 {
        note::<T>(block, counted, 0, caller);
    }
}

/// The same of a sample that stands for a slab's block of so many bytes, and is no larger. Such blocks are not counted when
/// their size changes, for nobody sees it: so whatever was a sample is one again.
#[cold]
#[inline(never)]
pub(super) fn resized_in_class<T: Thread>(
    lifted: Option<Lifted>,
    block: *mut u8,
    bytes: usize,
    caller: Caller,
) {
    if let Some(Lifted(number, before)) = lifted {
        tell_freed::<T>(number, &before);
        note::<T>(block, bytes, bytes, caller);
    }
}
