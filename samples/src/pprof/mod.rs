//! Profiles in pprof's format, made of what an image has counted.
//!
//! `data` is a profile, `messages` its form in a file; `collect` makes one of an image, with the `objects` that its
//! addresses lie in, and `symbols` finds the names of functions there, or in what is kept `separate` of them; `entries`
//! are functions that stacks do not begin with.

mod collect;
mod data;
mod entries;
mod messages;
mod objects;
mod separate;
mod symbols;

pub use collect::{Before, before, profile, profile_below};
pub use data::{KINDS, Leak, Line, Location, Mapping, Profile, Stack, example};
pub use objects::{Object, Segment};
pub use symbols::{resolve, resolve_below};
