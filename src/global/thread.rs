//! A thread as the allocator knows it: where it keeps its heap, which checks it makes, whether its steps are guarded.
//!
//! The thread's *heap* pointer is what the fast paths read. Whenever they must not run it points to a heap that is
//! always empty and owns nothing, so that they need no test: to [`NOBODY`] or [`ARMED`] before the thread has a heap,
//! and to [`EXITED`] after.

use crate::heap::{Checks, Heap, ThreadId};
use core::ffi::{c_int, c_void};
use core::ptr;

/// The heap of a thread that has none: empty lists, owner of no slab. Its gate may say anything: there is nothing
/// behind it.
pub static NOBODY: Heap = Heap::new(0, 0);

/// The heap of a thread that has none yet, and may possess one. As [`NOBODY`].
pub(super) static ARMED: Heap = Heap::new(0, 0);

/// The heap of a thread that has exited, and borrows one for each operation. As [`NOBODY`].
pub static EXITED: Heap = Heap::new(0, 0);

/// Whether `heap` is one that the thread possesses.
#[inline(always)]
pub fn is_own(heap: *const Heap) -> bool {
    ![&raw const NOBODY, &raw const ARMED, &raw const EXITED].contains(&heap)
}

/// A block of another allocator in the process that has been given to this one.
#[derive(Clone, Copy, Debug)]
pub struct Stray {
    /// Bytes that it can hold.
    pub usable: usize,
    /// What takes it back; without that it stays where it is.
    pub free: Option<unsafe extern "C" fn(*mut c_void)>,
}

/// An allocation that is a sample, as it is told.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The block's address.
    pub block: usize,
    /// Bytes that were asked for.
    pub size: usize,
    /// Bytes that may be used.
    pub usable: usize,
    /// Bytes that it counts as, and the others that it stands for; zero when it is freed.
    pub counted: usize,
    /// See [`Caller`].
    pub caller: Caller,
}

/// Where the calling program's part of the stack begins: behind the frame that this address lies in. Zero where that is
/// told by the object that functions belong to.
pub type Caller = usize;

/// The main function of a thread.
pub type Main = extern "C" fn(*mut c_void) -> *mut c_void;

/// Where a thread keeps its heap, and how much it trusts its callers.
///
/// # Safety
/// `heap` returns what was last set by the same thread, and starts as [`NOBODY`]. No two threads have the same `id` at
/// the same time. None of the functions allocates, but for those that say so.
pub unsafe trait Thread: 'static {
    /// Which checks the paths make.
    type Checks: Checks;
    /// Whether the thread's steps are behind its heap's gate: a signal handler may allocate in the middle of an
    /// allocation, and other threads may visit the heap while its thread is outside.
    const GUARDED: bool;
    /// Whether the program's threads are announced ([`thread_made`](super::thread_made),
    /// [`begin_thread`](super::begin_thread)). Then others are not counted.
    const ANNOUNCED: bool;

    /// What the fast paths allocate from; never null.
    fn heap() -> *const Heap;
    /// Sets what `heap` returns if that is `before`, in one step as far as signal handlers of the thread can tell.
    fn change_heap(before: *const Heap, heap: *const Heap) -> bool;
    /// The thread.
    fn id() -> ThreadId;
    /// Sets how many steps the thread takes as a guest, in heaps that it borrows, before it possesses one.
    fn set_guest_steps(_steps: usize) {}
    /// How many of them are left.
    fn guest_steps() -> usize {
        0
    }
    /// The block at `address`, which is not in this allocator's memory, if it is known which other allocator it came
    /// from; asked because it is about to be freed, or not.
    fn stray(_address: usize, _is_free: bool) -> Option<Stray> {
        None
    }
    /// A guarded block for an allocation that is a sample, all zero, and noted already; null if there is none. The rest of
    /// its life is that of a stray.
    fn guarded(_size: usize, _align: usize, _counted: usize) -> *mut u8 {
        ptr::null_mut()
    }
    /// An allocation is a sample: notes where it was made. What it is known by; zero if it was not noted. In the middle
    /// of a malloc, in a signal handler or not, and outside of any step.
    fn allocated(_sample: &Sample) -> u32 {
        0
    }
    /// The sample that is known as `number` is about to be freed.
    fn freed(_number: u32, _sample: &Sample) {}
    /// In the helper, before it sleeps.
    fn rest() {}
    /// Sees to it that [`end_thread`](super::end_thread) runs when this thread exits, with the same argument, the
    /// last one if this is called again. Returns whether it will. May allocate; takes no lock of the C library's.
    fn call_at_exit(counted: bool) -> bool;
    /// The same at the start of a thread, where nothing is held: where the other has failed.
    fn call_at_exit_with_locks(_counted: bool) -> bool {
        false
    }
    /// Makes a thread that nobody counts; zero, or an error number.
    ///
    /// # Safety
    /// As for `pthread_create`.
    unsafe fn create_thread(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        main: Main,
    ) -> c_int {
        // SAFETY: the caller's.
        unsafe { libc::pthread_create(thread, attributes, main, ptr::null_mut()) }
    }
}

/// Begins a step in `heap`, which `heap()` has returned. `false` if the thread is refused; then it owes the heap an
/// [`undo_step`].
///
/// # Safety
/// `heap` is a heap, which lives forever.
#[inline(always)]
pub unsafe fn enter_step<T: Thread>(heap: *const Heap) -> bool {
    // SAFETY: the caller's.
    !T::GUARDED || unsafe { (*heap).gate().enter() }
}

/// After a refusal. Returns whether the thread was refused for another's sake, who visits its heap or would know whether
/// it is used, and is not in the middle of a step itself.
///
/// # Safety
/// As for [`enter_step`].
pub unsafe fn undo_step<T: Thread>(heap: *const Heap) -> bool {
    // SAFETY: the caller's.
    unsafe { (*heap).gate().undo() }
}

/// Ends what `enter_step` began.
///
/// # Safety
/// As for [`enter_step`].
#[inline(always)]
pub unsafe fn leave_step<T: Thread>(heap: *const Heap) {
    if T::GUARDED {
        // SAFETY: the caller's.
        unsafe { (*heap).gate().leave() }
    }
}

/// Whether the calling thread is one that has begun and not ended.
pub(super) fn is_here<T: Thread>() -> bool {
    !ptr::eq(T::heap(), &raw const NOBODY) && !ptr::eq(T::heap(), &raw const EXITED)
}
