//! Runs: blocks of one slab that go home as one.
//!
//! What a thread frees for another heap is a chain already, and each of its blocks has its tag. So the heap that owns the
//! slab puts all of a run in front of the slab's list with one link, however long it is, and looks at no other blocks
//! than the first and the last. Which is the last, and how many they are, stands in the first, in two words that a free
//! block has no use for; and the second of them agrees with the first, the block and the secret, as tags do. A block of
//! two words has no room for that: of such a slab each block is a run.

use crate::base::class_size;
use crate::heap::block::{Block, Checks};
use crate::heap::record::Slab;
use crate::pal::{Call, Misuse, broken_contract};

/// Words of a block that lie behind those of the list.
const BEHIND: usize = 2;
const _: () = assert!(class_size(1) >= (BEHIND + 2) * size_of::<usize>());

/// A chain of free blocks of one slab, which the holder holds, or a heap or an outbox.
#[derive(Clone, Copy)]
pub struct Run {
    /// Each leads to the next.
    pub first: *mut Block,
    pub last: *mut Block,
    pub count: u32,
}

impl Run {
    /// A run of one block.
    pub fn of_one(block: *mut Block) -> Run {
        Run { first: block, last: block, count: 1 }
    }

    /// Whether blocks of the slab have room for what is told of a run.
    #[inline(always)]
    fn is_told(slab: &Slab) -> bool {
        slab.bin() > 0
    }

    /// Tells in the first block which run begins there.
    ///
    /// # Safety
    /// The caller holds the run, whose blocks are those of `slab`.
    #[inline(always)]
    pub unsafe fn tell(self, slab: &Slab, secret: usize) {
        if Run::is_told(slab) {
            let sum = self.count as usize ^ self.last.addr() ^ Block::key(self.first, secret);
            // SAFETY: the caller's; the block has four words at least, and nobody else reads these.
            unsafe {
                let words = self.first.cast::<usize>().add(BEHIND);
                words.cast::<*mut Block>().write(self.last);
                words.add(1).write(sum);
            }
        }
    }

    /// The run that begins with `first`, a block of `slab`. What was written there since it was told ends the process.
    ///
    /// # Safety
    /// The caller holds the run, and whoever sent it told of it.
    #[inline(always)]
    pub unsafe fn told<C: Checks>(first: *mut Block, slab: &Slab, secret: usize) -> Run {
        if !Run::is_told(slab) {
            return Run::of_one(first);
        }
        // SAFETY: as in `tell`.
        let (last, sum) = unsafe {
            let words = first.cast::<usize>().add(BEHIND);
            (words.cast::<*mut Block>().read(), words.add(1).read())
        };
        let count = sum ^ last.addr() ^ Block::key(first, secret);
        if C::ON && count.wrapping_sub(1) >= slab.info().capacity as usize {
            broken_contract(Misuse::WriteAfterFree, Call::Free, first.addr());
        }
        Run { first, last, count: count as u32 }
    }

    /// Takes its first block out. (What is behind the last is nobody's affair: it need be in no list.)
    ///
    /// # Safety
    /// The caller holds the run.
    pub unsafe fn pop<C: Checks>(&mut self, secret: usize) -> Option<*mut Block> {
        self.count = self.count.checked_sub(1)?;
        let block = self.first;
        if self.count > 0 {
            // SAFETY: the caller's.
            self.first = unsafe { Block::follow::<C>(block, secret) };
        }
        Some(block)
    }
}
