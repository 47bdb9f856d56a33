//! Last words: text for standard error, and the end of the process.
//!
//! Both are called where nothing may be trusted: in the middle of malloc and free, with a cancellation of the thread
//! pending, in a handler, or inside libc's own abort. So both are bare system calls, which are no cancellation points,
//! take no lock and allocate nothing. (`libc::syscall` is a function without any of these.)

use core::ffi::c_long;
use core::ptr::{null, null_mut};

/// Writes `bytes` to standard error. A closed or full one is nobody's business here; `errno` is what it was.
pub fn to_stderr(mut bytes: &[u8]) {
    // SAFETY: libc returns with the address of this thread's errno.
    let (errno, before) = unsafe {
        let errno = libc::__errno_location();
        (errno, *errno)
    };
    while !bytes.is_empty() {
        // SAFETY: the kernel reads `bytes`.
        let written = unsafe {
            libc::syscall(libc::SYS_write, c_long::from(libc::STDERR_FILENO), bytes.as_ptr(), bytes.len())
        };
        match usize::try_from(written) {
            Ok(0) => break,
            Ok(written) => bytes = &bytes[written..],
            // SAFETY: this thread's errno, as above.
            Err(_) if unsafe { *errno } == libc::EINTR => {}
            Err(_) => break,
        }
    }
    // SAFETY: as above.
    unsafe { *errno = before };
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
const SET_BYTES: c_long = 8;

/// Ends the process by SIGABRT, as libc's `abort` does, but also inside that function, whose lock another thread may
/// hold for good. A handler of the program's is called once: when it returns, or comes here itself, that is the end.
pub fn end_process() -> ! {
    const SIGNAL: c_long = libc::SIGABRT as c_long;
    // SAFETY: the calls read and write nothing but what is on this stack, and whatever they do is to end the process.
    // Errors leave nothing to do but to go on.
    unsafe {
        let act = |new: *const Action, old: *mut Action| {
            libc::syscall(libc::SYS_rt_sigaction, SIGNAL, new, old, SET_BYTES)
        };
        let raise = || {
            let abort: u64 = 1 << (SIGNAL - 1);
            let unblock = libc::SIG_UNBLOCK as c_long;
            libc::syscall(libc::SYS_rt_sigprocmask, unblock, &raw const abort, null_mut::<u64>(), SET_BYTES);
            let (process, thread) = (libc::syscall(libc::SYS_getpid), libc::syscall(libc::SYS_gettid));
            libc::syscall(libc::SYS_tgkill, process, thread, SIGNAL);
        };
        let mut action: Action = [0; 4];
        if act(null(), &mut action) == 0 {
            // The kernel takes the handler away as it calls it.
            action[1] |= libc::SA_RESETHAND as u32 as u64;
            act(&action, null_mut());
        }
        raise();
        // It was ignored, or its handler has returned.
        act(&[0; 4], null_mut());
        raise();
        // No signal ends the first process of a namespace.
        const STATUS: c_long = 127;
        loop {
            libc::syscall(libc::SYS_exit_group, STATUS);
        }
    }
}
