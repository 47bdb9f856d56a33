//! Looks at single pages, for the bet on population: what is there, and what an access takes.

use super::population::HUGE_PAGE;
use crate::base::SLICE;
use crate::pal::Platform;
use core::ptr;

/// Pages of a freed huge block that are looked at.
pub(super) const SAMPLES: usize = 16;
/// Pages of a piece that are touched behind its first.
const TOUCHED: usize = 15;

/// Close to the golden ratio of 2^64, and odd.
pub(super) const MIXER: usize = 0x9e37_79b9_7f4a_7c15;

/// Which of the `pages` of a block at `at` is looked at for one of its parts. Not at equal distances: programs use tables
/// and rows of buffers at distances of powers of two, and all looks would meet the pages that they touch, or none.
pub(super) fn sampled_page(at: usize, sample: usize, pages: usize) -> usize {
    let (start, end) = (sample * pages / SAMPLES, (sample + 1) * pages / SAMPLES);
    let mixed = (at / SLICE).wrapping_add(sample).wrapping_mul(MIXER) >> 32;
    start + mixed.checked_rem(end - start).unwrap_or(0)
}

/// Nanoseconds that `access` takes.
pub(super) fn time<P: Platform>(os: &P, access: impl FnOnce()) -> u64 {
    let start = os.now_ns();
    access();
    os.now_ns().saturating_sub(start)
}

/// Whether something is written in the line at `at`.
pub(super) fn is_written(at: usize) -> bool {
    const WORDS: usize = 8;
    let line = ptr::with_exposed_provenance::<u64>(at);
    // SAFETY: memory of the caller's: fresh, or of a block whose contents nobody needs. Volatile: nobody knows what it is.
    (0..WORDS).any(|word| unsafe { line.add(word).read_volatile() != 0 })
}

/// Whether something is written in nearly all pages of a live block, `len` bytes at `at`, as far as a few of them tell. They
/// are read, and nothing else: the block is somebody's, and a page that was never touched reads as zeros.
pub fn is_filled<P: Platform>(os: &P, at: usize, len: usize) -> bool {
    let page = os.page_size();
    let is_empty = |sample: &usize| {
        let start = at + sampled_page(at, *sample, len.checked_div(page).unwrap_or(0)) * page;
        !is_written(start) && !is_written(start + page / 2)
    };
    (0..SAMPLES).filter(is_empty).take(2).count() < 2
}

/// Writes to the page at `at`, whose first byte is zero and stays so.
pub(super) fn touch(at: usize) {
    // SAFETY: as above. Volatile: it is for the access.
    unsafe { ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(0) };
}

/// Whether a huge page of so many `pages` was populated by one fault, and in less time than by as many faults of single
/// pages: by what [`touch_piece`] said of it, and what a `fault` of those takes.
pub(super) fn comes_at_once([first, others]: [u64; 2], fault: u64, pages: usize) -> bool {
    others < fault * TOUCHED as u64 / 4 && first < fault * pages as u64 / 4 * 3
}

/// Touches the first pages of the fresh piece at `at`, and says what the first one took, and the [`TOUCHED`] behind it
/// together, in nanoseconds.
pub(super) fn touch_piece<P: Platform>(os: &P, at: usize) -> [u64; 2] {
    let others = || (1..=TOUCHED).for_each(|number| touch(at + number * os.page_size()));
    [time(os, || touch(at)), time(os, others)]
}

/// A second look at a piece, which `comes` tells of as of the first, in front of which it lies. What that touches goes
/// back: no more than one huge page is resident ahead of claims.
///
/// # Safety
/// Nobody uses anything in the huge page at `piece`, which is the caller's.
pub(super) unsafe fn look_ahead<P: Platform>(
    os: &P,
    piece: usize,
    comes: impl FnOnce(usize) -> bool,
) -> bool {
    let came = comes(piece);
    // SAFETY: the caller's. If the system refuses, it is resident: nothing worse.
    let _refused = unsafe { os.purge(piece, HUGE_PAGE) };
    came
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::pal::Access;
    use crate::pal::simulated::{CallKind, Simulated};

    #[test]
    fn looks_meet_few_of_the_pages_at_equal_distances() {
        for mib in [8, 16, 24, 32, 40, 64, 1024] {
            let pages = mib << 8;
            for stride in [4, 16, 64, 128] {
                let mut met = 0;
                for at in (0..64).map(|number| number * HUGE_PAGE) {
                    let mut last = None;
                    for sample in 0..SAMPLES {
                        let page = sampled_page(at, sample, pages);
                        assert!(page < pages && Some(page) > last, "one of each part");
                        last = Some(page);
                        met += usize::from(page.is_multiple_of(stride));
                    }
                }
                let even = 64 * SAMPLES / stride;
                assert!((even / 2..=even * 2).contains(&met), "{met} at {stride} in {mib} MiB, for {even}");
            }
        }
    }

    #[test]
    fn huge_pages_are_worth_it_where_they_come_and_come_soon() {
        // A fault of 500 ns: 512 of them are 256 us.
        assert!(comes_at_once([90_000, 300], 500, 512));
        assert!(!comes_at_once([60_000, 7_500], 500, 512), "looked for, and none found");
        assert!(!comes_at_once([500, 7_500], 500, 512), "forbidden");
        assert!(!comes_at_once([6_000_000, 300], 500, 512), "the host had to find the memory");
    }

    #[test]
    fn what_a_second_look_touches_goes_back() {
        let os = Simulated::new();
        let at = os.map(None, 2 * HUGE_PAGE, Access::ReadWrite).unwrap();
        for comes in [true, false] {
            let before = os.calls().purge;
            let look = |piece| {
                // SAFETY: the mapping is this test's.
                unsafe { ptr::with_exposed_provenance_mut::<u8>(piece).write(1) };
                comes && piece > at
            };
            // SAFETY: the mapping is this test's.
            assert_eq!(unsafe { look_ahead(&os, at + HUGE_PAGE, look) }, comes);
            assert_eq!((os.calls().purge, is_written(at + HUGE_PAGE)), (before + 1, false));
            let purged = os
                .record()
                .iter()
                .filter(|call| call.kind == CallKind::Purge)
                .all(|call| (call.addr, call.len) == (at + HUGE_PAGE, HUGE_PAGE));
            assert!(purged, "as a whole");
        }
    }
}
