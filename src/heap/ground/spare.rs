//! Spare slices: what a heap keeps of the slabs that have become empty and the large blocks that were freed, for the
//! next of the same length that it needs. Otherwise a program at the edge of a slab would go to the arenas with every
//! few blocks, and one that replaces large blocks with each: that costs twenty times what a small block does.

use crate::base::SLICE;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::{atomic_array, const_unless_model};

/// Slices in all the runs that a heap keeps at most: when a large block is freed, and when a slab becomes empty. (The
/// largest slab has five.)
pub const MOST_SPARE: usize = 8;
pub const MOST_SPARE_OF_SLABS: usize = 5;

/// A claimed run of slices: its address, and in the low bits their number. One word, so that a thread that vanishes
/// leaves the whole or nothing.
struct Run(AtomicUsize);

impl Run {
    // Relaxed (all): the possessor alone writes it; for others it is a figure.
    fn get(&self) -> (usize, usize) {
        let word = self.0.load(Ordering::Relaxed);
        (word / SLICE * SLICE, word % SLICE)
    }

    fn set(&self, (base, slices): (usize, usize)) {
        debug_assert!(base.is_multiple_of(SLICE) && slices < SLICE);
        self.0.store(base | slices, Ordering::Relaxed);
    }

    fn replace(&self, run: (usize, usize)) -> (usize, usize) {
        let before = self.get();
        self.set(run);
        before
    }

    fn slices(&self) -> usize {
        self.get().1
    }
}

const NONE: (usize, usize) = (0, 0);

/// Claimed runs of slices that hold nothing at the moment. What was kept last comes first; there may be gaps.
pub struct Spares {
    runs: [Run; MOST_SPARE],
}

impl Spares {
    const_unless_model! {
        /// None.
        pub fn new() -> Spares {
            Spares { runs: atomic_array!(Run(AtomicUsize::new(0)); MOST_SPARE) }
        }
    }

    /// Keeps the run of `slices` slices at `base`. What is more than `most` by that is given to `release`, the run that
    /// was kept first before the others.
    pub fn keep(&self, base: usize, slices: usize, most: usize, release: impl Fn(usize, usize)) {
        if slices > most {
            return release(base, slices);
        }
        while self.slices() + slices > most && self.give_back(&release) {}
        // A run is in one place or none at any time.
        let mut next = (base, slices);
        for run in &self.runs {
            next = run.replace(next);
            if next == NONE {
                break;
            }
        }
    }

    /// Gives the run that was kept first to `release`; `false` if there is none.
    pub fn give_back(&self, release: impl Fn(usize, usize)) -> bool {
        let Some(last) = self.runs.iter().rfind(|run| run.slices() != 0) else { return false };
        let (base, slices) = last.replace(NONE);
        release(base, slices);
        true
    }

    /// Takes out a run of `slices` slices, the one that was kept last: its address.
    pub fn take(&self, slices: usize) -> Option<usize> {
        let run = self.runs.iter().find(|run| run.slices() == slices)?;
        Some(run.replace(NONE).0)
    }

    /// Takes out a run of `slices` slices, the one with the least `misfit`, which is told the address, if that is no
    /// more than `most`: its address.
    pub fn take_fitting(&self, slices: usize, most: usize, misfit: impl Fn(usize) -> usize) -> Option<usize> {
        let mut best: Option<(usize, &Run)> = None;
        for run in self.runs.iter().filter(|run| run.slices() == slices) {
            let misfit = misfit(run.get().0);
            if best.is_none_or(|(least, _)| misfit < least) {
                best = Some((misfit, run));
            }
            if misfit == 0 {
                break;
            }
        }
        best.filter(|&(misfit, _)| misfit <= most).map(|(_, run)| run.replace(NONE).0)
    }

    /// The runs: where each begins, and its slices.
    #[cfg(any(test, feature = "simulated"))]
    pub(in crate::heap) fn each(&self) -> impl Iterator<Item = (usize, usize)> {
        self.runs.iter().map(Run::get).filter(|&run| run != NONE)
    }

    /// Slices in all of them. Any thread may ask: a figure.
    pub fn slices(&self) -> usize {
        self.runs.iter().map(Run::slices).sum()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::vec::Vec;

    #[test]
    fn the_run_that_was_kept_first_goes_first_and_the_last_is_taken_first() {
        let spares = Spares::new();
        let released = RefCell::new(Vec::new());
        let keep = |slice: usize, slices| {
            spares.keep(slice * SLICE, slices, MOST_SPARE, |base, slices| {
                released.borrow_mut().push((base / SLICE, slices))
            })
        };
        (1..=7).for_each(|slice| keep(slice, 1));
        assert_eq!((spares.slices(), released.take()), (7, Vec::new()));
        assert_eq!((spares.take(1), spares.take(2)), (Some(7 * SLICE), None));
        keep(10, 2);
        assert_eq!((spares.slices(), released.take()), (8, Vec::new()), "in the place of the one taken");
        keep(20, 2);
        assert_eq!((spares.slices(), released.take()), (8, Vec::from([(1, 1), (2, 1)])));
        assert_eq!((spares.take(1), spares.take(2)), (Some(6 * SLICE), Some(20 * SLICE)));
        keep(30, MOST_SPARE);
        assert_eq!(spares.slices(), MOST_SPARE);
        assert_eq!(released.take(), Vec::from([(3, 1), (4, 1), (5, 1), (10, 2)]), "one may be all of it");
        keep(50, MOST_SPARE + 1);
        assert_eq!((spares.slices(), released.take()), (MOST_SPARE, Vec::from([(50, MOST_SPARE + 1)])));
        assert!(spares.give_back(|base, slices| assert_eq!((base, slices), (30 * SLICE, MOST_SPARE))));
        assert!(!spares.give_back(|_, _| unreachable!()) && spares.slices() == 0);
    }

    #[test]
    fn the_run_that_fits_best_is_taken_and_of_several_the_last() {
        let spares = Spares::new();
        (1..=4).for_each(|slice| spares.keep(slice * SLICE, 1, MOST_SPARE, |_, _| unreachable!()));
        spares.keep(8 * SLICE, 2, MOST_SPARE, |_, _| unreachable!());
        let far = |from: usize| move |base: usize| base.abs_diff(from * SLICE);
        let take = |slices, from| spares.take_fitting(slices, 7 * SLICE, far(from));
        assert_eq!(take(1, 2), Some(2 * SLICE));
        assert_eq!(take(1, 2), Some(3 * SLICE), "as far away as the first, and kept later");
        assert_eq!((take(3, 1), take(2, 0), take(2, 1)), (None, None, Some(8 * SLICE)));
        assert_eq!(spares.slices(), 2);
    }
}
