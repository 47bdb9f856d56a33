//! Guarded blocks, which another library has: libspecmalloc_profile.so, if it is loaded and the option says so. Here they
//! are strays: blocks of another allocator that come back to this one.

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use specmalloc::internals::global::{Stray, process};

/// `struct specmalloc_guarded` of `specmalloc.h`.
#[repr(C)]
pub struct Guarded {
    allocate: unsafe extern "C" fn(usize, usize, usize, usize) -> *mut u8,
    has: unsafe extern "C" fn(usize) -> c_int,
    size: unsafe extern "C" fn(usize, c_int) -> usize,
    free: unsafe extern "C" fn(*mut c_void),
    next: unsafe extern "C" fn(usize, *mut usize) -> usize,
}

static GUARDED: AtomicPtr<Guarded> = AtomicPtr::new(ptr::null_mut());

/// Has samples be blocks of that library's from now on.
pub fn have(guarded: &'static Guarded) {
    // Release: pairs with the Acquire in `guarded`: what the functions stand on is there.
    GUARDED.store(ptr::from_ref(guarded).cast_mut(), Ordering::Release);
}

fn guarded() -> Option<&'static Guarded> {
    // Acquire: pairs with the Release in `have`.
    // SAFETY: null, or one that stays.
    unsafe { GUARDED.load(Ordering::Acquire).as_ref() }
}

/// A block for a sample; null if there is none.
pub fn allocate(size: usize, align: usize, counted: usize) -> *mut u8 {
    let rate = process().settings().sample_rate();
    // SAFETY: a function of that type, which may be called with anything.
    guarded().map_or(ptr::null_mut(), |guarded| unsafe { (guarded.allocate)(size, align, counted, rate) })
}

/// The block at `address`, if it is a guarded one.
pub fn block_at(address: usize, is_free: bool) -> Option<Stray> {
    // SAFETY: as above.
    let guarded = guarded().filter(|guarded| unsafe { (guarded.has)(address) != 0 })?;
    // SAFETY: the address is one of that library's.
    let usable = unsafe { (guarded.size)(address, is_free.into()) };
    Some(Stray { usable, free: Some(guarded.free) })
}

/// The block with the lowest address above `address`, and its bytes.
pub fn next(address: usize) -> Option<(usize, usize)> {
    let mut size = 0;
    // SAFETY: a function of that type, which writes to `size`.
    let next = unsafe { (guarded()?.next)(address, &raw mut size) };
    (next != 0).then_some((next, size))
}
