#![doc = include_str!("../../docs/heaps.md")]
//!
//! # For those who read the source
//!
//! A layer above `files`. What lies where is `memory`'s matter: a heap's regions are in the process-wide index, its
//! words lie in the first of them, and its blocks' bits beside them, never in a block. Which block is whose is
//! `region::BlockMap`, which slice is whose `region::SliceMap`, both with their models.
//!
//! Its rooms, the lowest first; none imports one that comes after it (`tests/layering` checks).

mod allocator;
mod backing;
mod heap;
mod large;
mod memory;
mod options;
mod record;
mod small;

pub use heap::{Heap, HeapStatistics, LimitReached};
pub use options::HeapOptions;
