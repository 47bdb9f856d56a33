//! Limits that a program sets for itself: how much the allocator may hold for it.
//!
//! *Held* are the bytes of arenas and huge blocks that are resident or may be: slices that slabs and large blocks hold
//! or heaps keep for their next ones, free slices that may be resident, and huge blocks, live or kept, in whole pages.
//! Not address space that nobody has touched, as behind a sample in its slice; nor the huge page that may be touched
//! ahead of claims; nor what waits for a grace period to be unmapped; nor the allocator's own records, of which there are
//! a few in a thousand.
//!
//! Beyond the *hard limit* nothing is held: whoever would take more gives back what is free, and fails if that is not
//! enough. So that threads which take at the same time do not come beyond it together, each *promises* what it is about
//! to take, before it looks at how much is held, and takes the promise off once that is counted. A thread's promise
//! counts for those that come after it. While others give something back at that moment, it may be counted neither as
//! live nor as free; that much may be missed.
//!
//! Beyond the *soft limit* the program is told: by whoever comes beyond it, once it is outside of its heap (`global`).
//! It is told again after use has fallen well below the limit.

use crate::const_unless_model;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{acquire, release, seeded};

/// Use falls well below the soft limit by one part in so many.
const PARTS: usize = 16;

/// See the head of this file.
pub struct Limit {
    promised: AtomicUsize,
    /// Use was beyond the soft limit, and did not fall well below it since.
    is_beyond: AtomicBool,
    /// That has yet to be told.
    is_due: AtomicBool,
}

impl Limit {
    const_unless_model! {
        /// Nothing is promised.
        pub(in crate::heap) fn new() -> Limit {
            Limit {
                promised: AtomicUsize::new(0),
                is_beyond: AtomicBool::new(false),
                is_due: AtomicBool::new(false),
            }
        }
    }

    /// Promises `bytes`, if no more than `most` is held with them; `held` tells how much is. Who gets `true` owes a
    /// [`Limit::keep`].
    pub fn promise(&self, bytes: usize, most: usize, held: impl FnOnce() -> usize) -> bool {
        // Acquire: pairs with the Release in `keep`: whoever does not see a promise sees what it was for as held.
        let before = self.promised.fetch_add(bytes, acquire("heap.limit_promise"));
        let others = if seeded("heap.limit_others") { 0 } else { before };
        let fits = held().saturating_add(others).saturating_add(bytes) <= most;
        if !fits {
            self.keep(bytes);
        }
        fits
    }

    /// What was promised is held by now, or will not be.
    pub fn keep(&self, bytes: usize) {
        // (In the child of a fork the promise may be forgotten.)
        let less = |promised: usize| Some(promised.saturating_sub(bytes));
        // Release: pairs with the Acquire in `promise`.
        let _before = self.promised.fetch_update(release("heap.limit_keep"), Ordering::Relaxed, less);
    }

    /// In the child of a fork: those who promised anything may be gone.
    pub(in crate::heap) fn forget(&self) {
        // Relaxed: the child has one thread.
        self.promised.store(0, Ordering::Relaxed);
    }

    /// Demands that nobody is about to take anything.
    #[cfg(any(test, feature = "simulated"))]
    pub(in crate::heap) fn audit(&self) {
        // Relaxed: nobody is in the middle of anything.
        assert_eq!(self.promised.load(Ordering::Relaxed), 0, "a promise that nobody keeps");
    }

    /// Looks whether the bytes that are `held` have come beyond the `soft` limit.
    pub fn look_up(&self, held: usize, soft: usize) {
        // Relaxed, here and below: one of those who come beyond the limit tells; nothing else is ordered with that.
        if held > soft
            && !self.is_beyond.load(Ordering::Relaxed)
            && !self.is_beyond.swap(true, Ordering::Relaxed)
        {
            self.is_due.store(true, Ordering::Relaxed);
        }
    }

    /// Looks whether use has fallen well below the `soft` limit, to `live` bytes.
    pub fn look_down(&self, live: usize, soft: usize) {
        if self.is_beyond.load(Ordering::Relaxed) && live < soft - soft / PARTS {
            self.is_beyond.store(false, Ordering::Relaxed);
            self.is_due.store(false, Ordering::Relaxed);
        }
    }

    /// Whether the program has yet to be told that use is beyond the soft limit.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.is_due.load(Ordering::Relaxed)
    }

    /// Whether the caller is the one who tells.
    pub fn take_due(&self) -> bool {
        self.is_due.swap(false, Ordering::Relaxed)
    }

    /// The soft limit is another one now: what was told was told of the old one.
    pub fn begin_anew(&self) {
        self.is_due.store(false, Ordering::Relaxed);
        self.is_beyond.store(false, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_until_use_has_fallen_well_below() {
        let limit = Limit::new();
        let told = |held| {
            limit.look_down(held, 1600);
            limit.look_up(held, 1600);
            limit.take_due()
        };
        assert_eq!([1600, 1601, 1700, 1550, 1700].map(told), [false, true, false, false, false]);
        assert_eq!([1499, 1601, 1499, 1601].map(told), [false, true, false, true]);
        limit.look_down(1499, 1600);
        limit.look_up(1601, 1600);
        limit.look_down(1499, 1600);
        assert!(!limit.is_due(), "it is no longer so");
        // Of another limit what was told, or is to be told, says nothing.
        for _ in 0..2 {
            limit.look_up(1601, 1600);
            assert!(limit.is_due());
            limit.begin_anew();
            assert!(!limit.is_due());
        }
    }

    #[test]
    fn a_promise_counts_until_it_is_kept() {
        let limit = Limit::new();
        let promise = |bytes, held| limit.promise(bytes, 10, || held);
        assert_eq!([promise(6, 0), promise(5, 0), promise(4, 0), promise(1, 0)], [true, false, true, false]);
        limit.keep(6);
        assert_eq!([promise(1, 6), promise(6, 0)], [false, true]);
        assert_eq!([usize::MAX, usize::MAX - 6].map(|held| promise(4, held)), [false; 2]);
        limit.forget();
        limit.keep(4);
        assert_eq!([promise(1, 10), promise(10, 0)], [false, true]);
    }
}
