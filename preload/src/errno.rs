//! The calling thread's `errno`.

use core::ffi::c_int;
use specmalloc::internals::pal::Errno;

/// Sets `errno`.
pub fn set(value: c_int) {
    // SAFETY: the address that libc gives is the calling thread's own variable, valid while the thread lives.
    unsafe { *libc::__errno_location() = value }
}

/// The value of `errno`.
pub fn get() -> c_int {
    // SAFETY: as in `set`.
    unsafe { *libc::__errno_location() }
}

/// What the C library's function of a system call returns for its `outcome`.
pub fn returned(outcome: Result<usize, Errno>) -> c_int {
    match outcome {
        Ok(value) => value as c_int,
        Err(Errno(error)) => {
            set(error);
            -1
        }
    }
}
