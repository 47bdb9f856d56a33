//! Whole paths, by shuttle: several threads, one allocator, and the ledger of `world`.

use super::world::{Actor, HUGE, MEDIUM, World, claims_slices, join, spawn};
use super::*;
use crate::heap::ground::{Sampled, UNSEEN};
use crate::pal::Errno;
use crate::pal::simulated::CallKind;
use crate::sync::checker::{explore, models};
use shuttle::thread;

/// Schedules drawn for each model, of either kind.
const SCHEDULES: usize = 1000;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("heap.possess_two_steps", "the one step of taking possession", "remote_frees"),
    SeededBug::new(
        "heap.steal_unpossessed",
        "possession of the heap that a slab is taken from",
        "remote_frees",
    ),
    SeededBug::new("heap.left_open", "the closing of a gate whose owner has gone", "left_to_a_visitor"),
    SeededBug::new(
        "heap.abandoned_visited",
        "the order of a visit's end and the giving up of a heap that was left to it",
        "left_and_taken_again",
    ),
    SeededBug::new(
        "heap.hand_over_keeps_own",
        "forgetting a slab that another heap took over",
        "remote_frees",
    ),
    SeededBug::new("heap.retire_unfrozen", "the freeze of an arena that is retired", "arenas_come_and_go"),
    SeededBug::new(
        "heap.unlist_unfrozen",
        "the freeze of an arena before its entry in the table goes",
        "arenas_come_and_go",
    ),
    SeededBug::new("heap.purge_no_look", "the look for an empty arena after a purge", "emptied_by_a_purge"),
    SeededBug::new(
        "heap.count_kept_late",
        "the order of a region's bytes in the count and its place among the kept",
        "kept_and_counted",
    ),
    SeededBug::new("region.purge_without_claim", "the claim of what is purged", "purged_beside_claims"),
    SeededBug::new(
        "heap.release_before_purge",
        "the order of the purge and the release of what is purged",
        "purged_beside_one_claim",
    ),
    SeededBug::new(
        "heap.cut_released_early",
        "the order of a cut block's records and the release of what is cut off",
        "cut_beside_claims",
    ),
    SeededBug::new(
        "heap.sampled_released",
        "the order of a look into a run of slices and its release",
        "sampled_beside_a_purge",
    ),
    SeededBug::new(
        "heap.refused_unsaid",
        "what is known of slices that the system did not take back",
        "refused_beside_a_look",
    ),
    SeededBug::new(
        "heap.purged_as_seen",
        "the look at how many slices are dirty when they are claimed",
        "purged_by_two",
    ),
    SeededBug::new("heap.purge_unchecked", "the look at whether a purge succeeded", "purge_that_fails"),
    SeededBug::new(
        "heap.extend_unclaimed",
        "the claim of the slices that a block grows into",
        "grown_in_place",
    ),
    SeededBug::new("heap.huge_take_two_steps", "the one step of taking a kept region", "huge_blocks"),
    SeededBug::new(
        "heap.deliver_unpossessed",
        "possession of the heap whose slabs are taken over",
        "remote_frees",
    ),
];

/// Blocks go home from other threads while their owner leaves, its heap is tidied and goes to another thread, and its
/// slabs are taken over by those who free.
fn remote_frees() {
    explore(3 * SCHEDULES, || {
        let world = World::new();
        let owner = Actor::new(&world);
        let heaps = [world.base.possess(), world.base.possess()];
        for _ in 0..10 {
            world.pass(owner.get(MEDIUM, false));
        }
        let senders = heaps.map(|heap| {
            spawn(&world, move |world| {
                let actor = Actor::with(world, heap);
                for _ in 0..3 {
                    world.passed().into_iter().for_each(|at| actor.free(at));
                }
                let blocks = [(); 3].map(|()| actor.get(MEDIUM, false));
                actor.free(blocks[0]);
                world.pass(blocks[1]);
                world.passed().into_iter().for_each(|at| actor.free(at));
                actor.free(blocks[2]);
                actor.leave();
            })
        });
        let successor = spawn(&world, |world| {
            world.base.get().collect_idle::<Checked>(THREAD);
            let actor = Actor::new(world);
            let at = actor.get(MEDIUM, false);
            world.passed().into_iter().for_each(|at| actor.free(at));
            actor.free(at);
            actor.leave();
        });
        world.pass(owner.get(MEDIUM, false));
        owner.leave();
        join(senders);
        join([successor]);
        world.finish();
    });
}

/// Arenas fill and empty while another thread retires those that are empty.
fn arenas_come_and_go() {
    explore(SCHEDULES, || {
        let world = World::new();
        let users = [(); 2].map(|()| {
            spawn(&world, |world| {
                let actor = Actor::new(world);
                for _ in 0..2 {
                    let blocks = [(); 3].map(|()| actor.get(2 * SLICE, false));
                    blocks.into_iter().for_each(|at| actor.release(at));
                }
                // An arena that lives on must be found.
                world.pass(actor.get(SLICE, false));
                actor.leave();
            })
        });
        let unmapper = spawn(&world, |world| {
            let actor = Actor::new(world);
            for _ in 0..3 {
                actor.from.unmap_empty(actor.heap.claimant());
            }
            actor.leave();
        });
        join(users);
        join([unmapper]);
        world.finish();
    });
}

fn purged(fails: bool, zero: [bool; 3]) {
    let world = World::new();
    let actor = Actor::new(&world);
    [(); 3].map(|()| actor.get(SLICE, false)).into_iter().for_each(|at| actor.release(at));
    actor.leave();
    if fails {
        world.base.os.fail_kind(CallKind::Purge, Errno(libc::EINVAL));
    }
    let users = [(); 2].map(|()| {
        spawn(&world, move |world| {
            let actor = Actor::new(world);
            for zero in zero {
                let at = actor.get(SLICE, zero);
                thread::yield_now();
                actor.release(at);
            }
            actor.leave();
        })
    });
    let purger = spawn(&world, |world| {
        let actor = Actor::new(world);
        for _ in 0..3 {
            actor.from.purge(actor.heap.claimant(), usize::MAX);
        }
        actor.leave();
    });
    join(users);
    join([purger]);
    world.base.os.heal();
    world.finish();
}

/// Slices are purged while others claim and use slices: what is live keeps its contents, what should be zero is.
fn purged_beside_claims() {
    explore(SCHEDULES, || purged(false, [false, false, true]));
}

/// The same with as few steps as can be, for what shows in few schedules.
fn purged_beside_one_claim() {
    explore(2 * SCHEDULES, || {
        let world = World::new();
        let actor = Actor::new(&world);
        let at = actor.get(SLICE, false);
        actor.release(at);
        let heap = actor.heap;
        let purger = spawn(&world, move |world| {
            let actor = Actor::with(world, heap);
            actor.from.purge(heap.claimant(), 1);
            actor.leave();
        });
        let other = Actor::new(&world);
        let at = other.get(SLICE, true);
        thread::yield_now();
        other.release(at);
        other.leave();
        join([purger]);
        world.finish();
    });
}

/// Two threads purge the same slices: each of them is counted once.
fn purged_by_two() {
    explore(SCHEDULES, || {
        let world = World::new();
        let actor = Actor::new(&world);
        let [stays, free @ ..] = [(); 4].map(|()| actor.get(SLICE, false));
        // Its arena stays with it.
        world.pass(stays);
        free.into_iter().for_each(|at| actor.release(at));
        assert_eq!(actor.from.dirty_slices(), 3);
        actor.leave();
        let purgers = [(); 2].map(|()| {
            spawn(&world, |world| {
                let actor = Actor::new(world);
                actor.from.purge(actor.heap.claimant(), usize::MAX);
                world.demand_bounds();
                actor.leave();
            })
        });
        join(purgers);
        world.finish();
    });
}

/// A run of slices that was touched is given back, and looked at, while another thread purges what is free.
fn sampled_beside_a_purge() {
    explore(SCHEDULES, || {
        let world = World::new();
        let actor = Actor::new(&world);
        let (at, heap) = (actor.get(SLICE, false), actor.heap);
        // SAFETY: the block is this thread's. Its ends are what the ledger wrote.
        unsafe { ptr::with_exposed_provenance_mut::<u8>(at + 16).write_bytes(1, SLICE - 32) };
        // The next run that is given back is looked at, and one that seems untouched is one too many.
        let touches_all = || world.base.get().population().touches_all(Sampled::Run);
        while !touches_all() {
            // SAFETY: the block is this thread's, and nobody needs what is in it.
            unsafe { world.base.get().population().sample_run(&world.base.os, &|_page| (), [at, 0], SLICE) };
        }
        // Not when the block is freed and its run is kept, which counts, too, but when that is released.
        (2..UNSEEN).for_each(|_| _ = heap.claimant().is_turn(UNSEEN));
        let purger = spawn(&world, |world| {
            let actor = Actor::new(world);
            actor.from.purge(actor.heap.claimant(), usize::MAX);
            actor.leave();
        });
        Actor::with(&world, heap).release(at);
        assert!(touches_all(), "purged before it was looked at");
        actor.leave();
        join([purger]);
        world.finish();
    });
}

/// The same when the system refuses to purge.
fn purge_that_fails() {
    explore(SCHEDULES, || purged(true, [true; 3]));
}

/// Of two threads that purge the same slices one is refused, and the other looks meanwhile: they are found afterwards.
fn refused_beside_a_look() {
    explore(SCHEDULES, || {
        let world = World::new();
        let actor = Actor::new(&world);
        world.pass(actor.get(SLICE, false));
        let at = actor.get(SLICE, false);
        actor.release(at);
        actor.leave();
        world.base.os.fail_kind(CallKind::Purge, Errno(libc::EINVAL));
        let purgers = [(); 2].map(|()| {
            spawn(&world, |world| {
                let actor = Actor::new(world);
                actor.from.purge(actor.heap.claimant(), usize::MAX);
                actor.leave();
            })
        });
        join(purgers);
        world.base.os.heal();
        world.finish();
    });
}

/// The last slices of an arena are freed while others of it are being purged: whoever comes second unmaps it, or the purge
/// that finds what was freed behind the first.
fn emptied_by_a_purge() {
    explore(SCHEDULES, || {
        let world = World::new();
        let actor = Actor::new(&world);
        let mut blocks = [(); 8].map(|()| actor.get(SLICE, false));
        // Those that fill the first arena, but for two; what is free there is enough to do without the second.
        let (last, second) = (blocks[7], blocks[6]);
        blocks.iter_mut().skip(2).take(4).for_each(|at| actor.release(*at));
        actor.release(second);
        blocks[..2].iter().for_each(|at| world.pass(*at));
        let heap = actor.heap;
        let user = spawn(&world, move |world| Actor::with(world, heap).release(last));
        let purger = spawn(&world, |world| {
            let actor = Actor::new(world);
            actor.from.purge(actor.heap.claimant(), usize::MAX);
            actor.leave();
        });
        join([user, purger]);
        if actor.from.dirty_slices() > 0 {
            actor.from.purge(actor.heap.claimant(), usize::MAX);
        }
        assert_eq!(world.base.get().arenas().listed(), 1, "an empty arena is still there");
        actor.leave();
        world.finish();
    });
}

/// A large block grows in place while another thread claims slices.
fn grown_in_place() {
    explore(SCHEDULES, || {
        let world = World::new();
        let users = [(); 2].map(|()| {
            spawn(&world, |world| {
                let actor = Actor::new(world);
                for _ in 0..2 {
                    let at = actor.get(SLICE, false);
                    let at = actor.resize(at, 2 * SLICE);
                    thread::yield_now();
                    actor.free(at);
                }
                actor.leave();
            })
        });
        join(users);
        world.finish();
    });
}

/// Large blocks are cut while another thread claims what is cut off.
fn cut_beside_claims() {
    explore(2 * SCHEDULES, || {
        let world = World::new();
        let owner = Actor::new(&world);
        // All that an arena holds.
        let (blocks, heap) = ([(); 3].map(|()| owner.get(2 * SLICE, false)), owner.heap);
        let claimant = spawn(&world, claims_slices);
        let owner = spawn(&world, move |world| {
            let actor = Actor::with(world, heap);
            blocks.into_iter().for_each(|at| _ = actor.resize(at, SLICE));
            blocks.into_iter().for_each(|at| actor.free(at));
            actor.leave();
        });
        join([claimant, owner]);
        world.finish();
    });
}

/// Huge blocks are freed, kept, taken, grown and dropped.
fn huge_blocks() {
    explore(SCHEDULES, || {
        let world = World::new();
        let users = [(); 2].map(|()| {
            spawn(&world, |world| {
                let actor = Actor::new(world);
                for _ in 0..3 {
                    let at = actor.get(HUGE, true);
                    thread::yield_now();
                    actor.free(at);
                }
                actor.leave();
            })
        });
        let dropper = spawn(&world, |world| {
            let actor = Actor::new(world);
            let at = actor.get(HUGE, false);
            actor.free(at);
            actor.from.drop_kept(actor.heap.claimant());
            actor.from.space().reap(Some(actor.heap.slot()));
            actor.leave();
        });
        join(users);
        join([dropper]);
        assert_eq!(world.base.get().huge_figures().live_blocks().get(), 0);
        world.finish();
    });
}

/// A huge block is freed and its region taken again at once, while somebody reads how much is kept.
fn kept_and_counted() {
    explore(SCHEDULES, || {
        let world = World::new();
        let owner = Actor::new(&world);
        let (at, heap) = (owner.get(HUGE, false), owner.heap);
        let owner = spawn(&world, move |world| Actor::with(world, heap).free(at));
        let takes = world.base.possess();
        let taker = spawn(&world, move |world| {
            let (from, by) = (world.base.get(), takes.claimant());
            if let Some(region) = from.huge().take_kept(from, by, HUGE, 1) {
                assert!(from.huge().keep(from, by, region));
            }
        });
        let kept = || world.base.get().huge_figures().kept_bytes().get();
        (0..20).for_each(|_| assert!(kept() <= 2 * HUGE, "{:x} bytes are kept", kept()));
        join([owner, taker]);
        world.base.get().give_up(takes);
        world.base.get().give_up(heap);
        world.finish();
    });
}

/// A thread exits while two others visit its heap: whoever is left with it is not visited.
fn left_to_a_visitor() {
    explore(SCHEDULES, || {
        let world = World::new();
        let owner = ThreadId::new(2);
        let heap = world.base.possess_as(owner);
        world.base.get().open_gate(heap);
        let leaver = spawn(&world, move |world| Actor::gated(world, heap, owner).leave());
        let visitors = [3, 4].map(|number| {
            spawn(&world, move |world| {
                let owned = |heap: &Heap| {
                    thread::yield_now();
                    assert_eq!(heap.possession().possessor(), Some(owner), "inside another's heap");
                };
                world.base.get().visit::<Checked>(ThreadId::new(number), Gate::mark, |_| true, owned);
            })
        });
        join([leaver]);
        join(visitors);
        world.finish();
    });
}

/// A thread exits while its heap is visited, and the next one that has the heap exits at once, probed: nobody is left
/// with the heap.
fn left_and_taken_again() {
    explore(2 * SCHEDULES, || {
        let world = World::new();
        let [owner, visitor, next] = [2, 3, 4].map(ThreadId::new);
        let heap = world.base.possess_as(owner);
        world.base.get().open_gate(heap);
        let leaver = spawn(&world, move |world| Actor::gated(world, heap, owner).leave());
        let visitor = spawn(&world, move |world| {
            world.base.get().visit::<Checked>(visitor, Gate::mark, |_| true, |_| thread::yield_now());
        });
        let taker = spawn(&world, move |world| {
            let pool = world.base.get().pool();
            let Some(heap) = (0..4).find_map(|_| {
                thread::yield_now();
                pool.possess(heap.index() as usize, next)
            }) else {
                return;
            };
            world.base.get().open_gate(heap);
            heap.gate().probe();
            Actor::gated(world, heap, next).leave();
        });
        join([leaver, visitor, taker]);
        world.finish();
    });
}

models! {
    left_to_a_visitor left_and_taken_again
    remote_frees arenas_come_and_go purged_beside_claims purged_beside_one_claim purged_by_two
    sampled_beside_a_purge
    purge_that_fails refused_beside_a_look emptied_by_a_purge grown_in_place cut_beside_claims huge_blocks
    kept_and_counted
}
