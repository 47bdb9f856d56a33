//! `heap`: slabs, thread heaps, remote frees, large and huge blocks, purging.
//!
//! May import `base`, `sync`, `pal`, `rcu`, `region` and `index`. The front door is [`Allocator`], a value: a process
//! has one in a static (`global`), a test as many as it likes, on whatever platform.
//!
//! Its rooms, the lowest first; none imports one that comes after it (`tests/layering` checks):
//!
//! - `mend`, `possession`, `gate`, `block`: words. Who possesses a heap, who is inside, what a free block carries.
//! - `ground`: what everything stands on: address space, settings, figures, the bell.
//! - `seat`, `record`, `large`: what the slices of an arena are used for.
//! - `backend`: arenas, large blocks, huge blocks, and what of them goes back to the system, and when.
//! - `small`: slabs, heaps, and what passes between heaps.
//! - `place`: what lies at an address. `census`: everything counted.
//! - `lives`: heaps and the threads that come and go: visits, exits, forks.
//! - `allocator`: the door. `walk`: every live block, one after the other.
//!
//! The life of an allocation: `Bin::try_pop` -> [`Heap::refill`] -> `Heaps::new_slab` -> [`Arenas::claim`] ->
//! `SliceMap::claim`, or `Space::map_region` when no arena has room. And of a free: [`Bin::push`], or [`Slab::push`] ->
//! `Heap::countdown_ended` -> `Heap::close` -> [`Arenas::release`].

mod allocator;
mod backend;
mod block;
mod census;
mod gate;
mod ground;
mod large;
mod lives;
mod mend;
mod place;
mod possession;
mod record;
mod seat;
mod small;
mod walk;

#[cfg(all(test, not(any(loom, shuttle))))]
mod huge_tests;
#[cfg(all(test, any(loom, shuttle)))]
pub(crate) mod models;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

pub use allocator::{Allocator, BlockKind, LARGE_MAX};
pub use backend::{Arenas, Backend, Claim, Huge};
pub use block::{Block, Checked, Checks, Trusting};
pub use census::{ArenaCensus, Census, ClassCensus, HeapCensus, LiveBlocks};
pub use gate::{Gate, Visit};
pub use ground::{
    Bell, Bet, BetCount, Bets, Claimant, Count, Ground, HugeFigures, Limit, Refusals, Retention, Settings,
    Tally,
};
pub use lives::{HelperState, Looks};
pub use place::Place;
pub use possession::{Possession, ThreadId};
pub use record::{Slab, Usage};
pub use small::{Along, Bin, Freed, Heap, Heaps, MAX_HEAPS, Piece, Pool, Standing};
pub use walk::{Walk, WalkedBlock};
