//! Start-up: the first need of the allocator, whoever has it; and options by name, which start it, too.

use super::fork;
use super::lookout;
use super::options::{self, OptionError, Options};
use super::presence;
use super::process::{learn_limits, process};
use crate::rcu::Flavour;
use crate::sync::atomic::{AtomicU32, Ordering};

const UNSTARTED: u32 = 0;
/// Some thread is at it.
const STARTING: u32 = 1;
/// The kinds of system calls that a process may not be allowed later have been made.
const PREPARED: u32 = 2;
const STARTED: u32 = 3;

static STAGE: AtomicU32 = AtomicU32::new(UNSTARTED);

/// The part of the start that comes when the library is loaded, whether the program ever allocates or not: what asks
/// the system for anything but memory. Many a program ends without the rest, which touches memory.
pub(super) fn prepare() {
    // Relaxed: whoever misses it does no more than what it would have done itself.
    if STAGE.load(Ordering::Relaxed) == UNSTARTED && options::forbids_membarrier() {
        process().space().os().forbid_barrier();
    }
    process().start();
    // Relaxed: elects one thread.
    if STAGE.compare_exchange(UNSTARTED, STARTING, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        process().adapt();
        // Release: pairs with the exchange in `start`.
        STAGE.store(PREPARED, Ordering::Release);
    }
}

/// Starts the allocator before its first use. Threads that race here do so before there is anything to race for: each
/// may run the idempotent part, and only the first reads the environment and maps the witness of forks.
pub(super) fn start(options: &Options) {
    // Acquire: pairs with the Release below.
    if STAGE.load(Ordering::Acquire) == STARTED {
        return;
    }
    prepare();
    // Acquire: pairs with the Release above. Relaxed: elects one thread; what the others need was done above.
    if STAGE.compare_exchange(PREPARED, STARTING, Ordering::Acquire, Ordering::Relaxed).is_ok() {
        options.apply();
        options::read_environment();
        fork::prepare();
        // Release: pairs with the Acquire above.
        STAGE.store(STARTED, Ordering::Release);
    }
}

/// The process is about to shut itself off. What asks the system for anything but memory is done by then, or not at all:
/// a filter may know no advice but that pages are not needed.
pub fn before_a_filter() {
    // A child of fork has no helper that could be looking.
    fork::notice();
    start(Options::NONE);
    learn_limits();
    process().population().allow(false);
    lookout::forbid();
}

/// Sets an option by name while the process runs.
pub fn set_option(key: &str, value: &str) -> Result<(), OptionError> {
    let mut options = Options::new();
    options.set(key.as_bytes(), value.as_bytes())?;
    if key == "membarrier" || key == "guarded" {
        // It is decided by now.
        return Err(OptionError::BadValue);
    }
    // The environment comes first, even in a program that has not allocated yet.
    start(Options::NONE);
    options.apply();
    Ok(())
}

/// Sets limits while the process runs, in bytes; 0 is none, and `None` leaves one as it is.
pub fn set_limits(hard: Option<usize>, soft: Option<usize>) {
    start(Options::NONE);
    let [hard_limit, soft_limit] = [hard, soft].map(|bytes| bytes.map(options::limit));
    Options { hard_limit, soft_limit, ..Options::new() }.apply();
}

/// The value of an option by name: bytes, percent, or 0 and 1 for a switch.
pub fn get_option(key: &str) -> Option<usize> {
    start(Options::NONE);
    let settings = process().settings();
    match key {
        "dirty_max" => Some(settings.dirty().1),
        "dirty_percent" => Some(settings.dirty().0),
        "helper" => Some(usize::from(presence::is_allowed())),
        "huge_pages" => Some(usize::from(process().population().is_allowed())),
        "reserve" => Some(usize::from(settings.reserves_space())),
        "keep_huge" => Some(usize::from(settings.keeps_huge())),
        "arena_size" => Some(settings.arena_bytes()),
        "limit" => Some(told_limit(settings.hard_limit())),
        "soft_limit" => Some(told_limit(settings.soft_limit())),
        "pressure" => Some(usize::from(lookout::heeds())),
        "deepbind" => Some(usize::from(honours_deepbind())),
        "membarrier" => {
            Some(usize::from(process().space().rcu().statistics().flavour == Flavour::Membarrier))
        }
        "profile" => Some(settings.sample_rate()),
        "guarded" => Some(usize::from(options::wants_guarded())),
        "names" => Some(usize::from(process().space().os().gives_names())),
        _ => None,
    }
}

/// The opposite of [`options::limit`].
fn told_limit(bytes: usize) -> usize {
    if bytes == usize::MAX { 0 } else { bytes }
}

/// Whether libraries may be loaded with RTLD_DEEPBIND, and then use libc's own malloc. (The preload library asks.)
pub fn honours_deepbind() -> bool {
    start(Options::NONE);
    options::honours_deepbind()
}
