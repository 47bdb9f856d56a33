//! Figures that many threads change and few ask for: each is the sum of a few dozen shards, and a claimant changes the
//! one that its number leads to. So counting costs a line that hardly anybody else writes, and asking costs a look at
//! all shards in use, however many arenas and heaps there are.
//!
//! A sum is of no one moment: while others count it may miss an addition and see a later subtraction. It is exact when
//! nobody is in the middle of anything.

use super::Claimant;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{CachePadded, Counter};
use crate::{atomic_array, const_unless_model};

const SHARDS: usize = if cfg!(any(loom, shuttle)) { 2 } else { 32 };

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Slices of arenas that can be claimed.
    Usable = 0,
    /// Slices that slabs and large blocks hold.
    Claimed = 1,
    /// Other slices whose pages may be resident.
    Dirty = 2,
    /// Bytes behind large blocks in their runs that may be resident.
    Soiled = 3,
    /// Bytes of claimed slices that no memory is held for: behind samples, which have a slice each and need a page of it.
    Unheld = 4,
}

impl Count {
    /// All of them.
    pub const ALL: [Count; COUNTS] =
        [Count::Usable, Count::Claimed, Count::Dirty, Count::Soiled, Count::Unheld];
}

const COUNTS: usize = 5;

/// See the head of this file.
pub struct Tally {
    /// The last shard that a claimant's number leads to: those behind it are zero.
    reached: AtomicUsize,
    shards: [CachePadded<[Counter; COUNTS]>; SHARDS],
}

impl Tally {
    const_unless_model! {
        /// Nothing was counted.
        pub(in crate::heap) fn new() -> Tally {
            Tally {
                reached: AtomicUsize::new(0),
                shards: atomic_array!(CachePadded::new(atomic_array!(Counter::new(); COUNTS)); SHARDS),
            }
        }
    }

    /// There is a claimant of that number, which has yet to count anything.
    pub fn reach(&self, number: u32) {
        // Relaxed (here and below): a figure. Who asks before this is seen misses what that claimant counts.
        self.reached.fetch_max((number as usize).min(SHARDS - 1), Ordering::Relaxed);
    }

    fn figure(&self, by: &Claimant, count: Count) -> &Counter {
        &self.shards[by.number() as usize % SHARDS][count as usize]
    }

    /// Counts `more`.
    pub fn add(&self, by: &Claimant, count: Count, more: usize) {
        self.figure(by, count).add(more);
    }

    /// Takes off `fewer`, which this claimant or another has counted. A shard may fall below zero; their sum does not.
    pub fn take_off(&self, by: &Claimant, count: Count, fewer: usize) {
        self.figure(by, count).take_off(fewer);
    }

    /// What was counted as `before` is `after`, by whoever has no claimant at hand.
    pub fn correct(&self, count: Count, before: usize, after: usize) {
        self.shards[0][count as usize].add(after.wrapping_sub(before));
    }

    /// The figure.
    // As a call: it is a few hundred bytes of text, in a dozen slow paths, and a small program pays for their pages.
    #[inline(never)]
    pub fn sum(&self, count: Count) -> usize {
        let [sum] = self.sums([count]);
        sum
    }

    /// Several figures, in one look at all shards.
    pub fn sums<const N: usize>(&self, counts: [Count; N]) -> [usize; N] {
        let mut sums = [0_usize; N];
        for shard in &self.shards[..=self.reached.load(Ordering::Relaxed).min(SHARDS - 1)] {
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum = sum.wrapping_add(shard[count as usize].get());
            }
        }
        sums.map(|sum| (sum as isize).max(0) as usize)
    }

    /// The figure, below zero if it is: what was taken off twice is no zero.
    #[cfg(any(test, feature = "simulated"))]
    pub(in crate::heap) fn balance(&self, count: Count) -> isize {
        let counted = |shard: &CachePadded<[Counter; COUNTS]>| shard[count as usize].get();
        self.shards.iter().map(counted).fold(0, usize::wrapping_add) as isize
    }

    /// In the child of a fork: sets a figure that a thread that vanished may have been about to change.
    pub fn set(&self, count: Count, sum: usize) {
        for (index, shard) in self.shards.iter().enumerate() {
            shard[count as usize].set(if index == 0 { sum } else { 0 });
        }
    }
}
