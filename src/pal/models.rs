//! Models of what the simulated system promises to the protocols above: a sleeper whose wake is forgotten is found,
//! one whose wake is not forgotten wakes, and the two halves of the asymmetric barrier order what they should.

use super::Platform;
use super::simulated::Simulated;
use crate::sync::SeededBug;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::checker::models;
#[cfg(loom)]
use crate::sync::light_barrier;
use std::sync::Arc;

#[cfg(loom)]
use loom::thread;
#[cfg(shuttle)]
use shuttle::thread;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new(
        "pal.wait_compares",
        "wait looks at the word when it is on the list of sleepers, not before",
        "a_sleeper_is_woken",
    ),
    #[cfg(loom)]
    SeededBug::new("pal.heavy_barrier", "the heavy barrier orders anything", "the_barrier_orders_both_sides"),
];

#[cfg(loom)]
fn explore(model: impl Fn() + Send + Sync + 'static) {
    crate::sync::checker::explore_all(model);
}

#[cfg(shuttle)]
fn explore(model: impl Fn() + Send + Sync + Clone + 'static) {
    crate::sync::checker::explore(1_000, model);
}

/// One thread sleeps until the word changes, another changes it and then wakes `woken` sleepers.
fn sleep_and_wake(woken: u32) {
    let system = Simulated::new();
    let word = Arc::new(AtomicU32::new(0));
    let sleeper = {
        let (system, word) = (system.clone(), word.clone());
        thread::spawn(move || {
            // Acquire: pairs with the store below, as every caller of `wait` does.
            while word.load(Ordering::Acquire) == 0 {
                system.wait(&word, 0, None);
            }
        })
    };
    // Release: pairs with the load above.
    word.store(1, Ordering::Release);
    system.wake(&word, woken);
    sleeper.join().unwrap();
}

fn a_sleeper_is_woken() {
    explore(|| sleep_and_wake(1));
    explore(|| sleep_and_wake(u32::MAX));
}

#[test]
fn a_forgotten_wake_is_found() {
    let panic = std::panic::catch_unwind(|| explore(|| sleep_and_wake(0))).unwrap_err();
    assert!(panic.downcast::<String>().unwrap().contains("deadlock"));
}

/// Each thread writes its own word, passes its half of the barrier and reads the other's: one of them sees the other.
#[cfg(loom)]
fn write_and_look() {
    let system = Simulated::new();
    let words = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let fast = {
        let words = words.clone();
        thread::spawn(move || {
            // Relaxed, here and below: the barrier alone is to order these.
            words[0].store(1, Ordering::Relaxed);
            light_barrier();
            words[1].load(Ordering::Relaxed)
        })
    };
    words[1].store(1, Ordering::Relaxed);
    system.heavy_barrier().unwrap();
    let seen_by_slow = words[0].load(Ordering::Relaxed);
    let seen_by_fast = fast.join().unwrap();
    assert!(seen_by_fast == 1 || seen_by_slow == 1);
}

/// With loom only: shuttle knows no reordering, so there nothing could fail.
#[cfg(loom)]
fn the_barrier_orders_both_sides() {
    explore(write_and_look);
}

#[cfg(loom)]
models! { a_sleeper_is_woken the_barrier_orders_both_sides }
#[cfg(shuttle)]
models! { a_sleeper_is_woken }
