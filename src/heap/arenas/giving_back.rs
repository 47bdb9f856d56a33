//! What arenas give back to the system: the pages of dirty slices, as many as `retention` says, and arenas that have become
//! empty.

use super::{Arenas, EMPTY_FOR};
use crate::base::SLICE;
use crate::heap::Allocator;
use crate::heap::local::Heap;
use crate::pal::Platform;
use crate::rcu::Section;
use crate::region::Region;
use crate::sync::atomic::Ordering;
use crate::sync::seeded;
use core::ptr;

/// Ticks for which an arena stays empty before it is unmapped: one at the edge would be mapped again at once.
const EMPTY_TICKS: usize = 10;
/// Slices that one madvise call gives back at most: 2 MiB.
const PURGE_RUN: usize = if cfg!(any(loom, shuttle)) { 2 } else { 32 };

impl Arenas {
    /// Unmaps the arena at `position` if it has become empty and is not to stay. The caller is inside a section in which it
    /// held slices of the arena.
    pub(super) fn look_if_empty<P: Platform>(
        &self,
        from: &Allocator<P>,
        position: usize,
        region: &'static Region,
        section: &Section<'_>,
    ) {
        if region.slices().is_empty()
            && !(self.is_listed(position, region) && from.keeps_empty_arena(position, region))
        {
            self.retire(from, position, region, section);
        }
    }

    /// Unmaps the arena at `position` if nothing in it is used. The caller is inside a section.
    pub(super) fn retire<P: Platform>(
        &self,
        from: &Allocator<P>,
        position: usize,
        region: &'static Region,
        section: &Section<'_>,
    ) {
        let unlist = || {
            let old = ptr::from_ref(region).cast_mut();
            // Relaxed: the grace period that follows orders it.
            let _ = self.table[position].compare_exchange(
                old,
                ptr::null_mut(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        };
        if seeded("heap.unlist_unfrozen") {
            unlist();
            let _retired = from.space().retire_arena(region, section, || {});
        } else if seeded("heap.unlist_late") {
            if from.space().retire_arena(region, section, || {}) {
                unlist();
            }
        } else if seeded("heap.retire_unfrozen") {
            unlist();
            let _retired = from.space().retire_region(region);
        } else {
            let _retired = from.space().retire_arena(region, section, unlist);
        }
    }

    /// Purges dirty slices, `most` of them at most and up to a run more. Never under anything that another thread waits
    /// for: a run is claimed first, so that nobody allocates it meanwhile. Answers how many were dirty no more.
    pub fn purge<P: Platform>(&self, from: &Allocator<P>, heap: &Heap, most: usize) -> usize {
        let mut done = 0;
        // The arenas behind come first: claims start at the front.
        for position in (0..self.high()).rev() {
            while done < most {
                let claimed = {
                    let _section = heap.section(from);
                    self.region(position).and_then(|region| {
                        region.slices().claim_dirty_run(PURGE_RUN).map(|run| (region, run))
                    })
                };
                let Some((region, run)) = claimed else { break };
                // Another thread may have purged some of them between the look and the claim.
                let dirty = region.slices().dirty_within(run.start, run.len);
                let base = region.base() + run.start * SLICE;
                let too_early = seeded("heap.release_before_purge");
                if too_early {
                    region.slices().release_clean(run.start, run.len);
                }
                // SAFETY: the run is claimed: nobody uses it, and its arena is one mapping.
                let purged = unsafe { from.space().os().purge(base, run.len * SLICE) };
                let section = heap.section(from);
                if purged.is_err() && !seeded("heap.purge_unchecked") {
                    // Locked memory, for one: it stays dirty, and is not tried again now.
                    region.slices().release(run.start, run.len);
                    self.has_room(position);
                    self.look_if_empty(from, position, region, &section);
                    // The helper may have looked while the run was claimed.
                    if !seeded("heap.no_ring_after_purge") {
                        from.stir();
                    }
                    break;
                }
                // Relaxed: a figure.
                self.purged.fetch_add((dirty * SLICE) as u64, Ordering::Relaxed);
                done += dirty;
                if !too_early {
                    region.slices().release_clean(run.start, run.len);
                }
                // Whoever looked meanwhile found no room, and an arena that is not empty.
                self.has_room(position);
                if !seeded("heap.purge_no_look") {
                    self.look_if_empty(from, position, region, &section);
                }
            }
        }
        done
    }

    /// Unmaps empty arenas.
    pub fn unmap_empty<P: Platform>(&self, from: &Allocator<P>, heap: &Heap) {
        for position in 0..self.high() {
            let section = heap.section(from);
            if let Some(region) = self.region(position) {
                self.retire(from, position, region, &section);
            }
        }
    }

    /// Notes that a tick has passed, and unmaps the arenas that have been empty for `EMPTY_TICKS` of them. Answers
    /// whether there are others that are empty.
    pub fn age_empty<P: Platform>(&self, from: &Allocator<P>, heap: &Heap) -> bool {
        let mut left = false;
        for position in 0..self.high() {
            let section = heap.section(from);
            let Some(region) = self.region(position).filter(|region| region.slices().is_empty()) else {
                continue;
            };
            // Relaxed: a figure; `retire` decides.
            let ticks = region.note(EMPTY_FOR).fetch_add(1, Ordering::Relaxed);
            if ticks < EMPTY_TICKS {
                left = true;
            } else {
                self.retire(from, position, region, &section);
            }
        }
        left
    }
}
