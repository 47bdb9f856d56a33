//! The helper thread: gives memory back by age in a process that has several threads anyway.
//!
//! Never started before the program's own second thread allocates; 64 KiB of stack; all signals blocked; asleep without
//! a timer when nothing is left to give back.

use super::process;
use super::thread::{Thread, with_heap};
use crate::pal::Platform;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;

/// Milliseconds between two ticks while there is something to give back.
const TICK_MS: u32 = 100;
const STACK: usize = 64 << 10;

/// Whether the options allow a helper.
static ALLOWED: AtomicBool = AtomicBool::new(true);
static STARTED: AtomicBool = AtomicBool::new(false);
/// 1 while the helper sleeps without a timer.
static ASLEEP: AtomicU32 = AtomicU32::new(0);

/// Allows the helper or not. One that runs stops at its next tick.
pub(super) fn allow(allowed: bool) {
    // Relaxed: read at the next tick.
    ALLOWED.store(allowed, Ordering::Relaxed);
    nudge();
}

/// Whether the options allow a helper.
pub(super) fn is_allowed() -> bool {
    // Relaxed: as above.
    ALLOWED.load(Ordering::Relaxed)
}

/// Starts the helper unless there is one.
pub(super) fn start<T: Thread>() {
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
    process().settings().set_helper(true);
    // SAFETY: the name is a string of less than 16 characters.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"specmalloc".as_ptr()) };
    while is_allowed() {
        let more = with_heap::<T, _>(&super::Options::new(), |heap| {
            heap.is_some_and(|heap| process().tick::<T::Checks>(heap))
        });
        if more {
            pause(0, Some(TICK_MS));
        } else {
            // Relaxed: the fence orders both before the look: either a thread that has just freed memory sees that we sleep
            // and wakes us, or we see its memory. Partner: the fence in `nudge`.
            process().forget_stir();
            ASLEEP.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if process().has_idle_memory() {
                // Relaxed: nobody else takes it back but by a nudge, which is the same.
                ASLEEP.store(0, Ordering::Relaxed);
            } else {
                pause(1, None);
            }
        }
    }
    process().settings().set_helper(false);
    // Relaxed: the next thread may start another.
    STARTED.store(false, Ordering::Relaxed);
    ptr::null_mut()
}

fn pause(while_value: u32, timeout_ms: Option<u32>) {
    process().space().os().wait(&ASLEEP, while_value, timeout_ms);
}

/// Wakes the helper if it sleeps and there is something to give back: after a free that was more than a push.
#[inline]
pub fn nudge() {
    // Relaxed: set by this thread, if it has anything to tell.
    if !process().is_stirred() {
        return;
    }
    // Partner: the fence in `run`.
    fence(Ordering::SeqCst);
    // Relaxed (both): the word alone counts; the futex re-reads it.
    if ASLEEP.load(Ordering::Relaxed) == 1 && ASLEEP.swap(0, Ordering::Relaxed) == 1 {
        process().space().os().wake(&ASLEEP, 1);
    }
}

/// In the child of a fork: there is no helper.
pub(super) fn forget() {
    process().settings().set_helper(false);
    // Relaxed (both): the child has one thread.
    ASLEEP.store(0, Ordering::Relaxed);
    STARTED.store(false, Ordering::Relaxed);
}
