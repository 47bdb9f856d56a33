//! Whether memory is scarce outside of this process: what the system and the control groups say, looked at from time to
//! time by whoever may open files.

use crate::const_unless_model;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Memory is scarce if tasks have waited for it for one part in so many of the time.
const STALLED_PARTS: u64 = 64;
/// Looks from one at all limits to the next: that is ten files and more.
const LOOKS: usize = 8;

/// What a look has found.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    /// Microseconds for which tasks have waited for memory, ever: see [`Platform::stalled_us`](crate::pal::Platform).
    pub stalled_us: usize,
    /// Bytes of memory that the process may still get, where that was asked.
    pub left: Option<usize>,
}

/// What was found at the last look. Figures, all of them: there is one who looks.
pub struct Scarcity {
    /// Microseconds for which tasks had waited, and milliseconds on the clock.
    stalled: AtomicU64,
    looked: AtomicU64,
    looks: AtomicUsize,
}

impl Scarcity {
    const_unless_model! {
        /// Nobody has looked.
        pub(in crate::heap) fn new() -> Scarcity {
            Scarcity { stalled: AtomicU64::new(0), looked: AtomicU64::new(0), looks: AtomicUsize::new(0) }
        }
    }

    /// Notes that tasks have waited for `stalled` microseconds by `now`: whether that is much more than at the last look.
    pub(in crate::heap) fn has_risen(&self, stalled: usize, now: u64) -> bool {
        if stalled == usize::MAX {
            return false;
        }
        let stalled = stalled as u64;
        // Relaxed (all): see above.
        let (before, then) = (self.stalled.load(Ordering::Relaxed), self.looked.load(Ordering::Relaxed));
        self.stalled.store(stalled, Ordering::Relaxed);
        self.looked.store(now, Ordering::Relaxed);
        let (waited, time) = (stalled.saturating_sub(before), now.saturating_sub(then).saturating_mul(1_000));
        then != 0 && waited > 0 && waited >= time / STALLED_PARTS
    }

    /// Whether this look is one at all limits, too: the first is, and then each eighth.
    pub(in crate::heap) fn is_thorough(&self) -> bool {
        // Relaxed: as above.
        self.looks.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOKS)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn what_was_waited_since_the_last_look_counts() {
        let scarcity = Scarcity::new();
        assert!(!scarcity.has_risen(5_000_000, 1_000), "the first look tells nothing");
        assert!(!scarcity.has_risen(5_000_000, 2_000) && !scarcity.has_risen(5_010_000, 3_000));
        assert!(scarcity.has_risen(5_030_000, 4_000), "20 ms of a second");
        assert!(!scarcity.has_risen(5_050_000, 8_000), "and of four");
        assert!(!scarcity.has_risen(10, 9_000), "another group's");
        assert!(!scarcity.has_risen(10, 9_000) && scarcity.has_risen(11, 9_000));
        assert!(!scarcity.has_risen(usize::MAX, 9_000), "not known");
        assert_eq!((0..17).filter(|_| scarcity.is_thorough()).count(), 3);
    }
}
