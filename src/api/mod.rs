//! `api`: what a program sees. May import every layer below.
//!
//! [`statistics`] is the record of figures; `shared_record` puts it where another process can read it.

mod publication;
#[cfg(not(any(loom, shuttle)))] // Its layout is that of a file: a checker's atomics do not fit.
pub mod shared_record;
pub mod statistics;
