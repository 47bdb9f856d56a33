//! The calls that are measured. In a run about tails each is timed by itself; otherwise that costs one load and a
//! branch that is never taken.

use std::hint::black_box;

use super::tails::{self, Kind};

/// `malloc(len)`.
#[inline(always)]
pub fn malloc(len: usize) -> *mut u8 {
    // SAFETY: malloc takes any size.
    let call = || black_box(unsafe { libc::malloc(len) }).cast::<u8>();
    if tails::are_on() { tails::timed(Kind::Malloc, call) } else { call() }
}

/// `calloc(1, len)`; timed as a malloc.
#[inline(always)]
pub fn calloc(len: usize) -> *mut u8 {
    // SAFETY: calloc takes any size.
    let call = || black_box(unsafe { libc::calloc(1, len) }).cast::<u8>();
    if tails::are_on() { tails::timed(Kind::Malloc, call) } else { call() }
}

/// `free(block)`.
///
/// # Safety
/// `block` is null or a live block of the C library's interface, which the caller gives up.
#[inline(always)]
pub unsafe fn free(block: *mut u8) {
    // SAFETY: as the caller promises.
    let call = || unsafe { libc::free(black_box(block).cast()) };
    if tails::are_on() { tails::timed(Kind::Free, call) } else { call() }
}

/// Maps `len` bytes of zero memory; null if the system refuses.
pub fn map(len: usize) -> *mut u8 {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh anonymous mapping; no memory that is in use is affected.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
    if start == libc::MAP_FAILED { std::ptr::null_mut() } else { black_box(start).cast() }
}

/// Unmaps `len` bytes.
///
/// # Safety
/// `start` is a mapping of this length, which the caller gives up.
pub unsafe fn unmap(start: *mut u8, len: usize) {
    // SAFETY: as the caller promises.
    unsafe { libc::munmap(black_box(start).cast(), len) };
}
