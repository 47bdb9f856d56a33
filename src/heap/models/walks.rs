//! Models of walks, by shuttle: each store to what a thread owns is a step, and so is each look at a word of a block. What
//! a walk tells is held against what was live from its beginning to its end, and what was live at any time meanwhile.

use super::world::{Actor, HUGE, MEDIUM, PAGE, World, join, spawn};
use super::*;
use crate::sync::checker::{explore, models};
use crate::sync::set_steps;
use std::sync::{Arc, Mutex};

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("heap.moved_unmarked", "the mark of a block that goes from list to list", "moved"),
    SeededBug::new("heap.told_unlinked", "the order of a block's words and its being counted", "extended"),
    SeededBug::new("heap.life_forgotten", "the second look at the life of a slab", "reopened"),
    SeededBug::new("heap.moved_unmarked", "the mark of a block that comes home", "sent_and_unmapped"),
    SeededBug::new("heap.fallow_unseen", "the look whether a block lies on a fallow page", "laid_fallow"),
    SeededBug::new("heap.fallow_turn", "the look whether a slab was tilled meanwhile", "asked_while_tilled"),
    SeededBug::new(
        "heap.fallow_looked_late",
        "the order of a slab's turn and a block's words",
        "asked_while_tilled",
    ),
    SeededBug::new("heap.closed_unmarked", "what says that a slab's pages go with it", "closed_fallow"),
];

const SCHEDULES: usize = 1500;

/// Blocks of which a slab is extended by two at a time (by one of [`PAGE`]), and by many; where one of [`PAGE`] begins so
/// does one of the first.
const HALF: usize = 2 << 10;
const SMALL: usize = 256;

/// Walks over what lies at `begin` and above beside the others, as often as told, and demands what a walk promises.
fn walk(world: &World, begin: usize, times: usize) {
    let from = world.base.get();
    for _ in 0..times {
        world.begin_watch(begin);
        let mut walk = Walk::begin(begin);
        let mut found = Vec::new();
        loop {
            let told = from.walk_on::<Checked>(&mut walk);
            if told.is_empty() {
                break;
            }
            found.extend_from_slice(told);
        }
        world.end_watch(&found);
    }
}

/// What `model` does in a heap that has had blocks of [`PAGE`], of which one at most is `kept`, beside a walk. Where
/// stores to what a thread owns are `steps`, each is a place to switch, and long waits are seldom.
fn beside(kept: bool, steps: bool, model: fn(&Actor<'_>)) {
    explore(SCHEDULES, move || {
        let world = World::new();
        let actor = Actor::new(&world);
        for bytes in [MEDIUM, SLICE, HUGE] {
            actor.get(bytes, false);
        }
        let blocks = [(); 4].map(|()| actor.get(PAGE, false));
        blocks.into_iter().skip(usize::from(kept)).for_each(|at| actor.free(at));
        let heap = actor.heap;
        set_steps(steps);
        let owner = spawn(&world, move |world| model(&Actor::with(world, heap)));
        let slab = blocks[0] / SLICE * SLICE;
        let walker = spawn(&world, move |world| walk(world, slab, 1));
        join([owner, walker]);
        set_steps(false);
        walk(&world, world.base.os.range().start, 1);
        world.live().into_iter().for_each(|at| actor.free(at));
        actor.leave();
        world.finish();
    });
}

/// Blocks that are free go home to their slab.
fn moved() {
    beside(true, true, |actor| actor.heap.collect::<Checked, _>(actor.from));
}

/// Pages go back with the blocks that are free in them, which serve again afterwards.
fn laid_fallow() {
    beside(true, false, |actor| {
        for _ in 0..4 {
            actor.heap.collect::<Checked, _>(actor.from);
            actor.heap.give_back_pages::<Checked, _>(actor.from, 1);
            assert!(actor.from.hollow().get() > 0, "nothing lies fallow");
            let at = actor.get(PAGE, false);
            actor.free(at);
        }
    });
}

/// Blocks that are free all along are asked for, and nothing else, while their slab is tilled: of a walk, which does much
/// besides, few schedules have all of it between two looks.
fn asked_while_tilled() {
    explore(SCHEDULES, || {
        let world = World::new();
        let actor = Actor::new(&world);
        let blocks = [(); 5].map(|()| actor.get(PAGE, false));
        blocks[1..].iter().for_each(|&at| actor.free(at));
        actor.heap.collect::<Checked, _>(actor.from);
        actor.heap.give_back_pages::<Checked, _>(actor.from, 1);
        let Ok(Place::Slab(slab)) = actor.from.place(blocks[0]) else { panic!("a live block of a slab") };
        assert!(slab.is_fallow(), "nothing lies fallow");
        let (heap, found) = (actor.heap, Arc::new(Mutex::new(Vec::new())));
        let owner = spawn(&world, move |world| _ = Actor::with(world, heap).get(PAGE, false));
        let told = Arc::clone(&found);
        let asks = spawn(&world, move |world| {
            let secret = world.base.get().secret();
            let is_live = |&at: &usize| {
                let block = ptr::with_exposed_provenance_mut(at);
                // SAFETY: a block of that slab, which stays: one of its blocks is live.
                !unsafe { slab.is_free_meanwhile(block, Block::key(block, secret)) }
            };
            let live: Vec<_> = blocks[1..].iter().copied().filter(is_live).collect();
            *told.lock().unwrap() = live;
        });
        join([owner, asks]);
        let live = world.live();
        assert!(
            found.lock().unwrap().iter().all(|at| live.contains(at)),
            "a free block is taken for a live one"
        );
        world.live().into_iter().for_each(|at| actor.free(at));
        actor.leave();
        world.finish();
    });
}

/// A slab that lies fallow goes with the last of its blocks: the others are known to be free until it has gone.
fn closed_fallow() {
    beside(true, false, |actor| {
        actor.heap.collect::<Checked, _>(actor.from);
        actor.heap.give_back_pages::<Checked, _>(actor.from, 1);
        assert!(actor.from.hollow().get() > 0, "nothing lies fallow");
        actor.world.live().into_iter().for_each(|at| actor.free(at));
        actor.heap.collect::<Checked, _>(actor.from);
    });
}

/// Blocks are handed out for the first time, of a slab that has handed out as many: nothing else happens beside the walk.
fn extended() {
    beside(true, true, |actor| {
        set_steps(false);
        (0..PAGE / SMALL).for_each(|_| _ = actor.get(SMALL, false));
        set_steps(true);
        actor.get(SMALL, false);
    });
}

/// A slab is closed, and opened as one of another class.
fn reopened() {
    beside(false, false, |actor| {
        actor.heap.collect::<Checked, _>(actor.from);
        for _ in 0..3 {
            actor.get(HALF, false);
        }
    });
}

/// Blocks that another thread has freed come home; arenas and huge blocks come and go.
fn sent_and_unmapped() {
    explore(SCHEDULES, || {
        let world = World::new();
        let owner = Actor::new(&world);
        let (kept, sent) = (owner.get(MEDIUM, false), [(); 4].map(|()| owner.get(MEDIUM, false)));
        let sender = Actor::new(&world);
        sent.into_iter().for_each(|at| sender.free(at));
        sender.leave();
        let heap = owner.heap;
        set_steps(true);
        let owner = spawn(&world, move |world| {
            let actor = Actor::with(world, heap);
            actor.heap.settle::<Checked, _>(actor.from);
            actor.release(actor.get(2 * SLICE, false));
            actor.free(actor.get(HUGE, false));
            actor.from.drop_kept(heap.claimant());
            actor.from.space().reap(Some(heap.slot()));
            actor.from.unmap_empty(heap.claimant());
            actor.leave();
        });
        let walker = spawn(&world, |world| walk(world, world.base.os.range().start, 2));
        join([owner, walker]);
        set_steps(false);
        world.pass(kept);
        world.finish();
    });
}

models! { asked_while_tilled closed_fallow laid_fallow moved extended reopened sent_and_unmapped }
