//! What the rest of `global` has to do with the helper: whether it is allowed, which threads it is there for, and that
//! a child of fork has none.

use super::lookout;
use super::process::process;
use crate::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Whether the options allow a helper.
static ALLOWED: AtomicBool = AtomicBool::new(true);
/// The kernel's number of the helper, zero before it runs.
pub(super) static NUMBER: AtomicI32 = AtomicI32::new(0);

/// Allows the helper or not. One that runs stops at its next tick.
pub(super) fn allow(allowed: bool) {
    // Relaxed: read at the next tick.
    ALLOWED.store(allowed, Ordering::Relaxed);
    process().ring();
}

/// Whether the options allow a helper.
pub(super) fn is_allowed() -> bool {
    // Relaxed: as above.
    ALLOWED.load(Ordering::Relaxed)
}

/// A thread of the program is about to be made.
pub(super) fn thread_begins() {
    process().helper().thread_begins();
}

/// A thread of the program has ended, or did not come to be.
pub(super) fn thread_ends() {
    process().helper().thread_ends(process().bell(), process().space().os());
}

/// In the child of a fork: there is no helper, and one thread of the program.
pub(super) fn forget(is_counted: bool) {
    process().settings().set_helper(false);
    process().helper().child_after_fork(is_counted.into());
    // Relaxed: the child has one thread.
    NUMBER.store(0, Ordering::Relaxed);
    lookout::forget();
}
