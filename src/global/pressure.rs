//! What the program does itself when memory is short: a function that it registers, and that gives memory back.
//!
//! It is called when use has come beyond the soft limit, and when a request is about to fail; by the thread whose
//! request that is, outside of its heap, with nothing of ours held. So it may allocate and free. If it makes less be
//! held, a request that would have failed is tried again, until it is served or the function makes no more room.
//!
//! It is not called where it could interrupt anything: in a call that a signal handler made in the middle of another
//! one, in a thread that has signals blocked, as one in a handler has, in one that has ended, and inside itself. Then
//! the soft limit is told by the next request of a thread where it may be, and a failing request fails.

use super::process::process;
use super::thread::{Thread, enter_step, is_own, leave_step, undo_step};
use crate::pal::system_call;
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use core::ptr;

/// How memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Bytes that the allocator holds.
    pub held: usize,
    /// Bytes of the request.
    pub wanted: usize,
    /// Whether the request fails if nothing is given back; otherwise it was served.
    pub is_failing: bool,
}

/// What is called when memory is short.
pub type OnPressure = fn(Pressure);

static CALLBACK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Threads that are inside the function. Where all places are taken, others do without it. (Relaxed, all of them: a thread
/// looks for its own number, which it alone writes; and an exchange gives a vacant place to one.)
static CALLERS: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

/// Registers the function; `None` for none.
pub fn on_pressure(callback: Option<OnPressure>) {
    let function = callback.map_or(ptr::null_mut(), |callback| callback as *mut ());
    // Relaxed (here and below): a function's address, which leads to nothing that is written.
    CALLBACK.store(function, Ordering::Relaxed);
}

fn callback() -> Option<OnPressure> {
    let function = CALLBACK.load(Ordering::Relaxed);
    // SAFETY: `on_pressure` stored a function of this type.
    (!function.is_null()).then(|| unsafe { core::mem::transmute::<*mut (), OnPressure>(function) })
}

/// What `first` serves for a request of `size` bytes; or if it serves nothing, what `again` does once the program has
/// made room, called as often as it makes any.
#[inline(always)]
pub fn with_relief<T: Thread>(
    size: usize,
    first: impl FnOnce() -> *mut u8,
    again: impl Fn() -> *mut u8,
) -> *mut u8 {
    let block = first();
    if block.is_null() {
        return relieved::<T>(size, again);
    }
    tell_if_due::<T>(size);
    block
}

/// Tells the program if use has come beyond the soft limit; for a request of `size` bytes.
#[inline]
pub fn tell_if_due<T: Thread>(size: usize) {
    if process().limit().is_due() {
        tell::<T>(size);
    }
}

#[cold]
#[inline(never)]
fn tell<T: Thread>(size: usize) {
    if let Some(callback) = callback()
        && let Some(_caller) = Caller::new::<T>()
        && process().limit().take_due()
    {
        call(callback, Pressure { held: process().held_bytes(), wanted: size, is_failing: false });
    }
}

/// Attempts that follow one that failed.
#[cold]
#[inline(never)]
fn relieved<T: Thread>(size: usize, again: impl Fn() -> *mut u8) -> *mut u8 {
    if size > process().settings().hard_limit() {
        return ptr::null_mut();
    }
    loop {
        let Some(callback) = callback() else { return ptr::null_mut() };
        // What is free was given back by the last attempt.
        let held = process().held_bytes();
        {
            let Some(_caller) = Caller::new::<T>() else { return ptr::null_mut() };
            call(callback, Pressure { held, wanted: size, is_failing: true });
        }
        let block = again();
        if !block.is_null() || process().held_bytes() >= held {
            return block;
        }
    }
}

/// Calls the function; `errno` is as before.
fn call(callback: OnPressure, pressure: Pressure) {
    // SAFETY: libc returns with the address of this thread's errno, which lives as long as the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { errno.read() };
    callback(pressure);
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// The calling thread, while it is inside the function.
struct Caller(&'static AtomicUsize);

impl Caller {
    /// `None` where the function is not to be called.
    #[cold]
    #[inline(never)]
    fn new<T: Thread>() -> Option<Caller> {
        let number = T::id().number();
        if !is_outside::<T>() || blocks_signals() || place_of(number).is_some() {
            return None;
        }
        // (Of two threads that find the same one vacant the other has the next.)
        let take = |place: &&AtomicUsize| {
            place.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        CALLERS.iter().find(take).map(Caller)
    }
}

/// A place that has `number`.
#[inline(never)]
fn place_of(number: usize) -> Option<&'static AtomicUsize> {
    CALLERS.iter().find(|place| place.load(Ordering::Relaxed) == number)
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Whether the thread has a heap and is outside of it.
fn is_outside<T: Thread>() -> bool {
    let heap = T::heap();
    if !is_own(heap) {
        return false;
    }
    // SAFETY: a thread's heap is one.
    unsafe {
        let enters = enter_step::<T>(heap);
        if enters {
            leave_step::<T>(heap);
        }
        // Refused for another's sake it may be in the middle of a step all the same: in a heap that it has borrowed.
        enters || undo_step::<T>(heap) && !process().pool().lends_to(T::id())
    }
}

/// Whether the thread has any signal blocked, or it cannot be told.
fn blocks_signals() -> bool {
    let mut blocked = 0_u64;
    // SAFETY: the kernel writes a set of 64 signals, and changes nothing.
    let told = unsafe {
        let (how, at) = (libc::SIG_BLOCK as usize, (&raw mut blocked).expose_provenance());
        system_call(libc::SYS_rt_sigprocmask, [how, 0, at, size_of::<u64>()])
    };
    told.is_err() || blocked != 0
}

/// In the child of a fork: the other threads are not there. `own` is the calling one.
pub(super) fn forget_others(own: usize) {
    for place in &CALLERS {
        if place.load(Ordering::Relaxed) != own {
            place.store(0, Ordering::Relaxed);
        }
    }
}
