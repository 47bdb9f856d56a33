//! Whether there is a helper thread, and how many threads of the program there are for it to help.
//!
//! A helper is wanted while two threads of the program or more are there. It must not outlive them: a process of one
//! thread may do what one of several may not, and one whose first thread has left by `pthread_exit` is over with its
//! last, which the C library knows by counting all threads, the helper, too.
//!
//! Two races must not happen. A thread begins while the helper ends: each side writes, passes a full fence, and reads
//! what the other writes, so either the thread sees that there is no helper any more and starts one, or the helper sees
//! the thread in its second look and stays. And the last but one ends while the helper falls asleep without a timer:
//! the thread is gone from the count before it calls, and the helper looks at the count in its last look before it
//! sleeps (see `bell`).

use crate::const_unless_model;
use crate::heap::ground::Bell;
use crate::pal::Platform;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{full_fence, seeded};

const ABSENT: u32 = 0;
const PRESENT: u32 = 1;

/// One thread more, in the lower half of the count; and in the upper half one that has begun, ever.
const THREAD: u64 = 1;
const BEGUN: u64 = 1 << 32;

/// The count of the program's threads, and whether there is a helper.
pub struct HelperState {
    /// Threads of the program that have begun and not ended, and how many have begun: see [`THREAD`].
    threads: AtomicU64,
    /// [`PRESENT`] from before a helper is started until it has decided to end.
    state: AtomicU32,
}

impl HelperState {
    const_unless_model! {
        /// No threads, no helper.
        pub(in crate::heap) fn new() -> HelperState {
            HelperState { threads: AtomicU64::new(0), state: AtomicU32::new(ABSENT) }
        }
    }

    /// A thread of the program begins.
    pub fn thread_begins(&self) {
        // Relaxed: the fence orders it before `starts`.
        self.threads.fetch_add(BEGUN + THREAD, Ordering::Relaxed);
        // Partner: the fence in `ends`: either a look in `starts` sees that the helper has ended, or it sees this
        // thread.
        full_fence("heap.thread_begins_fence");
    }

    /// A thread of the program has ended, or did not come to be. Calls the helper if one thread is left at most.
    pub fn thread_ends<P: Platform>(&self, bell: &Bell, os: &P) {
        // Not below zero: in a child of fork a thread may end that the child was not told of.
        // Relaxed: the fence orders it before the look whether there is a helper, and before the call.
        let less = |threads| (threads % BEGUN != 0).then(|| threads - THREAD);
        let before = self.threads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if before.is_ok_and(|before| before % BEGUN <= 2) && !seeded("heap.thread_ends_silently") {
            // Partner: the fence in `Bell::doze`: either the helper sees that this thread has ended, or it is called.
            full_fence("heap.thread_ends_fence");
            if self.is_present() {
                bell.call(os);
            }
        }
    }

    /// The helper has nothing to do, unless `is_idle` says that it has: sleeps until somebody rings or calls, or
    /// `most_ms` have passed. Not if it is to end.
    pub fn sleeps<P: Platform>(&self, bell: &Bell, os: &P, most_ms: Option<u32>, is_idle: impl Fn() -> bool) {
        bell.doze(os, most_ms, || self.is_alone() && !seeded("heap.helper_sleeps_alone") || is_idle());
    }

    /// Whether one thread of the program is left at most.
    pub fn is_alone(&self) -> bool {
        // Relaxed: ordered by the fences of `ends` and of `Bell::doze`.
        self.threads.load(Ordering::Relaxed) % BEGUN <= 1
    }

    /// Whether no thread of the program is left: asked by one that has ended.
    pub fn has_nobody(&self) -> bool {
        // Relaxed: of two that end at once the later one sees its own step behind the other's.
        self.threads.load(Ordering::Relaxed).is_multiple_of(BEGUN)
    }

    /// How many threads of the program have begun, ever: where that goes on, the first is alone for moments only.
    pub fn begun(&self) -> u32 {
        // Relaxed: a hint.
        (self.threads.load(Ordering::Relaxed) / BEGUN) as u32
    }

    /// Whether there is a helper, at this moment.
    pub fn is_present(&self) -> bool {
        // Relaxed: ordered by the fence in `thread_begins` where it matters.
        self.state.load(Ordering::Relaxed) == PRESENT
    }

    /// Takes on the duty of starting a helper, if one is wanted and there is none.
    pub fn starts(&self) -> bool {
        !self.is_alone() && self.starts_for_another()
    }

    /// The same where the caller has made a thread just now, which may have ended already: those that follow each other
    /// so are to have a helper, and it sees for itself whether they do.
    pub fn starts_for_another(&self) -> bool {
        if self.is_present() {
            return false;
        }
        // Relaxed: the fence in `thread_begins` orders the look; the exchange elects one, and carries nothing.
        self.state.swap(PRESENT, Ordering::Relaxed) == ABSENT || seeded("heap.helper_starts_twice")
    }

    /// The helper could not be started: whoever comes next may try again.
    pub fn failed(&self) {
        if !seeded("heap.helper_failure_kept") {
            // Relaxed: nothing is read but the word.
            self.state.swap(ABSENT, Ordering::Relaxed);
        }
    }

    /// The helper means to end: it does, unless it is wanted again by now. Returns whether it ends.
    pub fn ends(&self, is_allowed: impl Fn() -> bool) -> bool {
        // Relaxed: the fence orders it before the second look.
        self.state.swap(ABSENT, Ordering::Relaxed);
        // Partner: the fence in `thread_begins`.
        full_fence("heap.helper_ends_fence");
        // Who begins meanwhile may have started another.
        let is_wanted = is_allowed() && !seeded("heap.helper_ends_blind");
        !(is_wanted && self.starts())
    }

    /// In the child of a fork: there is no helper, and one thread, counted or not.
    pub fn child_after_fork(&self, threads: u32) {
        // Relaxed (both): the child has one thread.
        self.threads.store(threads.into(), Ordering::Relaxed);
        self.state.store(ABSENT, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_is_no_longer_allowed_ends_among_threads() {
        let helper = HelperState::new();
        (0..2).for_each(|_| helper.thread_begins());
        assert!(helper.starts() && !helper.ends(|| true), "it is wanted");
        assert!(helper.ends(|| false) && !helper.is_present());
    }

    #[test]
    fn a_child_has_no_helper_and_one_thread_at_most() {
        for threads in [0, 1] {
            let helper = HelperState::new();
            (0..3).for_each(|_| helper.thread_begins());
            assert!(helper.starts());
            helper.child_after_fork(threads);
            assert!(helper.is_alone() && !helper.is_present());
            (threads..2).for_each(|_| helper.thread_begins());
            assert!(helper.starts(), "two threads, and no helper");
        }
    }
}
