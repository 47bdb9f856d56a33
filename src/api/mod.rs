//! `api`: what a program sees. May import every layer below.
//!
//! [`SpecMalloc`] is the global allocator of a Rust program, [`raw`] the C interface that the preload library puts
//! names to (`lookup` and `resizing` are parts of it), `samples` what both do with the allocations that are samples,
//! `probes` what tracers see of them, `profile` what a Rust program sees of that; [`statistics`] is the record of
//! figures, and [`shared_record`] puts it where another process can read it, with the [`detail`] of heaps and arenas.

#[cfg(not(any(loom, shuttle)))]
pub mod detail;
#[cfg(not(any(loom, shuttle)))]
mod figures;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
mod limits;
#[cfg(not(any(loom, shuttle)))]
mod lookup;
#[cfg(not(any(loom, shuttle)))]
mod probes;
#[cfg(all(feature = "profile", not(any(loom, shuttle))))]
pub mod profile;
#[cfg(not(any(shuttle, all(loom, not(test)))))]
// What it promises is a matter of orderings, which loom knows.
mod publication;
#[cfg(not(any(loom, shuttle)))]
pub mod raw;
#[cfg(not(any(loom, shuttle)))]
mod resizing;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
mod rust;
#[cfg(not(any(loom, shuttle)))]
mod samples;
#[cfg(not(any(loom, shuttle)))] // Its layout is that of a file: a checker's atomics do not fit.
pub mod shared_record;
pub mod statistics;
#[cfg(not(any(loom, shuttle)))]
mod walk;

#[cfg(not(any(loom, shuttle)))]
pub use figures::{finish_shared, open_shared, rest_shared};
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use rust::SpecMalloc;
