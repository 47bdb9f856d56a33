//! Stands in for libspecmalloc.so in the tests of the command: publishes figures that the tests know, from every
//! process that loads it, and leaves malloc alone.
//!
//! Live bytes: 1,000 once the program has started, 10 in a child of fork, one more when the process exits.

use specmalloc::Statistics;
use specmalloc::internals::api::shared_record::{SharedRecord, VARIABLE};
use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static RECORD: OnceLock<SharedRecord> = OnceLock::new();
static LIVE: AtomicU64 = AtomicU64::new(1000);

fn figures() -> Statistics {
    let mut statistics = Statistics::new();
    statistics.live_bytes = LIVE.load(Ordering::SeqCst);
    statistics.bets.lookup.taken = 1;
    statistics.classes[0].live_blocks = 7;
    statistics
}

extern "C" fn start() {
    // SAFETY: the name ends in a zero byte, and start-up has one thread.
    let path = unsafe { libc::getenv(VARIABLE.as_ptr()) };
    if path.is_null() {
        return;
    }
    // SAFETY: getenv's string ends in a zero byte and lives as long as the environment is left alone.
    if let Ok(record) = SharedRecord::open(unsafe { CStr::from_ptr(path) }) {
        RECORD.get_or_init(|| record).publish(&figures());
        // SAFETY: C functions without arguments, in a library that is never unloaded.
        unsafe {
            libc::pthread_atfork(None, None, Some(child));
            libc::atexit(exit);
        }
    }
}

unsafe extern "C" fn child() {
    LIVE.store(10, Ordering::SeqCst);
    if let Some(record) = RECORD.get() {
        record.after_fork();
        record.publish(&figures());
    }
}

extern "C" fn exit() {
    LIVE.fetch_add(1, Ordering::SeqCst);
    if let Some(record) = RECORD.get() {
        record.finish(&figures());
    }
}

// SAFETY: the section holds pointers to C functions that run once each when the library is loaded, and this is one.
#[unsafe(link_section = ".init_array")]
#[used]
static START: extern "C" fn() = start;
