//! Where in the address space the next region goes: on a granule of its own, by a hint that never replaces anything.
//!
//! Address space is plentiful: regions start on granule boundaries, downwards from a random place below the system's own
//! mappings. Places of regions that are gone are used first, so that the index's nodes for them are used again. When
//! hints fail a few times in a row (a small address space, a crowded one), the system chooses.

use crate::base::{GRANULE, align_down, align_up};
use crate::pal::{Access, Errno, Platform};
use crate::region::zeros;
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::Relaxed;

/// Hints tried before the system chooses.
const TRIES: usize = 8;

/// Places remembered.
const HOLES: usize = if cfg!(any(loom, shuttle)) { 1 } else { 32 };

/// Below the system's mappings the first region lies at least this far down, and at most twice as far further.
const DISTANCE: usize = 128 << 30;

/// A run of granules that used to be a region: number of the first and count, in one word. What was mapped has fewer than
/// 2^32 granules, which is all of an address space of 57 bits.
#[derive(Clone, Copy)]
struct Hole(usize);

impl Hole {
    fn new(base: usize, granules: usize) -> Hole {
        Hole((base / GRANULE) << 32 | granules)
    }

    fn base(self) -> usize {
        (self.0 >> 32) * GRANULE
    }

    fn granules(self) -> usize {
        self.0 & u32::MAX as usize
    }
}

/// Memory that was mapped for a region.
pub(super) struct Placed {
    pub(super) base: usize,
    /// Bytes mapped; a little more than asked if the system refused to cut the end off.
    pub(super) mapped: usize,
}

/// Chooses addresses. All words are hints: what is mapped decides.
pub(super) struct Placement {
    /// The lowest address given to a region so far; 0 before the first.
    frontier: AtomicUsize,
    holes: [AtomicUsize; HOLES],
}

impl Placement {
    crate::const_unless_model! {
        pub(super) fn new() -> Placement {
            Placement { frontier: AtomicUsize::new(0), holes: zeros() }
        }
    }

    /// Maps `len` bytes, readable and writable, at a multiple of `need` (a power of two, at least a page), and of a
    /// granule if that is possible.
    pub(super) fn map<P: Platform>(&self, os: &P, len: usize, need: usize) -> Result<Placed, Errno> {
        let align = need.max(GRANULE);
        let span = align_up(len, GRANULE).ok_or(Errno(libc::ENOMEM))?;
        for _ in 0..TRIES {
            let Some(base) = self.take_hole(span / GRANULE, align).or_else(|| self.advance(os, span, align))
            else {
                break;
            };
            match os.map(Some(base), len, Access::ReadWrite) {
                Ok(base) => return Ok(Placed { base, mapped: len }),
                Err(Errno(libc::EEXIST)) => {}
                Err(_) => {
                    self.give_back(base, span);
                    break;
                }
            }
        }
        let placed = map_anywhere(os, len, need)?;
        // Relaxed: a hint. Where the system has room, there may be more below.
        self.frontier.store(align_down(placed.base, GRANULE), Relaxed);
        Ok(placed)
    }

    /// Remembers a place that is free again.
    pub(super) fn give_back(&self, base: usize, len: usize) {
        let granules = len.div_ceil(GRANULE);
        if !base.is_multiple_of(GRANULE) {
            return;
        }
        let hole = Hole::new(base, granules);
        // Relaxed: hints. When all places are taken the hole is forgotten, which costs address space only.
        let _ = self.holes.iter().any(|word| word.compare_exchange(0, hole.0, Relaxed, Relaxed).is_ok());
    }

    fn take_hole(&self, granules: usize, align: usize) -> Option<usize> {
        for word in &self.holes {
            // Relaxed: hints, here and below.
            let hole = Hole(word.load(Relaxed));
            if hole.granules() < granules || !hole.base().is_multiple_of(align) {
                continue;
            }
            if word.compare_exchange(hole.0, 0, Relaxed, Relaxed).is_ok() {
                if hole.granules() > granules {
                    let rest = hole.granules() - granules;
                    self.give_back(hole.base() + granules * GRANULE, rest * GRANULE);
                }
                return Some(hole.base());
            }
        }
        None
    }

    fn advance<P: Platform>(&self, os: &P, span: usize, align: usize) -> Option<usize> {
        // Relaxed: a hint, here and below.
        let mut frontier = self.frontier.load(Relaxed);
        if frontier == 0 {
            frontier = first_frontier(os)?;
            if let Err(now) = self.frontier.compare_exchange(0, frontier, Relaxed, Relaxed) {
                frontier = now;
            }
        }
        loop {
            let base = align_down(frontier.checked_sub(span)?, align);
            if base == 0 {
                return None;
            }
            match self.frontier.compare_exchange_weak(frontier, base, Relaxed, Relaxed) {
                Ok(_) => return Some(base),
                Err(now) => frontier = now,
            }
        }
    }
}

/// A random granule below where the system places a mapping.
fn first_frontier<P: Platform>(os: &P) -> Option<usize> {
    let page = os.page_size();
    let probe = os.map(None, page, Access::None).ok()?;
    // SAFETY: mapped just now, and nobody knows it. If the system refuses, one page of address space stays reserved.
    let _ = unsafe { os.unmap(probe, page) };
    Some(frontier_below(probe, os.entropy() as usize)).filter(|&frontier| frontier != 0)
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
        return Ok(Placed { base, mapped: len });
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
    Ok(Placed { base, mapped: if cut { len } else { len + tail } })
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

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
}
