//! Models of what the simulated system promises to the protocols above: a sleeper whose wake is forgotten is found,
//! one whose wake is not sleeps no longer, and the two halves of the asymmetric barrier order what they should.

use super::Platform;
use super::simulated::Simulated;
use crate::sync::atomic::{AtomicU32, Ordering};
#[cfg(loom)]
use crate::sync::light_barrier;
use crate::sync::{SeededBug, plant};
use std::sync::Arc;

#[cfg(loom)]
use loom::{model as check, thread};
#[cfg(shuttle)]
use shuttle::thread;

#[cfg(shuttle)]
fn check(model: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(model, 2_000);
}

/// The bugs that this layer can be given, and the models that must notice.
pub(crate) const SEEDED: &[SeededBug] = &[
    SeededBug {
        name: "pal.wait_compares",
        removes: "wait looks at the word when it is on the list of sleepers, not before",
        caught_by: "pal::models::a_sleeper_is_woken",
    },
    #[cfg(loom)]
    SeededBug {
        name: "pal.heavy_barrier",
        removes: "the heavy barrier orders anything",
        caught_by: "pal::models::the_barrier_orders_both_sides",
    },
];

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

#[test]
fn a_sleeper_is_woken() {
    check(|| sleep_and_wake(1));
    check(|| sleep_and_wake(u32::MAX));
    assert!(plant("pal.wait_compares", || check(|| sleep_and_wake(1))));
}

#[test]
fn a_forgotten_wake_is_found() {
    let panic = std::panic::catch_unwind(|| check(|| sleep_and_wake(0))).unwrap_err();
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
#[test]
fn the_barrier_orders_both_sides() {
    check(write_and_look);
    assert!(plant("pal.heavy_barrier", || check(write_and_look)));
}

#[test]
fn every_seeded_bug_names_a_model_of_this_file() {
    let source = include_str!("models.rs");
    for bug in SEEDED {
        let model = bug.caught_by.strip_prefix("pal::models::").unwrap();
        assert!(source.contains(&["fn ", model, "()"].concat()), "{}", bug.name);
        assert!(source.contains(&["plant(\"", bug.name, "\""].concat()), "{}", bug.name);
    }
}
