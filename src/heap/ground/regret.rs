//! Whether what is purged because too much is dirty is faulted in again elsewhere.
//!
//! Blocks of many sizes leave holes between them, a quarter of what is live where those are 32 KiB to 4 MB long: more than
//! the options let be dirty. So though use stays as it is, claims fault there and releases purge, for ever. That is to be
//! seen at a purge, by what has changed hands since the last one: as much was *faulted in* as is to go, so use has not
//! fallen; and it is much of what was *turned over*, so it costs something. This is done about it:
//! - Until as much as is live was turned over nothing is lent for spare runs (`spare.rs`): such a run fits blocks of one
//!   length only, and what is dirty in the arenas fits all. Nor do blocks that grow get room: it would be clean.
//! - An eighth more may be dirty, up to half as much again as the options say; unless nearly all that was released is to
//!   go, for then it fits nobody. Where use falls that ends; where little goes any more, by and by.

use crate::const_unless_model;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Parts of what the options let be dirty that may be dirty besides, at most, and how many parts that has.
const MOST: usize = 4;
const PARTS: usize = 8;
/// What goes is much if it is one part in `MUCH` of what was turned over, and little if it is less than one in `LITTLE`: what
/// may be dirty is led to where it is neither. It fits nobody if it is more than `NEARLY` parts in a hundred: where all that
/// is released goes, and all that is claimed is faulted in, it is 50.
const MUCH: usize = 8;
const LITTLE: usize = 10;
const NEARLY: usize = 43;
/// So many times what is live is turned over without a purge before a part less may be dirty, and before the next.
const CALM: usize = 8;

/// All figures are hints, as those of [`Retention`](super::Retention): one thread may overwrite what another has noted.
pub struct Regret {
    /// Bytes that were claimed though they were not resident since the last purge.
    faulted: AtomicUsize,
    /// Those, and all that were released since.
    turned: AtomicUsize,
    /// Bytes that have yet to be turned over before it is calm.
    pause: AtomicUsize,
    /// Parts.
    parts: AtomicUsize,
}

impl Regret {
    const_unless_model! {
        /// Nothing was purged.
        pub(super) fn new() -> Regret {
            Regret {
                faulted: AtomicUsize::new(0),
                turned: AtomicUsize::new(0),
                pause: AtomicUsize::new(0),
                parts: AtomicUsize::new(0),
            }
        }
    }

    /// Notes that `bytes` were claimed which are not resident.
    pub(in crate::heap) fn faulted(&self, bytes: usize) {
        // Relaxed, here and below: figures.
        self.faulted.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that `bytes` were released, or claimed though they are not resident.
    pub(in crate::heap) fn turned(&self, bytes: usize) {
        self.turned.fetch_add(bytes, Ordering::Relaxed);
        let pause = self.pause.load(Ordering::Relaxed);
        if pause > 0 {
            self.pause.store(pause.saturating_sub(bytes), Ordering::Relaxed);
        }
    }

    /// Takes a part off if much was turned over since the last purge, while `live` bytes are in use.
    pub(super) fn fade(&self, live: usize) {
        let parts = self.parts.load(Ordering::Relaxed);
        if parts == 0 {
            return;
        }
        let turned = self.turned.load(Ordering::Relaxed);
        if turned / CALM >= live {
            self.parts.store(parts - 1, Ordering::Relaxed);
            self.turned.store(turned - turned / CALM, Ordering::Relaxed);
        }
    }

    /// Judges, when `bytes` are about to go because too much is dirty while `live` are in use.
    pub(in crate::heap) fn purging(&self, bytes: usize, live: usize) {
        if self.turned.load(Ordering::Relaxed) < bytes {
            // Another thread purges at this moment, and has judged.
            return;
        }
        let faulted = self.faulted.swap(0, Ordering::Relaxed);
        let turned = self.turned.swap(0, Ordering::Relaxed);
        let parts = self.parts.load(Ordering::Relaxed);
        let parts = if faulted < bytes / 4 {
            // Use falls.
            0
        } else if bytes < turned / LITTLE {
            parts.saturating_sub(1)
        } else if bytes < turned / MUCH || faulted < bytes / 2 {
            parts
        } else {
            self.pause.store(live, Ordering::Relaxed);
            if bytes / NEARLY <= turned / 100 { (parts + 1).min(MOST) } else { parts }
        };
        self.parts.store(parts, Ordering::Relaxed);
    }

    /// Bytes that may be dirty beside the `limit` that the options set.
    pub(super) fn more(&self, limit: usize) -> usize {
        limit / PARTS * self.parts.load(Ordering::Relaxed)
    }

    /// Whether nothing that was purged lately was faulted in again.
    pub(in crate::heap) fn is_calm(&self) -> bool {
        self.pause.load(Ordering::Relaxed) == 0
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const LIVE: usize = 100 * MIB;

    /// A MiB is turned over, and looked at.
    fn turn(regret: &Regret) {
        regret.turned(MIB);
        regret.fade(LIVE);
    }

    /// What becomes of it when so many MiB go, `faulted` were faulted in, and so many were turned over: parts more, and
    /// whether room may be lent.
    fn purge(regret: &Regret, bytes: usize, faulted: usize, turned: usize) -> (usize, bool) {
        regret.faulted(faulted * MIB);
        (0..turned).for_each(|_| turn(regret));
        regret.purging(bytes * MIB, LIVE);
        (regret.more(PARTS), regret.is_calm())
    }

    #[test]
    fn what_was_faulted_in_again_lets_half_as_much_more_be_dirty_and_no_more() {
        let regret = Regret::new();
        let parts = [(); 6].map(|()| purge(&regret, 10, 10, 60));
        assert_eq!(parts, [1, 2, 3, 4, 4, 4].map(|parts| (parts, false)));
        assert_eq!(regret.more(1000), 500);
        // What is neither much nor little leaves it as it is, what is little takes a part off.
        let rates = [80, 90, 100, 101, 120, 200].map(|turned| purge(&regret, 10, 10, turned).0);
        assert_eq!(rates, [4, 4, 4, 3, 2, 1]);
        assert_eq!(purge(&regret, 10, 10, 9).0, 1, "another thread has judged");
        assert_eq!(purge(&regret, 10, 0, 60).0, 2, "what was faulted in counts for the next");
        assert_eq!(purge(&regret, 10, 2, 60).0, 0, "use falls");
    }

    #[test]
    fn a_purge_proves_nothing_that_is_little_or_of_what_fits_nobody() {
        let regret = Regret::new();
        assert_eq!(purge(&regret, 10, 10, 90), (0, true), "one part in nine");
        assert_eq!(purge(&regret, 10, 10, 20), (0, false), "all that is released goes");
        assert_eq!(purge(&regret, 10, 4, 60), (0, false));
        assert_eq!(purge(&regret, 10, 5, 80), (1, false));
    }

    #[test]
    fn nothing_is_lent_until_as_much_as_is_live_was_turned_over() {
        let regret = Regret::new();
        assert!(regret.is_calm() && !purge(&regret, 10, 10, 60).1);
        (0..LIVE / MIB).for_each(|_| {
            assert!(!regret.is_calm());
            turn(&regret);
        });
        assert!(regret.is_calm());
    }

    #[test]
    fn what_is_needed_no_more_goes_by_and_by() {
        let regret = Regret::new();
        (0..MOST).for_each(|_| assert!(!purge(&regret, 10, 10, 60).1));
        let mut turned = 0;
        for parts in (0..MOST).rev() {
            while regret.more(PARTS) > parts {
                turn(&regret);
                turned += MIB;
            }
        }
        assert_eq!(turned, (CALM + MOST - 1) * LIVE, "{} MiB", turned / MIB);
        assert!(purge(&regret, 10, 10, 60) == (0, true), "the last one is long ago");
    }
}
