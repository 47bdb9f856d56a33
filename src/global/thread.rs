//! Which heap a thread uses: possessed at the first need, given up at exit, guarded against signal handlers.
//!
//! The thread's *heap* pointer is what the fast paths read. Whenever they must not run it points to a heap that is always
//! empty and owns nothing, so that they need no test: to [`NOBODY`] before the thread has a heap and after it has exited,
//! and (guarded threads) to [`BUSY`] while it is in the middle of a step, so that a signal handler that mallocs there takes
//! the slow path. The *home* pointer is the heap that the thread possesses, null before, [`EXITED`] after.
//!
//! A handler may attach the thread between the look at the heap pointer and the step, which then ends with NOBODY put back:
//! NOBODY with a home means just that, and the slow path puts the home back in its place.

use super::{Options, fork, helper, process, start, take_hooks_duty};
use crate::heap::{Checks, Heap, Holder};
use crate::sync::signal_fence;
use core::ffi::c_void;
use core::ptr;

/// The heap of a thread that has none: empty lists, owner of no slab. Never written.
pub static NOBODY: Heap = Heap::new(0, 0);

/// The heap of a thread that is in the middle of a step. As [`NOBODY`].
pub static BUSY: Heap = Heap::new(0, 0);

/// Whether `heap` is one that the thread possesses.
#[inline(always)]
pub fn is_own(heap: *const Heap) -> bool {
    !ptr::eq(heap, &raw const NOBODY) && !ptr::eq(heap, &raw const BUSY)
}

/// Stands for "exited" as a home.
pub(super) const EXITED: *const Heap = ptr::without_provenance(1);

/// A block of another allocator in the process that has been given to this one.
#[derive(Clone, Copy, Debug)]
pub struct Stray {
    /// Bytes that it can hold.
    pub usable: usize,
    /// What takes it back; without that it stays where it is.
    pub free: Option<unsafe extern "C" fn(*mut c_void)>,
}

/// Where a thread keeps its heap, and how much it trusts its callers.
///
/// # Safety
/// `heap` and `home` answer what was last set by the same thread; `heap` starts as [`NOBODY`], `home` as null. No two threads
/// have the same `holder` at the same time. None of the functions allocates.
pub unsafe trait Thread: 'static {
    /// Which checks the paths make.
    type Checks: Checks;
    /// Whether a signal handler may allocate in the middle of an allocation.
    const GUARDED: bool;

    /// What the fast paths allocate from; never null.
    fn heap() -> *const Heap;
    /// Sets what `heap` answers.
    fn set_heap(heap: *const Heap);
    /// The heap that this thread possesses; null before the first need.
    fn home() -> *const Heap;
    /// Sets what `home` answers if that is `before`, in one step as far as signal handlers of the thread can tell.
    fn change_home(before: *const Heap, home: *const Heap) -> bool;
    /// The thread.
    fn holder() -> Holder;
    /// The block at `address`, which is not in this allocator's memory, if another allocator is known that it came from.
    fn stray(_address: usize) -> Option<Stray> {
        None
    }
    /// Sees to it that [`exit_thread`] runs when this thread exits. May allocate.
    fn call_at_exit();
}

/// Marks the thread as in the middle of a step.
#[inline(always)]
pub fn enter_step<T: Thread>() {
    if T::GUARDED {
        T::set_heap(&raw const BUSY);
        signal_fence();
    }
}

/// Ends what `enter_step` began.
#[inline(always)]
pub fn leave_step<T: Thread>(heap: *const Heap) {
    if T::GUARDED {
        signal_fence();
        T::set_heap(heap);
    }
}

/// Runs `body` with a heap that the caller possesses meanwhile: the thread's own, or, in a signal handler that
/// interrupted the allocator and after the thread's exit, one that is borrowed from the pool. `None` when there is no
/// memory for a heap.
#[inline(never)]
pub fn with_heap<T: Thread, R>(options: &Options, body: impl FnOnce(Option<&Heap>) -> R) -> R {
    fork::notice();
    let mut heap = T::heap();
    if ptr::eq(heap, &raw const NOBODY) {
        heap = T::home();
        if heap.is_null() {
            heap = attach::<T>(options);
            if heap.is_null() {
                return body(None);
            }
        } else if heap == EXITED {
            return with_borrowed::<T, R>(options, body);
        }
    } else if ptr::eq(heap, &raw const BUSY) {
        return with_borrowed::<T, R>(options, body);
    }
    enter_step::<T>();
    // SAFETY: the thread possesses its heap, which lives forever.
    let result = body(Some(unsafe { &*heap }));
    leave_step::<T>(heap);
    result
}

/// A heap from the pool for one operation, settled and idle again afterwards.
#[cold]
fn with_borrowed<T: Thread, R>(options: &Options, body: impl FnOnce(Option<&Heap>) -> R) -> R {
    // A handler may interrupt the first allocation of the process.
    start(options);
    let heap = process().pool().possess_any(process(), T::holder());
    let result = body(heap);
    if let Some(heap) = heap {
        heap.settle::<T::Checks, _>(process());
        process().give_up(heap);
    }
    result
}

/// Gives the calling thread its heap. Null when there is no memory.
#[cold]
fn attach<T: Thread>(options: &Options) -> *const Heap {
    start(options);
    let Some(heap) = process().pool().possess_any(process(), T::holder()) else { return ptr::null() };
    if !T::change_home(ptr::null(), heap) {
        // A signal handler came in between and attached the thread.
        process().give_up(heap);
        return T::home();
    }
    T::set_heap(heap);
    // From here on the thread allocates like any other, and the hooks may.
    if take_hooks_duty() {
        fork::install::<T>();
    }
    T::call_at_exit();
    helper::thread_attached::<T>(heap.index() == 0);
    heap
}

/// Gives the calling thread's heap up, without what is empty in it: slabs that hold blocks stay with the heap, for the
/// next thread that possesses it or frees those blocks. What the thread allocates and frees afterwards goes through borrowed heaps.
pub fn exit_thread<T: Thread>() {
    let heap = T::home();
    if heap.is_null() || heap == EXITED {
        return;
    }
    // In this order: NOBODY with a home would be taken for the home's.
    if !T::change_home(heap, EXITED) {
        return;
    }
    T::set_heap(&raw const NOBODY);
    // SAFETY: the thread possessed it until here; heaps live forever.
    let heap = unsafe { &*heap };
    heap.collect::<T::Checks, _>(process());
    process().give_up(heap);
    helper::thread_exited();
}
