//! MOCK of `specmalloc::raw`, one mapping per block, until the library's own lands.
use crate::errno;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

static BLOCKS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

pub use specmalloc::api::statistics::Statistics;

pub fn malloc(size: usize) -> *mut u8 {
    aligned(16, size)
}
pub fn calloc(n: usize, size: usize) -> *mut u8 {
    aligned(16, n.checked_mul(size).unwrap_or(usize::MAX))
}
pub fn aligned(align: usize, size: usize) -> *mut u8 {
    if size > isize::MAX as usize || align > 1 << 40 {
        errno::set(libc::ENOMEM);
        return core::ptr::null_mut();
    }
    let len = size + align + 32;
    unsafe {
        let p = libc::mmap(
            core::ptr::null_mut(),
            len,
            3,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        if p == libc::MAP_FAILED {
            errno::set(libc::ENOMEM);
            return core::ptr::null_mut();
        }
        let at = (p as usize + 32).next_multiple_of(align.max(16));
        let h = at as *mut usize;
        h.sub(4).write(p as usize);
        h.sub(3).write(len);
        h.sub(2).write(size);
        BLOCKS.fetch_add(1, SeqCst);
        BYTES.fetch_add(size as u64, SeqCst);
        at as *mut u8
    }
}
pub unsafe fn realloc(p: *mut u8, size: usize) -> *mut u8 {
    let q = malloc(size);
    if !q.is_null() {
        unsafe {
            let n = usable_size(p).min(size);
            core::ptr::copy_nonoverlapping(p, q, n);
            free(p);
        }
    }
    q
}
pub unsafe fn free(p: *mut u8) {
    if p.is_null() {
        return;
    }
    unsafe {
        BLOCKS.fetch_sub(1, SeqCst);
        let h = p as *mut usize;
        BYTES.fetch_sub(h.sub(2).read() as u64, SeqCst);
        libc::munmap(h.sub(4).read() as *mut _, h.sub(3).read());
    }
}
pub unsafe fn usable_size(p: *mut u8) -> usize {
    unsafe { (p as *mut usize).sub(2).read() }
}
pub fn trim(_pad: usize) -> bool {
    false
}
pub fn statistics() -> Statistics {
    Statistics { live_bytes: BYTES.load(SeqCst), live_blocks: BLOCKS.load(SeqCst), ..Statistics::new() }
}
pub enum OptionError {
    UnknownName,
    BadValue,
    TooLate,
}
pub fn set_option(_name: &str, _value: &str) -> Result<(), OptionError> {
    Err(OptionError::UnknownName)
}
pub fn heap_of(_p: *const u8) -> usize {
    0
}
pub fn get_option(_name: &str) -> Option<u64> {
    None
}
