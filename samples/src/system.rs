//! What the others ask the C library for, but for files: the error number and the process.

use core::ffi::c_int;

/// The calling thread's error number.
pub(super) fn errno() -> c_int {
    // SAFETY: libc returns with the address of this thread's errno.
    unsafe { *libc::__errno_location() }
}

/// Sets it.
fn set_errno(error: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = error };
}

/// Nanoseconds of the clock that nobody sets.
pub(super) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to what it is given; it cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// The calling thread: a number that no other thread of the process has meanwhile, below 2^47.
pub(super) fn thread() -> usize {
    let pointer: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: by the ABI the word at the thread pointer holds the thread pointer itself.
    unsafe {
        core::arch::asm!("mov {0}, qword ptr fs:[0]", out(reg) pointer, options(pure, readonly, nostack, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mrs {0}, tpidr_el0", out(reg) pointer, options(pure, nomem, nostack, preserves_flags));
    }
    pointer
}

/// The calling thread, as the kernel numbers it.
pub(super) fn thread_id() -> u32 {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// The calling process.
pub(super) fn pid() -> u64 {
    // SAFETY: no arguments.
    unsafe { libc::getpid() as u64 }
}

/// Does what makes system calls, and leaves the error number as it was.
pub(super) fn with_errno_kept<R>(body: impl FnOnce() -> R) -> R {
    let before = errno();
    let result = body();
    set_errno(before);
    result
}
