//! `api`: what a program sees. May import every layer below.
//!
//! [`SpecMalloc`] is the global allocator of a Rust program, [`raw`] the C interface that the preload library puts
//! names to; [`statistics`] is the record of figures, and [`shared_record`] puts it where another process can read it,
//! with the [`detail`] of heaps and arenas.

#[cfg(not(any(loom, shuttle)))]
pub mod detail;
#[cfg(not(any(loom, shuttle)))]
mod figures;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
mod limits;
#[cfg(not(any(shuttle, all(loom, not(test)))))]
// What it promises is a matter of orderings, which loom knows.
mod publication;
#[cfg(not(any(loom, shuttle)))]
pub mod raw;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
mod rust;
#[cfg(not(any(loom, shuttle)))] // Its layout is that of a file: a checker's atomics do not fit.
pub mod shared_record;
pub mod statistics;

#[cfg(not(any(loom, shuttle)))]
pub use figures::{finish_shared, open_shared};
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use rust::SpecMalloc;
