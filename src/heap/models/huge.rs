//! Regions of huge blocks, by shuttle: while one thread lets go of a region, others take it, or what it becomes.

use super::world::{Actor, HUGE, World, join, spawn};
use super::*;
use crate::sync::checker::{explore, models};
use shuttle::thread;
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new(
        "heap.purge_retired",
        "the order of giving a region's pages back and its retirement",
        "retired_beside_a_reap",
    ),
    SeededBug::new(
        "heap.take_in_retired",
        "the order of a moved block's end in its old region and that region's retirement",
        "moved_beside_a_reap",
    ),
    SeededBug::new(
        "heap.misfit_dropped",
        "the way back of a region that does not fit when it is taken",
        "kept_at_two_lengths",
    ),
    SeededBug::new(
        "heap.shrunk_as_seen",
        "the look at how much of a kept region is resident when it is taken",
        "shrunk_at_two_lengths",
    ),
];

const SCHEDULES: usize = 1000;

/// A thread that has unmapped what may be, and takes and frees huge blocks: its regions have the descriptors and the
/// addresses of those that were unmapped.
fn reaper(world: &Arc<World>) -> thread::JoinHandle<()> {
    spawn(world, |world| {
        let actor = Actor::new(world);
        for _ in 0..2 {
            actor.from.space().reap(Some(actor.heap.slot()));
            let at = actor.get(HUGE, false);
            thread::yield_now();
            actor.free(at);
        }
        actor.leave();
    })
}

/// A thread with a huge block, which it lets go of, beside a reaper.
fn beside_a_reap(let_go: fn(&Actor, usize)) {
    explore(SCHEDULES, move || {
        let world = World::new();
        let owner = Actor::new(&world);
        let (at, heap) = (owner.get(HUGE, false), owner.heap);
        // With what it has in reserve the region is too long to be kept from here on.
        let settings = world.base.get().settings();
        settings.set_reserve(false);
        settings.set_limits(Some(1 << 30), None);
        let owner = spawn(&world, move |world| {
            let actor = Actor::with(world, heap);
            let_go(&actor, at);
            actor.leave();
        });
        join([owner, reaper(&world)]);
        world.finish();
    });
}

/// A block is freed where there is a limit, and its region is not kept: its pages go before it is another's.
fn retired_beside_a_reap() {
    beside_a_reap(|actor, at| actor.free(at));
}

/// A block grows by moving: its old region is nobody's business any more when it is another's.
fn moved_beside_a_reap() {
    beside_a_reap(|actor, at| {
        let at = actor.resize(at, 4 * HUGE);
        actor.free(at);
    });
}

/// A kept region is taken, and a shorter one put in its place, while another thread has chosen it.
fn kept_at_two_lengths() {
    beside_a_change_of_length(|actor| {
        let at = actor.get(4 * HUGE, false);
        actor.free(at);
    });
}

/// The same while another thread gives back what is kept.
fn shrunk_at_two_lengths() {
    beside_a_change_of_length(|actor| actor.from.drop_kept(actor.heap.claimant()));
}

fn beside_a_change_of_length(body: fn(&Actor)) {
    explore(2 * SCHEDULES, move || {
        let world = World::new();
        let owner = Actor::new(&world);
        let [long, short] = [4 * HUGE, HUGE].map(|bytes| owner.get(bytes, false));
        owner.free(long);
        let heap = owner.heap;
        let changer = spawn(&world, move |world| {
            let actor = Actor::with(world, heap);
            let at = actor.get(4 * HUGE, false);
            actor.free(short);
            actor.free(at);
            actor.leave();
        });
        let other = spawn(&world, move |world| {
            let actor = Actor::new(world);
            body(&actor);
            actor.leave();
        });
        join([changer, other]);
        world.finish();
    });
}

models! { retired_beside_a_reap moved_beside_a_reap kept_at_two_lengths shrunk_at_two_lengths }
