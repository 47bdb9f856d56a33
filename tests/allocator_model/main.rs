//! The whole allocator on a simulated system, against a reference model: see `driver`.
//!
//! `sequences` runs random operations under several kinds of system, `failures` runs one workload as often as it makes
//! system calls, with another of them failing each time.

mod driver;
mod failures;
mod pattern;
mod sequences;
