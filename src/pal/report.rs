//! Last words: text for standard error, and the end of the process.
//!
//! Both are called where nothing may be trusted: in the middle of malloc and free, with a cancellation of the thread
//! pending, in a handler, or inside libc's own abort. So both are bare system calls, which are no cancellation points,
//! take no lock and allocate nothing. They leave `errno` as it is.

use super::{Errno, system_call};
use core::ptr::{null, null_mut};

/// Writes `bytes` to standard error. A closed or full one is nobody's business here.
pub fn to_stderr(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: the kernel reads `bytes`.
        let written = unsafe {
            let at = bytes.as_ptr().expose_provenance();
            system_call(libc::SYS_write, [libc::STDERR_FILENO as usize, at, bytes.len()])
        };
        match written {
            Ok(0) => break,
            Ok(written) => bytes = &bytes[written..],
            Err(Errno(libc::EINTR)) => {}
            Err(_) => break,
        }
    }
}

/// A panic where std is not: this library itself is broken. It says where, and the process ends. (A format of what else
/// is known would bring code that nothing else needs.)
#[cfg(not(any(feature = "std", panic = "unwind")))]
pub fn panicked(panic: &core::panic::PanicInfo<'_>) -> ! {
    to_stderr(b"specmalloc: broken itself");
    if let Some(place) = panic.location() {
        to_stderr(b" at ");
        to_stderr(place.file().as_bytes());
        let mut digits = [0; 10];
        let (mut first, mut line) = (digits.len(), place.line());
        while line > 0 {
            first -= 1;
            digits[first] = b'0' + (line % 10) as u8;
            line /= 10;
        }
        to_stderr(b":");
        to_stderr(&digits[first..]);
    }
    to_stderr(b"\n");
    end_process()
}

/// What the kernel keeps of a signal: handler, flags, restorer, mask. All zero is the default action.
type Action = [u64; 4];

/// Bytes in the kernel's signal sets.
const SET_BYTES: usize = 8;

/// Ends the process by SIGABRT, as libc's `abort` does, but also inside that function, whose lock another thread may
/// hold for good. A handler of the program's is called once: when it returns, or comes here itself, that is the end.
pub fn end_process() -> ! {
    const SIGNAL: usize = libc::SIGABRT as usize;
    // SAFETY: the calls read and write nothing but what is on this stack, and whatever they do is to end the process.
    // Errors leave nothing to do but to go on.
    unsafe {
        let act = |new: *const Action, old: *mut Action| {
            let (new, old) = (new.expose_provenance(), old.expose_provenance());
            system_call(libc::SYS_rt_sigaction, [SIGNAL, new, old, SET_BYTES])
        };
        let raise = || {
            let abort: u64 = 1 << (SIGNAL - 1);
            let (unblock, set) = (libc::SIG_UNBLOCK as usize, (&raw const abort).expose_provenance());
            let _unblocked = system_call(libc::SYS_rt_sigprocmask, [unblock, set, 0, SET_BYTES]);
            let own = |number| system_call(number, []).unwrap_or_default();
            let (process, thread) = (own(libc::SYS_getpid), own(libc::SYS_gettid));
            let _raised = system_call(libc::SYS_tgkill, [process, thread, SIGNAL]);
        };
        let mut action: Action = [0; 4];
        if act(null(), &mut action).is_ok() {
            // The kernel takes the handler away as it calls it.
            action[1] |= libc::SA_RESETHAND as u32 as u64;
            let _set = act(&action, null_mut());
        }
        raise();
        // It was ignored, or its handler has returned.
        let _set = act(&[0; 4], null_mut());
        raise();
        // No signal ends the first process of a namespace.
        const STATUS: usize = 127;
        loop {
            let _lives = system_call(libc::SYS_exit_group, [STATUS]);
        }
    }
}
