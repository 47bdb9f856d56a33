//! `global`: the only statics of the allocator. Start-up, threads, fork, the helper thread, options.
//!
//! May import everything below. A process has one allocator, [`process`]; which heap a thread uses is kept wherever its
//! [`Thread`] type says: in a `thread_local!` of a Rust program, or in an initial-exec variable of the preload library.

mod exit;
mod fork;
mod helper;
mod options;
mod thread;

pub use exit::{ExitKey, exit_value, was_counted};
pub use options::{OptionError, Options, get_option, honours_deepbind, set_option};
pub use thread::{
    EXITED, Main, NOBODY, Stray, Thread, begin_process, begin_thread, dismiss_helper, enter_step,
    exit_thread, is_own, leave_step, start_helper, thread_found, thread_made, undo_step, with_heap,
    with_heap_to_free,
};

use crate::heap::Allocator;
use crate::pal::{Linux, Platform};
use crate::sync::atomic::{AtomicU32, Ordering};
use core::ffi::CStr;

static PROCESS: Allocator<Linux> = Allocator::new(Linux::new());

/// 0: not started, 1: some thread is at it, 2: started.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// The allocator of this process.
#[inline(always)]
pub fn process() -> &'static Allocator<Linux> {
    &PROCESS
}

/// Starts the allocator before its first use. Threads that race here do so before there is anything to race for: each
/// may run the idempotent part, and only the first registers hooks and reads the environment.
fn start(options: &Options) {
    // Acquire: pairs with the Release below.
    if STARTED.load(Ordering::Acquire) == 2 {
        return;
    }
    PROCESS.start();
    // Relaxed (both): elects one thread; what the others need was done above.
    if STARTED.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        PROCESS.adapt();
        options.apply();
        options::read_environment();
        fork::prepare();
        // Release: pairs with the Acquire above.
        STARTED.store(2, Ordering::Release);
    }
}

/// When the program, or the library that this is a part of, is loaded: what takes locks of the C library, which the caller
/// of a malloc or free may hold.
extern "C" fn loaded() {
    fork::install();
    helper::note_processors();
}

#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

/// The value of an environment variable, read in place: nothing is allocated. `None` in setuid programs.
pub fn environment(name: &CStr) -> Option<&'static CStr> {
    unsafe extern "C" {
        static environ: *const *const core::ffi::c_char;
    }
    // SAFETY: getauxval reads the auxiliary vector.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return None;
    }
    let name = name.to_bytes();
    // SAFETY: the C library keeps `environ` a null-terminated array of strings, or null before it is set up; start-up
    // happens before the program can change it from another thread.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let bytes = CStr::from_ptr(*entry).to_bytes();
            if bytes.len() > name.len() && bytes.starts_with(name) && bytes[name.len()] == b'=' {
                return Some(CStr::from_ptr((*entry).add(name.len() + 1)));
            }
            entry = entry.add(1);
        }
    }
    None
}

/// Gives back everything free that can be given back now. Answers whether anything was.
pub fn trim<T: Thread>() -> bool {
    let purged =
        |allocator: &Allocator<Linux>| allocator.purged_bytes() + allocator.space().os().calls().unmap;
    with_heap::<T, _>(&Options::new(), |heap| {
        let Some(heap) = heap else { return false };
        let before = purged(&PROCESS);
        PROCESS.give_back::<T::Checks>(heap);
        purged(&PROCESS) != before
    })
}
