//! Programs drawn at random, by shuttle: each of a few threads runs one, under some schedules, against the ledger of
//! `world`. A program that fails is made as short as it can be.

use super::world::{Actor, HUGE, MEDIUM, World, join, spawn};
use super::*;
use crate::sync::checker::{explore, models, seed};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use shuttle::thread;
use std::sync::Arc;
use std::vec::Vec;

/// Schedules drawn for each program, of either kind.
const SCHEDULES: usize = 30;
/// Some of the places that can be weakened: what most programs meet.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("heap.possess_two_steps", "the one step of taking possession", "programs"),
    SeededBug::new("heap.extend_unclaimed", "the claim of the slices that a block grows into", "programs"),
    SeededBug::new("heap.huge_count_two_steps", "the one step of counting a huge block's bytes", "programs"),
];

/// A small block, of which a page holds many.
const SMALL: usize = 256;
/// A block whose slab is several slices.
const WIDE: usize = 20 << 10;

/// One step of a thread. `pick` chooses among the blocks that it holds.
#[derive(Clone, Copy, Debug)]
enum Step {
    Get {
        bytes: usize,
        zero: bool,
    },
    /// A large block that has room to grow, if there is one.
    GetToGrow(usize),
    /// Blocks of a class of which a slab holds eight.
    GetMany(usize),
    Free {
        pick: usize,
    },
    /// Leaves a block to whoever takes it.
    Pass {
        pick: usize,
    },
    PassAll,
    /// Frees some of what was passed.
    FreePassed(usize),
    /// Makes a large or huge block longer, or short again.
    Resize {
        pick: usize,
    },
    /// Exits; the next thread begins with whatever heap it gets.
    Change,
    Settle,
    Collect,
    CollectIdle,
    /// Tidies the heaps of the others that were not used since they were probed, and probes those that were.
    Watch,
    GiveBack,
    Purge {
        most: usize,
    },
    Tick,
    UnmapEmpty,
    Relieve,
    DropKept,
}

/// Steps with blocks of slabs: they go from heap to heap.
fn small_step() -> impl Strategy<Value = Step> {
    let pick = any::<usize>;
    prop_oneof![
        2 => prop::sample::select(vec![SMALL, MEDIUM, WIDE]).prop_map(|bytes| Step::Get { bytes, zero: false }),
        4 => (5usize..12).prop_map(Step::GetMany),
        1 => pick().prop_map(|pick| Step::Free { pick }),
        1 => pick().prop_map(|pick| Step::Pass { pick }),
        3 => Just(Step::PassAll),
        5 => (1usize..9).prop_map(Step::FreePassed),
        3 => Just(Step::Change),
        1 => Just(Step::Settle),
        1 => Just(Step::Collect),
        1 => Just(Step::CollectIdle),
        2 => Just(Step::Watch),
        2 => Just(Step::GiveBack),
    ]
}

/// Steps of every kind, mostly with blocks of slices and regions of their own.
fn step() -> impl Strategy<Value = Step> {
    let bytes = prop::sample::select(vec![MEDIUM, SLICE, SLICE, 2 * SLICE, HUGE, HUGE]);
    let pick = any::<usize>;
    prop_oneof![
        5 => small_step(),
        6 => (bytes, any::<bool>()).prop_map(|(bytes, zero)| Step::Get { bytes, zero }),
        2 => prop::sample::select(vec![SLICE, 2 * SLICE]).prop_map(Step::GetToGrow),
        3 => pick().prop_map(|pick| Step::Free { pick }),
        2 => pick().prop_map(|pick| Step::Pass { pick }),
        3 => pick().prop_map(|pick| Step::Resize { pick }),
        1 => (1usize..4).prop_map(|most| Step::Purge { most }),
        1 => Just(Step::Tick),
        1 => Just(Step::UnmapEmpty),
        1 => Just(Step::Relieve),
        1 => Just(Step::DropKept),
    ]
}

/// Two or three threads, each with its steps.
fn program() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let threads = |step: BoxedStrategy<Step>| prop::collection::vec(prop::collection::vec(step, 1..9), 2..4);
    prop_oneof![threads(small_step().boxed()), threads(step().boxed())]
}

/// The other length of a block of this kind; `None` if it has none.
fn other_length(bytes: usize) -> Option<usize> {
    match bytes {
        SLICE => Some(2 * SLICE),
        HUGE => Some(2 * HUGE),
        _ => match BlockKind::of(bytes, 1) {
            BlockKind::Small(_) => None,
            BlockKind::Large => Some(SLICE),
            BlockKind::Huge => Some(HUGE),
        },
    }
}

/// A heap, when the others leave one: each of them tidies one or two beside its own now and then.
fn arrive(world: &World, holder: ThreadId) -> Actor<'_> {
    loop {
        if let Some(heap) = world.base.get().pool().possess_to_keep(world.base.get(), holder, None) {
            world.base.get().open_gate(heap);
            return Actor::gated(world, heap, holder);
        }
        thread::yield_now();
    }
}

/// What one thread does. What it still holds in the end it passes on.
fn run(world: &World, holder: ThreadId, steps: &[Step]) {
    let mut actor = arrive(world, holder);
    let mut held: Vec<usize> = Vec::new();
    for &step in steps {
        let from = actor.from;
        let picked = |pick: usize| pick.checked_rem(held.len());
        match step {
            Step::Get { bytes, zero } => held.extend(actor.try_get(bytes, zero)),
            Step::GetToGrow(bytes) => held.extend(actor.try_get_to_grow(bytes)),
            Step::GetMany(count) => held.extend((0..count).filter_map(|_| actor.try_get(MEDIUM, false))),
            Step::Free { pick } => {
                if let Some(index) = picked(pick) {
                    actor.free(held.swap_remove(index));
                }
            }
            Step::Pass { pick } => {
                if let Some(index) = picked(pick) {
                    world.pass(held.swap_remove(index));
                }
            }
            Step::PassAll => held.drain(..).for_each(|at| world.pass(at)),
            Step::FreePassed(most) => {
                (0..most).map_while(|_| world.passed()).for_each(|at| actor.free(at));
            }
            Step::Resize { pick } => {
                if let Some(index) = picked(pick)
                    && let Some(bytes) = other_length(world.bytes(held[index]))
                {
                    held[index] = actor.resize(held[index], bytes);
                }
            }
            Step::Change => {
                actor.leave();
                actor = arrive(world, holder);
            }
            Step::Settle => actor.step(|heap| heap.settle::<Checked, _>(from)),
            Step::Collect => actor.step(|heap| heap.collect::<Checked, _>(from)),
            Step::CollectIdle => from.collect_idle::<Checked>(holder),
            Step::Watch => actor.step(|heap| from.watch_heaps::<Checked>(heap)),
            Step::GiveBack => actor.step(|heap| from.trim::<Checked>(heap)),
            Step::Purge { most } => {
                actor.step(|heap| from.purge(heap.claimant(), most));
            }
            Step::Tick => {
                actor.step(|heap| from.tick::<Checked>(heap));
            }
            Step::UnmapEmpty => actor.step(|heap| from.unmap_empty(heap.claimant())),
            Step::Relieve => actor.step(|heap| from.give_back_all(heap.claimant())),
            Step::DropKept => actor.step(|heap| {
                from.drop_kept(heap.claimant());
                from.space().reap(Some(heap.slot()));
            }),
        }
    }
    held.into_iter().for_each(|at| world.pass(at));
    actor.leave();
}

/// With a helper, heaps stay warm.
fn execute(threads: Vec<Vec<Step>>, helper: bool) {
    let threads = Arc::new(threads);
    explore(SCHEDULES, move || {
        let world = World::new();
        world.base.get().settings().set_helper(helper);
        let start = |index: usize| {
            let threads = Arc::clone(&threads);
            spawn(&world, move |world| run(world, ThreadId::new(10 + index), &threads[index]))
        };
        // All of them, before one is waited for.
        let started: Vec<_> = (0..threads.len()).map(start).collect();
        join(started);
        world.finish();
    });
}

/// Twice as many programs as the usual number of cases, which `PROPTEST_CASES` sets: they are short. In the search for
/// a planted bug they are always the same, as its schedules are, and stay as long as they are.
fn programs() {
    let usual =
        ProptestConfig { max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() };
    let config = match seed() {
        Some(seed) => ProptestConfig { rng_seed: RngSeed::Fixed(seed), max_shrink_iters: 0, ..usual },
        None => usual,
    };
    let outcome = TestRunner::new(config).run(&(program(), any::<bool>()), |(threads, helper)| {
        execute(threads, helper);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

models! { programs }
