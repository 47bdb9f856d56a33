//! Which heap a thread uses: possessed at the first need, given up at exit, guarded against signal handlers.
//!
//! The thread's *heap* pointer is what the fast paths read. Whenever they must not run it points to a heap that is always
//! empty and owns nothing, so that they need no test: to [`NOBODY`] or [`ARMED`] before the thread has a heap, and to
//! [`EXITED`] after.
//!
//! A guarded thread passes the heap's gate at each step (`heap::gate`). So a signal handler that mallocs in the middle of a
//! step is refused there, takes the slow path, and borrows an idle heap for that one operation; and so does the thread
//! while another one visits its heap.
//!
//! A thread possesses a heap only if it is known that it will give it up: it is *armed* first, that is, its exit is hooked.
//! The preload library arms each thread as it starts. So a thread that ends without having allocated is known to have
//! exited, too, when the C library frees what it had: such calls, the last of all, borrow a heap for the operation. A
//! thread that was not announced is armed by its first allocation, not by a free, which may be one of those.
//!
//! Whatever runs here may be in the middle of a malloc or free inside the C library, which may hold any lock of its own;
//! so nothing here takes one. What does, registering handlers and making threads, is done when the library is
//! loaded ([`super::loaded`]) and where a thread is made ([`thread_made`]).

use super::{Options, fork, helper, process, start};
use crate::heap::{Checks, Heap, Holder};
use crate::pal::Platform;
use crate::sync::atomic::{AtomicBool, Ordering};
use core::ffi::{c_int, c_void};
use core::ptr;

/// The heap of a thread that has none: empty lists, owner of no slab. Its gate may say anything: there is nothing behind it.
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

/// The main function of a thread.
pub type Main = extern "C" fn(*mut c_void) -> *mut c_void;

/// Where a thread keeps its heap, and how much it trusts its callers.
///
/// # Safety
/// `heap` answers what was last set by the same thread, and starts as [`NOBODY`]. No two threads have the same `holder` at
/// the same time. None of the functions allocates, but for those that say so.
pub unsafe trait Thread: 'static {
    /// Which checks the paths make.
    type Checks: Checks;
    /// Whether the thread's steps are behind its heap's gate: a signal handler may allocate in the middle of an allocation,
    /// and other threads may visit the heap while its thread is outside.
    const GUARDED: bool;
    /// Whether the program's threads are announced ([`thread_made`], [`begin_thread`]). Then others are not counted.
    const ANNOUNCED: bool;

    /// What the fast paths allocate from; never null.
    fn heap() -> *const Heap;
    /// Sets what `heap` answers if that is `before`, in one step as far as signal handlers of the thread can tell.
    fn change_heap(before: *const Heap, heap: *const Heap) -> bool;
    /// The thread.
    fn holder() -> Holder;
    /// The block at `address`, which is not in this allocator's memory, if another allocator is known that it came from.
    fn stray(_address: usize) -> Option<Stray> {
        None
    }
    /// Sees to it that [`exit_thread`] runs when this thread exits, with the same argument. Answers whether it will. May
    /// allocate; takes no lock of the C library's.
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

/// Begins a step in `heap`, what `heap()` has answered. If it answers `false`, the thread is refused, and owes the heap an
/// [`undo_step`].
///
/// # Safety
/// `heap` is a heap, which lives forever.
#[inline(always)]
pub unsafe fn enter_step<T: Thread>(heap: *const Heap) -> bool {
    // SAFETY: the caller's.
    !T::GUARDED || unsafe { (*heap).gate().enter() }
}

/// After a refusal.
///
/// # Safety
/// As for [`enter_step`].
pub unsafe fn undo_step<T: Thread>(heap: *const Heap) {
    // SAFETY: the caller's.
    let _marks_alone = unsafe { (*heap).gate().undo() };
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

/// Runs `body` with a heap that the caller is alone in meanwhile: the thread's own, or one that is borrowed from the pool: in
/// a signal handler that interrupted the allocator, while another thread visits the own one, and after the thread's exit.
/// `None` when there is no memory for a heap.
#[inline(never)]
pub fn with_heap<T: Thread, R>(options: &Options, body: impl FnOnce(Option<&Heap>) -> R) -> R {
    with::<T, R, true>(options, body)
}

/// The same for a free, which is no reason to arm the thread: it may be the last that is heard of it.
#[inline(never)]
pub fn with_heap_to_free<T: Thread, R>(options: &Options, body: impl FnOnce(Option<&Heap>) -> R) -> R {
    with::<T, R, false>(options, body)
}

#[inline(always)]
fn with<T: Thread, R, const ARMS: bool>(options: &Options, body: impl FnOnce(Option<&Heap>) -> R) -> R {
    fork::notice();
    let mut heap = T::heap();
    if ptr::eq(heap, &raw const ARMED) || ptr::eq(heap, &raw const NOBODY) && ARMS {
        heap = attach::<T>(options);
    }
    // SAFETY: heaps live forever.
    let own = unsafe { &*heap };
    if !is_own(heap) || !enter_or_readmit::<T>(own) {
        return with_borrowed::<T, R>(options, body);
    }
    let result = body(Some(own));
    if T::GUARDED {
        own.gate().leave();
    }
    result
}

fn enter_or_readmit<T: Thread>(own: &Heap) -> bool {
    !T::GUARDED || own.gate().enter() || process().readmit(own, T::holder())
}

/// A heap from the pool for one operation, settled and idle again afterwards.
#[cold]
fn with_borrowed<T: Thread, R>(options: &Options, body: impl FnOnce(Option<&Heap>) -> R) -> R {
    // A handler may interrupt the first allocation of the process.
    start(options);
    let heap = borrow::<T>();
    let result = body(heap);
    if let Some(heap) = heap {
        heap.settle::<T::Checks, _>(process());
        process().give_up(heap);
    }
    result
}

/// Possesses a heap for one operation. Where all are taken (tens of thousands of threads) waits for one of those that are
/// kept for that, which another thread has for the time of an operation; but not in a handler that interrupted such an
/// operation of its own thread: if all of them were waited for so, no wait would end.
fn borrow<T: Thread>() -> Option<&'static Heap> {
    let pool = process().pool();
    loop {
        let heap = pool.possess_any(process(), T::holder());
        if heap.is_some() || !pool.is_full() || pool.lends_to(T::holder()) {
            return heap;
        }
        process().space().os().yield_now();
    }
}

/// Gives the calling thread its heap, and answers what it has then: none when there is no memory, or the thread must not
/// possess one.
#[cold]
fn attach<T: Thread>(options: &Options) -> *const Heap {
    start(options);
    if ptr::eq(T::heap(), &raw const NOBODY) {
        arm::<T>(!T::ANNOUNCED);
    }
    if !ptr::eq(T::heap(), &raw const ARMED) {
        return T::heap();
    }
    let (pool, holder) = (process().pool(), T::holder());
    // Where threads are announced, none ends unnoticed; and there a handler may come in anywhere, who would find what this
    // call has just possessed.
    let left = if T::GUARDED { None } else { pool.left_by(holder) };
    if let Some(heap) = left.or_else(|| pool.possess_to_keep(process(), holder)) {
        if !T::change_heap(&raw const ARMED, heap) {
            // A signal handler came in between and attached the thread.
            pool.keeps_no_more(heap, holder);
            process().give_up(heap);
        } else if T::GUARDED {
            // A handler that comes in before this is refused, and borrows another.
            process().open_gate(heap);
        }
    }
    T::heap()
}

/// Hooks the calling thread's exit, unless that was done. The first thread to come here is the process's first: it is
/// counted, and possesses a heap in any case, for the process ends with it or shortly after.
fn arm<T: Thread>(counted: bool) {
    static IS_LATER: AtomicBool = AtomicBool::new(false);
    if !ptr::eq(T::heap(), &raw const NOBODY) {
        return;
    }
    // Relaxed: elects one thread.
    let is_first = !IS_LATER.load(Ordering::Relaxed) && !IS_LATER.swap(true, Ordering::Relaxed);
    let counted = counted || is_first;
    // (Who ended unnoticed was never taken from the count.)
    if counted && (T::GUARDED || process().pool().left_by(T::holder()).is_none()) {
        helper::thread_begins();
    }
    if !hook::<T>(counted, T::call_at_exit) && !is_first {
        exit_thread::<T>(counted);
    }
}

/// Makes the thread an armed one if `call_at_exit` can; answers whether it could.
fn hook<T: Thread>(counted: bool, call_at_exit: fn(bool) -> bool) -> bool {
    fork::learn::<T>();
    // Before the hook is set, which may allocate and so come back here. (A handler may have done all of it.)
    !T::change_heap(&raw const NOBODY, &raw const ARMED) || call_at_exit(counted)
}

/// At load, in the first thread: arms it, also if it never allocates.
pub fn begin_process<T: Thread>() {
    start(&Options::new());
    arm::<T>(!T::ANNOUNCED);
}

/// Makes a thread of the program by `make`, which answers whether it came to be. The helper is started here, if need be:
/// whoever makes a thread holds nothing that making a thread needs.
pub fn thread_made<T: Thread, R>(make: impl FnOnce() -> R, is_made: impl FnOnce(&R) -> bool) -> R {
    // The child of a fork is told before it has a second thread, which could not tell that it is one.
    fork::notice();
    helper::thread_begins();
    let made = make();
    if is_made(&made) {
        helper::start::<T>();
    } else {
        helper::thread_ends();
    }
    made
}

/// In a thread that was announced by [`thread_made`], before anything else of the program's.
pub fn begin_thread<T: Thread>() {
    if !hook::<T>(true, |counted| T::call_at_exit(counted) || T::call_at_exit_with_locks(counted)) {
        exit_thread::<T>(true);
    }
}

/// In a thread that was not announced, where nothing can be held: arms it, and starts the helper if need be.
pub fn thread_found<T: Thread>() {
    arm::<T>(true);
    start_helper::<T>();
}

/// Starts the helper if need be, where no lock of the C library's can be held.
pub fn start_helper<T: Thread>() {
    helper::start::<T>();
}

/// Gives the calling thread's heap up, without what is empty in it: slabs that hold blocks stay with the heap, for the
/// next thread that possesses it or frees those blocks. What the thread allocates and frees afterwards goes through
/// borrowed heaps, whether it had one of its own or not.
pub fn exit_thread<T: Thread>(counted: bool) {
    fork::notice();
    let heap = loop {
        let heap = T::heap();
        if ptr::eq(heap, &raw const EXITED) {
            return;
        }
        // A handler may attach the thread just before.
        if T::change_heap(heap, &raw const EXITED) {
            break heap;
        }
    };
    if is_own(heap) {
        // SAFETY: the thread possesses it; heaps live forever.
        let heap = unsafe { &*heap };
        process().pool().keeps_no_more(heap, T::holder());
        if T::GUARDED {
            process().leave_heap::<T::Checks>(heap, T::holder());
        } else {
            process().abandon::<T::Checks>(heap);
        }
    }
    if counted {
        helper::thread_ends();
    }
}

/// Whether the calling thread is one that has begun and not ended.
pub(super) fn is_here<T: Thread>() -> bool {
    !ptr::eq(T::heap(), &raw const NOBODY) && !ptr::eq(T::heap(), &raw const EXITED)
}

/// Ends the helper if one thread of the program is left, and waits for its end: before a call that fails in a process of
/// several threads. Not from malloc and free.
pub fn dismiss_helper() {
    fork::notice();
    helper::dismiss();
}
