//! How a recording lies in memory: a head, the programs that are recorded, and a row of records, which all threads of
//! all processes fill from its start. A record's place is its place in the order of all calls.
//!
//! Both sides read this file: the library that records, and the crate that makes traces of it.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// What the memory begins with.
pub const MAGIC: u64 = 0x7370_6d74_7265_6331;
/// The variable that tells a process where the memory is.
pub const VARIABLE: &core::ffi::CStr = c"SPECMALLOC_RECORD";
/// How many programs are recorded at most.
pub const PROGRAMS: usize = 4096;
/// Bytes of a program's name, filled up with zeros.
pub const NAME: usize = 16;

/// The start of the memory.
#[repr(C)]
pub struct Head {
    /// [`MAGIC`].
    pub magic: u64,
    /// How many records there is room for.
    pub records: u64,
    /// Whether children are recorded, too.
    pub follow: u64,
    /// Only processes of this name are recorded, unless it is empty.
    pub name: [u8; NAME],
    /// How many records were begun; there may be more than have room.
    pub next: AtomicU64,
    /// The first process that was recorded: others are not, unless children are; zero before there is one.
    pub first: AtomicU32,
    /// How many programs were begun; there may be more than have room.
    pub programs: AtomicU32,
    /// The programs.
    pub program: [Program; PROGRAMS],
}

/// What a process runs, from its start, a fork or an exec to its end or the next exec.
#[repr(C)]
pub struct Program {
    /// The process.
    pub process: AtomicU32,
    /// The program it was forked from, counted from one; zero if it was none that is recorded.
    pub parent: AtomicU32,
    /// How many records had been begun when it was forked.
    pub forked: AtomicU64,
    /// How many threads have made calls.
    pub threads: AtomicU32,
    /// Written last: whether the rest is there.
    pub there: AtomicU32,
    /// Its name, as two words.
    pub name: [AtomicU64; NAME / 8],
}

/// One call:
/// the address shifted left by 16, the kind by 8, and the alignment as a power of two; written last, zero before that;
/// the size; the program shifted left by 32, and its thread.
pub type Record = [AtomicU64; 3];

/// A malloc that returned a block, or an aligned one.
pub const ALLOCATED: u64 = 1;
/// A calloc that did.
pub const ZEROED: u64 = 2;
/// A realloc begins: the block's address before.
pub const RESIZING: u64 = 3;
/// The last realloc that the thread began is over: the address after, and the size; zero if it returned none.
pub const RESIZED: u64 = 4;
/// A free begins.
pub const FREED: u64 = 5;

/// Bytes of a recording with room for `records`.
pub const fn bytes(records: u64) -> u64 {
    size_of::<Head>() as u64 + records * size_of::<Record>() as u64
}
