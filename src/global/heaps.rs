//! Which heap a thread uses: possessed at the first need, given up at exit, guarded against signal handlers.
//!
//! A guarded thread passes the heap's gate at each step (`heap::gate`). So a signal handler that mallocs in the middle
//! of a step is refused there, takes the slow path, and borrows an idle heap for that one operation; and so does the
//! thread while another one visits its heap.
//!
//! A thread possesses a heap only if it is known that it will give it up: it is *armed* first, that is, its exit is
//! hooked. The preload library arms each thread as it starts. So a thread that ends without having allocated is known
//! to have exited, too, when the C library frees what it had: such calls, the last of all, borrow a heap for the
//! operation. A thread that was not announced is armed by its first allocation, not by a free, which may be one of
//! those.
//!
//! A heap costs two pages: its own and one of a slab. So a thread that was announced is a *guest* first, and borrows a
//! heap for each of its first few steps: thousands of threads that have a block each, and sleep, share the pages of one
//! heap. What it is given lies on cache lines of its own, so that threads that share pages do not share those. What it
//! frees may end that early: see [`attach_to`].
//!
//! Whatever runs here may be in the middle of a malloc or free inside the C library, which may hold any lock of its
//! own; so nothing here takes one. What does, registering handlers and making threads, is done when the library is
//! loaded, and where a thread is made or found ([`thread_made`](super::thread_made),
//! [`thread_found`](super::thread_found)).

use super::fork;
use super::lookout;
use super::options::Options;
use super::presence;
use super::pressure;
use super::process::{learn_limits_if_large, process};
use super::start::{prepare, start};
use super::thread::{ARMED, EXITED, NOBODY, Thread, is_own};
use crate::heap::{Allocator, Heap};
use crate::pal::{Linux, Platform};
use crate::sync::atomic::{AtomicBool, Ordering};
use core::ptr;

/// Allocations and frees for which a thread that begins borrows a heap, before it possesses one.
const GUEST_STEPS: usize = 4;

/// Runs `body` with a heap that the caller is alone in meanwhile: the thread's own, or one that is borrowed from the
/// pool (in a signal handler that interrupted the allocator, while another thread visits the thread's own, and after
/// the thread's exit). `None` when there is no memory for a heap, or none is left to wait for.
#[inline(never)]
pub fn with_heap<T: Thread, R>(options: &Options, body: impl FnOnce(Option<&Heap>) -> R) -> R {
    with::<T, R, true>(options, body)
}

/// The same for a free, which is no reason to arm the thread: it may be the last that is heard of the thread.
#[inline(never)]
pub fn with_heap_to_free<T: Thread, R>(options: &Options, body: impl FnOnce(Option<&Heap>) -> R) -> R {
    with::<T, R, false>(options, body)
}

#[inline(always)]
fn with<T: Thread, R, const ARMS: bool>(options: &Options, body: impl FnOnce(Option<&Heap>) -> R) -> R {
    fork::notice();
    learn_limits_if_large();
    let mut heap = T::heap();
    let is_armed = ptr::eq(heap, &raw const ARMED);
    // Asked once: a handler may take a step of the thread's here.
    let steps = if is_armed { T::guest_steps() } else { 0 };
    if steps > 0 {
        T::set_guest_steps(steps - 1);
    } else if is_armed || ptr::eq(heap, &raw const NOBODY) && ARMS {
        heap = attach::<T>(options, None);
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

/// Begins a step in the calling thread's own heap, past marks that stand for no visitor. `false` if it is not to be had
/// now; then nothing is owed. Ended by [`leave_step`](super::leave_step).
#[inline]
pub fn enter_or_readmit<T: Thread>(own: &Heap) -> bool {
    !T::GUARDED || own.gate().enter() || process().readmit(own, T::id())
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

/// Possesses a heap for one operation. Where all are taken (tens of thousands of threads) waits for one of those that
/// are kept for that, which another thread has for the time of an operation; but not in a handler that interrupted such
/// an operation of its own thread: if all of them were waited for so, no wait would end.
fn borrow<T: Thread>() -> Option<&'static Heap> {
    let pool = process().pool();
    loop {
        let heap = pool.lend(process(), T::id());
        if heap.is_some() || !pool.is_full() || pool.lends_to(T::id()) {
            return heap;
        }
        process().space().os().yield_now();
    }
}

/// The calling thread frees a block that `owner` has: if it has yet to get a heap of its own, it gets that one, where
/// nobody possesses it. A thread that goes on with what another had allocated, as the next of a chain does, so finds it
/// at home. By the lowest number chains that run beside each other get each other's heaps, and each heap slabs of all.
/// (A guest that frees what it has as a guest, or what another thread is still there for, such as what it was begun with,
/// stays one.)
#[inline]
pub fn attach_to<T: Thread>(owner: &Heap) {
    let stays_guest =
        || T::guest_steps() > 0 && (owner.is_lent() || owner.possession().possessor().is_some());
    if ptr::eq(T::heap(), &raw const ARMED) && !stays_guest() {
        fork::notice();
        attach::<T>(Options::NONE, Some(owner));
    }
}

/// What `first` serves for a request of `size` bytes, or what `again` does once the program has made room, called as often
/// as it makes any.
#[inline(always)]
pub fn with_relief<T: Thread>(
    size: usize,
    first: impl FnOnce() -> *mut u8,
    again: impl Fn() -> *mut u8,
) -> *mut u8 {
    let first = || {
        let block = first();
        if block.is_null() {
            end_guest::<T>();
        }
        block
    };
    pressure::with_relief::<T>(size, first, again)
}

/// If the calling thread is a guest it gets its heap now. Of a guest it could not be told whether it is in the middle of
/// something, and the program's function would not be called.
#[cold]
fn end_guest<T: Thread>() {
    if T::guest_steps() > 0 {
        T::set_guest_steps(0);
        with_heap::<T, _>(Options::NONE, |_| ());
    }
}

/// Gives the calling thread its heap, `wanted` if that is idle, and returns what it has then: none when there is no
/// memory, or the thread must not possess one.
#[cold]
fn attach<T: Thread>(options: &Options, wanted: Option<&Heap>) -> *const Heap {
    start(options);
    if ptr::eq(T::heap(), &raw const NOBODY) {
        arm::<T>(!T::ANNOUNCED);
    }
    if !ptr::eq(T::heap(), &raw const ARMED) {
        return T::heap();
    }
    let (pool, holder) = (process().pool(), T::id());
    // Where threads are announced, none ends unnoticed; and there a handler may come in anywhere, who would find what
    // this call has just possessed.
    let left = if T::GUARDED { None } else { pool.left_by(holder) };
    if let Some(heap) = left.or_else(|| pool.possess_to_keep(process(), holder, wanted)) {
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
pub(super) fn arm<T: Thread>(counted: bool) {
    static IS_LATER: AtomicBool = AtomicBool::new(false);
    if !ptr::eq(T::heap(), &raw const NOBODY) {
        return;
    }
    // Relaxed: elects one thread.
    let is_first = !IS_LATER.load(Ordering::Relaxed) && !IS_LATER.swap(true, Ordering::Relaxed);
    let counted = counted || is_first;
    // (Who ended unnoticed was never taken from the count.)
    if counted && (T::GUARDED || process().pool().left_by(T::id()).is_none()) {
        presence::thread_begins();
    }
    // (A handler may have done all of it.)
    if make_armed::<T>() && !T::call_at_exit(counted) && !is_first {
        exit_thread::<T>(counted);
    }
}

/// Makes the thread an armed one, unless it is or was: before its exit is hooked, which may allocate and so come back.
fn make_armed<T: Thread>() -> bool {
    fork::learn::<T>();
    T::change_heap(&raw const NOBODY, &raw const ARMED)
}

/// At load, in the first thread: arms it, even if it never allocates.
pub fn begin_process<T: Thread>() {
    prepare();
    lookout::heed_by_default();
    arm::<T>(!T::ANNOUNCED);
}

/// In a thread that was announced by [`thread_made`](super::thread_made), before anything else of the program's.
pub fn begin_thread<T: Thread>() {
    T::set_guest_steps(GUEST_STEPS);
    if !make_armed::<T>() && ptr::eq(T::heap(), &raw const EXITED) {
        // A signal handler came first and found no way to hook the exit.
        presence::thread_ends();
    } else if !T::call_at_exit(true) && !T::call_at_exit_with_locks(true) {
        // (What a handler has hooked says that the thread is not counted.)
        exit_thread::<T>(true);
    }
}

/// Gives the calling thread's heap up: slabs that hold blocks stay with it, for the next thread that possesses it or
/// frees those blocks, and what is free stays as far as the helper looks after it (`heap::lives::visits`). What the
/// thread allocates and frees afterwards goes through borrowed heaps, whether it had one of its own or not.
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
        process().pool().keeps_no_more(heap, T::id());
        if T::GUARDED {
            process().leave_heap::<T::Checks>(heap, T::id());
        } else {
            process().abandon::<T::Checks>(heap, T::id());
        }
    }
    if counted {
        presence::thread_ends();
    }
}

/// Unmaps everything free, for who would be told that there is no room.
pub fn make_room<T: Thread>() {
    with_heap::<T, _>(Options::NONE, |heap| heap.map(|heap| process().make_all_room::<T::Checks>(heap)));
}

/// Gives back everything free that can be given back now. Returns whether anything was.
pub fn trim<T: Thread>() -> bool {
    let purged =
        |allocator: &Allocator<Linux>| allocator.purged_bytes() + allocator.space().os().calls().unmap;
    with_heap::<T, _>(Options::NONE, |heap| {
        let Some(heap) = heap else { return false };
        let before = purged(process());
        process().trim::<T::Checks>(heap);
        purged(process()) != before
    })
}
