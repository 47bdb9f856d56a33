//! What the command `specmalloc` and the comparison both measure with: medians and how far to trust them, and what a
//! child process cost. Knows neither of them, nor the allocator.

pub mod stats;
pub mod table;
pub mod usage;
