//! `region`: ranges of address space and who may use them. May import `base`, `sync`, `pal` and `rcu`.
//!
//! A [`Region`] describes one contiguous range that the allocator mapped. Descriptors are immortal: they live in
//! [`Metadata`] that is never unmapped, and are recycled through [`Descriptors`] with a new generation. Who may unmap a
//! region and who may keep it is decided by one word, [`State`]; who holds which slice of an arena by [`SliceMap`],
//! who holds which block of a slab that any thread may allocate from by [`BlockMap`], where such slabs are looked for by
//! [`Place`]; whether the bytes of a part of a region are there that the program fetches itself, by its [`Unit`].
//!
//! The law of the layer: false-locked is fine, false-unlocked never. A reader that loses a race is refused; it never
//! waits for the unmapper.

#[cfg(all(test, loom))]
mod block_models;
mod blocks;
pub(crate) mod claims;
mod descriptor;
#[cfg(all(test, loom))]
mod file_models;
mod metadata;
#[cfg(all(test, loom))]
mod models;
mod notes;
#[cfg(all(test, loom))]
mod place_models;
mod places;
pub(crate) mod runs;
mod slices;
mod stack;
mod state;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
#[cfg(all(test, loom))]
mod unit_models;
mod units;

pub use blocks::{BlockMap, Given, MAP_BLOCKS};
pub(crate) use descriptor::KINDS;
pub use descriptor::{Descriptors, Kind, Region, RegionId, Retired, RetiredAs, Shape};
pub use metadata::{InPlace, Metadata};
pub use notes::{ArenaNotes, FileNotes, HeapNotes, HugeNotes};
pub use places::{Mapped, Place};
pub use runs::Run;
pub use slices::{Among, Attempt, Prefer, SliceMap};
pub(crate) use stack::STACK_ALIGN;
pub use stack::{Link, Linked, Stack};
pub use state::{Exclusion, Phase, Pinning, State};
pub use units::{Evict, Hold, Unit};

use crate::sync::atomic::{AtomicU64, AtomicUsize};

/// An array of atomics that are zero; a constant only where the atomics are core's.
#[cfg(not(any(loom, shuttle)))]
pub(crate) const fn zeros<const N: usize>() -> [AtomicUsize; N] {
    [const { AtomicUsize::new(0) }; N]
}

/// An array of atomics that are zero; a constant only where the atomics are core's.
#[cfg(any(loom, shuttle))]
pub(crate) fn zeros<const N: usize>() -> [AtomicUsize; N] {
    core::array::from_fn(|_| AtomicUsize::new(0))
}

/// The same, of 64 bits.
#[cfg(not(any(loom, shuttle)))]
pub(crate) const fn zeros64<const N: usize>() -> [AtomicU64; N] {
    [const { AtomicU64::new(0) }; N]
}

/// The same, of 64 bits.
#[cfg(any(loom, shuttle))]
pub(crate) fn zeros64<const N: usize>() -> [AtomicU64; N] {
    core::array::from_fn(|_| AtomicU64::new(0))
}
