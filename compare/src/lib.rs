//! What compares specmalloc with its peers: workloads that run on whatever serves malloc, programs measured once per
//! Rust global allocator, and the runner that puts the figures side by side.

pub mod harness;
#[cfg(feature = "runner")]
pub mod runner;
pub mod rust_paths;
#[cfg(feature = "runner")]
pub mod workloads;
