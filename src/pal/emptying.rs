//! What is unmapped gives its pages back first, where it is long.
//!
//! The process's map is locked for as long as a munmap takes, and whoever else maps or unmaps waits: for all pages of
//! 128 MiB 6 ms, and two threads that do so by turns fall into step and wait for each other. An madvise before it locks
//! the map for reading, and since Linux 6.17 not at all where its range lies in one mapping.

use core::ops::Range;

/// Bytes that go in one call, with their pages.
const AT_ONCE: usize = 8 << 20;

/// Bytes of what is longer whose pages are given back in one call: a few milliseconds, if all are there.
const PIECE: usize = 32 << 20;

/// Pieces at most.
const MOST_PIECES: usize = 1024;

/// The pieces, as offsets in bytes, of a range of `len` bytes, all of which may be resident, whose pages go before it is
/// unmapped.
pub(super) fn pieces(len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = if len < AT_ONCE { 0 } else { len };
    let step = PIECE.max((end / MOST_PIECES).next_multiple_of(PIECE));
    (0..end).step_by(step).map(move |start| start..end.min(start + step))
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_as_long_as_the_range_and_not_too_many() {
        const PAGE: usize = 4096;
        for (len, count) in
            [(PAGE, 0), (7 << 20, 0), (20 << 20, 1), (70 << 20, 3), (1 << 30, 32), (33 << 30, 528)]
        {
            let pieces: Vec<Range<usize>> = pieces(len).collect();
            assert_eq!(pieces.len(), count, "of {len:#x}");
            assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start));
            if let Some(last) = pieces.last() {
                assert_eq!((pieces[0].start, last.end), (0, len));
            }
        }
    }
}
