//! Models of the heap layer, on the real code: a whole [`Allocator`] on the simulated system.
//!
//! - `orders` (loom): what a release and an acquire hand over, with few steps and every schedule and stale value.
//! - `gates` (loom): an owner and a visitor of its heap.
//! - `helping` (loom): the helper's life.
//! - `hints` (loom): what is known of the arenas, while they change and others look.
//! - `limits` (loom): what threads take at the same time under a limit.
//! - `flows` (shuttle): whole paths of several threads, under schedules drawn at random and by priorities.
//! - `fallow` (shuttle): pages of small free blocks that go back.
//! - `sent` (shuttle): blocks that come to a heap which had their slab before.
//! - `programs` (shuttle): the same with programs drawn at random, too.
//! - `arenas` (shuttle): the table of arenas, walked while they come and go.
//! - `forks` (shuttle): fork at any step of the other threads.
//! - `huge` (shuttle): regions of huge blocks, on their way to other blocks or back to the system.
//! - `helper` (shuttle): who makes memory idle, beside a helper that is about to sleep.
//! - `walks` (shuttle): every live block told, while others allocate, free, and move what is free.
//! - `lives_of_slabs` (loom): what is read of a slab that is closed and opened as another.
//! - `world` (shuttle): the ledger that whole paths are held against.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --profile model --lib -p specmalloc heap`, and the same with shuttle.

#[cfg(shuttle)]
mod arenas;
#[cfg(shuttle)]
mod fallow;
#[cfg(shuttle)]
mod flows;
#[cfg(shuttle)]
mod forks;
#[cfg(loom)]
mod gates;
#[cfg(shuttle)]
mod helper;
#[cfg(loom)]
mod helping;
#[cfg(loom)]
mod hints;
#[cfg(shuttle)]
mod huge;
#[cfg(loom)]
mod limits;
#[cfg(loom)]
mod lives_of_slabs;
#[cfg(loom)]
mod orders;
#[cfg(shuttle)]
mod programs;
#[cfg(shuttle)]
mod sent;
#[cfg(shuttle)]
mod walks;
#[cfg(shuttle)]
mod world;

use super::*;
use crate::base::{GRANULE, SLICE};
#[cfg(shuttle)]
use crate::index::Found;
use crate::pal::Platform;
use crate::pal::simulated::{Config, Simulated};
#[cfg(loom)]
use crate::region::Prefer;
#[cfg(shuttle)]
use crate::region::Region;
use crate::sync::SeededBug;
use crate::sync::atomic::{AtomicUsize, Ordering};
use core::ptr;

/// Who possesses heaps in models in which it does not matter.
const THREAD: ThreadId = ThreadId::new(1);

/// A started allocator, and the system under it. Every thread of a model holds an `Arc` of what holds it.
struct Base<P: Platform = Simulated> {
    allocator: Box<Allocator<P>>,
    os: P,
}

impl Base {
    fn new() -> Base {
        // As much as the index of a model tells apart.
        let os = Simulated::with(Config { reserve: 16 * GRANULE, ..Config::default() });
        Base::on(os)
    }
}

impl<P: Platform + Clone> Base<P> {
    fn on(os: P) -> Base<P> {
        let base = Base { allocator: Box::new(Allocator::new(os.clone())), os };
        base.get().start();
        base.get().adapt();
        base
    }
}

impl<P: Platform> Base<P> {
    /// The allocator, which lives as long as the model: no thread of it uses it after it has let go of its `Arc`.
    fn get(&self) -> &'static Allocator<P> {
        // SAFETY: as said.
        unsafe { &*ptr::from_ref(&*self.allocator) }
    }

    fn possess(&self) -> &'static Heap {
        self.possess_as(THREAD)
    }

    fn possess_as(&self, holder: ThreadId) -> &'static Heap {
        self.allocator.pool().possess_any(&self.allocator, holder).expect("heaps enough")
    }
}
