//! Models of the heap layer, on the real code: a whole [`Allocator`] on the simulated system.
//!
//! - `orders` (loom): what a release and an acquire hand over, with few steps and every schedule and stale value.
//! - `flows` (shuttle): whole paths of several threads, under schedules drawn at random and by priorities.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release --lib -p specmalloc heap`, and the same with shuttle.

#[cfg(shuttle)]
mod flows;
#[cfg(loom)]
mod orders;

use super::*;
use crate::pal::simulated::{Config, Simulated};
use crate::sync::{SeededBug, plant};

/// Every place that can be weakened, and the model that must fail then. The orders that only one of the two checkers
/// can judge are listed for that one.
pub(crate) const SEEDED: &[SeededBug] = &[
    #[cfg(loom)]
    bug("heap.inbox_push", "the release of a chain that is sent", "inbox"),
    #[cfg(loom)]
    bug("heap.inbox_take", "the acquire of what was sent", "inbox"),
    #[cfg(loom)]
    bug("heap.inbox_blind", "the compare-and-swap of a push", "inbox"),
    #[cfg(loom)]
    bug("heap.inbox_take_two_steps", "the one step of a take", "inbox"),
    #[cfg(loom)]
    bug("heap.possess", "the acquire of a heap", "possession"),
    #[cfg(loom)]
    bug("heap.give_up", "the release of a heap", "possession"),
    #[cfg(loom)]
    bug("heap.possess_two_steps", "the one step of taking possession", "possession"),
    #[cfg(loom)]
    bug("heap.huge_keep", "the release of a kept region", "kept_regions"),
    #[cfg(loom)]
    bug("heap.huge_take", "the acquire of a kept region", "kept_regions"),
    #[cfg(loom)]
    bug("heap.huge_take_two_steps", "the one step of taking a kept region", "kept_regions"),
    #[cfg(loom)]
    bug("heap.table_publish", "the release of an arena's entry in the table", "arena_published"),
    #[cfg(loom)]
    bug("heap.table_read", "the acquire of an arena's entry in the table", "arena_published"),
    #[cfg(shuttle)]
    bug("heap.possess_two_steps", "the one step of taking possession", "remote_frees"),
    #[cfg(shuttle)]
    bug("heap.steal_unpossessed", "possession of the heap that a slab is taken from", "remote_frees"),
    #[cfg(shuttle)]
    bug("heap.no_forward", "the look at the owner of a block that was received", "forwarded"),
    #[cfg(shuttle)]
    bug("heap.hand_over_keeps_own", "forgetting a slab that another heap took over", "remote_frees"),
    #[cfg(shuttle)]
    bug("heap.retire_unfrozen", "the freeze of an arena that is retired", "arenas_come_and_go"),
    #[cfg(shuttle)]
    bug("region.purge_without_claim", "the claim of what is purged", "purged_beside_claims"),
    #[cfg(shuttle)]
    bug("heap.purge_unchecked", "the look at whether a purge succeeded", "purge_that_fails"),
    #[cfg(shuttle)]
    bug("heap.extend_unclaimed", "the claim of the slices that a block grows into", "grown_in_place"),
    #[cfg(shuttle)]
    bug("heap.huge_take_two_steps", "the one step of taking a kept region", "huge_blocks"),
];

const fn bug(name: &'static str, removes: &'static str, caught_by: &'static str) -> SeededBug {
    SeededBug { name, removes, caught_by }
}

/// A started allocator, and the system under it. Every thread of a model holds an `Arc` of what holds it.
struct Base {
    allocator: Box<Allocator<Simulated>>,
    os: Simulated,
}

impl Base {
    fn new() -> Base {
        // As much as the index of a model tells apart.
        let os = Simulated::with(Config { reserve: 16 * GRANULE, ..Config::default() });
        let base = Base { allocator: Box::new(Allocator::new(os.clone())), os };
        base.get().start();
        base
    }

    /// The allocator, which lives as long as the model: no thread of it uses it after it has let go of its `Arc`.
    fn get(&self) -> &'static Allocator<Simulated> {
        // SAFETY: as said.
        unsafe { &*ptr::from_ref(&*self.allocator) }
    }

    fn possess(&self) -> &'static Heap {
        self.allocator.pool().possess_any(&self.allocator).expect("heaps enough")
    }
}

/// Runs every seeded bug against the model that must catch it.
fn catch_all(models: &[(&str, fn())]) {
    let mut survivors = Vec::new();
    for bug in SEEDED {
        let (_, model) =
            models.iter().find(|(name, _)| *name == bug.caught_by).expect("a model of that name");
        if plant(bug.name, *model) {
            println!("{:<30} caught by {}", bug.name, bug.caught_by);
        } else {
            survivors.push(bug);
        }
    }
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
    for (name, _) in models {
        assert!(SEEDED.iter().any(|bug| bug.caught_by == *name), "no seeded bug makes {name} fail");
    }
}
