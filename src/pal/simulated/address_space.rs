//! Which addresses are mapped, and as how many mappings: the bookkeeping, without memory behind it.

use super::super::Access;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ops::Range;
use std::vec::Vec;

/// What two neighbouring ranges must agree in to be one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) access: Access,
    pub(super) name: Option<&'static CStr>,
    pub(super) huge_pages: bool,
    /// How far the pages have been moved from the address that they were first mapped at. Linux numbers the pages of
    /// a mapping by that address, so moved pages do not merge with what they come to lie beside.
    pub(super) moved: usize,
}

/// A part of a range and what it is mapped as.
pub(super) type Piece = (Range<usize>, Kind);

/// The mappings, in order of their addresses. Like Linux it keeps neighbours that agree as one mapping.
pub(super) struct AddressSpace {
    bounds: Range<usize>,
    /// Start -> end and kind. Not empty, disjoint, and no two that touch have the same kind.
    mappings: BTreeMap<usize, (usize, Kind)>,
    /// Bytes of all mappings.
    mapped: usize,
    /// Bytes of those that are readable and writable.
    writable: usize,
}

/// Bytes in all pieces, and bytes in those that are readable and writable.
fn bytes(pieces: &[Piece]) -> (usize, usize) {
    pieces.iter().fold((0, 0), |(mapped, writable), (range, kind)| {
        (mapped + range.len(), writable + if kind.access == Access::ReadWrite { range.len() } else { 0 })
    })
}

impl AddressSpace {
    pub(super) fn new(bounds: Range<usize>) -> AddressSpace {
        AddressSpace { bounds, mappings: BTreeMap::new(), mapped: 0, writable: 0 }
    }

    pub(super) fn count(&self) -> usize {
        self.mappings.len()
    }

    pub(super) fn mapped(&self) -> usize {
        self.mapped
    }

    pub(super) fn writable(&self) -> usize {
        self.writable
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Piece> + '_ {
        self.mappings.iter().map(|(&start, &(end, kind))| (start..end, kind))
    }

    /// What is mapped inside `range`, cut off at its ends.
    pub(super) fn pieces(&self, range: &Range<usize>) -> Vec<Piece> {
        let first = self.mappings.range(..=range.start).next_back().map_or(range.start, |(&start, _)| start);
        self.mappings
            .range(first..range.end)
            .map(|(&start, &(end, kind))| (start.max(range.start)..end.min(range.end), kind))
            .filter(|(part, _)| !part.is_empty())
            .collect()
    }

    /// Whether no byte of `range` is mapped and all of it may be.
    pub(super) fn is_free(&self, range: &Range<usize>) -> bool {
        self.bounds.start <= range.start && range.end <= self.bounds.end && self.pieces(range).is_empty()
    }

    /// Whether every byte of `range` is mapped.
    pub(super) fn is_mapped(&self, range: &Range<usize>) -> bool {
        self.pieces(range).iter().map(|(part, _)| part.len()).sum::<usize>() == range.len()
    }

    /// The kind of the one mapping that holds all of `range`.
    pub(super) fn single(&self, range: &Range<usize>) -> Option<Kind> {
        match self.pieces(range).as_slice() {
            [(part, kind)] if part == range => Some(*kind),
            _ => None,
        }
    }

    /// The highest address at which `len` bytes are free: Linux, too, fills its address space from the top.
    pub(super) fn find_free(&self, len: usize) -> Option<usize> {
        let mut top = self.bounds.end;
        for (&start, &(end, _)) in self.mappings.iter().rev() {
            if top - end >= len {
                break;
            }
            top = start;
        }
        top.checked_sub(len)
            .filter(|&start| start >= self.bounds.start && self.is_free(&(start..start + len)))
    }

    /// Makes `pieces` all that is mapped inside `range`. Returns what was there: painting that again takes it back.
    pub(super) fn paint(&mut self, range: &Range<usize>, pieces: Vec<Piece>) -> Vec<Piece> {
        self.split(range.start);
        self.split(range.end);
        let before = self.pieces(range);
        for (part, _) in &before {
            self.mappings.remove(&part.start);
        }
        let ((mapped, writable), (mapped_before, writable_before)) = (bytes(&pieces), bytes(&before));
        self.mapped = self.mapped + mapped - mapped_before;
        self.writable = self.writable + writable - writable_before;
        for (part, kind) in pieces {
            debug_assert!(range.start <= part.start && part.end <= range.end && !part.is_empty());
            self.mappings.insert(part.start, (part.end, kind));
        }
        self.merge(range);
        before
    }

    /// Cuts the mapping that `at` lies inside in two.
    fn split(&mut self, at: usize) {
        if let Some((_, (end, kind))) = self.mappings.range_mut(..at).next_back()
            && *end > at
        {
            let back = (std::mem::replace(end, at), *kind);
            self.mappings.insert(at, back);
        }
    }

    /// Joins neighbours that agree, inside `range` and across its ends.
    fn merge(&mut self, range: &Range<usize>) {
        let first = self.mappings.range(..range.start).next_back().map_or(range.start, |(&start, _)| start);
        let starts: Vec<usize> = self.mappings.range(first..=range.end).map(|(&start, _)| start).collect();
        let mut front = first;
        for start in starts.into_iter().filter(|&start| start != first) {
            let (end, kind) = self.mappings[&start];
            match self.mappings.get_mut(&front) {
                Some((front_end, front_kind)) if *front_end == start && *front_kind == kind => {
                    *front_end = end;
                    self.mappings.remove(&start);
                }
                _ => front = start,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGES: usize = 24;

    fn kind() -> impl Strategy<Value = Option<Kind>> {
        let access = prop_oneof![Just(Access::None), Just(Access::ReadWrite)];
        let named = prop::option::of(Just(c"name"));
        prop::option::of(
            (access, named, any::<bool>(), 0usize..2).prop_map(|(access, name, huge_pages, moved)| Kind {
                access,
                name,
                huge_pages,
                moved,
            }),
        )
    }

    /// The same told page by page: a mapping is a run of pages that agree.
    fn runs(pages: &[Option<Kind>]) -> Vec<Piece> {
        let mut runs: Vec<Piece> = Vec::new();
        for (page, kind) in pages.iter().enumerate() {
            match (runs.last_mut(), kind) {
                (Some((range, last)), Some(kind)) if range.end == page && last == kind => range.end += 1,
                (_, Some(kind)) => runs.push((page..page + 1, *kind)),
                (_, None) => {}
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn agrees_with_an_array_of_pages(
            steps in prop::collection::vec((0..PAGES, 1..PAGES, kind(), any::<bool>(), 1..PAGES), 1..40)
        ) {
            let mut space = AddressSpace::new(0..PAGES);
            let mut pages = [None; PAGES];
            for (start, len, kind, taken_back, wanted) in steps {
                let range = start..(start + len).min(PAGES);
                let before = space.paint(&range, kind.map(|kind| (range.clone(), kind)).into_iter().collect());
                if taken_back {
                    space.paint(&range, before);
                } else {
                    pages[range.clone()].fill(kind);
                }
                prop_assert_eq!(space.iter().collect::<Vec<_>>(), runs(&pages));
                prop_assert_eq!(space.is_free(&range), pages[range.clone()].iter().all(Option::is_none));
                prop_assert_eq!(space.is_mapped(&range), pages[range.clone()].iter().all(Option::is_some));
                let first = pages[range.start];
                let single = pages[range.clone()].iter().all(|page| *page == first);
                prop_assert_eq!(space.single(&range), first.filter(|_| single));
                let highest = (0..=PAGES - wanted).rev().find(|&at| pages[at..at + wanted].iter().all(Option::is_none));
                prop_assert_eq!(space.find_free(wanted), highest);
                prop_assert_eq!(space.mapped(), pages.iter().flatten().count());
                let writable = pages.iter().flatten().filter(|kind| kind.access == Access::ReadWrite).count();
                prop_assert_eq!(space.writable(), writable);
            }
        }
    }
}
