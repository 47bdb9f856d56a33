//! Where a model switches threads at a system call: before its effect, and behind it.
//!
//! The books are kept under a mutex of std, of which checkers know nothing: without these points a call and what its
//! caller does before and after it were one step, and no other thread came in between.

#[cfg(any(loom, shuttle))]
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Counts the points that were passed: calls of one system meet in this word, so their order matters to checkers.
pub(super) struct Turns {
    #[cfg(any(loom, shuttle))]
    passed: AtomicUsize,
}

impl Turns {
    pub(super) fn new() -> Turns {
        Turns {
            #[cfg(any(loom, shuttle))]
            passed: AtomicUsize::new(0),
        }
    }

    /// Another thread may run here.
    #[track_caller]
    pub(super) fn point(&self) {
        // Relaxed: what a call orders is said by the calls that order anything, not by this.
        #[cfg(any(loom, shuttle))]
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes a call with a point on either side.
    #[track_caller]
    pub(super) fn around<T>(&self, call: impl FnOnce() -> T) -> T {
        self.point();
        let answer = call();
        self.point();
        answer
    }
}
