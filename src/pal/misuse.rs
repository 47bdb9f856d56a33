//! What is said when the program breaks the allocator's contract: one line with the pointer, then the end.
//!
//! The heap cannot be trusted any more at that point, so nothing here allocates, formats or returns.

use super::report::{end_process, to_stderr};

/// How the program broke the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// A block was freed that is free already.
    DoubleFree,
    /// An address inside this allocator's memory that is not the start of a block.
    Interior,
    /// An address that is not this allocator's.
    Foreign,
    /// A free block was written to.
    WriteAfterFree,
    /// A typed free or resize whose size does not belong to the block.
    SizeMismatch,
}

impl Misuse {
    /// The words before and after the address.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Misuse::DoubleFree => ("double free of ", ""),
            Misuse::Interior => ("invalid free of ", ": not the start of a block"),
            Misuse::Foreign => ("invalid free of ", ": not from this allocator"),
            Misuse::WriteAfterFree => ("memory written after free at ", ""),
            Misuse::SizeMismatch => ("invalid free of ", ": the size is not the block's"),
        }
    }
}

/// Longest message: the longest words, 18 characters of address, and some to spare.
const LONGEST: usize = 128;

/// Writes `specmalloc: <what> 0x<address>` to standard error and aborts.
#[cold]
#[inline(never)]
pub fn broken_contract(misuse: Misuse, address: usize) -> ! {
    // A checker reports a failed model by a panic, and goes on to the next.
    #[cfg(any(loom, shuttle))]
    if true {
        panic!("{misuse:?} at {address:#x}");
    }
    let mut line = [0u8; LONGEST];
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        for &byte in bytes {
            line[len] = byte;
            len += 1;
        }
    };
    let (before, after) = misuse.words();
    put(b"specmalloc: ");
    put(before.as_bytes());
    put(b"0x");
    let digits = (usize::BITS - (address | 1).leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        put(&[b"0123456789abcdef"[(address >> (digit * 4)) & 15]]);
    }
    put(after.as_bytes());
    put(b"\n");
    to_stderr([&line[..len]]);
    end_process()
}
