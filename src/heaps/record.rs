//! An area and the records of its slices. An *area* is a region that is cut into slices; it begins with a header, in
//! memory that is never a file's: room for the heap's words, which only the first area uses, and a record for each slice.

use crate::base::{GRANULE, SLICE, align_down};
use crate::region::{BlockMap, Link, Linked, Mapped, Region};
use core::ptr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Where the heap's words lie in its first area. Before that nothing does: who takes a block of this heap for one of the
/// process's, and an area for an arena, looks for a slab's record there, finds zeros, and so that nobody owns the slab.
pub(super) const WORDS: usize = SLICE;
/// Room for them.
pub(super) const WORDS_ROOM: usize = 8 << 10;
/// Where the records lie in every area.
const RECORDS: usize = WORDS + WORDS_ROOM;

/// Bytes in an area, but for the first, unless address space is short. With its guard it fills a granule.
pub(super) const AREA: usize = GRANULE - SLICE;
/// Bytes in the first: small heaps are many.
pub(super) const FIRST_AREA: usize = 4 << 20;
/// Bytes in the smallest.
pub(super) const LEAST_AREA: usize = 1 << 20;

/// What a slice is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Usage {
    Free = 0,
    /// The first of a slab.
    Slab = 1,
    /// The first of a large block.
    Large = 2,
    /// A later slice of either.
    Later = 3,
}

/// The record of a slice. Written by whoever holds the slice, but for the map, which has rules of its own.
#[repr(C, align(128))]
pub(super) struct Record {
    link: Link,
    usage: AtomicU32,
    /// Slices in the run; of a later slice, how many come before it.
    slices: AtomicU32,
    /// The blocks, if it is a slab's.
    pub(super) map: BlockMap,
}

// SAFETY: records lie in a header, aligned as the type says and below 2^48. They live as long as the heap, and so do the
// stacks that they are in; a header is used for nothing else.
unsafe impl Linked for Record {
    fn link(&self) -> &Link {
        &self.link
    }
}

impl Mapped for Record {
    #[inline]
    fn map(&self) -> &BlockMap {
        &self.map
    }
}

/// Slices that the header of an area of `len` bytes takes.
pub(super) const fn header_slices(len: usize) -> usize {
    (RECORDS + len / SLICE * size_of::<Record>()).div_ceil(SLICE)
}

const _: () =
    assert!(header_slices(FIRST_AREA) == 2 && header_slices(LEAST_AREA) == 2 && header_slices(AREA) < 8);

impl Record {
    /// That of the slice at `slice` of an area.
    #[inline]
    pub(super) fn at(area: &Region, slice: usize) -> &'static Record {
        let at = area.base() + RECORDS + slice * size_of::<Record>();
        // SAFETY: the area's header is mapped as long as the heap is there, began as zeros, which are a valid record,
        // and holds a record for each slice.
        unsafe { &*ptr::with_exposed_provenance(at) }
    }

    /// The first of the run that this slice belongs to.
    #[inline]
    pub(super) fn first(&'static self) -> &'static Record {
        if self.usage() != Usage::Later {
            return self;
        }
        // SAFETY: a later slice has as many before it in the area.
        unsafe { &*ptr::from_ref(self).sub(self.slices()) }
    }

    /// Where its slice lies. Areas start on a granule.
    #[inline]
    pub(super) fn base(&self) -> usize {
        let at = ptr::from_ref(self).addr();
        let area = align_down(at, GRANULE);
        area + (at - area - RECORDS) / size_of::<Record>() * SLICE
    }

    #[inline]
    pub(super) fn usage(&self) -> Usage {
        // Relaxed, here and below: the holder of a block in the run came to it after the run was opened; to anybody else
        // it is a figure.
        match self.usage.load(Relaxed) {
            1 => Usage::Slab,
            2 => Usage::Large,
            3 => Usage::Later,
            _ => Usage::Free,
        }
    }

    /// Slices in the run that begins here.
    #[inline]
    pub(super) fn slices(&self) -> usize {
        self.slices.load(Relaxed) as usize
    }

    /// Makes `slices` slices from here on a run.
    pub(super) fn open(&'static self, usage: Usage, slices: usize) {
        for back in 1..slices {
            let later = self.later(back);
            later.slices.store(back as u32, Relaxed);
            later.usage.store(Usage::Later as u32, Relaxed);
        }
        self.slices.store(slices as u32, Relaxed);
        self.usage.store(usage as u32, Relaxed);
    }

    /// Cuts the run off behind the first `slices` slices.
    pub(super) fn shorten(&'static self, slices: usize) {
        (slices..self.slices()).for_each(|back| self.later(back).usage.store(Usage::Free as u32, Relaxed));
        self.slices.store(slices as u32, Relaxed);
    }

    /// Ends the run, if it is one of this `usage`: of two threads that say so one finds it.
    #[must_use]
    pub(super) fn end(&'static self, usage: Usage) -> bool {
        let slices = self.slices();
        let ends = self.usage.compare_exchange(usage as u32, Usage::Free as u32, Relaxed, Relaxed).is_ok();
        if ends {
            (1..slices).for_each(|back| self.later(back).usage.store(Usage::Free as u32, Relaxed));
        }
        ends
    }

    fn later(&'static self, back: usize) -> &'static Record {
        // SAFETY: the run is the caller's, and lies in the area.
        unsafe { &*ptr::from_ref(self).add(back) }
    }
}
