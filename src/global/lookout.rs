//! Whether the helper looks at what the system says of memory, and how it opens files without being in anybody's way.
//!
//! It has a table of open files of its own, which was never the program's: no number of the program's is taken for a
//! moment, a program that closes all of its files closes none of these, and none of the program's is kept open.
//! And no file is opened once a filter of system calls may be there, which may kill for it.

use crate::heap::Looks;
use crate::pal::system_call;
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// What the options say.
static HEEDED: AtomicU8 = AtomicU8::new(UNSAID);
const UNSAID: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static LOOKS: Looks = Looks::new();

/// Whether a helper of this process has ever had a table of files of its own.
static HAS_OWN_FILES: AtomicBool = AtomicBool::new(false);

/// Whether the helper may have a table of files of its own. Asked when the last thread of the program is about to end.
pub(super) fn has_own_files() -> bool {
    // Relaxed: set before a helper takes it, which is a second after that has begun.
    HAS_OWN_FILES.load(Ordering::Relaxed)
}

/// Says whether pressure is heeded.
pub(super) fn heed(on: bool) {
    // Relaxed: a switch, read before each look.
    HEEDED.store(if on { ON } else { OFF }, Ordering::Relaxed);
}

/// Pressure is heeded unless an option has said, or will say, something else.
pub(super) fn heed_by_default() {
    // Relaxed: as above.
    let _said = HEEDED.compare_exchange(UNSAID, ON, Ordering::Relaxed, Ordering::Relaxed);
}

/// Whether pressure is heeded.
pub(super) fn heeds() -> bool {
    // Relaxed: as above.
    HEEDED.load(Ordering::Relaxed) == ON
}

/// No look begins from here on, and none is going on any more: a filter is about to be installed.
pub(super) fn forbid() {
    // SAFETY: no arguments.
    LOOKS.forbid(|| _ = unsafe { system_call(libc::SYS_sched_yield, []) });
}

/// Whether a filter of system calls is there, as far as anybody told of one.
pub fn is_shut_off() -> bool {
    LOOKS.are_forbidden()
}

/// In the child of a fork, which has no helper.
pub(super) fn forget() {
    // Relaxed: the child has one thread.
    HAS_OWN_FILES.store(false, Ordering::Relaxed);
    LOOKS.forget();
}

/// Where the helper keeps its files.
pub(super) struct Lookout {
    has_own_files: bool,
}

impl Lookout {
    /// By a helper that has just begun.
    pub(super) fn new() -> Lookout {
        Lookout { has_own_files: false }
    }

    /// Calls `look`, which may open files, if that may be done now.
    pub(super) fn look<R>(&mut self, look: impl FnOnce() -> R) -> Option<R> {
        if !heeds() {
            return None;
        }
        LOOKS.take(|| !is_filtered() && self.opens_own_files(), look)
    }

    /// Gives the calling thread an empty table of files of its own (Linux 5.9), or has done so.
    fn opens_own_files(&mut self) -> bool {
        if !self.has_own_files {
            // Relaxed: as in `has_own_files`.
            HAS_OWN_FILES.store(true, Ordering::Relaxed);
            let unshare = libc::CLOSE_RANGE_UNSHARE as usize;
            // SAFETY: closes no file but in the copy of the table that becomes this thread's, which uses none.
            self.has_own_files =
                unsafe { system_call(libc::SYS_close_range, [0, u32::MAX as usize, unshare]) }.is_ok();
        }
        self.has_own_files
    }
}

/// Whether this thread is under a filter of system calls: one that nobody told of, or that came with the process.
fn is_filtered() -> bool {
    // SAFETY: asks for a number.
    unsafe { system_call(libc::SYS_prctl, [libc::PR_GET_SECCOMP as usize]) != Ok(0) }
}
