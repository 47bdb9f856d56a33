//! The helper thread: gives memory back by age in a process that has several threads anyway.
//!
//! Never started before the program's own second thread allocates; all signals blocked; asleep without a timer when nothing
//! is left to give back. It ends when no other thread has a heap: a process whose threads have all ended, the first one by
//! `pthread_exit`, is over when the last is gone, and the C library counts this one, too.

use super::process;
use super::thread::{Thread, with_heap};
use crate::sync::atomic::{AtomicBool, Ordering, fence};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;

/// Milliseconds between two ticks while there is something to give back.
const TICK_MS: u32 = 100;
/// Bytes of stack: what the C library calls at the end of a process, if this is the last thread, has to fit in, too.
const STACK: usize = 256 << 10;

/// Whether the options allow a helper.
static ALLOWED: AtomicBool = AtomicBool::new(true);
static STARTED: AtomicBool = AtomicBool::new(false);

/// Allows the helper or not. One that runs stops at its next tick.
pub(super) fn allow(allowed: bool) {
    // Relaxed: read at the next tick.
    ALLOWED.store(allowed, Ordering::Relaxed);
    process().stir();
}

/// Whether the options allow a helper.
pub(super) fn is_allowed() -> bool {
    // Relaxed: as above.
    ALLOWED.load(Ordering::Relaxed)
}

/// A thread has got its heap, which is not the process's first: starts the helper unless there is one.
pub(super) fn thread_attached<T: Thread>(is_first: bool) {
    // Orders the possession of the heap before the look whether there is a helper. Partner: the fence in `run`.
    fence(Ordering::SeqCst);
    if !is_first {
        start::<T>();
    }
}

/// A thread has given its heap up.
pub(super) fn thread_exited() {
    if is_alone() {
        process().stir();
    }
}

/// Whether no thread but the helper has a heap.
fn is_alone() -> bool {
    // Ordered by the fences of `Allocator::give_up`, `Bell::doze` and `run`.
    process().pool().has_one_possessor_at_most()
}

/// Starts the helper unless there is one.
fn start<T: Thread>() {
    // Relaxed: elects one thread.
    if !is_allowed() || STARTED.load(Ordering::Relaxed) || STARTED.swap(true, Ordering::Relaxed) {
        return;
    }
    if !spawn(run::<T>) {
        // Relaxed: the next thread may try again.
        STARTED.store(false, Ordering::Relaxed);
    }
}

fn spawn(main: extern "C" fn(*mut c_void) -> *mut c_void) -> bool {
    let (mut attributes, mut all, mut before) =
        (MaybeUninit::uninit(), MaybeUninit::uninit(), MaybeUninit::uninit());
    let mut thread = MaybeUninit::uninit();
    // SAFETY: each object is initialised by the call before its first use. The thread inherits the mask: it starts with
    // every signal blocked, and ours is as it was afterwards.
    unsafe {
        if libc::pthread_attr_init(attributes.as_mut_ptr()) != 0 {
            return false;
        }
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
        // Fails where static TLS needs more than that: then the default size serves.
        let _default = libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK);
        let created = libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), main, ptr::null_mut());
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        created == 0
    }
}

extern "C" fn run<T: Thread>(_: *mut c_void) -> *mut c_void {
    // SAFETY: the name is a string of less than 16 characters.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"specmalloc".as_ptr()) };
    loop {
        process().settings().set_helper(true);
        help::<T>();
        process().settings().set_helper(false);
        // Relaxed: the fence orders it before the look. Partner: the fence in `thread_attached`: either that thread starts
        // another helper, or we see it and go on.
        STARTED.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // Relaxed: elects one helper.
        if !is_allowed() || is_alone() || STARTED.swap(true, Ordering::Relaxed) {
            return ptr::null_mut();
        }
    }
}

/// Gives memory back until nobody needs that any more.
fn help<T: Thread>() {
    loop {
        // Without memory for a heap there is more to do, later.
        let more = with_heap::<T, _>(&super::Options::new(), |heap| {
            heap.is_none_or(|heap| process().tick::<T::Checks>(heap))
        });
        if is_alone() || !is_allowed() {
            return;
        }
        let (bell, os) = (process().bell(), process().space().os());
        if more {
            bell.pause(os, TICK_MS);
        } else {
            bell.doze(os, || is_alone() || process().has_idle_memory());
        }
    }
}

/// In the child of a fork: there is no helper.
pub(super) fn forget() {
    process().settings().set_helper(false);
    // Relaxed: the child has one thread.
    STARTED.store(false, Ordering::Relaxed);
}
