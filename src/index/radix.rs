//! The shape of the radix: which bits of an address choose which entry, and how a range is cut into entries. Pure.
//!
//! | level | entries in a node | bytes per entry |
//! |---|---|---|
//! | root | 2,048 | 64 GiB |
//! | granule | 2,048 | 32 MiB |
//! | slice | 512 | 64 KiB |
//! | page | 16 | 4 KiB |
//!
//! That is 47 bits of address, all of user space on x86-64 with four-level page tables and what the kernel hands out by
//! default with five; on aarch64 one bit less than it may hand out. Nothing lies above it as far as the index is
//! concerned, and mappings that the system places there are refused. The last level counts in 4 KiB whatever the page
//! size is; with pages of 64 KiB it is never used.

use crate::base::{GRANULE, GRANULE_SLICES, SLICE, align_up};
use core::ops::Range;

/// Whether a checker runs: the tree is then small, and the upper bits of an address are ignored.
const MODEL: bool = cfg!(any(loom, shuttle));

/// Entries of the root.
pub(super) const ROOT: usize = if MODEL { 4 } else { 2048 };
/// Entries of a node of granules.
pub(super) const GRANULES: usize = if MODEL { 4 } else { 2048 };
/// Entries of a node of slices.
pub(super) const SLICES: usize = GRANULE_SLICES;
/// Bytes per entry of a node of pages.
pub(super) const PAGE: usize = 4 << 10;
/// Entries of a node of pages.
pub(super) const PAGES: usize = SLICE / PAGE;

/// Bytes that an entry of the root stands for.
pub(in crate::index) const ROOT_SPAN: usize = GRANULES * GRANULE;

/// The first address that the index cannot hold.
pub(super) const LIMIT: usize = if MODEL { 1 << 47 } else { ROOT * ROOT_SPAN };

const _: () = assert!(LIMIT == 1 << 47);

/// A level of the tree, by what an entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Root,
    Granule,
    Slice,
}

impl Level {
    /// Bytes that one entry stands for.
    pub(super) const fn span(self) -> usize {
        match self {
            Level::Root => ROOT_SPAN,
            Level::Granule => GRANULE,
            Level::Slice => SLICE,
        }
    }
}

/// `len` rounded up to whole entries of the highest level of which it fills one: granules, or entries of the root.
pub(super) const fn whole(len: usize) -> Option<usize> {
    match align_up(len, GRANULE) {
        Some(granules) if granules >= ROOT_SPAN => align_up(granules, ROOT_SPAN),
        granules => granules,
    }
}

/// Which entry of the root `address` falls into.
#[inline(always)]
pub(super) const fn root_index(address: usize) -> usize {
    address / ROOT_SPAN % ROOT
}

/// Which entry of its node of granules.
#[inline(always)]
pub(super) const fn granule_index(address: usize) -> usize {
    address / GRANULE % GRANULES
}

/// Which entry of its node of slices.
#[inline(always)]
pub(super) const fn slice_index(address: usize) -> usize {
    address / SLICE % SLICES
}

/// Which entry of its node of pages.
#[inline(always)]
pub(super) const fn page_index(address: usize) -> usize {
    address / PAGE % PAGES
}

/// A part of a range that is one entry, or some entries of one node of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All that the entry at this level stands for, from this address.
    Whole(Level, usize),
    /// Pages of the slice at this address.
    Pages(usize, Range<usize>),
}

/// Cuts `start..end` (multiples of [`PAGE`]) into the fewest pieces, in ascending order.
pub(super) fn pieces(start: usize, end: usize) -> Pieces {
    debug_assert!(start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE) && start <= end && end <= LIMIT);
    Pieces { at: start, end }
}

/// See [`pieces`].
pub(super) struct Pieces {
    at: usize,
    end: usize,
}

impl Iterator for Pieces {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let at = self.at;
        let left = self.end - at;
        if left == 0 {
            return None;
        }
        for level in [Level::Root, Level::Granule, Level::Slice] {
            if at.is_multiple_of(level.span()) && left >= level.span() {
                self.at += level.span();
                return Some(Part::Whole(level, at));
            }
        }
        let slice = at / SLICE * SLICE;
        let first = page_index(at);
        let count = (PAGES - first).min(left / PAGE);
        self.at += count * PAGE;
        Some(Part::Pages(slice, first..first + count))
    }
}

/// The granule number of an address.
#[inline(always)]
pub(super) const fn granule_number(address: usize) -> usize {
    address / GRANULE
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn the_indices_are_the_digits_of_an_address() {
        // Each digit over its whole domain, the others at their ends and in between.
        let some = |count: usize| [0, 1, count / 2 - 1, count - 2, count - 1];
        let check = |root: usize, granule: usize, slice: usize, page: usize| {
            let address = root * ROOT_SPAN + granule * GRANULE + slice * SLICE + page * PAGE;
            for address in [address, address + PAGE - 1] {
                assert!(address < LIMIT);
                assert_eq!((root_index(address), granule_index(address)), (root, granule));
                assert_eq!((slice_index(address), page_index(address)), (slice, page));
                assert_eq!(granule_number(address), root * GRANULES + granule);
            }
        };
        for slice in some(SLICES) {
            for page in 0..PAGES {
                (0..ROOT).for_each(|root| {
                    some(GRANULES).iter().for_each(|&granule| check(root, granule, slice, page))
                });
                (0..GRANULES).for_each(|granule| {
                    some(ROOT).iter().for_each(|&root| check(root, granule, slice, page))
                });
            }
        }
        for (root, granule) in some(ROOT).into_iter().zip(some(GRANULES)) {
            (0..SLICES).for_each(|slice| (0..PAGES).for_each(|page| check(root, granule, slice, page)));
        }
    }

    /// The bytes of a piece.
    fn bytes(piece: &Part) -> Range<usize> {
        match piece {
            Part::Whole(level, at) => *at..at + level.span(),
            Part::Pages(at, pages) => at + pages.start * PAGE..at + pages.end * PAGE,
        }
    }

    #[test]
    fn pieces_cover_a_range_once_and_as_high_as_possible() {
        // Around an edge of every level, with ends that are multiples of each page size.
        for page_size in [4 << 10, 16 << 10, 64 << 10] {
            for edge in [ROOT_SPAN * 3, ROOT_SPAN * 3 + GRANULE, ROOT_SPAN * 3 + GRANULE + SLICE] {
                let around = |edge: usize| (0..=40).map(move |step| edge - 20 * page_size + step * page_size);
                for start in around(edge) {
                    let spans = [0, SLICE, GRANULE, ROOT_SPAN];
                    for end in
                        spans.into_iter().flat_map(|span| around(edge + span)).filter(|&end| end > start)
                    {
                        check_pieces(start, end);
                    }
                }
            }
        }
    }

    fn check_pieces(start: usize, end: usize) {
        let all: Vec<Part> = pieces(start, end).collect();
        let mut at = start;
        for piece in &all {
            assert_eq!(bytes(piece).start, at);
            at = bytes(piece).end;
            match piece {
                // Not the whole of a wider entry's range.
                Part::Whole(Level::Root, _) => {}
                Part::Whole(Level::Granule, at) => assert!(!inside(*at, ROOT_SPAN, start, end)),
                Part::Whole(Level::Slice, at) => assert!(!inside(*at, GRANULE, start, end)),
                Part::Pages(slice, pages) => {
                    assert!(pages.end <= PAGES && !inside(*slice, SLICE, start, end));
                }
            }
        }
        assert_eq!(at, end);
        assert!(all.iter().filter(|piece| matches!(piece, Part::Pages(..))).count() <= 2);
    }

    /// Whether the unit of `span` bytes that holds `at` lies in `start..end`.
    fn inside(at: usize, span: usize, start: usize, end: usize) -> bool {
        let unit = at / span * span;
        start <= unit && unit + span <= end
    }

    #[test]
    fn ten_gibibytes_are_320_entries() {
        assert_eq!(pieces(GRANULE, GRANULE + (10 << 30)).count(), 320);
    }
}
