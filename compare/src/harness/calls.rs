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
