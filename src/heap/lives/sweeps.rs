//! Sweeps: before a process of many threads takes more memory, heaps whose threads pause give back what is free in them.
//!
//! The helper tidies what was not used for a second. A pool of two hundred threads, each of which has something to do every
//! tenth of a second and nothing in between, is never idle so, and each of its heaps would come to hold what a task needs.
//! So a heap that sees the process higher than it has ever seen it moves a *hand* on among the heaps that can be visited,
//! as a clock does among pages: one that has the probe of the last round still was not used since, and is swept (collected,
//! in a visit of the caller's own); one that has none is probed. What is given back is resident, and taken before what is
//! not: it takes less time than as many pages that are faulted in. No sweep is needed where the process has what it needs.
//!
//! Who was swept in vain costs its owner what it had at hand: where little comes of it, sweeps pause.

use crate::heap::block::Checks;
use crate::heap::gate::Gate;
use crate::heap::small::watch::WORD;
use crate::heap::small::{AT_ONCE, Heap, Heaps};
use crate::pal::Platform;
use crate::sync::Cell;

/// Heaps that can be visited and are not swept, at least, where others are swept.
const CROWD: usize = if cfg!(any(loom, shuttle)) { 1 } else { 8 };
/// Heaps that the hand passes at a time, and those of them that are swept, at most: some 50 us each.
const PASSED: usize = 16;
const SWEPT: usize = 2;
/// Bytes of slabs in a heap that is swept: at least, and at most, for what lies in its bins is brought home block by block.
const LEAST_HELD: usize = if cfg!(any(loom, shuttle)) { 0 } else { 128 << 10 };
const MOST_HELD: usize = 32 << 20;
/// A sweep is worth it where a heap gives back one part in so many of what it held.
const WORTH: usize = 4;

impl<P: Platform> Heaps<P> {
    /// After the process was found higher than ever by `heap`, which the caller possesses: moves the hand on.
    #[cold]
    #[inline(never)]
    pub fn sweep<C: Checks>(&self, heap: &Heap) {
        if self.is_crowded() && self.watch().hand.is_due() {
            let found = self.pass_on();
            if found != [usize::MAX; SWEPT] {
                self.sweep_those::<C>(heap, found);
            }
        }
    }

    fn is_crowded(&self) -> bool {
        let count = |word| self.watch().unswept(word).count_ones() as usize;
        (0..self.pool().made().div_ceil(WORD)).map(count).sum::<usize>() >= CROWD
    }

    /// Moves the hand on, and returns which heaps were not used since it passed them, if any.
    fn pass_on(&self) -> [usize; SWEPT] {
        let (mut found, mut count) = ([usize::MAX; SWEPT], 0);
        let made = self.pool().made();
        // Once round at most: what it has probed itself is not to be found.
        for _ in 0..PASSED.min(made) {
            let index = self.watch().hand.move_on(made);
            let other = self.pool().get(index).filter(|other| !other.gate().is_occupied());
            let Some(other) = other.filter(|_| self.watch().is_unswept(index)) else { continue };
            if other.gate().is_probed() {
                found[count] = index;
                count += 1;
                if count == SWEPT {
                    break;
                }
            } else {
                other.gate().probe();
            }
        }
        found
    }

    fn sweep_those<C: Checks>(&self, heap: &Heap, found: [usize; SWEPT]) {
        let wants = |other: &Heap| found.contains(&(other.index() as usize));
        let is_worth_it = Cell::new(false);
        self.visit::<C>(heap.caller(), Gate::mark_and_probe, wants, |other| {
            // The owner takes it off as it comes in past the probe.
            self.watch().swept.add(other.index() as usize);
            let before = other.held();
            let has_read = || {
                other.receive::<C, P>(self, AT_ONCE);
                !other.has_mail()
            };
            if before < LEAST_HELD || !has_read() {
                // Nothing is expected of one that has little; and what was sent to one may be more than a call can receive.
                return is_worth_it.set(true);
            }
            if before <= MOST_HELD {
                other.collect::<C, P>(self);
            }
            if before - other.held() >= before / WORTH {
                is_worth_it.set(true);
            }
        });
        self.watch().hand.note(is_worth_it.get());
    }
}
