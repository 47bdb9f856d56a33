//! Whether the helper looks at files at this moment, and whether it may: not once the program is about to install a
//! filter of system calls, which may kill for what a look calls.
//!
//! Whoever announces a filter and whoever looks each write a word of their own, pass a full fence, and read the other's:
//! either the look sees that it may not, or the announcement sees it, and waits for its end.

use crate::const_unless_model;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{acquire, full_fence, release};

/// See the head of this file. One thread looks, the helper.
pub struct Looks {
    forbidden: AtomicBool,
    going_on: AtomicBool,
}

impl Looks {
    const_unless_model! {
        /// Allowed, and none goes on.
        #[cfg_attr(any(loom, shuttle), allow(dead_code, reason = "loom has its model"))]
        pub(crate) fn new() -> Looks {
            Looks { forbidden: AtomicBool::new(false), going_on: AtomicBool::new(false) }
        }
    }

    /// Calls `look` if that is not forbidden, and `may` says so, too, which may be at files as well.
    pub fn take<R>(&self, may: impl FnOnce() -> bool, look: impl FnOnce() -> R) -> Option<R> {
        // Relaxed: the fence orders it before the look whether that is forbidden.
        self.going_on.store(true, Ordering::Relaxed);
        // Partner: the fence in `forbid`: either this sees that looks are forbidden, or that one sees this look.
        full_fence("heap.look_fence");
        // Relaxed: ordered by the fence.
        let may = !self.forbidden.load(Ordering::Relaxed) && may();
        let seen = may.then(look);
        // Release: pairs with the Acquire in `forbid`: the system calls are over.
        self.going_on.store(false, release("heap.look_end_relaxed"));
        seen
    }

    /// Whether no look begins any more. Already old.
    pub fn are_forbidden(&self) -> bool {
        // Relaxed: a hint; who forbids them and then shuts the process off does so in its own time.
        self.forbidden.load(Ordering::Relaxed)
    }

    /// No look begins from here on, and none is going on any more. Calls `pause` while one is.
    pub fn forbid(&self, pause: impl Fn()) {
        // Relaxed: the fence orders it before the look at who is looking.
        self.forbidden.store(true, Ordering::Relaxed);
        // Partner: the fence in `take`.
        full_fence("heap.forbid_fence");
        // Acquire: pairs with the Release in `take`.
        while self.going_on.load(acquire("heap.forbid_relaxed")) {
            pause();
        }
    }

    /// In the child of a fork, which has no helper.
    pub fn forget(&self) {
        // Relaxed: the child has one thread.
        self.going_on.store(false, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// The child of a fork in the middle of a look has no helper that would end it.
    #[test]
    fn a_child_waits_for_no_look_of_its_parent() {
        let looks = Looks::new();
        let looked = looks.take(
            || true,
            || {
                looks.forget();
                looks.forbid(|| panic!("waits"));
            },
        );
        assert_eq!(looked, Some(()));
        assert_eq!(looks.take(|| true, || ()), None, "forbidden");
    }
}
