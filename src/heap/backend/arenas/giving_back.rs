//! What arenas give back to the system: the pages of dirty slices, as many as `retention` says, and arenas that have
//! become empty.

use super::Arenas;
use super::hints::{Asked, Changed, Way};
use crate::base::SLICE;
use crate::heap::ground::{Claimant, Count, Ground};
use crate::pal::Platform;
use crate::rcu::Section;
use crate::region::Region;
use crate::sync::atomic::Ordering;
use crate::sync::{in_order, seeded};
use core::ptr;

/// Ticks for which an arena stays empty before it is unmapped: one at the edge would be mapped again at once.
const EMPTY_TICKS: usize = 10;
/// Slices that one madvise call gives back at most: 2 MiB.
const PURGE_RUN: usize = if cfg!(any(loom, shuttle)) { 2 } else { 32 };

impl Arenas {
    /// Unmaps an arena if it has become empty and is not to stay. The caller is inside a section in which it held
    /// slices of the arena.
    pub(in crate::heap) fn look_if_empty<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        place: Option<(usize, Changed<'_>)>,
        region: &'static Region,
        section: &Section<'_>,
    ) {
        if !region.slices().is_empty() {
            return;
        }
        match place {
            Some((position, changed)) if ground.keeps_empty_arena(region) => {
                changed.raise(Asked::Empty, position, 1)
            }
            _ => self.retire(ground, by, place.map(|(position, _)| position), region, section),
        }
        // Slices that were held for a moment, by a purge or by a claim that failed, may have been all that the arena
        // had: the helper, which looked meanwhile, sleeps.
        if !seeded("heap.no_ring_after_purge") {
            ground.ring();
        }
    }

    /// Unmaps an arena if nothing in it is used. The caller is inside a section.
    pub(in crate::heap) fn retire<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        position: Option<usize>,
        region: &'static Region,
        section: &Section<'_>,
    ) {
        let frozen = ground.space().freeze_arena(region, section) || seeded("heap.retire_unfrozen");
        let unlist = || {
            let Some(position) = position else { return };
            if !frozen && !seeded("heap.unlist_unfrozen") {
                return;
            }
            let old = ptr::from_ref(region).cast_mut();
            // Relaxed: the grace period that follows orders it.
            let unlisted = self.table[position].compare_exchange(
                old,
                ptr::null_mut(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if unlisted.is_ok() {
                // The arena is closed: all its slices are ours.
                let usable = region.slices().usable();
                ground.tally().take_off(by, Count::Usable, usable.len());
                ground.tally().take_off(
                    by,
                    Count::Dirty,
                    region.slices().dirty_within(usable.start, usable.len()),
                );
            }
        };
        let retire = || frozen && ground.space().retire_region(region);
        // Nobody who enters a section after the retirement may find it.
        let ((), retired) = in_order(unlist, retire, "heap.unlist_late");
        let Some(position) = position else { return };
        if !retired {
            // It may have been closed for a moment.
            let _looked = self.renew_hints(position);
            return self.lower(Asked::Empty, position);
        }
        for asked in [Asked::Room, Asked::Dirty, Asked::Empty, Asked::Slabs] {
            self.lower(asked, position);
        }
        self.hints.changed().raise(Asked::Vacant, position, 1);
    }

    /// Purges dirty slices, `most` of them and up to a run more. Holds nothing that another thread waits for: a run is
    /// claimed first, so that nobody allocates it meanwhile. Returns how many are no longer dirty.
    pub fn purge<P: Platform>(&self, ground: &Ground<P>, by: &Claimant, most: usize) -> usize {
        let mut done = 0;
        // The arenas behind come first: claims start at the front.
        for position in self.positions(Asked::Dirty, Way::Down) {
            while done < most {
                let section = by.section(ground);
                let Some(region) = self.region(position, &section) else { break };
                let attempt = region.slices().claim_dirty_run(PURGE_RUN);
                let Some(run) = self.settled(ground, by, position, region, attempt, &section) else { break };
                drop(section);
                // Another thread may have purged them, or some of them, between the look and the claim.
                let found = || region.slices().dirty_within(run.start, run.len);
                let dirty = if seeded("heap.purged_as_seen") { run.len } else { found() };
                let base = region.base() + run.start * SLICE;
                let purge = || match dirty {
                    0 => Ok(()),
                    // SAFETY: the run is claimed: nobody uses it.
                    _ => unsafe { ground.purge_part(region, base, run.len * SLICE) },
                };
                let slices = run.start..run.start + run.len;
                let held = ground.space().note_in_hand(Some(by.slot()), region, slices);
                let purged = if !seeded("heap.release_before_purge") { purge() } else { Ok(()) };
                drop(held);
                let section = by.section(ground);
                // Whoever looked meanwhile found no room, and an arena that is not empty.
                if purged.is_err() && !seeded("heap.purge_unchecked") {
                    // Locked memory, for one: it stays dirty, and is not tried again now. (Nobody need ring: some of it
                    // was counted as dirty all along, so the helper is awake.)
                    ground.tally().add(by, Count::Dirty, run.len - dirty);
                    region.slices().release(run.start, run.len);
                    if !seeded("heap.refused_unsaid") {
                        self.given_back(ground, by, region, [run.start, run.len], true, &section);
                    }
                    break;
                }
                ground.count_purged(dirty * SLICE);
                // Relaxed: a figure. Its records stay resident, and the bitmaps are about to forget it.
                region.arena().reached().fetch_max(run.start + run.len, Ordering::Relaxed);
                ground.tally().take_off(by, Count::Dirty, dirty);
                done += dirty;
                region.slices().release_clean(run.start, run.len);
                if seeded("heap.release_before_purge") {
                    let _too_late = purge();
                }
                if !seeded("heap.purge_no_look") {
                    self.given_back(ground, by, region, [run.start, run.len], false, &section);
                }
            }
            if done >= most {
                break;
            }
            self.lower(Asked::Dirty, position);
        }
        done
    }

    /// Unmaps empty arenas.
    pub fn unmap_empty<P: Platform>(&self, ground: &Ground<P>, by: &Claimant) {
        for position in self.positions(Asked::Empty, Way::Up) {
            let section = by.section(ground);
            match self.region(position, &section) {
                Some(region) => self.retire(ground, by, Some(position), region, &section),
                None => self.lower(Asked::Empty, position),
            }
        }
    }

    /// Notes that a tick has passed, and unmaps the arenas that have been empty for `EMPTY_TICKS` of them.
    pub fn age_empty<P: Platform>(&self, ground: &Ground<P>, by: &Claimant) {
        for position in self.positions(Asked::Empty, Way::Up) {
            let section = by.section(ground);
            let Some(region) = self.region(position, &section).filter(|region| region.slices().is_empty())
            else {
                self.lower(Asked::Empty, position);
                continue;
            };
            // `retire` decides.
            let ticks = region.arena().empty_for();
            ticks.add(1);
            if ticks.get() > EMPTY_TICKS {
                self.retire(ground, by, Some(position), region, &section);
            }
        }
    }
}
