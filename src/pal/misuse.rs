//! What is said when the program breaks the allocator's contract: one line with the pointer, then the end.
//!
//! The heap cannot be trusted any more at that point, so nothing here allocates, formats or returns.

use super::report::{end_process, to_stderr};

/// How the program broke the contract. Each says no more than what is known: what is said about an address is true of
/// every way in which the program can have come by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// A block started there, and was freed.
    DoubleFree,
    /// An address inside a live block, or beside all blocks of a slab, that is not the start of one.
    Interior,
    /// An address inside this allocator's memory where nothing lives: not now, and nothing is known of what did.
    Nothing,
    /// An address outside this allocator's memory: it was never inside, or the memory has been given back since.
    Foreign,
    /// An address in the memory of a heap that is a value: its blocks are freed through it.
    OfHeap,
    /// A free block was written to.
    WriteAfterFree,
    /// A typed free or resize whose size does not belong to the block.
    SizeMismatch,
}

/// The function that the program called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `free`, `operator delete` and all that does the same.
    Free,
    /// `free_sized` and `free_aligned_sized`.
    FreeSized,
    /// `realloc` and `reallocarray`.
    Realloc,
    /// `malloc_usable_size`.
    UsableSize,
}

impl Misuse {
    /// The words before and after the address.
    const fn words(self, call: Call) -> (&'static str, &'static str) {
        let invalid = match call {
            Call::Free => "invalid free of ",
            Call::FreeSized => "invalid free_sized of ",
            Call::Realloc => "invalid realloc of ",
            Call::UsableSize => "invalid malloc_usable_size of ",
        };
        match (self, call) {
            (Misuse::DoubleFree, Call::Free | Call::FreeSized) => ("double free of ", ""),
            (Misuse::DoubleFree, _) => (invalid, ": the block is free"),
            (Misuse::Interior, _) => (invalid, ": not the start of a block"),
            (Misuse::Nothing, _) => (invalid, ": no live block is there"),
            (Misuse::Foreign, _) => (invalid, ": not in the memory of this allocator"),
            (Misuse::OfHeap, _) => (invalid, ": it belongs to a heap of its own"),
            (Misuse::WriteAfterFree, _) => ("memory written after free at ", ""),
            (Misuse::SizeMismatch, _) => (invalid, ": the size is not the block's"),
        }
    }
}

/// Longest message: the longest words, 18 characters of address, and some to spare.
const LONGEST: usize = 128;

/// Writes `specmalloc: <what> 0x<address>` to standard error and aborts.
#[cold]
#[inline(never)]
pub fn broken_contract(misuse: Misuse, call: Call, address: usize) -> ! {
    // A checker reports a failed model by a panic, and goes on to the next.
    #[cfg(any(loom, shuttle))]
    if true {
        panic!("{misuse:?} at {address:#x} by {call:?}");
    }
    let mut line = [0u8; LONGEST];
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        for &byte in bytes {
            line[len] = byte;
            len += 1;
        }
    };
    let (before, after) = misuse.words(call);
    put(b"specmalloc: ");
    put(before.as_bytes());
    put(b"0x");
    let digits = (usize::BITS - (address | 1).leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        put(&[b"0123456789abcdef"[(address >> (digit * 4)) & 15]]);
    }
    put(after.as_bytes());
    put(b"\n");
    to_stderr(&line[..len]);
    end_process()
}
