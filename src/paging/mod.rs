#![doc = include_str!("../../docs/paging.md")]
//!
//! # For those who read the source
//!
//! A layer above `files`. Which unit's bytes are there, who fetches them and who takes them away is one word's matter
//! for each: `region::Unit`, with its models. A region is in the process-wide index, as a file's pages are; it stays
//! there until nobody can touch it any more, so that every fault finds it.
//!
//! Its rooms, the lowest first; none imports one that comes after it (`tests/layering` checks).

mod error;
mod held;
mod mapping;
mod pages;
mod region;
mod service;
mod userfault;
mod waiting;

pub use error::{Cause, Error, PagerError, Result};
pub use held::{Held, Pin};
pub use pages::{Evicted, Pager};
pub use region::{PagedOptions, PagedRegion};
