//! Pages that came together, and of which a part goes.
//!
//! What the system populates at one fault, a *folio*, is one page to it until it is split. Of one that goes in part the
//! process sees less: it is neither mapped nor resident. But all of it stays allocated, and charged to the control group,
//! until the system runs short of memory and splits what it has put by for that. So first the page at either end of what
//! goes is split off, where it may lie in a folio that stays in part: the system splits all of that then, and what goes
//! is free at once.

use crate::base::align_down;
use crate::const_unless_model;
use crate::pal::{Folios, Platform};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// The sizes of folios in this process, as far as they are known, in bytes. Guesses: a folio too many in one piece is
/// split by the system some day, and one that is none costs a system call.
pub struct FolioSizes {
    /// The largest; 0 if all are single pages.
    largest: AtomicUsize,
    /// How much smaller than a huge page the smallest are. (All zero at first: the process's allocator is in no file.)
    less: AtomicUsize,
}

impl FolioSizes {
    const_unless_model! {
        /// Single pages.
        pub(in crate::heap) fn new() -> FolioSizes {
            FolioSizes { largest: AtomicUsize::new(0), less: AtomicUsize::new(0) }
        }
    }

    /// Notes what comes where nobody has asked for it.
    pub(in crate::heap) fn learn(&self, folios: Folios) {
        // Relaxed (both): guesses.
        self.largest.fetch_max(folios.unasked, Ordering::Relaxed);
        self.less.store(Folios::HUGE.saturating_sub(folios.least), Ordering::Relaxed);
    }

    /// Notes that huge pages were asked for.
    pub(in crate::heap) fn asked(&self) {
        // Relaxed: as above.
        self.largest.fetch_max(Folios::HUGE, Ordering::Relaxed);
    }

    /// Before the pages of `len` bytes at `at` go.
    ///
    /// # Safety
    /// The caller holds them, whole pages of one mapping, and nobody needs their contents.
    pub(in crate::heap) unsafe fn split<P: Platform>(&self, os: &P, at: usize, len: usize) {
        // Relaxed (both): as above.
        let largest = self.largest.load(Ordering::Relaxed);
        if largest == 0 {
            return;
        }
        let least = Folios::HUGE - self.less.load(Ordering::Relaxed);
        for page in ends(at, at + len, os.page_size(), [largest, least]).into_iter().flatten() {
            // SAFETY: passed on.
            unsafe { os.split(page) };
        }
    }
}

/// The pages of `start..end` by whose folios more than that may go, where a folio has no more bytes than the first of
/// `sizes`, and no fewer than the second.
fn ends(start: usize, end: usize, page: usize, [largest, least]: [usize; 2]) -> [Option<usize>; 2] {
    let last = end - page;
    let [first_stays, last_stays] = [start, end].map(|edge| align_down(edge, largest) != edge);
    // One page stands for both, if it is the same folio in any case.
    let is_one = first_stays && align_down(start, least) == align_down(last, least);
    [first_stays.then_some(start), (last_stays && !is_one).then_some(last)]
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 4096;
    const SLICE: usize = 64 << 10;

    #[test]
    fn the_ends_of_what_goes_are_split_off() {
        let of = |start, end, sizes| ends(start, end, PAGE, sizes);
        let (huge, both, small) = ([Folios::HUGE; 2], [Folios::HUGE, SLICE], [SLICE; 2]);
        assert_eq!(of(0, Folios::HUGE, huge), [None, None], "all of one");
        assert_eq!(of(0, SLICE, huge), [None, Some(SLICE - PAGE)], "the first part");
        assert_eq!(of(SLICE, 3 * SLICE, huge), [Some(SLICE), None], "the middle of one");
        assert_eq!(of(SLICE, 3 * SLICE, both), [Some(SLICE), Some(3 * SLICE - PAGE)], "or of two small ones");
        assert_eq!(of(SLICE, 3 * SLICE, small), [None, None], "all of two");
        assert_eq!(of(2 * PAGE, 5 * PAGE, small), [Some(2 * PAGE), None], "the middle of a small one");
        let (start, end) = (Folios::HUGE - PAGE, Folios::HUGE + PAGE);
        assert_eq!(of(start, end, huge), [Some(start), Some(Folios::HUGE)], "a bit of each of two");
        assert_eq!(of(PAGE, 2 * PAGE, huge), [Some(PAGE), None], "a single page");
    }

    #[test]
    fn the_smallest_are_huge_pages_until_it_is_told_otherwise() {
        let sizes = FolioSizes::new();
        let known =
            || (sizes.largest.load(Ordering::Relaxed), Folios::HUGE - sizes.less.load(Ordering::Relaxed));
        assert_eq!(known(), (0, Folios::HUGE));
        sizes.learn(Folios { unasked: 2 * SLICE, least: SLICE });
        assert_eq!(known(), (2 * SLICE, SLICE));
        sizes.asked();
        assert_eq!(known(), (Folios::HUGE, SLICE));
    }

    proptest! {
        /// Whatever the sizes of the folios that lie there, each that stays in part has a page that is split off.
        #[test]
        fn no_folio_goes_in_part(
            start in 0usize..2048, pages in 1usize..2048, largest in 2u32..=9, less in 0u32..=7, which in 0u32..=9
        ) {
            let least = largest.saturating_sub(less).max(2);
            let (size, start) = (PAGE << which.clamp(least, largest), start * PAGE);
            let end = start + pages * PAGE;
            let split = ends(start, end, PAGE, [PAGE << largest, PAGE << least]);
            for edge in [start, end] {
                let folio = align_down(edge, size);
                let goes_too = folio < end && start < folio + size;
                let stays_too = folio < start || end < folio + size;
                if goes_too && stays_too {
                    let is_split = split.iter().flatten().any(|page| (folio..folio + size).contains(page));
                    prop_assert!(is_split, "{folio:#x} of {start:#x}..{end:#x}: {split:x?}");
                }
            }
        }
    }
}
