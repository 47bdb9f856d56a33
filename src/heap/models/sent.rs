//! Blocks that come to a heap which had their slab before, by shuttle.

use super::world::{Actor, MEDIUM, World, join, spawn};
use super::*;
use crate::base::class_of;
use crate::sync::checker::{explore, models};
use shuttle::thread;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("heap.no_forward", "the look at the owner of a block that was received", "forwarded"),
    SeededBug::new(
        "heap.run_left_late",
        "the order of a look at what is behind a run and the run's way home",
        "forwarded_and_closed",
    ),
];

const SCHEDULES: usize = 1000;

/// A slab moves to another heap while a block of it is on its way to the old one, which sends it on.
fn forwarded() {
    explore(SCHEDULES, || {
        let world = World::new();
        let owner = Actor::new(&world);
        let heaps = [world.base.possess(), world.base.possess()];
        let mut blocks = [(); 9].map(|()| owner.get(MEDIUM, false)).into_iter();
        // The first slab was full, and can now be given away.
        blocks.next().into_iter().for_each(|at| owner.free(at));
        let sent = blocks.next();
        blocks.for_each(|at| world.pass(at));
        owner.leave();
        let [sender, thief] = heaps;
        let sender = spawn(&world, move |world| {
            let actor = Actor::with(world, sender);
            sent.into_iter().for_each(|at| actor.free(at));
            actor.leave();
        });
        let thief = spawn(&world, move |world| {
            let actor = Actor::with(world, thief);
            let at = actor.get(MEDIUM, false);
            actor.free(at);
            actor.leave();
        });
        join([sender, thief]);
        world.finish();
    });
}

/// The last block of a slab is on its way to the heap that had the slab before, which sends it on; the one that has it
/// closes it then, and unmaps its arena.
fn forwarded_and_closed() {
    explore(SCHEDULES, || {
        let world = World::new();
        let (owner, next, sender) = (Actor::new(&world), Actor::new(&world), Actor::new(&world));
        let [sent, others @ ..] = [(); 8].map(|()| owner.get(MEDIUM, false));
        others.into_iter().for_each(|at| owner.free(at));
        owner.heap.collect::<Checked, _>(owner.from);
        sender.free(sent);
        sender.leave();
        let (old, new) = (owner.heap, next.heap);
        assert!(old.has_mail() && old.give_away(class_of(MEDIUM), new));
        let old = spawn(&world, move |world| assert_eq!(old.receive::<Checked, _>(world.base.get(), 1), 1));
        let new = spawn(&world, move |world| {
            let actor = Actor::with(world, new);
            while !new.has_mail() {
                thread::yield_now();
            }
            new.collect::<Checked, _>(actor.from);
            actor.from.give_back_all(new.claimant());
            assert_eq!(actor.from.arenas().listed(), 0, "an arena is still there");
            actor.leave();
        });
        join([old, new]);
        owner.leave();
        world.finish();
    });
}

models! { forwarded forwarded_and_closed }
