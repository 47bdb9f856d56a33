//! Models of the hints, by loom: a byte, the one above it, and the arena that they tell of, which is a word here.

use super::super::backend::hints::{Asked, Hints, Way};
use super::*;
use crate::sync::checker::{explore, models};
use loom::thread;
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new(
        "heap.hint_change_fence",
        "the fence between a change and the look at its hint",
        "remembered",
    ),
    SeededBug::new(
        "heap.hint_lower_fence",
        "the fence between lowering a hint and the second look",
        "remembered",
    ),
    SeededBug::new(
        "heap.hint_raise_fence",
        "the fence between a hint and the one above it",
        "remembered_above",
    ),
    SeededBug::new("heap.hint_lower_blind", "the second look after a hint was lowered", "remembered"),
];

/// An arena's position, not in the node where the search begins.
const AT: usize = 2;

struct World {
    hints: Hints,
    room: AtomicUsize,
}

impl World {
    fn new(room: usize) -> Arc<World> {
        let world = World { hints: Hints::new(), room: AtomicUsize::new(room) };
        world.hints.changed().raise(Asked::Room, AT, 1);
        Arc::new(world)
    }

    fn free(&self) {
        // Relaxed, here and below: the fences of the hints are to order it.
        self.room.fetch_add(1, Ordering::Relaxed);
        self.hints.changed().raise(Asked::Room, AT, 1);
    }

    /// What a claim does; it finds nothing.
    fn look(&self) {
        if let Some(position) = self.hints.find(Asked::Room, Way::Up, 0, 1) {
            assert_eq!(position, AT);
            self.hints.lower(Asked::Room, AT, |most| self.room.load(Ordering::Relaxed).min(most));
        }
    }

    fn demand_found(&self) {
        assert_eq!(self.hints.find(Asked::Room, Way::Up, 0, 1), Some(AT), "room was forgotten");
        assert_eq!(self.hints.find(Asked::Room, Way::Down, 4, 1), Some(AT), "room was forgotten");
    }
}

/// A slice is freed while another thread finds that there is none.
fn remembered() {
    explore(3, || {
        let world = World::new(0);
        let looker = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.look())
        };
        world.free();
        looker.join().unwrap();
        world.demand_found();
    });
}

/// The same when the hint says so already, and the one above it does not.
fn remembered_above() {
    explore(3, || {
        let world = World::new(0);
        world.look();
        let looker = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.look())
        };
        world.free();
        looker.join().unwrap();
        world.demand_found();
    });
}

models! { remembered remembered_above }
