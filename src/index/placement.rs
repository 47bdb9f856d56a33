//! Where in the address space the next region goes: on granules of its own, by a hint that never replaces anything.
//!
//! Address space is plentiful: regions start on granule boundaries, downwards from a random place below the system's
//! own mappings. Addresses that are free again come first, the lowest of them, so that the index's nodes for them are
//! used again and the part of the address space that is ever touched stays as small as what was mapped at a time.
//!
//! What lies above the *frontier* was handed out once, and is held by somebody or a hole: see `holes`. There are two
//! sizes of holes. A *unit* is what an entry of the index's root stands for. A region of a unit or more takes whole
//! units; a smaller one takes granules of one unit, and never lies across the edge of two. A unit that is free as a
//! whole is cut up when no other has room, and one whose granules are all free again becomes whole when somebody wants
//! units.
//!
//! Nothing is locked, and nothing is held between two steps but the addresses themselves: a thread that vanishes in the
//! middle of one takes these with it, and nothing else. What is mapped decides in the end: where the system refuses a
//! place, something is mapped there that is not ours; that granule stays held, and the rest of the place is a hole
//! again. When hints fail a few times in a row (a small address space, a crowded one), the system chooses.

use super::holes::{ensure, find};
use super::radix::{GRANULES, LIMIT, ROOT, ROOT_SPAN as UNIT, granule_index, root_index};
use crate::base::{GRANULE, align_down, align_up};
use crate::pal::{Access, Errno, Platform};
use crate::region::{Metadata, zeros};
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::Relaxed;

/// Hints tried before the system chooses.
const TRIES: usize = 16;

/// Below the system's mappings the first region lies at least this far down, and at most twice as far further.
const DISTANCE: usize = 128 << 30;

/// Bytes of address space that the maps of holes tell apart: all of it, but under a checker.
const WINDOW: usize = ROOT * UNIT;

/// Memory that was mapped for a region.
pub(super) struct Placed {
    pub(super) base: usize,
    /// Bytes mapped; a little more than asked if the system refused to cut the end off.
    pub(super) mapped: usize,
    /// Bytes of address space that are held for it, to be given back with it; none where the system chose.
    pub(super) held: usize,
}

/// Chooses addresses.
#[repr(C)] // As `heap::Allocator`.
pub(super) struct Placement {
    /// Where the first region was to end, and the lowest address given to a region so far; 0 before the first.
    top: AtomicUsize,
    frontier: AtomicUsize,
    /// The units that are free as a whole.
    units: AtomicUsize,
    /// By unit: the holes among its granules, once there was one.
    granules: [AtomicUsize; ROOT],
}

impl Placement {
    crate::const_unless_model! {
        pub(super) fn new() -> Placement {
            Placement {
                top: AtomicUsize::new(0),
                frontier: AtomicUsize::new(0),
                granules: zeros(),
                units: AtomicUsize::new(0),
            }
        }
    }

    /// Maps `len` bytes, readable and writable, at a multiple of `need` (a power of two, at least a page), and of a
    /// granule if that is possible.
    pub(super) fn map<P: Platform>(
        &self,
        os: &P,
        metadata: &Metadata,
        len: usize,
        need: usize,
    ) -> Result<Placed, Errno> {
        let place = Place::for_region(len, need).ok_or(Errno(libc::ENOMEM))?;
        for attempt in 0..TRIES {
            let Some(base) =
                self.take_hole(os, metadata, &place).or_else(|| self.advance(os, metadata, &place, attempt))
            else {
                break;
            };
            match os.map(Some(base), len, Access::ReadWrite) {
                Ok(base) => return Ok(Placed { base, mapped: len, held: place.span }),
                Err(Errno(libc::EEXIST)) => self.avoid(os, metadata, base, place.span),
                Err(error) => {
                    self.give_back(os, metadata, base, place.span);
                    if error == Errno(libc::ENOMEM) {
                        // Wherever it were: what is short is not addresses.
                        return Err(error);
                    }
                    break;
                }
            }
        }
        map_anywhere(os, len, need)
    }

    /// Makes addresses holes, which the caller holds, and where nothing is mapped any more.
    pub(super) fn give_back<P: Platform>(&self, os: &P, metadata: &Metadata, base: usize, len: usize) {
        let (mut at, end) = (base, base + len);
        while at < end {
            let next = end.min(align_down(at, UNIT) + UNIT);
            let (map, first, count) = if next - at == UNIT {
                (&self.units, root_index(at), 1)
            } else {
                (&self.granules[root_index(at)], granule_index(at), (next - at) / GRANULE)
            };
            // Without memory for a map the hole is forgotten.
            if let Some(holes) = ensure(map, os, metadata) {
                holes.give_back(first, first + count);
            }
            at = next;
        }
    }

    /// The lowest hole that will do.
    fn take_hole<P: Platform>(&self, os: &P, metadata: &Metadata, place: &Place) -> Option<usize> {
        if place.span >= UNIT {
            return self.take_units(place).or_else(|| {
                self.gather(os, metadata);
                self.take_units(place)
            });
        }
        for unit in self.territory() {
            let Some(holes) = find(&self.granules[root_index(unit)]) else { continue };
            if let Some(first) = holes.claim(place.span / GRANULE, place.align / GRANULE) {
                return Some(unit + first * GRANULE);
            }
        }
        let unit = self.take_units(&Place { span: UNIT, align: UNIT })?;
        self.give_back(os, metadata, unit + place.span, UNIT - place.span);
        Some(unit)
    }

    /// The lowest units that are free as a whole.
    fn take_units(&self, place: &Place) -> Option<usize> {
        let first = find(&self.units)?.claim(place.span / UNIT, place.align / UNIT)?;
        // Relaxed: holes come from regions, and the first of those came after it was set.
        let top = self.top.load(Relaxed);
        let base = align_down(top - 1, WINDOW) + first * UNIT;
        Some(if base < top { base } else { base - WINDOW })
    }

    /// Makes units whole whose granules are all free.
    fn gather<P: Platform>(&self, os: &P, metadata: &Metadata) {
        for unit in self.territory() {
            if find(&self.granules[root_index(unit)]).is_some_and(|holes| holes.claim_all(GRANULES)) {
                self.give_back(os, metadata, unit, UNIT);
            }
        }
    }

    /// The units that regions have ever been in, from the lowest.
    fn territory(&self) -> impl Iterator<Item = usize> + use<> {
        // Relaxed, both: a unit that is missed has been entered just now.
        let (frontier, top) = (self.frontier.load(Relaxed), self.top.load(Relaxed));
        let first = if frontier == 0 { top } else { align_down(frontier, UNIT) };
        (first..top).step_by(UNIT)
    }

    /// Takes addresses below the frontier. After some attempts in vain further down: a large mapping of somebody else's
    /// may lie there.
    fn advance<P: Platform>(
        &self,
        os: &P,
        metadata: &Metadata,
        place: &Place,
        attempt: usize,
    ) -> Option<usize> {
        let gap = if attempt < 2 { 0 } else { GRANULE << attempt };
        // Relaxed, here and below: an exchange takes addresses, and nothing else hangs on it.
        let mut frontier = self.frontier.load(Relaxed);
        if frontier == 0 {
            let first = first_frontier(os)?;
            let top = self.top.compare_exchange(0, first, Relaxed, Relaxed).map_or_else(|top| top, |_| first);
            frontier =
                self.frontier.compare_exchange(0, top, Relaxed, Relaxed).map_or_else(|now| now, |_| top);
        }
        loop {
            let end = frontier.checked_sub(gap)?;
            let base = place.below(end).filter(|&base| self.top.load(Relaxed) - base <= WINDOW)?;
            match self.frontier.compare_exchange_weak(frontier, base, Relaxed, Relaxed) {
                Ok(_) => {
                    self.give_back(os, metadata, base + place.span, end - (base + place.span));
                    return Some(base);
                }
                Err(now) => frontier = now,
            }
        }
    }

    /// The system has refused a place that was held: in one granule of it something is mapped that is not ours. That
    /// one stays held; the rest is a hole.
    fn avoid<P: Platform>(&self, os: &P, metadata: &Metadata, base: usize, len: usize) {
        let (mut at, mut left) = (base, len);
        while left > GRANULE {
            let half = (left / 2).next_multiple_of(GRANULE);
            if is_free(os, at, half) {
                (at, left) = (at + half, left - half);
            } else {
                left = half;
            }
        }
        self.give_back(os, metadata, base, at - base);
        self.give_back(os, metadata, at + GRANULE, base + len - (at + GRANULE));
    }
}

/// What a region needs of the address space.
struct Place {
    /// Bytes: granules, fewer than are in a unit, or units.
    span: usize,
    align: usize,
}

impl Place {
    /// For `len` bytes at a multiple of `need`. `None` if nothing is as large as that.
    fn for_region(len: usize, need: usize) -> Option<Place> {
        let span = align_up(len, GRANULE)?;
        let (span, align) = match span >= UNIT || need >= UNIT {
            true => (align_up(span, UNIT)?, need.max(UNIT)),
            false => (span, need.max(GRANULE)),
        };
        (span < LIMIT && align < LIMIT).then_some(Place { span, align })
    }

    /// The highest place below `end`.
    fn below(&self, end: usize) -> Option<usize> {
        let base = align_down(end.checked_sub(self.span)?, self.align);
        let edge = align_down(base + self.span - 1, UNIT);
        let base =
            if self.span < UNIT && base < edge { align_down(edge - self.span, self.align) } else { base };
        (base > 0).then_some(base)
    }
}

/// Whether nothing is mapped there.
fn is_free<P: Platform>(os: &P, at: usize, len: usize) -> bool {
    let free = os.map(Some(at), len, Access::None).is_ok();
    if free {
        // SAFETY: mapped just now, and nobody knows it. If the system refuses, address space stays reserved.
        let _ = unsafe { os.unmap(at, len) };
    }
    free
}

/// A random granule far below where the system places a mapping; right below that if there is no such place.
fn first_frontier<P: Platform>(os: &P) -> Option<usize> {
    let page = os.page_size();
    let probe = os.map(None, page, Access::None).ok()?;
    // SAFETY: mapped just now, and nobody knows it. If the system refuses, one page of address space stays reserved.
    let _ = unsafe { os.unmap(probe, page) };
    let far = frontier_below(probe, os.entropy() as usize);
    let there = far >= GRANULE && is_free(os, far - GRANULE, page);
    Some(if there { far } else { align_down(probe, GRANULE) }).filter(|&frontier| frontier != 0)
}

/// The granule that the number `random` chooses below `top`.
fn frontier_below(top: usize, random: usize) -> usize {
    let distance = DISTANCE.min(top / 8);
    align_down(top - distance - random % (2 * distance).max(1), GRANULE)
}

/// Maps `len` bytes at a multiple of `need` where the system has room.
fn map_anywhere<P: Platform>(os: &P, len: usize, need: usize) -> Result<Placed, Errno> {
    let base = os.map(None, len, Access::ReadWrite)?;
    if base.is_multiple_of(need) {
        return Ok(Placed { base, mapped: len, held: 0 });
    }
    // SAFETY: mapped just now, and nobody knows it.
    unsafe { os.unmap(base, len) }?;
    let slack = need - os.page_size();
    let whole = len.checked_add(slack).ok_or(Errno(libc::ENOMEM))?;
    let start = os.map(None, whole, Access::ReadWrite)?;
    let base = align_up(start, need).ok_or(Errno(libc::ENOMEM))?;
    let (head, tail) = (base - start, start + whole - (base + len));
    if head > 0 {
        // SAFETY: the head of what was mapped just now.
        if let Err(error) = unsafe { os.unmap(start, head) } {
            // SAFETY: all of what was mapped just now.
            let _ = unsafe { os.unmap(start, whole) };
            return Err(error);
        }
    }
    // SAFETY: the tail of what was mapped just now.
    let cut = tail == 0 || unsafe { os.unmap(base + len, tail) }.is_ok();
    Ok(Placed { base, mapped: if cut { len } else { len + tail }, held: 0 })
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::base::SLICE;
    use crate::pal::simulated::Simulated;

    #[test]
    fn the_frontier_leaves_room_in_an_address_space_of_any_size() {
        for bits in [0, 12, 24, 32, 36, 39, 42, 47] {
            let top = 1usize << bits;
            for random in [0, 1, top / 2, usize::MAX / 2, usize::MAX] {
                let frontier = frontier_below(top, random);
                assert!(frontier.is_multiple_of(GRANULE) && frontier <= top - top.min(DISTANCE) / 8);
                assert!(frontier + GRANULE > top / 2, "{frontier:#x} of {top:#x}");
            }
        }
    }

    #[test]
    fn where_the_system_chooses_all_of_the_place_is_mapped_and_no_more() {
        let os = Simulated::new();
        for need in [4096, SLICE, GRANULE, 4096] {
            let before = os.mapped_bytes();
            let placed = map_anywhere(&os, 3 * SLICE, need).unwrap();
            assert!(placed.base.is_multiple_of(need));
            assert_eq!((placed.mapped, placed.held), (3 * SLICE, 0));
            assert_eq!(os.mapped_bytes() - before, 3 * SLICE);
        }
    }
}
