//! Models of the table of arenas, by shuttle: what leads to an arena, and what is known of its room.

use super::world::{Actor, World, claims_slices, join, spawn};
use super::*;
use crate::sync::checker::{explore, models};
use shuttle::thread;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("heap.unlist_late", "the order of the table's entry and the grace period", "walked"),
    SeededBug::new(
        "heap.lost_claim_forgotten",
        "the look at an arena again of which slices were held for a moment",
        "room_found",
    ),
    SeededBug::new(
        "heap.no_place_kept",
        "the word of an arena that it found no place in the table",
        "one_place_for_two",
    ),
    SeededBug::new(
        "heap.spare_cut_released_early",
        "the order of a cut spare run's records and the release of what is cut off",
        "spare_cut_beside_claims",
    ),
];

const SCHEDULES: usize = 5_000;

/// An empty arena is unmapped while another thread walks the table: inside a section an arena that was found in it
/// stays.
fn walked() {
    explore(SCHEDULES, || {
        let world = World::new();
        let actor = Actor::new(&world);
        let at = actor.get(SLICE, false);
        actor.release(at);
        actor.leave();
        let unmapper = spawn(&world, |world| {
            let actor = Actor::new(world);
            actor.from.unmap_empty(actor.heap.claimant());
            actor.leave();
        });
        let reaper = spawn(&world, |world| {
            let actor = Actor::new(world);
            for _ in 0..4 {
                actor.from.space().reap(Some(actor.heap.slot()));
                thread::yield_now();
            }
            actor.leave();
        });
        let walker = spawn(&world, |world| {
            let actor = Actor::new(world);
            for _ in 0..3 {
                let section = actor.heap.section(actor.from);
                let Some(region) = actor.from.arenas().region(0, &section) else { continue };
                let life = region.generation();
                for _ in 0..6 {
                    thread::yield_now();
                    assert_eq!(region.generation(), life, "unmapped inside a section that had found it");
                }
            }
            actor.leave();
        });
        join([unmapper, reaper, walker]);
        world.finish();
    });
}

/// Slices are taken by claims that hold others for a moment and lose: when nobody does so any more, no other arena is
/// mapped as long as one is free.
fn room_found() {
    explore(SCHEDULES, || {
        let world = World::new();
        let claimants = [2 * SLICE, SLICE, SLICE].map(|bytes| {
            spawn(&world, move |world| {
                let actor = Actor::new(world);
                (0..2).for_each(|_| world.pass(actor.get(bytes, false)));
                actor.leave();
            })
        });
        join(claimants);
        let actor = Actor::new(&world);
        let arenas = actor.from.arenas();
        while (0..2)
            .any(|position| arenas.glance(position).is_some_and(|region| region.slices().free_count() > 0))
        {
            let mapped = world.base.os.calls().map;
            world.pass(actor.get(SLICE, false));
            assert_eq!(world.base.os.calls().map, mapped, "mapped beside free slices");
        }
        actor.leave();
        world.finish();
    });
}

/// Two arenas are mapped for one place in the table: the one that finds none says so, and serves its block alone.
fn one_place_for_two() {
    explore(SCHEDULES, || {
        let world = World::new();
        let owner = Actor::new(&world);
        (0..3).for_each(|_| world.pass(owner.get(2 * SLICE, false)));
        // There was another, which has left its place.
        let at = owner.get(SLICE, false);
        owner.release(at);
        owner.from.unmap_empty(owner.heap.claimant());
        assert_eq!(owner.from.arenas().listed(), 1);
        owner.leave();
        let users = [(); 2].map(|()| {
            spawn(&world, |world| {
                let actor = Actor::new(world);
                world.pass(actor.get(2 * SLICE, false));
                actor.leave();
            })
        });
        join(users);
        world.finish();
    });
}

/// Blocks that grow are given spare runs, of which they need a part, while another thread claims the rest.
fn spare_cut_beside_claims() {
    explore(SCHEDULES, || {
        let world = World::new();
        let owner = Actor::new(&world);
        // All that an arena holds.
        let (blocks, heap) = ([(); 3].map(|()| owner.get(2 * SLICE, false)), owner.heap);
        blocks.into_iter().for_each(|at| owner.free(at));
        let claimant = spawn(&world, claims_slices);
        let owner = spawn(&world, move |world| {
            let actor = Actor::with(world, heap);
            let blocks = [(); 3].map(|()| actor.try_get_to_grow(SLICE));
            thread::yield_now();
            blocks.into_iter().flatten().for_each(|at| actor.free(at));
            actor.leave();
        });
        join([claimant, owner]);
        world.finish();
    });
}

models! { walked room_found one_place_for_two spare_cut_beside_claims }
