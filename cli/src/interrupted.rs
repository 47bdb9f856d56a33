//! How the command itself ends by a signal where it has something to put in order first: it notes the signal, ends what it
//! waits for, and whoever asks here next cleans up and ends by it. A second signal ends it at once.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};

/// What a terminal, or another process, asks for the end with.
const ENDS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// The signal that came; zero for none.
static CAME: AtomicI32 = AtomicI32::new(0);
/// The child that is to end with it; zero for none.
static CHILD: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    // Relaxed, here and below: flags, with nothing behind them.
    CAME.store(signal, Ordering::Relaxed);
    let child = CHILD.load(Ordering::Relaxed);
    if child > 0 {
        // SAFETY: no memory is involved; the child has not been waited for while it is noted.
        unsafe { libc::kill(child, libc::SIGTERM) };
    }
}

/// Notes such signals from now on, but for those that are ignored.
pub(crate) fn watch() {
    for signal in ENDS {
        // SAFETY: the records are valid and initialised; the handler only makes async-signal-safe calls.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &raw mut before);
            if before.sa_sigaction == libc::SIG_IGN {
                continue;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as *const () as usize;
            action.sa_flags = libc::SA_RESETHAND;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// The signal that asked for the end, if one did.
pub(crate) fn signal() -> Option<libc::c_int> {
    Some(CAME.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// A child that ends with such a signal until this is dropped: which is before it is waited for.
pub(crate) struct TakenAlong(());

pub(crate) fn take_along(pid: u32) -> TakenAlong {
    CHILD.store(pid as i32, Ordering::Relaxed);
    if let Some(signal) = signal() {
        // It came before the child was noted.
        note(signal);
    }
    TakenAlong(())
}

impl Drop for TakenAlong {
    fn drop(&mut self) {
        CHILD.store(0, Ordering::Relaxed);
    }
}

/// Waits for a child's end, which such a signal brings about.
pub(crate) fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let taken_along = take_along(child.id());
    loop {
        // SAFETY: the record is valid and initialised. The child is left to be waited for.
        let waited = unsafe {
            let mut told: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, child.id(), &raw mut told, libc::WEXITED | libc::WNOWAIT)
        };
        if waited == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            break;
        }
    }
    drop(taken_along);
    child.wait()
}
