//! Last words: text for standard error, and the end of the process.
//!
//! Both are called where nothing may be trusted: in the middle of malloc and free, with a cancellation of the thread
//! pending, in a handler, or inside libc's own abort. So both are bare system calls, which are no cancellation points, take
//! no lock and allocate nothing. (`libc::syscall` is a function without any of these.)

use core::ffi::{c_int, c_long};
use core::ptr::null_mut;

use crate::sync::atomic::{AtomicU32, Ordering};

/// Writes `parts`, one after the other, to standard error. A closed or full one is nobody's business here; `errno` is what
/// it was.
pub fn to_stderr<const N: usize>(mut parts: [&[u8]; N]) {
    // SAFETY: libc answers with the address of this thread's errno.
    let (errno, before) = unsafe {
        let errno = libc::__errno_location();
        (errno, *errno)
    };
    while parts.iter().any(|part| !part.is_empty()) {
        let vectors =
            parts.map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
        // SAFETY: the vectors describe readable slices, which the kernel only reads.
        let written = unsafe {
            libc::syscall(libc::SYS_writev, libc::STDERR_FILENO as c_long, vectors.as_ptr(), N as c_long)
        };
        match usize::try_from(written) {
            Ok(0) => break,
            Ok(written) => drop_front(&mut parts, written),
            // SAFETY: this thread's errno, as above.
            Err(_) if unsafe { *errno } == libc::EINTR => {}
            Err(_) => break,
        }
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// Takes the first `bytes` bytes off `parts`.
fn drop_front(parts: &mut [&[u8]], mut bytes: usize) {
    for part in parts {
        let taken = bytes.min(part.len());
        *part = &part[taken..];
        bytes -= taken;
    }
}

/// What the kernel takes for a signal's default action: no handler, no flags, no restorer, an empty mask.
const DEFAULT_ACTION: [u64; 4] = [0; 4];

/// Bytes in the kernel's signal sets.
const SET_BYTES: c_long = 8;

/// Ends the process by SIGABRT, as libc's `abort` does, but also inside that function, whose lock another thread may hold
/// for good: a handler of the program's is called once, and if it returns, or comes here itself, that is the end.
pub fn end_process() -> ! {
    /// The thread that came here last.
    static REPORTING: AtomicU32 = AtomicU32::new(0);
    // SAFETY: these calls have no memory of ours as arguments but what is readable here, and whatever they do is to end
    // the process, which is asked for. Errors leave nothing to do but to go on to the next one.
    unsafe {
        let thread = libc::syscall(libc::SYS_gettid);
        let raise = || {
            let abort: u64 = 1 << (libc::SIGABRT - 1);
            let (unblock, set) = (libc::SIG_UNBLOCK as c_long, &raw const abort);
            libc::syscall(libc::SYS_rt_sigprocmask, unblock, set, null_mut::<u64>(), SET_BYTES);
            let process = libc::syscall(libc::SYS_getpid);
            libc::syscall(libc::SYS_tgkill, process, thread, c_long::from(libc::SIGABRT));
        };
        // Relaxed: compared with what this thread wrote; whatever another one writes, this one comes here twice at most
        // before it sees its own number.
        if REPORTING.swap(thread as u32, Ordering::Relaxed) != thread as u32 {
            raise();
        }
        let default = DEFAULT_ACTION.as_ptr();
        libc::syscall(
            libc::SYS_rt_sigaction,
            c_long::from(libc::SIGABRT),
            default,
            null_mut::<u64>(),
            SET_BYTES,
        );
        raise();
        // SIGABRT does not end the first process of a namespace.
        const STATUS: c_int = 127;
        loop {
            libc::syscall(libc::SYS_exit_group, c_long::from(STATUS));
        }
    }
}
