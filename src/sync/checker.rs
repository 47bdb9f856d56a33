//! What the models of all layers share: how a model is explored, and the demand that each seeded bug is caught by the
//! model that is named for it. Test equipment of model builds.
//!
//! `SPECMALLOC_MODEL_EFFORT=N` (default 0) makes the search wider: `N` more preemptions under loom, and under shuttle
//! `N` times as many schedules besides those that are drawn anyway.

use super::SeededBug;
use super::census;
use super::seeded::plant;
use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;

/// A model by its name.
pub(crate) type Model = (&'static str, fn());

std::thread_local! {
    // A checker runs all threads of a model on the thread that asked for it.
    static EXECUTIONS: Cell<usize> = const { Cell::new(0) };
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
    Runner::new(random, config()).run(counted.clone());
    Runner::new(priorities, config()).run(counted);
}

/// What a model is run with, whoever schedules it.
#[cfg(shuttle)]
pub(crate) fn config() -> shuttle::Config {
    let mut config = shuttle::Config::new();
    // A world is made on it: what it needs is the optimiser's affair.
    config.stack_size = 1 << 18;
    config
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

/// The seed that the search for a planted bug draws from.
#[cfg(shuttle)]
pub(crate) fn seed() -> Option<u64> {
    SEED.get()
}

/// Searches for a bug before it counts as not caught, each from a seed of its own: which one finds it changes with the
/// code that is searched, and with nothing else.
const SEARCHES: u64 = if cfg!(loom) { 1 } else { 16 };

/// Says in a child of `catch_all` which bug it plants.
const PLANT: &str = "SPECMALLOC_MODEL_PLANT";
/// What begins a line of such a child, if it caught the bug.
const CAUGHT: &str = "planted, and caught after ";
/// The same, if it did not.
const SURVIVED: &str = "planted, and not caught after ";

/// What a model crashes by.
const CRASHES: [libc::c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];

/// Runs each bug against the model that must catch it, and says after how many executions it did: each in a process of
/// its own, for a bug may lead to a wild pointer as well as to a panic. A model that ends by a signal has failed.
pub(crate) fn catch_all(layer: &str, bugs: &[SeededBug], models: &[Model]) {
    let model_of = |bug: &SeededBug| {
        *models.iter().find(|(name, _)| *name == bug.caught_by).expect("a model of that name")
    };
    if let Ok(planted) = std::env::var(PLANT) {
        let bug = bugs.iter().find(|bug| bug.name == planted).expect("a bug of that name");
        return search_for(bug, model_of(bug).1);
    }
    let mut survivors = Vec::new();
    for bug in bugs {
        let (name, _) = model_of(bug);
        match search_apart(layer, bug) {
            Some(how) => {
                println!("{}: {}\n    caught by {layer}::{name} after {how}", bug.name, bug.removes)
            }
            None => survivors.push(bug),
        }
    }
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
    for (name, _) in models {
        assert!(bugs.iter().any(|bug| bug.caught_by == *name), "no seeded bug makes {name} fail");
    }
}

/// Searches for a planted bug in a child, which is this test again: what it says of how the bug was caught.
fn search_apart(layer: &str, bug: &SeededBug) -> Option<String> {
    let module = layer.split_once("::").expect("a path in this crate").1;
    let output = std::process::Command::new(std::env::current_exe().expect("a test program"))
        .args([
            "--exact",
            &format!("{module}::every_seeded_bug_is_caught"),
            "--nocapture",
            "--test-threads=1",
        ])
        .env(PLANT, bug.name)
        .env_remove("SPECMALLOC_MODEL_CENSUS")
        .output()
        .expect("this program runs again");
    let said = String::from_utf8_lossy(&output.stdout);
    let after = |mark| said.lines().find_map(|line| line.split_once(mark)).map(|(_, how)| how.to_owned());
    match (output.status.code(), after(CAUGHT), after(SURVIVED)) {
        (Some(0), Some(how), None) => Some(how),
        (Some(0), None, Some(_)) => None,
        // By a signal of its own making, which its text names, and not one that somebody sent.
        (None, None, None) if CRASHES.contains(&output.status.signal().unwrap_or_default()) => {
            Some(format!("executions that it did not live to count: {}", output.status))
        }
        _ => panic!("{}: {}\n{said}{}", bug.name, output.status, String::from_utf8_lossy(&output.stderr)),
    }
}

/// In the child: plants a bug, and says whether the model failed.
fn search_for(bug: &SeededBug, model: fn()) {
    // A crash leaves no file behind, and nobody searches on whose parent was ended.
    // SAFETY: a limit for this process, by a value that lives for the call; and a signal for it.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 });
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    // A planted bug that is caught panics as it must: that is not worth a message.
    std::panic::set_hook(Box::new(|_| {}));
    let caught = (0..SEARCHES).find_map(|seed| {
        SEED.set(Some(seed));
        plant(bug.name, model)
    });
    drop(std::panic::take_hook());
    let executions = EXECUTIONS.with(Cell::get);
    // On a line of its own, behind what the test runner has begun.
    match caught {
        Some(failure) => {
            let failure = failure.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
            println!("\n{CAUGHT}{executions} executions: {failure}");
        }
        None => println!("\n{SURVIVED}{executions} executions"),
    }
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
