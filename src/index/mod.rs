//! `index`: from an address to its region. May import `base`, `sync`, `pal`, `rcu` and `region`.
//!
//! A fixed radix (see `radix`): readers write nothing and never retry, writers change one entry at a time by
//! compare-and-swap, and writers of disjoint regions share no lock.
//!
//! # Why a lookup never returns a region that is gone
//!
//! - *Publish.* A region is attached, its fields complete, before the first entry that names it is released; a lookup
//!   acquires each entry that it follows. So a lookup that finds the region finds it complete.
//! - *Retire.* All entries that name the region are cleared before it is retired. A reader whose section began before
//!   the clearing may hold the region, and the grace period waits for its section; one whose section began after the
//!   heavy barrier finds the entries empty. See `rcu`. The memory is unmapped, and the descriptor begins its next life,
//!   only after the grace period and after the pins have drained.
//! - *Nodes.* The root and the nodes of granules and slices are immortal, so [`Index::lookup_coarse`] may walk them
//!   outside a section. Nodes of pages come and go through the same grace periods.
//!
//! [`Space`] is the front door: it maps regions, publishes, pins, retires and unmaps them.

mod current;
mod entry;
mod hands;
mod holes;
mod moving;
mod pages;
mod pins;
mod placement;
mod radix;
mod space;
mod tree;

#[cfg(all(test, loom))]
pub(crate) mod models;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

pub use current::Current;
pub use hands::Held;
pub use moving::Move;
pub use pins::Pin;
pub use space::{Space, SpaceCounts, UnmapError};
pub use tree::{Found, Index};
