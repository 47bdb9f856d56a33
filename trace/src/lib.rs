//! Traces of malloc calls: what the command `specmalloc` records and replays, and the comparison has rows of.
//!
//! A [`Trace`] is a list of calls, each by a thread, in one order for all threads. `file` is its form on disk (described
//! in docs/traces.md), `recording` what libspecmalloc_record.so leaves in memory, and `steps` what a replay needs.
//! Nothing in a file is trusted: what does not fit is an error, never a panic.

pub mod file;
pub mod recording;
pub mod steps;

use std::fmt;

/// One call. Blocks have numbers, in the order in which they were allocated; a realloc leaves a block its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// malloc, or a realloc of nothing.
    Malloc {
        /// Bytes.
        size: u64,
    },
    /// calloc.
    Calloc {
        /// Bytes in all.
        size: u64,
    },
    /// posix_memalign, aligned_alloc, memalign, valloc.
    Aligned {
        /// Bytes.
        size: u64,
        /// The power of two that the alignment is.
        shift: u8,
    },
    /// realloc to a size other than zero.
    Realloc {
        /// The block's number.
        block: u32,
        /// Bytes.
        size: u64,
    },
    /// free, or a realloc that freed.
    Free {
        /// The block's number.
        block: u32,
    },
}

/// The largest alignment, as a power of two: 1 GiB.
pub const LARGEST_SHIFT: u8 = 30;

impl Call {
    /// What the calls are called, in the order of [`Call::kind`].
    pub const NAMES: [&str; 5] = ["malloc", "calloc", "aligned", "realloc", "free"];

    /// Which call it is, by its place in [`Call::NAMES`].
    pub fn kind(&self) -> usize {
        match self {
            Call::Malloc { .. } => 0,
            Call::Calloc { .. } => 1,
            Call::Aligned { .. } => 2,
            Call::Realloc { .. } => 3,
            Call::Free { .. } => 4,
        }
    }
}

/// A call, and the thread that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The thread's number, in the order of their first calls.
    pub thread: u32,
    /// The call.
    pub call: Call,
}

/// Why a call does not fit behind those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is about a block that is not allocated yet.
    NotAllocated(u32),
    /// It is about a block that was freed.
    Freed(u32),
    /// There are more blocks than numbers.
    TooManyBlocks,
    /// It is the first of a thread whose number is not the next.
    Thread(u32),
    /// Its alignment is too large.
    Alignment(u8),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NotAllocated(block) => write!(f, "is about block {block}, which is not allocated yet"),
            Fault::Freed(block) => write!(f, "is about block {block}, which was freed before"),
            Fault::TooManyBlocks => write!(f, "allocates more blocks than there are numbers"),
            Fault::Thread(thread) => {
                write!(f, "is the first of thread {thread}, before threads of lower number")
            }
            Fault::Alignment(shift) => write!(f, "asks for an alignment of 2^{shift} bytes"),
        }
    }
}

/// Size of a block that was freed.
const GONE: u64 = u64::MAX;

/// The calls of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The program's name.
    pub program: String,
    /// Calls about blocks that the trace does not know, which are not in it.
    pub skipped: u64,
    calls: Vec<Entry>,
    threads: u32,
    /// Size of each block, [`GONE`] once it is freed.
    sizes: Vec<u64>,
    live: u64,
    peak_live: u64,
    counts: [u64; Call::NAMES.len()],
}

impl Trace {
    /// Adds a call. Returns the number of its block.
    pub fn push(&mut self, thread: u32, call: Call) -> Result<u32, Fault> {
        if thread > self.threads {
            return Err(Fault::Thread(thread));
        }
        let block = match call {
            Call::Malloc { size } | Call::Calloc { size } | Call::Aligned { size, .. } => {
                if let Call::Aligned { shift, .. } = call
                    && shift > LARGEST_SHIFT
                {
                    return Err(Fault::Alignment(shift));
                }
                let block = u32::try_from(self.sizes.len()).map_err(|_| Fault::TooManyBlocks)?;
                self.sizes.push(size.min(GONE - 1));
                self.grow(size);
                block
            }
            Call::Realloc { block, size } => {
                let before = std::mem::replace(self.size(block)?, size.min(GONE - 1));
                self.live = self.live.saturating_sub(before);
                self.grow(size);
                block
            }
            Call::Free { block } => {
                let before = std::mem::replace(self.size(block)?, GONE);
                self.live = self.live.saturating_sub(before);
                block
            }
        };
        self.threads = self.threads.max(thread + 1);
        self.counts[call.kind()] += 1;
        self.calls.push(Entry { thread, call });
        Ok(block)
    }

    /// The size of a live block.
    fn size(&mut self, block: u32) -> Result<&mut u64, Fault> {
        match self.sizes.get_mut(block as usize) {
            None => Err(Fault::NotAllocated(block)),
            Some(&mut GONE) => Err(Fault::Freed(block)),
            Some(size) => Ok(size),
        }
    }

    fn grow(&mut self, size: u64) {
        self.live = self.live.saturating_add(size);
        self.peak_live = self.peak_live.max(self.live);
    }

    /// The calls, in their order.
    pub fn calls(&self) -> &[Entry] {
        &self.calls
    }

    /// How many threads made them.
    pub fn threads(&self) -> usize {
        self.threads as usize
    }

    /// How many blocks were allocated.
    pub fn blocks(&self) -> usize {
        self.sizes.len()
    }

    /// Most bytes that were live at a time.
    pub fn peak_live(&self) -> u64 {
        self.peak_live
    }

    /// How many calls there are of each kind, as [`Call::NAMES`] has them.
    pub fn counts(&self) -> [u64; Call::NAMES.len()] {
        self.counts
    }

    /// Forgets the calls, which were made into steps.
    fn take_calls(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        let mut trace = Trace::default();
        assert_eq!(trace.push(1, Call::Malloc { size: 1 }), Err(Fault::Thread(1)));
        assert_eq!(trace.push(0, Call::Malloc { size: 10 }), Ok(0));
        assert_eq!(trace.push(1, Call::Realloc { block: 0, size: 30 }), Ok(0));
        assert_eq!(trace.push(1, Call::Free { block: 1 }), Err(Fault::NotAllocated(1)));
        assert_eq!(trace.push(0, Call::Free { block: 0 }), Ok(0));
        assert_eq!(trace.push(0, Call::Free { block: 0 }), Err(Fault::Freed(0)));
        assert_eq!(trace.push(0, Call::Aligned { size: 1, shift: 31 }), Err(Fault::Alignment(31)));
        assert_eq!((trace.threads(), trace.blocks(), trace.peak_live()), (2, 1, 30));
        assert_eq!((trace.calls().len(), trace.counts()), (3, [1, 0, 0, 1, 1]));
    }
}
