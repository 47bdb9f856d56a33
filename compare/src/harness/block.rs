//! One allocated block, held by a handle that knows what was written into it.

use std::hint::black_box;

use super::calls::{calloc, free, malloc, map, unmap};
use super::{Random, Zeroed};

/// A block from `malloc` with a tag written at both of its ends, so that a block handed out twice, an overlap, or a
/// block cut short is noticed when it is freed. A zero handle holds nothing.
///
/// The handle does not free on drop: when a block dies is what a workload is about.
pub struct Block {
    start: *mut u8,
    len: u32,
    tag: u32,
}

// SAFETY: the handle is a plain pointer to memory that one holder at a time reads, writes and frees; malloc's blocks
// may be used and freed by any thread.
unsafe impl Send for Block {}
// SAFETY: a shared handle only reads the block.
unsafe impl Sync for Block {}

// SAFETY: a null start with no length is `Block::NONE`, a valid handle that holds nothing.
unsafe impl Zeroed for Block {}

impl Block {
    /// Holds nothing; freeing it does nothing.
    pub const NONE: Block = Block { start: std::ptr::null_mut(), len: 0, tag: 0 };

    /// Allocates `len` bytes (1 to `u32::MAX`) and writes a tag drawn from `random` at both ends.
    ///
    /// Aborts the process when malloc answers null: no workload asks for more than the machine has.
    #[inline]
    pub fn new(len: usize, random: &mut Random) -> Block {
        Block::seal(malloc(len), len, random.next_u32())
    }

    /// A block that is a mapping of its own: what is left of one where there is no allocator.
    pub fn mapped(len: usize, random: &mut Random) -> Block {
        Block::seal(map(len), len, random.next_u32())
    }

    /// Verifies a block that is a mapping of its own, and unmaps it.
    pub fn unmap(self) {
        if !self.is_intact() {
            self.corrupted("a block's contents changed");
        }
        // SAFETY: the handle holds a mapping of this length, and is consumed here.
        unsafe { unmap(self.start, self.len as usize) };
    }

    /// Allocates zeroed memory through `calloc`, checks that its ends are zero, and tags it as [`Block::new`] does.
    #[inline]
    pub fn zeroed(len: usize, random: &mut Random) -> Block {
        let start = calloc(len);
        let block = Block { start, len: len as u32, tag: 0 };
        if !start.is_null() && !block.is_intact() {
            block.corrupted("calloc's block is not zero");
        }
        Block::seal(start, len, random.next_u32())
    }

    #[inline]
    fn seal(start: *mut u8, len: usize, tag: u32) -> Block {
        let block = Block { start, len: len as u32, tag };
        if start.is_null() {
            block.corrupted("malloc answered null");
        }
        // SAFETY: the block has `len` bytes, and the tag is written within them at both ends.
        unsafe {
            if len >= 8 {
                start.cast::<u32>().write_unaligned(tag);
                start.add(len - 4).cast::<u32>().write_unaligned(tag);
            } else {
                start.write(tag as u8);
                start.add(len - 1).write(tag as u8);
            }
        }
        block
    }

    /// Whether both ends still carry the tag. False for [`Block::NONE`].
    #[inline]
    pub fn is_intact(&self) -> bool {
        if self.start.is_null() {
            return false;
        }
        let len = self.len as usize;
        // SAFETY: the handle holds a live block of `len` bytes; both reads lie within it.
        unsafe {
            if len >= 8 {
                self.start.cast::<u32>().read_unaligned() == self.tag
                    && self.start.add(len - 4).cast::<u32>().read_unaligned() == self.tag
            } else {
                self.start.read() == self.tag as u8 && self.start.add(len - 1).read() == self.tag as u8
            }
        }
    }

    /// Verifies the block and frees it. Aborts the process, with one line on standard error, when the tags are gone.
    #[inline]
    pub fn free(self) {
        if self.start.is_null() {
            return;
        }
        if !self.is_intact() {
            self.corrupted("a block's contents changed");
        }
        // SAFETY: the handle holds a live block from malloc, calloc or realloc, and is consumed here.
        unsafe { free(self.start) };
    }

    /// Takes the block out and leaves nothing.
    #[inline]
    pub fn take(&mut self) -> Block {
        std::mem::replace(self, Block::NONE)
    }

    /// Frees every block of `blocks`, in order.
    #[inline]
    pub fn free_all(blocks: &mut [Block]) {
        blocks.iter_mut().for_each(|slot| slot.take().free());
    }

    /// Verifies the block, resizes it through `realloc`, checks that the front came along, and tags it anew.
    #[inline]
    pub fn resize(&mut self, len: usize, random: &mut Random) {
        if !self.is_intact() {
            self.corrupted("a block's contents changed");
        }
        // SAFETY: the block is live and has at least one byte.
        let front = unsafe { self.start.read() };
        // SAFETY: the handle holds a live block, which is replaced by the new one below.
        let start = black_box(unsafe { libc::realloc(self.start.cast(), len) }).cast::<u8>();
        if start.is_null() {
            self.corrupted("realloc answered null");
        }
        // SAFETY: the new block has at least one byte.
        if unsafe { start.read() } != front {
            self.corrupted("realloc lost the front of a block");
        }
        *self = Block::seal(start, len, random.next_u32());
    }

    /// Whether there is a block.
    #[inline]
    pub fn is_some(&self) -> bool {
        !self.start.is_null()
    }

    /// The block's size in bytes as it was asked for.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the handle holds nothing, or a block of no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The block's first byte.
    #[inline]
    pub fn start(&self) -> *mut u8 {
        self.start
    }

    /// Writes one byte into each page of the block, tags excepted, so that all of it becomes resident.
    #[inline]
    pub fn touch(&mut self, page_size: usize) {
        let mut at = page_size;
        while at + 4 < self.len as usize {
            // SAFETY: `at` lies inside the block, which is borrowed alone. Volatile, so that the store is not dropped
            // before the free.
            unsafe { self.start.add(at).write_volatile(at as u8) };
            at += page_size;
        }
    }

    #[cold]
    #[inline(never)]
    fn corrupted(&self, what: &str) -> ! {
        eprintln!("workloads: {what}: block {:p} of {} bytes, tag {:#010x}", self.start, self.len, self.tag);
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_end_is_noticed_at_every_size() {
        let mut random = Random::new(1);
        for len in (1..=64).chain([100, 1000, 4096, 100_000]) {
            for at in [0, len - 1] {
                let block = Block::new(len, &mut random);
                assert!(block.is_intact(), "{len} bytes, fresh");
                // SAFETY: `at` is inside the block.
                let old = unsafe { block.start().add(at).read() };
                // SAFETY: as above.
                unsafe { block.start().add(at).write(!old) };
                assert!(!block.is_intact(), "{len} bytes, changed at {at}");
                // SAFETY: as above.
                unsafe { block.start().add(at).write(old) };
                block.free();
            }
        }
    }

    #[test]
    fn a_block_handed_out_twice_is_noticed() {
        let mut random = Random::new(2);
        let first = Block::new(40, &mut random);
        let second = Block::seal(first.start(), 40, random.next_u32());
        assert!(second.is_intact() && !first.is_intact());
        second.free();
    }

    #[test]
    fn resize_keeps_the_front_and_moves_the_tags() {
        let mut random = Random::new(3);
        let mut block = Block::zeroed(10, &mut random);
        for len in [100, 5000, 300_000, 40, 4] {
            block.resize(len, &mut random);
            assert!(block.is_intact() && block.len() == len);
        }
        block.free();
    }
}
