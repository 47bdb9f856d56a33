//! The malloc family as a C ABI: the names that glibc's manual ("Replacing malloc") lets a replacement define, those
//! of C23, and the `__libc_` names through which some programs call the allocator under their own wrappers.
//!
//! Common to all: a null result comes with `errno` set to ENOMEM (or EINVAL, where said); a request above `PTRDIFF_MAX`
//! fails with ENOMEM; a request of zero bytes gives a pointer of its own that must be freed; `free` keeps `errno`; a
//! pointer that is not the start of a live block ends the process with one line that names it.

use crate::{errno, raw};
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;

/// `null`, with `errno` set to `error`.
#[cold]
fn failed(error: c_int) -> *mut c_void {
    errno::set(error);
    null_mut()
}

/// `size` bytes, aligned to 16.
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    raw::malloc(size).cast()
}

/// `count` times `size` bytes, all zero. An overflowing product fails with ENOMEM.
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    raw::calloc(count, size).cast()
}

/// Resizes the block at `block`, moving it if need be; a null `block` makes it `malloc`.
///
/// Size zero frees the block and returns null with `errno` untouched, as glibc does (C23 leaves it undefined). On
/// failure the block is as it was.
///
/// # Safety
/// `block` is null or the start of a live block, and this call owns it.
#[unsafe(no_mangle)]
#[inline(never)] // `reallocarray` calls it by its name.
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the same promise.
    unsafe { plain::realloc(block, size) }
}

/// [`realloc`] to `count` times `size` bytes; an overflowing product fails with ENOMEM.
///
/// It is the `realloc` that there is, by name, as in glibc: a program may have one of its own, and no `reallocarray`.
///
/// # Safety
/// As [`realloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(block: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's promise is the same.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => failed(libc::ENOMEM),
    }
}

/// Frees the block at `block`; null is ignored. Keeps `errno`.
///
/// # Safety
/// `block` is null or the start of a live block, and this call owns it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: the caller hands over the block.
    unsafe { raw::free(block.cast()) }
}

/// C23: `free` by a caller who knows the size it asked for.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(block: *mut c_void, size: usize) {
    // SAFETY: the caller hands over the block.
    unsafe { raw::free_sized(block.cast(), size) }
}

/// C23: `free` by a caller who knows the alignment and size it asked for.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(block: *mut c_void, _align: usize, size: usize) {
    // SAFETY: the caller hands over the block.
    unsafe { raw::free_sized(block.cast(), size) }
}

/// The old name of `free` in System V.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(block: *mut c_void) {
    // SAFETY: the caller hands over the block.
    unsafe { raw::free(block.cast()) }
}

/// `size` bytes at a multiple of `align`. An alignment that is not a power of two is rounded up to one, as glibc
/// does; one that cannot be fails with EINVAL.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    plain::memalign(align, size)
}

/// C11: `size` bytes at a multiple of `align`. An alignment that is not a power of two fails with EINVAL; the size
/// need not be a multiple of it.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if align.is_power_of_two() { raw::aligned(align, size).cast() } else { failed(libc::EINVAL) }
}

/// Stores at `out` a block of `size` bytes at a multiple of `align` and returns 0; or returns EINVAL (an alignment
/// that is not a power of two or smaller than a pointer) or ENOMEM, and leaves `*out` alone. Without memory `errno` is
/// ENOMEM, too: POSIX leaves that open, glibc does so, and programs look.
///
/// # Safety
/// `out` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    // SAFETY: the same promise.
    unsafe { plain::posix_memalign(out, align, size) }
}

/// `size` bytes at the start of a page.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    plain::valloc(size)
}

/// `size` bytes rounded up to whole pages, at least one, at the start of a page. Overflowing sizes fail with ENOMEM.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    plain::pvalloc(size)
}

/// Bytes that may be used of the block at `block`: what was asked for or more. Zero for null.
///
/// # Safety
/// `block` is null or the start of a live block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    // SAFETY: the same promise.
    unsafe { plain::usable_size(block) }
}

/// What several names do, under none that a program can take over. A wrapper of the program's may call the second name of
/// what it wraps (`calloc` calls `__libc_calloc`): if that called the first one it would come back to the wrapper.
pub mod plain {
    use super::{c_int, c_void, failed, null_mut, raw};

    /// # Safety
    /// As [`realloc`](super::realloc).
    #[inline(always)]
    pub unsafe fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
        if block.is_null() {
            return raw::malloc(size).cast();
        }
        if size == 0 {
            // SAFETY: the caller hands over the block.
            unsafe { raw::free(block.cast()) };
            return null_mut();
        }
        // SAFETY: the caller hands over the block.
        unsafe { raw::realloc(block.cast(), size).cast() }
    }

    #[inline(always)]
    pub fn memalign(align: usize, size: usize) -> *mut c_void {
        match align.checked_next_power_of_two() {
            Some(align) => raw::aligned(align, size).cast(),
            None => failed(libc::EINVAL),
        }
    }

    /// # Safety
    /// As [`posix_memalign`](super::posix_memalign).
    #[inline(always)]
    pub unsafe fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
        if !align.is_power_of_two() || align < size_of::<*mut c_void>() {
            return libc::EINVAL;
        }
        let block = raw::aligned(align, size);
        if block.is_null() {
            return libc::ENOMEM;
        }
        // SAFETY: the caller lets us write to `out`.
        unsafe { *out = block.cast() };
        0
    }

    #[inline(always)]
    pub fn valloc(size: usize) -> *mut c_void {
        raw::aligned(raw::page_size(), size).cast()
    }

    #[inline(always)]
    pub fn pvalloc(size: usize) -> *mut c_void {
        let page = raw::page_size();
        match size.max(1).checked_next_multiple_of(page) {
            Some(size) => raw::aligned(page, size).cast(),
            None => failed(libc::ENOMEM),
        }
    }

    /// # Safety
    /// As [`malloc_usable_size`](super::malloc_usable_size).
    #[inline(always)]
    pub unsafe fn usable_size(block: *mut c_void) -> usize {
        if block.is_null() {
            return 0;
        }
        // SAFETY: the caller's promise.
        unsafe { raw::usable_size(block.cast()) }
    }
}

/// Second names of the family: what glibc exports beside the public ones, so that a program that pairs
/// `__libc_malloc` with `free`, or a wrapper of malloc with the name below it, stays with one allocator.
mod second_names {
    use super::*;

    /// `malloc`.
    #[unsafe(no_mangle)]
    pub extern "C" fn __libc_malloc(size: usize) -> *mut c_void {
        raw::malloc(size).cast()
    }

    /// `calloc`.
    #[unsafe(no_mangle)]
    pub extern "C" fn __libc_calloc(count: usize, size: usize) -> *mut c_void {
        raw::calloc(count, size).cast()
    }

    /// `realloc`.
    ///
    /// # Safety
    /// As [`realloc`].
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn __libc_realloc(block: *mut c_void, size: usize) -> *mut c_void {
        // SAFETY: the same promise.
        unsafe { plain::realloc(block, size) }
    }

    /// `free`.
    ///
    /// # Safety
    /// As [`free`].
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn __libc_free(block: *mut c_void) {
        // SAFETY: the same promise.
        unsafe { raw::free(block.cast()) }
    }

    /// `memalign`.
    #[unsafe(no_mangle)]
    pub extern "C" fn __libc_memalign(align: usize, size: usize) -> *mut c_void {
        plain::memalign(align, size)
    }

    /// `valloc`.
    #[unsafe(no_mangle)]
    pub extern "C" fn __libc_valloc(size: usize) -> *mut c_void {
        plain::valloc(size)
    }

    /// `pvalloc`.
    #[unsafe(no_mangle)]
    pub extern "C" fn __libc_pvalloc(size: usize) -> *mut c_void {
        plain::pvalloc(size)
    }

    /// `posix_memalign`.
    ///
    /// # Safety
    /// As [`posix_memalign`].
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn __posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
        // SAFETY: the same promise.
        unsafe { plain::posix_memalign(out, align, size) }
    }
}
