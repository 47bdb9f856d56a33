//! The helper's life, by loom: it is there while it is wanted, and it does not sleep through the end of the last thread
//! but one.

use super::super::HelperState;
use super::*;
use crate::sync::checker::{explore, models};
use loom::thread;
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new(
        "heap.thread_begins_fence",
        "the fence between counting a thread and the look for a helper",
        "begins_while_it_ends",
    ),
    SeededBug::new(
        "heap.helper_ends_fence",
        "the fence before the second look of a helper that ends",
        "begins_while_it_ends",
    ),
    SeededBug::new("heap.helper_ends_blind", "the second look of a helper that ends", "begins_while_it_ends"),
    SeededBug::new(
        "heap.helper_starts_twice",
        "the one step of taking the duty to start a helper",
        "begins_while_it_ends",
    ),
    SeededBug::new(
        "heap.thread_ends_fence",
        "the fence between a thread's end and the call of the helper",
        "last_but_one_ends",
    ),
    SeededBug::new(
        "heap.thread_ends_silently",
        "the call when the last thread but one ends",
        "last_but_one_ends",
    ),
    SeededBug::new("heap.call_without_wake", "the wake of a helper that is called", "last_but_one_ends"),
    SeededBug::new(
        "heap.helper_sleeps_alone",
        "the last look at the count before sleeping",
        "last_but_one_ends",
    ),
];

struct World {
    os: Simulated,
    bell: Bell,
    helper: HelperState,
}

/// The first thread, `others`, and a helper if they are any.
fn world(others: usize) -> Arc<World> {
    let os = Simulated::with(Config { reserve: GRANULE, ..Config::default() });
    let world = Arc::new(World { os, bell: Bell::new(), helper: HelperState::new() });
    (0..=others).for_each(|_| world.helper.thread_begins());
    assert_eq!(world.helper.starts(), others > 0);
    world
}

/// Two threads begin while a helper that was alone ends: afterwards there is one helper, the old one or another.
fn begins_while_it_ends() {
    explore(3, || {
        let world = world(1);
        world.helper.thread_ends(&world.bell, &world.os);
        let beginners = [(); 2].map(|()| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.helper.thread_begins();
                usize::from(world.helper.starts())
            })
        });
        let stays = usize::from(!world.helper.ends(|| true));
        let helpers = beginners.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>() + stays;
        assert_eq!(helpers, 1, "so many helpers for three threads");
    });
}

/// Two threads end while the helper goes to sleep: it wakes, and ends.
fn last_but_one_ends() {
    explore(3, || {
        let world = world(2);
        let enders = [(); 2].map(|()| {
            let world = Arc::clone(&world);
            thread::spawn(move || world.helper.thread_ends(&world.bell, &world.os))
        });
        while !world.helper.is_alone() {
            world.helper.sleeps(&world.bell, &world.os, None, || false);
        }
        assert!(world.helper.ends(|| true));
        enders.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

models! { begins_while_it_ends last_but_one_ends }
