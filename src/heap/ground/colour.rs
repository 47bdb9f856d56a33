//! Colour: how far behind the start of its run or region a long block begins.
//!
//! Runs of slices begin with a multiple of 64 KiB, and the first cache finds the set of a line by its place in its page.
//! Arrays of a program that all began there and are walked side by side, as a matrix of rows is along a column, would
//! have their elements in one set, of which a cache keeps about ten; and their pages in a few sets of the translation
//! cache. So a block begins some lines further on, each at another, and behind a gap of whole pages, within what its run
//! has to spare.

use crate::base::{LINE, WAY, align_down};
use crate::const_unless_model;
use crate::sync::Cell;

/// As a share of a block its colour is this at most: the pages that it touches for that are half of it on average. One of
/// whole pages touches one more with any colour, and has none where that is a larger share.
const SHARE: usize = 16;

/// What is before a block is not there to grow into: a heap leaves gaps when it has given so many colours, and so many more
/// for each time that one of its blocks grew, of which it remembers some.
const SETTLED: u32 = 16;
const GROWN: u32 = 8;
const MOST_GROWN: u32 = 4096;

/// Which colours a heap has given. Touched by its possessor only.
pub struct Colours {
    given: Cell<u32>,
    /// How many it gives until there are gaps again.
    owed: Cell<u32>,
}

impl Colours {
    const_unless_model! {
        /// None yet.
        pub fn new() -> Colours {
            Colours { given: Cell::new(0), owed: Cell::new(0) }
        }
    }

    /// How many bytes behind the start of its run a block of `size` bytes begins that can begin `room` bytes behind it
    /// at most: a multiple of [`LINE`]. Those of blocks in a row are far from each other, and all are given equally often.
    #[inline(always)]
    pub fn next(&self, size: usize, room: usize) -> usize {
        let is_full = size.is_multiple_of(WAY) && size < SHARE * WAY;
        let lines = if is_full { 1 } else { room.min(size / SHARE).min(WAY - LINE) / LINE + 1 };
        let given = self.given.get();
        self.given.set(given.wrapping_add(1));
        self.owed.set(self.owed.get().saturating_sub(1));
        evenly(given, 0xc13f_a9a9, lines) * LINE
    }

    /// Notes that a block grew.
    #[inline(always)]
    pub fn grown(&self) {
        self.owed.set((self.owed.get() + GROWN).min(MOST_GROWN));
    }

    /// Whether hardly any blocks grow.
    #[inline(always)]
    pub fn is_calm(&self) -> bool {
        self.owed.get() == 0
    }

    /// Whether blocks are to have gaps: hardly any grow, of several.
    #[inline(always)]
    pub fn has_gaps(&self) -> bool {
        self.is_calm() && self.given.get() > SETTLED
    }

    /// How many bytes before the block stay unused, whole pages, of `room` bytes that its run has to spare and that were
    /// never touched: so that blocks differ in the sets of the translation cache, too, which go by the number of a page.
    pub fn gap(&self, room: usize, page: usize) -> usize {
        align_down(evenly(self.given.get(), 0x91e1_0da5, align_down(room, page) + page), page)
    }
}

/// One of `kinds`. As `number` counts up they are taken evenly: multiples of a number such as the golden section lie evenly
/// in the unit interval, however many there are. (Those of the two `factor`s lie evenly in the unit square.)
fn evenly(number: u32, factor: u32, kinds: usize) -> usize {
    ((u64::from(number.wrapping_mul(factor)) * kinds as u64) >> 32) as usize
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::base::SLICE;
    use std::collections::BTreeSet;

    #[test]
    fn colours_lie_evenly_within_what_there_is() {
        let colours = Colours::new();
        for (size, room, kinds) in [
            (1 << 20, 60 << 10, 64),
            (40_000, 25_536, 40),
            (1 << 20, 200, 4),
            (65_536, 0, 1),
            (36_864, 28_672, 1),
        ] {
            let mut times = [0; WAY / LINE];
            for _ in 0..8 * kinds {
                let colour = colours.next(size, room);
                assert!(colour.is_multiple_of(LINE) && colour <= room && colour < WAY);
                times[colour / LINE] += 1;
            }
            assert!(times[..kinds].iter().all(|times| (6..=10).contains(times)), "{size} {room}: {times:?}");
            assert!(times[kinds..].iter().all(|&times| times == 0), "{size} {room}: {times:?}");
        }
    }

    #[test]
    fn there_are_no_gaps_while_blocks_grow() {
        let colours = Colours::new();
        let given = |count: u32| (0..count).for_each(|_| _ = colours.next(SLICE, 0));
        given(SETTLED);
        assert!(!colours.has_gaps(), "nobody knows yet");
        given(1);
        assert!(colours.has_gaps());
        for _ in 0..MOST_GROWN {
            colours.grown();
            given(GROWN - 1);
            assert!(!colours.has_gaps());
        }
        given(MOST_GROWN - GROWN);
        assert!(!colours.has_gaps(), "all of them grew");
        given(GROWN);
        assert!(colours.has_gaps());
    }

    #[test]
    fn gaps_are_whole_pages_and_all_are_given() {
        let colours = Colours::new();
        for (room, kinds) in [(0, 1), (4095, 1), (4096, 2), (25_536, 7), (65_535, 16)] {
            let gaps = (0..8 * kinds).map(|_| {
                let _line = colours.next(SLICE, SLICE);
                colours.gap(room, 4096)
            });
            let gaps: BTreeSet<usize> = gaps.collect();
            assert_eq!(gaps, (0..kinds).map(|page| page * 4096).collect());
        }
    }
}
