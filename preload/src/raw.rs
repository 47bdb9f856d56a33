//! The library's C interface for the threads of a preloaded program: `specmalloc::internals::api::raw` with the thread
//! type filled in.

use crate::guarded;
use crate::thread::PreloadThread;
use specmalloc::internals::api::raw;

pub use raw::{
    OptionError, Pressure, get_option, held_bytes, honours_deepbind, on_pressure, page_size, set_option,
};
pub use specmalloc::internals::api::statistics::figures;
pub use specmalloc::{BlockKind, Statistics, WalkedBlock};

#[inline(always)]
pub fn malloc(size: usize) -> *mut u8 {
    raw::malloc::<PreloadThread>(size)
}

#[inline(always)]
pub fn calloc(count: usize, size: usize) -> *mut u8 {
    raw::calloc::<PreloadThread>(count, size)
}

/// # Safety
/// As for C's `realloc`, with a size above zero.
pub unsafe fn realloc(block: *mut u8, size: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { raw::realloc::<PreloadThread>(block, size) }
}

/// # Safety
/// As for C's `free`.
#[inline(always)]
pub unsafe fn free(block: *mut u8) {
    // SAFETY: the caller's.
    unsafe { raw::free::<PreloadThread>(block) }
}

/// # Safety
/// As for C's `free_sized`.
pub unsafe fn free_sized(block: *mut u8, size: usize) {
    // SAFETY: the caller's.
    unsafe { raw::free_sized::<PreloadThread>(block, size) }
}

pub fn aligned(align: usize, size: usize) -> *mut u8 {
    raw::aligned::<PreloadThread>(align, size)
}

/// # Safety
/// `block` is null or a live block.
pub unsafe fn usable_size(block: *mut u8) -> usize {
    // SAFETY: the caller's.
    unsafe { raw::usable_size::<PreloadThread>(block) }
}

pub fn heap_of(block: *const u8) -> usize {
    raw::heap_of::<PreloadThread>(block).map_or(0, |heap| heap + 1)
}

pub fn walk(mut visit: impl FnMut(WalkedBlock) -> bool) {
    // Guarded blocks come where their addresses do.
    let (mut told, mut goes_on) = (0, true);
    raw::walk::<PreloadThread>(|block| {
        goes_on = visit_guarded(&mut told, block.address, &mut visit) && visit(block);
        goes_on
    });
    if goes_on {
        visit_guarded(&mut told, usize::MAX, &mut visit);
    }
}

/// Visits the guarded blocks between `told`, which is moved on, and `limit`. `false` if `visit` has said so.
fn visit_guarded(told: &mut usize, limit: usize, visit: &mut dyn FnMut(WalkedBlock) -> bool) -> bool {
    while let Some((address, size)) = guarded::next(*told).filter(|&(address, _)| address < limit) {
        *told = address;
        if !visit(WalkedBlock { address, size, kind: BlockKind::Large, blocks: 1 }) {
            return false;
        }
    }
    true
}

pub fn trim() -> bool {
    raw::trim::<PreloadThread>()
}

pub fn statistics() -> Statistics {
    raw::statistics::<PreloadThread>()
}

pub fn exact_statistics() -> Statistics {
    raw::exact_statistics::<PreloadThread>()
}

/// Opens the shared file of figures when the library is loaded, and closes the account when the process ends by itself.
pub mod account {
    use super::{PreloadThread, raw};

    extern "C" fn opened() {
        raw::open_shared();
    }

    extern "C" fn finished() {
        raw::finish_shared::<PreloadThread>();
    }

    #[used]
    #[unsafe(link_section = ".init_array")]
    static OPEN: extern "C" fn() = opened;
    #[used]
    #[unsafe(link_section = ".fini_array")]
    static FINISH: extern "C" fn() = finished;
}
