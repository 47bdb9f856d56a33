//! Models of those who wait for another thread's fetch, or eviction: nobody waits for what is over. (A checker says that
//! a thread waits forever.)

use super::Waiting;
use crate::region::{Evict, Hold, Unit};
use crate::sync::SeededBug;
use crate::sync::checker::{explore, models};
use loom::thread;
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("paging.told_without_lock", "the lock of who tells", "fetched_for_another"),
    SeededBug::new("paging.told_first", "the telling after the change", "fetched_for_another"),
    SeededBug::new(
        "paging.looked_without_lock",
        "the look under the lock of who waits",
        "evicted_before_another",
    ),
    SeededBug::new("paging.told_to_one", "the telling of all who wait", "fetched_for_one_of_two"),
    SeededBug::new(
        "paging.waits_when_closed",
        "the look of who waits whether it is closed",
        "closed_beside_a_wait",
    ),
];

/// Units, as a region has them.
struct World {
    units: [Unit; 2],
    waiting: Waiting<()>,
}

impl World {
    fn new() -> Arc<World> {
        Arc::new(World { units: [Unit::new(), Unit::new()], waiting: Waiting::new(()) })
    }

    /// Holds a unit, as `Pages::hold` does; `false` if the region was closed.
    fn hold(&self, index: usize, thread: u32) -> bool {
        loop {
            if self.waiting.is_closed() {
                return false;
            }
            match self.units[index].hold(thread) {
                Hold::Held => return true,
                Hold::Fetch => {
                    self.fetched(index);
                    return true;
                }
                Hold::Busy(_) => self.waiting.wait_for(&self.units[index]),
                other => panic!("{other:?}"),
            }
        }
    }

    fn fetched(&self, index: usize) {
        assert!(self.waiting.change(|| self.units[index].fetched(true)), "nobody evicts it");
    }
}

fn on_thread(world: &Arc<World>, run: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || run(&world))
}

/// Two threads hold a unit: one fetches, and the other waits for it.
fn fetched_for_another() {
    explore(3, || {
        let world = World::new();
        let other = on_thread(&world, |world| assert!(world.hold(0, 1)));
        assert!(world.hold(0, 2));
        other.join().unwrap();
        assert!(world.units[0].is_present());
    });
}

/// A unit is evicted while another thread comes, which waits until its bytes are gone and fetches them again.
fn evicted_before_another() {
    explore(3, || {
        let world = World::new();
        assert!(world.hold(0, 1) && !world.units[0].release());
        let other = on_thread(&world, |world| assert!(world.hold(0, 2)));
        if world.units[0].evict() == Evict::Now {
            world.waiting.change(|| world.units[0].absent(|| ()));
        }
        other.join().unwrap();
    });
}

/// Two wait, each for a unit of its own. Whichever is told first, both go on.
fn fetched_for_one_of_two() {
    explore(2, || {
        let world = World::new();
        for index in 0..2 {
            assert_eq!(world.units[index].hold(1), Hold::Fetch);
        }
        let others = [0, 1].map(|index| on_thread(&world, move |world| assert!(world.hold(index, 2))));
        world.fetched(1);
        world.fetched(0);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

/// The region is closed while one waits for a unit that never comes.
fn closed_beside_a_wait() {
    explore(3, || {
        let world = World::new();
        assert_eq!(world.units[0].hold(1), Hold::Fetch);
        let other = on_thread(&world, |world| assert!(!world.hold(0, 2)));
        world.waiting.change(|| world.waiting.close());
        other.join().unwrap();
    });
}

models! { fetched_for_another evicted_before_another fetched_for_one_of_two closed_beside_a_wait }
