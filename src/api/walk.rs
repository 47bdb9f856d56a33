//! The walk over all live blocks: see `heap::walk` for what it promises.

#[cfg(feature = "std")]
use super::rust::{RustThread, SpecMalloc};
use crate::global::{Thread, process};
use crate::heap::{Walk, WalkedBlock};

/// Calls `visit` with each live block, by ascending address, until it says `false`. Nothing is held meanwhile: it may
/// allocate and free, and take as long as it likes.
pub fn walk<T: Thread>(mut visit: impl FnMut(WalkedBlock) -> bool) {
    let mut walk = Walk::begin(0);
    loop {
        let found = process().walk_on::<T::Checks>(&mut walk);
        if found.is_empty() || !found.iter().all(|&block| visit(block)) {
            return;
        }
    }
}

#[cfg(feature = "std")]
impl SpecMalloc {
    /// Calls `visit` with each live block of the process, by ascending address, while other threads go on. A block that
    /// is live all the while comes once; one that is allocated or freed meanwhile may come or not; what is free all the
    /// while does not. `visit` may allocate and free, and what it allocates may come, too: so it is to end by itself.
    ///
    /// In a release build free blocks of up to 32 KiB cannot be told from live ones. There each slab of them comes as
    /// if it were a block, with the number of those that are live: see [`WalkedBlock::blocks`].
    ///
    /// ```
    /// # use specmalloc::SpecMalloc;
    /// #[global_allocator]
    /// static ALLOC: SpecMalloc = SpecMalloc::new();
    ///
    /// let block = vec![1_u8; 100_000];
    /// let mut size = 0;
    /// ALLOC.walk(|found| {
    ///     if found.address == block.as_ptr().addr() {
    ///         size = found.size;
    ///     }
    /// });
    /// assert!(size >= 100_000);
    /// ```
    pub fn walk(&self, mut visit: impl FnMut(WalkedBlock)) {
        walk::<RustThread>(|block| {
            visit(block);
            true
        });
    }
}
