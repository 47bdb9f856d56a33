//! Arrays that come straight from the kernel, so that the harness's own tables never reach the allocator under test.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Types of which zero bytes are a valid value.
///
/// # Safety
/// All-zero bytes are a valid value of the type.
pub unsafe trait Zeroed {}

// SAFETY: zero.
unsafe impl Zeroed for u64 {}

// SAFETY: zero.
unsafe impl Zeroed for AtomicU64 {}

/// A fixed array of `T`, zero at first, in a mapping of its own. Its items are not dropped with it.
pub struct Table<T> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the table owns its mapping and its items; it goes to another thread when they may.
unsafe impl<T: Send> Send for Table<T> {}
// SAFETY: a shared table only hands out shared items.
unsafe impl<T: Sync> Sync for Table<T> {}

impl<T: Zeroed> Table<T> {
    /// A table of `len` items (at least one), all zero.
    pub fn new(len: usize) -> Table<T> {
        // SAFETY: a fresh anonymous mapping; no memory that is in use is affected.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len * size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(start != libc::MAP_FAILED, "no mapping for a table of {len} items");
        Table { start: NonNull::new(start.cast()).expect("mmap does not answer null"), len }
    }
}

impl<T> Deref for Table<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `len` items, zero at first, which `Zeroed` makes valid; it lives as long as self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Table<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and self is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is the table's own and is not used again.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}
