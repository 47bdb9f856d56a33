//! Those who make memory idle, by shuttle, while the helper is about to sleep: whatever they leave behind, it is awake
//! or woken. A wake that is lost is a deadlock.

use super::world::{Actor, Dozing, HUGE, MEDIUM, World, join, spawn};
use super::*;
use crate::pal::Errno;
use crate::pal::simulated::CallKind;
use crate::sync::checker::{explore, models};
use shuttle::thread;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new(
        "heap.ring_before_keep",
        "the order of a free of a huge block and the bell",
        "rung_by_a_huge_free",
    ),
    SeededBug::new(
        "heap.no_ring_after_put_back",
        "the bell after a kept region was put back, or retired",
        "rung_by_a_shrink",
    ),
    SeededBug::new("heap.no_ring_after_move", "the bell after the pages of a block moved", "rung_by_a_move"),
    SeededBug::new("heap.ring_before_release", "the order of a release and the bell", "rung_by_a_release"),
    SeededBug::new(
        "heap.no_ring_after_purge",
        "the bell after a purge that left an arena empty",
        "rung_by_a_purge",
    ),
    SeededBug::new(
        "heap.give_up_blind",
        "the look at the inbox after giving up, and the bell",
        "rung_by_an_exit",
    ),
    SeededBug::new(
        "heap.left_warm_silently",
        "the bell after a heap was left warm",
        "rung_by_what_is_left_warm",
    ),
    SeededBug::new(
        "heap.warm_late",
        "the order of noting that a heap is left warm and of giving it up",
        "left_warm_and_taken",
    ),
];

const SCHEDULES: usize = 3_000;

/// Runs bodies, each with a heap and a block of the given size, beside a helper that is about to sleep.
fn beside_a_helper(prepare: fn(&Actor), bytes: [usize; 2], bodies: [fn(&Actor, usize); 2]) {
    explore(SCHEDULES, move || {
        let world = World::new();
        world.base.get().settings().set_helper(true);
        let actors = [(); 2].map(|()| Actor::new(&world));
        let blocks = [0, 1].map(|which| match bytes[which] {
            0 => 0,
            bytes => actors[which].get(bytes, false),
        });
        prepare(&actors[0]);
        let heaps = actors.map(|actor| actor.heap);
        // Before the others, so that it is first at its word: see `api::publication`.
        let helper = Dozing::start(&world);
        let threads = [0, 1].map(|which| {
            let (heap, block, body) = (heaps[which], blocks[which], bodies[which]);
            spawn(&world, move |world| {
                let actor = Actor::with(world, heap);
                body(&actor, block);
                actor.leave();
            })
        });
        join(threads);
        world.base.os.heal();
        helper.end(&world);
        world.finish();
    });
}

fn nothing(_: &Actor) {}

/// Allocates a block that stays until the end.
fn claim<const BYTES: usize>(actor: &Actor, _: usize) {
    actor.world.pass(actor.get(BYTES, false));
}

/// Leaves a huge region among those that are kept.
fn keep_one(actor: &Actor) {
    let at = actor.get(HUGE, false);
    actor.free(at);
}

/// Stays inside a section until the other thread is done.
fn linger(actor: &Actor, _: usize) {
    let _section = actor.heap.section(actor.from);
    while !actor.world.is_passed() {
        thread::yield_now();
    }
}

/// A large block is freed beside a claim, in an arena that does not become empty. (One only: another's bell would do.)
fn rung_by_a_release() {
    let prepare: fn(&Actor) = |actor| actor.world.pass(actor.get(SLICE, false));
    beside_a_helper(prepare, [SLICE, 0], [|actor, at| actor.release(at), claim::<SLICE>]);
}

/// What is free in an arena is purged. While that holds its slices, the arena does not look empty.
fn rung_by_a_purge() {
    let prepare: fn(&Actor) = |actor| {
        let at = actor.get(SLICE, false);
        actor.release(at);
    };
    let purge: fn(&Actor, usize) = |actor, _| {
        actor.from.purge(actor.heap.claimant(), usize::MAX);
    };
    let age: fn(&Actor, usize) = |actor, _| actor.from.arenas().age_empty(actor.from, actor.heap.claimant());
    beside_a_helper(prepare, [0, 0], [purge, age]);
}

/// A thread exits while a block is sent to it.
fn rung_by_an_exit() {
    let give: fn(&Actor) = |actor| actor.world.pass(actor.get(MEDIUM, false));
    let free: fn(&Actor, usize) = |actor, _| actor.world.passed().into_iter().for_each(|at| actor.free(at));
    beside_a_helper(give, [MEDIUM, 0], [|actor, at| actor.world.pass(at), free]);
}

/// A thread exits, and leaves its heap as it is.
fn rung_by_what_is_left_warm() {
    explore(SCHEDULES, || {
        let world = World::new();
        let from = world.base.get();
        from.settings().set_helper(true);
        let heap = world.base.possess();
        from.open_gate(heap);
        let actor = Actor::gated(&world, heap, THREAD);
        actor.free(actor.get(MEDIUM, false));
        let helper = Dozing::start(&world);
        join([spawn(&world, move |world| Actor::gated(world, heap, THREAD).leave())]);
        helper.end(&world);
        assert!(from.has_idle_memory() && heap.needs_collecting());
        world.finish();
    });
}

/// A heap is left warm, and another thread has it at once: the helper is not to look after it for as long as that lives.
fn left_warm_and_taken() {
    explore(SCHEDULES, || {
        let world = World::new();
        let (from, next) = (world.base.get(), ThreadId::new(5));
        from.settings().set_helper(true);
        let heap = world.base.possess();
        from.open_gate(heap);
        let index = heap.index() as usize;
        let leaver = spawn(&world, move |world| Actor::gated(world, heap, THREAD).leave());
        let taker = spawn(&world, move |world| {
            let (from, mut looks) = (world.base.get(), 0..8);
            if looks.any(|_| from.pool().is_idle(index)) {
                let kept = from.pool().possess_to_keep(from, next, Some(heap));
                assert!(kept.is_some_and(|kept| core::ptr::eq(kept, heap)));
            }
        });
        join([leaver, taker]);
        if heap.possession().possessor() == Some(next) {
            assert!(!from.has_warm(), "a live thread's heap is taken for one that was left");
            from.give_up(heap);
        }
        world.finish();
    });
}

/// A huge block is freed, and kept, beside a claim.
fn rung_by_a_huge_free() {
    beside_a_helper(nothing, [HUGE, 0], [|actor, at| actor.free(at), claim::<HUGE>]);
}

/// A part of what a kept region holds is given back.
fn rung_by_a_shrink() {
    let shrink: fn(&Actor, usize) = |actor, _| {
        actor.from.huge().shrink_kept(actor.from, actor.heap.claimant(), SLICE);
    };
    beside_a_helper(keep_one, [0, 0], [shrink, |_, _| {}]);
}

/// A block grows by moving while another thread is inside a section: its old region waits for that.
fn rung_by_a_move() {
    let grow: fn(&Actor, usize) = |actor, at| {
        let at = actor.resize(at, 4 * HUGE);
        actor.world.pass(at);
    };
    beside_a_helper(nothing, [HUGE, 0], [grow, linger]);
}

/// The system refuses to purge slices that were claimed for it.
fn rung_by_a_failed_purge() {
    let prepare: fn(&Actor) = |actor| {
        let at = actor.get(SLICE, false);
        actor.release(at);
        actor.world.base.os.fail_kind(CallKind::Purge, Errno(libc::EINVAL));
    };
    let purge: fn(&Actor, usize) = |actor, _| {
        actor.from.purge(actor.heap.claimant(), usize::MAX);
    };
    beside_a_helper(prepare, [0, 0], [purge, |_, _| {}]);
}

models! {
    rung_by_a_release rung_by_a_huge_free rung_by_a_shrink rung_by_a_move rung_by_a_purge rung_by_an_exit
    rung_by_what_is_left_warm left_warm_and_taken
}

/// The slices are counted as dirty all the time: nothing is known that takes the wake away.
#[test]
fn awake_beside_a_failed_purge() {
    rung_by_a_failed_purge();
}
