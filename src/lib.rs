//! specmalloc: a general-purpose memory allocator for Linux.
#![warn(missing_docs)]

pub mod api;
pub mod base;
#[cfg(not(any(loom, shuttle)))]
pub mod global;
pub mod heap;
pub mod index;
pub mod pal;
pub mod rcu;
pub mod region;
pub mod sync;

#[cfg(not(any(loom, shuttle)))]
pub use api::SpecMalloc;
