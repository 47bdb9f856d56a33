//! What the models of all layers share: how a model is explored, and the demand that each seeded bug is caught by the
//! model that is named for it. Test equipment of model builds.
//!
//! `SPECMALLOC_MODEL_EFFORT=N` (default 0) makes the search wider: `N` more preemptions under loom, and under shuttle
//! `N` times as many schedules besides those that are drawn anyway.

use super::SeededBug;
use super::census;
use super::seeded::plant;
use std::cell::Cell;

/// A model by its name.
pub(crate) type Model = (&'static str, fn());

std::thread_local! {
    // A checker runs all threads of a model on the thread that asked for it.
    static EXECUTIONS: Cell<usize> = const { Cell::new(0) };
    static QUIET: Cell<bool> = const { Cell::new(false) };
    // What schedules are drawn from.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Counts an execution of the model that runs.
pub(crate) fn count_execution() {
    EXECUTIONS.with(|count| count.set(count.get() + 1));
    census::begin_execution();
}

/// How many times wider the search is than usual, less one.
fn effort() -> usize {
    std::env::var("SPECMALLOC_MODEL_EFFORT").map_or(0, |effort| effort.parse().expect("a number"))
}

/// Searches all executions with at most `preemptions` involuntary switches.
#[cfg(loom)]
pub(crate) fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    search(Some(preemptions + effort()), model);
}

/// Searches all executions.
#[cfg(loom)]
pub(crate) fn explore_all(model: impl Fn() + Sync + Send + 'static) {
    search(None, model);
}

#[cfg(loom)]
fn search(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(move || {
        count_execution();
        model();
    });
}

/// Runs `schedules` schedules drawn at random, and as many by random priorities: other ones each time. For a seeded bug
/// a quarter of them at a time, and always the same, so that it is not found by luck.
#[cfg(shuttle)]
pub(crate) fn explore(schedules: usize, model: impl Fn() + Sync + Send + Clone + 'static) {
    use shuttle::Runner;
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    let schedules = schedules * (1 + effort());
    let counted = move || {
        count_execution();
        model();
    };
    let (random, priorities) = match SEED.get() {
        Some(seed) => (
            RandomScheduler::new_from_seed(seed, schedules / 4),
            PctScheduler::new_from_seed(seed, PREEMPTIONS, schedules / 4),
        ),
        None => (RandomScheduler::new(schedules), PctScheduler::new(PREEMPTIONS, schedules)),
    };
    Runner::new(random, shuttle::Config::new()).run(counted.clone());
    Runner::new(priorities, shuttle::Config::new()).run(counted);
}

/// How often the thread of the highest priority is made to wait.
#[cfg(shuttle)]
const PREEMPTIONS: usize = 3;

/// Runs a model that must pass, and says how many executions that took.
pub(crate) fn pass(layer: &str, name: &str, model: fn()) {
    EXECUTIONS.with(|count| count.set(0));
    model();
    census::end_model(layer, name);
    println!("{layer}::{name}: {} executions", EXECUTIONS.with(Cell::get));
}

/// Searches for a bug before it counts as not caught, each from a seed of its own: which one finds it changes with the
/// code that is searched, and with nothing else.
const SEARCHES: u64 = if cfg!(loom) { 1 } else { 16 };

/// Runs each bug against the model that must catch it, and says after how many executions it did.
pub(crate) fn catch_all(layer: &str, bugs: &[SeededBug], models: &[Model]) {
    silence_caught();
    let mut survivors = Vec::new();
    for bug in bugs {
        let (name, model) =
            models.iter().find(|(name, _)| *name == bug.caught_by).expect("a model of that name");
        EXECUTIONS.with(|count| count.set(0));
        QUIET.with(|quiet| quiet.set(true));
        let caught = (0..SEARCHES).find_map(|seed| {
            SEED.set(Some(seed));
            plant(bug.name, *model)
        });
        SEED.set(None);
        QUIET.with(|quiet| quiet.set(false));
        let executions = EXECUTIONS.with(Cell::get);
        let Some(failure) = caught else {
            survivors.push(bug);
            continue;
        };
        let failure = failure.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        println!(
            "{}: {}\n    caught by {layer}::{name} after {executions} executions: {failure}",
            bug.name, bug.removes
        );
    }
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
    for (name, _) in models {
        assert!(bugs.iter().any(|bug| bug.caught_by == *name), "no seeded bug makes {name} fail");
    }
}

/// A planted bug that is caught panics as it must: that is not worth a message.
fn silence_caught() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.with(Cell::get) {
                before(info);
            }
        }));
    });
}

/// The models of a layer by name: a test that each passes, and one that every bug of `SEEDED`, which the module has, is
/// caught by its model, and that each model catches one.
macro_rules! models {
    ($($name:ident)*) => {
        const MODELS: &[$crate::sync::checker::Model] = &[$((stringify!($name), $name)),*];

        mod pass {
            $(#[test] fn $name() { $crate::sync::checker::pass(module_path!(), stringify!($name), super::$name); })*
        }

        #[test]
        fn every_seeded_bug_is_caught() {
            $crate::sync::checker::catch_all(module_path!(), SEEDED, MODELS);
        }
    };
}
pub(crate) use models;
