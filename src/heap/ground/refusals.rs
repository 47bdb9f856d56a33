//! Memory that the system does not take back: pages that are locked (before Linux 5.18), an unmap that a sandbox
//! forbids.
//!
//! What was refused once is not tried again at the next free, nor at the next tick, but after a while, and after twice
//! as long the next time: the allocator cannot see when what stands in the way has changed.

use crate::const_unless_model;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Milliseconds until what was refused is tried again, the first time.
const FIRST_MS: u64 = 200;
/// How often that doubles at most: to a little less than two hours.
const MOST_DOUBLINGS: u32 = 15;

/// How often in a row the system refused, and until when it is not asked again.
pub struct Refusals {
    count: AtomicU32,
    until: AtomicU64,
}

impl Refusals {
    const_unless_model! {
        /// Nothing was refused.
        pub(in crate::heap) fn new() -> Refusals {
            Refusals { count: AtomicU32::new(0), until: AtomicU64::new(0) }
        }
    }

    /// The system took something back, or refused to.
    pub fn note(&self, refused: bool, now: u64) {
        // Relaxed (all): figures; of two threads that note at once either is right.
        let count = self.count.load(Ordering::Relaxed);
        if refused {
            self.count.store((count + 1).min(MOST_DOUBLINGS), Ordering::Relaxed);
            self.until.store(now + (FIRST_MS << count), Ordering::Relaxed);
        } else if count > 0 {
            self.count.store(0, Ordering::Relaxed);
            self.until.store(0, Ordering::Relaxed);
        }
    }

    /// Milliseconds for which asking is of no use.
    pub fn wait(&self, now: u64) -> u64 {
        // Relaxed: a figure.
        self.until.load(Ordering::Relaxed).saturating_sub(now)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_asked_for_less_and_less_often() {
        let refusals = Refusals::new();
        let mut now = 1_000;
        let mut asked = 0;
        while now < 86_400_000 {
            asked += 1;
            refusals.note(true, now);
            now += refusals.wait(now);
        }
        assert!(asked < 40, "asked {asked} times in a day");
        refusals.note(true, now);
        assert!(refusals.wait(now) > FIRST_MS);
        refusals.note(false, now);
        assert_eq!(refusals.wait(now), 0, "it takes something back");
        refusals.note(true, now);
        assert_eq!(refusals.wait(now), FIRST_MS, "and all begins anew");
    }
}
