//! A free block: the two words that a block carries while nobody owns it.
//!
//! Word 0 is the next free block of the list, word 1 a tag that binds the block's address, word 0 and the process
//! secret together: `tag = next ^ address ^ secret`. One comparison therefore tells, when a block is handed out, that
//! neither word was written since it was freed, and so that `next` may be followed; and, when a block is freed, that
//! it is free already. The tag is cleared when the block is handed out. A program that overwrites either word by
//! accident matches with probability 2^-64.

use crate::pal::{Call, Misuse, broken_contract};
use crate::sync::{Cell, seeded, signal_fence, step};

/// Whether the paths verify what the caller hands in and what free blocks carry. One process uses one of the two:
/// the tag is part of the free lists' format.
pub trait Checks: 'static {
    /// `true`: pointers and free blocks are verified. `false`: the caller's `Layout` and pointer are trusted.
    const ON: bool;
}

/// Every default check: the C interface, and Rust programs built with debug assertions.
pub struct Checked;
impl Checks for Checked {
    const ON: bool = true;
}

/// No checks: what `GlobalAlloc`'s contract allows in a release build.
pub struct Trusting;
impl Checks for Trusting {
    const ON: bool = false;
}

/// The first two words of a free block.
#[repr(C)]
pub struct Block {
    next: Cell<*mut Block>,
    tag: Cell<usize>,
}

/// How often a walk looks at a block that changes under its eyes.
pub(super) const LOOKS: usize = 16;

const _: () = assert!(size_of::<Block>() == crate::base::MIN_BLOCK);

impl Block {
    /// What the tag of `block` binds the next pointer to: the block's address and the process's secret.
    #[inline(always)]
    pub fn key(block: *mut Block, secret: usize) -> usize {
        block.addr() ^ secret
    }

    /// Makes `block` a free block in front of `next`.
    ///
    /// # Safety
    /// `block` is the start of a block that the caller holds, `key` its key.
    #[inline(always)]
    pub unsafe fn link<C: Checks>(block: *mut Block, next: *mut Block, key: usize) {
        // SAFETY: the caller holds the block, which is at least two words long and aligned.
        let this = unsafe { &*block };
        this.next.set(next);
        // A walk sees them in this order: see `move_on`.
        signal_fence();
        if C::ON {
            this.tag.set(next.addr() ^ key);
        }
    }

    /// The block behind `block` in its list, or `None` if the block was written while it was free.
    ///
    /// # Safety
    /// `block` is a free block that the caller holds.
    #[inline(always)]
    pub unsafe fn next<C: Checks>(block: *mut Block, secret: usize) -> Option<*mut Block> {
        // SAFETY: as in `link`.
        let this = unsafe { &*block };
        let next = this.next.get();
        if C::ON && this.tag.get() ^ next.addr() ^ block.addr() != secret {
            return None;
        }
        Some(next)
    }

    /// The same, where a block that was written while it was free ends the process.
    ///
    /// # Safety
    /// As for [`Block::next`].
    #[inline(always)]
    pub unsafe fn follow<C: Checks>(block: *mut Block, secret: usize) -> *mut Block {
        // SAFETY: the caller's.
        match unsafe { Block::next::<C>(block, secret) } {
            Some(next) => next,
            None => broken_contract(Misuse::WriteAfterFree, Call::Free, block.addr()),
        }
    }

    /// Has the processor fetch the words of `block`, which may lie anywhere, for somebody who looks at them soon.
    #[inline(always)]
    pub fn expect(block: *mut Block) {
        #[cfg(all(target_arch = "x86_64", not(any(miri, loom, shuttle))))]
        // SAFETY: an address that cannot be read is fetched by nobody, and nothing is told of it.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(block.cast_const().cast());
        }
        #[cfg(all(target_arch = "aarch64", not(any(miri, loom, shuttle))))]
        // SAFETY: as above.
        unsafe {
            core::arch::asm!("prfm pldl1keep, [{}]", in(reg) block, options(nostack, preserves_flags, readonly));
        }
        let _elsewhere = block;
    }

    /// Takes the mark of a free block off, so that the next free of it is no double free.
    ///
    /// # Safety
    /// `block` is a block that the caller is about to hand out.
    #[inline(always)]
    pub unsafe fn clear<C: Checks>(block: *mut Block) {
        if C::ON {
            // SAFETY: as in `link`.
            unsafe { &*block }.tag.set(0);
        }
    }

    /// Marks a free block that leaves its list for another, until it is there: a walk is not to take it for live because
    /// its two words do not agree meanwhile. The mark is the complement of the tag of a block in front of nothing.
    ///
    /// # Safety
    /// `block` is a free block that the caller holds, and is about to put into a list.
    #[inline(always)]
    pub unsafe fn move_on<C: Checks>(block: *mut Block, secret: usize) {
        if C::ON && !seeded("heap.moved_unmarked") {
            // SAFETY: as in `link`.
            unsafe { &*block }.tag.set(!Block::key(block, secret));
            signal_fence();
        }
    }

    /// Whether `block` is free, asked while its holder, if it has one, goes on. A block that is free all along is said
    /// to be free, whatever list it is moved to meanwhile, and one that is live all along is not, unless the program
    /// has written there what no program can know.
    ///
    /// Whoever moves a block writes the mark, then `next`, then the tag. The tag is read before and after `next`: if it
    /// was the same, and neither the mark nor in agreement with `next`, nobody was in the middle of that. (Somebody who
    /// began after the first look and came a second time to the same tag before the last one would not be seen: the
    /// block would have to have been moved twice between two loads. That the loads, and the stores, happen in the order of
    /// the program is what x86-64 grants.)
    ///
    /// # Safety
    /// At `block` are two words that can be read, in a slab.
    pub unsafe fn is_free_meanwhile(block: *mut Block, key: usize) -> bool {
        let [next, tag] = [0, 1].map(|word| block.cast::<usize>().wrapping_add(word));
        for _ in 0..LOOKS {
            // SAFETY: the caller's. The words may be the program's, who may be writing to them: what is read is compared,
            // and nothing else.
            let look = |word: *mut usize| unsafe { word.read_volatile() };
            let before = look(tag);
            step();
            let next = look(next);
            step();
            if before ^ next == key || before == !key {
                return true;
            }
            if look(tag) == before {
                return false;
            }
        }
        // The program's: nobody moves a block that often.
        false
    }

    /// Whether `block` carries the mark of a free block.
    ///
    /// # Safety
    /// `block` is the start of a block of a slab, `key` its key.
    #[inline(always)]
    pub unsafe fn is_free(block: *mut Block, key: usize) -> bool {
        // SAFETY: a block is at least two words long, mapped, and read by whoever frees it only.
        let this = unsafe { &*block };
        this.tag.get() ^ this.next.get().addr() == key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr;

    #[test]
    fn a_write_to_either_word_is_seen() {
        let mut words = [[0usize; 2]; 2];
        let first = (&raw mut words[0]).cast::<Block>();
        let second = (&raw mut words[1]).cast::<Block>();
        let secret = 0x5eed_cafe_f00d_d1ce;
        // SAFETY: both blocks are two words of this test's own memory.
        unsafe {
            let key = Block::key(first, secret);
            Block::link::<Checked>(first, second, key);
            assert_eq!(Block::next::<Checked>(first, secret), Some(second));
            assert!(Block::is_free(first, key));
            for word in 0..2 {
                let at = first.cast::<usize>().add(word);
                at.write(at.read() ^ 0x100);
                assert_eq!(Block::next::<Checked>(first, secret), None);
                assert!(!Block::is_free(first, key));
                at.write(at.read() ^ 0x100);
            }
            Block::clear::<Checked>(first);
            assert!(!Block::is_free(first, key));
        }
    }

    #[test]
    fn a_walk_takes_a_moved_block_for_free() {
        let mut words = [[0usize; 2]; 2];
        let [first, second] = [0, 1].map(|at| (&raw mut words[at]).cast::<Block>());
        let secret = 0x5eed_cafe_f00d_d1ce;
        let key = Block::key(first, secret);
        // SAFETY: both blocks are two words of this test's own memory.
        unsafe {
            assert!(!Block::is_free_meanwhile(first, key));
            Block::link::<Checked>(first, second, key);
            assert!(Block::is_free_meanwhile(first, key));
            Block::move_on::<Checked>(first, secret);
            assert!(Block::is_free_meanwhile(first, key) && !Block::is_free(first, key));
            first.cast::<usize>().write(17);
            assert!(Block::is_free_meanwhile(first, key));
            Block::link::<Checked>(first, ptr::null_mut(), key);
            assert!(Block::is_free_meanwhile(first, key) && Block::is_free(first, key));
            Block::clear::<Checked>(first);
            assert!(!Block::is_free_meanwhile(first, key));
        }
    }
}
