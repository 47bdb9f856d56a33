//! The helper's life, by loom: it is there while it is wanted, and it does not sleep through the end of the last thread
//! but one; and it looks at no files once that is forbidden.

use super::super::{HelperState, Looks};
use super::*;
use crate::sync::checker::{explore, models};
use loom::cell::UnsafeCell;
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
        "heap.helper_failure_kept",
        "that there is none when a helper could not be made",
        "cannot_be_made",
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
    SeededBug::new("heap.look_fence", "the fence before the look whether looks are forbidden", "forbidden"),
    SeededBug::new("heap.forbid_fence", "the fence before the look whether one goes on", "forbidden"),
    SeededBug::new("heap.look_end_relaxed", "the release at the end of a look", "forbidden"),
    SeededBug::new("heap.forbid_relaxed", "the acquire of the end of a look", "forbidden"),
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

/// The helper cannot be made when a thread begins, while another begins: neither has one, and whoever comes next tries
/// again.
fn cannot_be_made() {
    explore(3, || {
        let world = world(0);
        let beginners = [(); 2].map(|()| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.helper.thread_begins();
                if world.helper.starts() {
                    world.helper.failed();
                }
            })
        });
        beginners.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(!world.helper.is_present() && world.helper.starts(), "nobody tries again");
    });
}

/// Looks are forbidden while the helper looks twice: none is going on afterwards, nor begins.
fn forbidden() {
    explore(3, || {
        // The looks, and what a look uses and a filter forbids.
        let shared = Arc::new((Looks::new(), UnsafeCell::new(())));
        let helper = thread::spawn({
            let shared = Arc::clone(&shared);
            move || (0..2).for_each(|_| _ = shared.0.take(|| true, || shared.1.with(|_| ())))
        });
        shared.0.forbid(thread::yield_now);
        shared.1.with_mut(|_| ());
        assert!(shared.0.take(|| true, || ()).is_none());
        helper.join().unwrap();
    });
}

models! { begins_while_it_ends last_but_one_ends cannot_be_made forbidden }
