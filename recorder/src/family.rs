//! malloc and its relations, under the names that programs call.

use crate::layout::{ALLOCATED, FREED, RESIZED, RESIZING, ZEROED};
use crate::log::note;
use crate::next::{early, early_bytes, functions};
use core::ffi::{c_int, c_void};
use core::ptr;

/// Notes a block that was allocated, unless there was no memory.
fn allocated(kind: u64, block: *mut c_void, size: usize, alignment: usize) -> *mut c_void {
    if !block.is_null() {
        note(kind, block, size, if alignment > 1 { alignment.trailing_zeros() } else { 0 });
    }
    block
}

fn fail(error: c_int) -> *mut c_void {
    // SAFETY: the calling thread's own error number.
    unsafe { *libc::__errno_location() = error };
    ptr::null_mut()
}

/// C.
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    let Some(next) = functions() else { return early(size) };
    // SAFETY: any size may be asked for.
    allocated(ALLOCATED, unsafe { next.malloc(size) }, size, 0)
}

/// C.
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(next) = functions() else { return early(count.saturating_mul(size)) };
    // SAFETY: any sizes may be asked for.
    allocated(ZEROED, unsafe { next.calloc(count, size) }, count.wrapping_mul(size), 0)
}

/// C.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    if block.is_null() || early_bytes(block).is_some() {
        return;
    }
    let Some(next) = functions() else { return };
    note(FREED, block, 0, 0);
    // SAFETY: the caller's.
    unsafe { next.free(block) };
}

/// C23.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(block: *mut c_void, _size: usize) {
    // SAFETY: the caller's.
    unsafe { free(block) };
}

/// C23.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(block: *mut c_void, _alignment: usize, _size: usize) {
    // SAFETY: the caller's.
    unsafe { free(block) };
}

/// C.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    let Some(next) = functions() else { return move_early(old, size) };
    if old.is_null() {
        // SAFETY: the caller's.
        return allocated(ALLOCATED, unsafe { next.realloc(old, size) }, size, 0);
    }
    if early_bytes(old).is_some() {
        return move_early(old, size);
    }
    // Both ends: the old address may go to another before this one has returned.
    note(RESIZING, old, 0, 0);
    // SAFETY: the caller's.
    let block = unsafe { next.realloc(old, size) };
    note(RESIZED, block, size, 0);
    block
}

/// Moves a block out of the arena. How large it was is not known, but what follows it there may be read.
fn move_early(old: *mut c_void, size: usize) -> *mut c_void {
    let block = malloc(size);
    if let (false, Some(behind)) = (block.is_null(), early_bytes(old)) {
        // SAFETY: bytes of the arena, and of a block that has as many; in the arena itself it lies behind the old one.
        unsafe { ptr::copy(old.cast::<u8>(), block.cast::<u8>(), size.min(behind)) };
    }
    block
}

/// BSD, glibc.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(old: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's.
        Some(bytes) => unsafe { realloc(old, bytes) },
        None => fail(libc::ENOMEM),
    }
}

/// glibc.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(alignment: usize, size: usize) -> *mut c_void {
    let Some(next) = functions() else { return fail(libc::ENOMEM) };
    // SAFETY: any sizes may be asked for.
    allocated(ALLOCATED, unsafe { next.memalign(alignment, size) }, size, alignment)
}

/// C11.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    let Some(next) = functions() else { return fail(libc::ENOMEM) };
    // SAFETY: any sizes may be asked for.
    allocated(ALLOCATED, unsafe { next.aligned_alloc(alignment, size) }, size, alignment)
}

/// POSIX.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, alignment: usize, size: usize) -> c_int {
    let Some(next) = functions() else { return libc::ENOMEM };
    // SAFETY: the caller's.
    let error = unsafe { next.posix_memalign(out, alignment, size) };
    if error == 0 {
        // SAFETY: the call has written it.
        allocated(ALLOCATED, unsafe { *out }, size, alignment);
    }
    error
}

fn page() -> usize {
    // SAFETY: always succeeds.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// BSD.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    memalign(page(), size)
}

/// glibc: whole pages.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    match size.max(1).checked_next_multiple_of(page()) {
        Some(bytes) => memalign(page(), bytes),
        None => fail(libc::ENOMEM),
    }
}
