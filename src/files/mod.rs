#![doc = include_str!("../../docs/mapped-files.md")]
//!
//! # For those who read the source
//!
//! A layer beside `api`, above `global`; it may use std and allocate. What a region is, and the order in which one goes,
//! is the index's: `index::Current` is the word that leads to a region beside the index, with its models.

mod access;
mod error;
mod faults;
mod guard;
mod mapping;
mod open;
mod options;
mod region;
pub(crate) mod section;
mod source;
mod system;

pub use access::Cursor;
pub use error::{Cause, Error, Fault, Result};
pub use guard::{Guard, Pin};
pub use memmap2::Advice;
pub use options::FileOptions;
pub use region::{FileRegion, Reopened, Unmapped};
pub use source::memfd;

#[cfg(any(feature = "heaps", feature = "paging"))]
pub(crate) use mapping::no_memory;
#[cfg(feature = "heaps")]
pub(crate) use section::slot;
#[cfg(feature = "heaps")]
pub(crate) use source::{metadata, page_of};
