//! The door of guarded blocks: what is wrong with one ends in a report.

use super::pool::{self, Wrong};
use super::{report, system};
use core::ptr;

/// Prepares for guarded blocks. When the library is loaded. Whether there can be any.
pub fn guard() -> bool {
    let can = pool::reserve();
    if can {
        report::watch_faults();
    }
    can
}

/// Whether `address` lies among guarded blocks.
pub fn is_guarded(address: usize) -> bool {
    pool::is_guarded(address)
}

/// A guarded block for a sample, all zero, which is noted; null if an ordinary one has to do.
pub fn allocate_guarded(size: usize, align: usize, counted: usize, rate: usize) -> *mut u8 {
    system::with_errno_kept(|| pool::allocate(size, align, counted, rate).unwrap_or(ptr::null_mut()))
}

/// The bytes of the guarded block that starts at `address`, which is about to be freed, or used otherwise. What is no
/// such block, though among them, ends the process with a report.
pub fn size_of_guarded(address: usize, is_free: bool) -> usize {
    pool::size_of_block(address).unwrap_or_else(|wrong| end(wrong, address, is_free))
}

/// Frees the guarded block that starts at `address`.
pub fn free_guarded(address: usize) {
    system::with_errno_kept(|| {
        if let Err(wrong) = pool::free(address) {
            end(wrong, address, true);
        }
    });
}

fn end(wrong: Wrong, address: usize, is_free: bool) -> ! {
    match wrong {
        Wrong::NotLive(place) => report::misuse(address, place, is_free),
        Wrong::Written(at, place) => report::written(at, place),
    }
}

/// The live guarded block with the lowest address above `address`, and its bytes.
pub fn next_guarded(address: usize) -> Option<(usize, usize)> {
    pool::next(address)
}
