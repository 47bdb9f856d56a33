//! Pages of small free blocks that go back, by shuttle: beside frees of what is left, and who takes the slabs over.

use super::world::{Actor, PAGE, World, join, spawn};
use super::*;
use crate::sync::checker::{explore, models};

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("heap.fallow_listed", "that blocks on fallow pages are in no list", "shared"),
    SeededBug::new("heap.fallow_limited", "the limit of a slab that lies fallow", "shared"),
    SeededBug::new("heap.fallow_listed", "the same of blocks that are marked one by one", "shared_long"),
    SeededBug::new("heap.fallow_limited", "the limit of a slab of such blocks", "shared_long"),
];

const SCHEDULES: usize = 1000;

/// Slabs are laid fallow while others free what is left in them, and take them over; some lie fallow in the end.
fn shared() {
    shared_of(PAGE);
}

/// The same of blocks that are marked one by one.
fn shared_long() {
    shared_of(2 * PAGE);
}

fn shared_of(size: usize) {
    explore(SCHEDULES, move || {
        let world = World::new();
        let owner = Actor::new(&world);
        let blocks = [(); 8].map(|()| owner.get(size, false));
        blocks[..3].iter().for_each(|&at| world.pass(at));
        let kept = blocks[7];
        blocks[3..7].iter().for_each(|&at| owner.free(at));
        owner.heap.collect::<Checked, _>(owner.from);
        let heap = owner.heap;
        let owner = spawn(&world, move |world| {
            let actor = Actor::with(world, heap);
            actor.heap.give_back_pages::<Checked, _>(actor.from, 1);
            let at = actor.get(size, false);
            world.passed().into_iter().for_each(|at| actor.free(at));
            actor.free(at);
            actor.heap.collect::<Checked, _>(actor.from);
            actor.heap.give_back_pages::<Checked, _>(actor.from, 1);
            actor.leave();
        });
        let other = spawn(&world, move |world| {
            let actor = Actor::new(world);
            world.passed().into_iter().for_each(|at| actor.free(at));
            let at = actor.get(size, false);
            actor.free(at);
            actor.leave();
        });
        join([owner, other]);
        world.pass(kept);
        world.finish();
    });
}

models! { shared shared_long }
