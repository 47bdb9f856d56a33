//! A call of libc whose failure is a value, and that leaves `errno` as it was.

use super::Errno;
use core::ffi::c_ulong;

/// Makes one call of libc and turns its failure value into the error number; `errno` is what it was before.
pub(super) fn kept_errno<T: PartialEq>(failure: T, call: impl FnOnce() -> T) -> Result<T, Errno> {
    // SAFETY: libc returns with the address of this thread's errno, which lives as long as the thread.
    let errno = unsafe { &mut *libc::__errno_location() };
    let before = *errno;
    let returned = call();
    if returned != failure {
        return Ok(returned);
    }
    // SAFETY: as above. Asked again, so that no reference is held across `call`, which writes errno.
    let errno = unsafe { &mut *libc::__errno_location() };
    Err(Errno(core::mem::replace(errno, before)))
}

/// What the kernel handed to the process at exec under `key`, or zero.
pub(super) fn auxiliary(key: c_ulong) -> usize {
    // SAFETY: getauxval only looks `key` up.
    kept_errno(0, || unsafe { libc::getauxval(key) }).map_or(0, |value| value as usize)
}
