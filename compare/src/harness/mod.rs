//! What every workload stands on: blocks that are verified, random numbers, threads that start together, and what the
//! process cost.
//!
//! Nothing here takes memory from the allocator under test except [`Block`] and [`Node`]: tables live in mappings of
//! their own ([`Table`]), so that time, faults and resident memory are the allocator's and not the harness's.

mod block;
mod calls;
mod cost;
mod job;
mod node;
mod random;
mod table;
pub mod tails;

pub use block::Block;
pub use calls::{calloc, free, malloc, map, unmap};
pub use cost::{
    Cost, Usage, mappings, page_size, processor_time, resident_kib, resident_peak_kib, thread_time,
    who_serves_malloc,
};
pub use job::{Flags, Job, Outcome, Quota, Supply, Work, beside, together};
pub use node::Node;
pub use random::Random;
pub use table::{Table, Zeroed};
