//! What is about to be unmapped gives its pages back piece by piece.

use core::ops::Range;

/// Bytes whose pages are given back in one call: a few milliseconds, if all are there.
const PIECE: usize = 32 << 20;

/// Pieces at most.
const MOST_PIECES: usize = 1024;

/// The pieces, as offsets in bytes, of a range of `len` bytes, all of which may be resident.
pub(super) fn pieces(len: usize) -> impl Iterator<Item = Range<usize>> {
    let step = PIECE.max((len / MOST_PIECES).next_multiple_of(PIECE));
    (0..len).step_by(step).map(move |start| start..len.min(start + step))
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_as_long_as_the_range_and_not_too_many() {
        const PAGE: usize = 4096;
        for (len, count) in [(0, 0), (PAGE, 1), (20 << 20, 1), (70 << 20, 3), (1 << 30, 32), (33 << 30, 528)]
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
