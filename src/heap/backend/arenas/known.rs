//! What is known of the arenas without looking at them: the upkeep of the hints and figures when slices and slabs come
//! and go, and the walk over all slabs.

use super::hints::{Asked, Changed, MOST, Way};
use super::{Arenas, MAX_ARENAS};
use crate::base::SLICE;
use crate::heap::ground::{Claimant, Count, Ground, Sampled};
use crate::heap::record::{Slab, Usage};
use crate::pal::Platform;
use crate::rcu::Section;
use crate::region::{Among, Attempt, Region, Run};
use crate::sync::atomic::Ordering;
use crate::sync::seeded;

impl Arenas {
    /// What is to be done after slices, `dirty` or not, were given back: the hints learn of them, and an arena that has
    /// become empty may go. The caller is in the section in which it held the slices.
    pub(in crate::heap) fn given_back<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        region: &'static Region,
        [start, slices]: [usize; 2],
        dirty: bool,
        section: &Section<'_>,
    ) {
        let Some(position) = region.arena().position() else {
            return self.look_if_empty(ground, by, None, region, section);
        };
        let changed = self.hints.changed();
        for (asked, among) in [(Asked::Room, Among::Free), (Asked::Dirty, Among::Dirty)] {
            if (dirty || asked == Asked::Room) && self.hints.get(asked, position) < MOST {
                changed.raise(asked, position, region.slices().around(among, start, slices));
            }
        }
        self.look_if_empty(ground, by, Some((position, changed)), region, section);
    }

    /// What an attempt to claim slices of the arena at `position` came to. If it has held slices for a moment, and given
    /// them back, whoever looked meanwhile found no room, or found that the arena is not empty. The caller is in the
    /// section in which that happened.
    pub(in crate::heap) fn settled<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        position: usize,
        region: &'static Region,
        attempt: Attempt,
        section: &Section<'_>,
    ) -> Option<Run> {
        if attempt.took_back && !seeded("heap.lost_claim_forgotten") {
            let changed = self.renew_hints(position);
            self.look_if_empty(ground, by, Some((position, changed)), region, section);
        }
        attempt.run
    }

    /// Raises the hints of the arena at `position` to what is found there: it is new, or was closed or held for a
    /// moment.
    pub(in crate::heap) fn renew_hints(&self, position: usize) -> Changed<'_> {
        let changed = self.hints.changed();
        for asked in [Asked::Room, Asked::Dirty, Asked::Empty] {
            changed.raise(asked, position, self.measure(asked, position, MOST));
        }
        changed
    }

    /// What the hint of the arena at `position` should be; `most` if it is that or more. Descriptors live forever, so a
    /// look needs no section; what it finds may be that of another arena by then, as with any hint.
    pub(super) fn measure(&self, asked: Asked, position: usize, most: usize) -> usize {
        let Some(region) = self.glance(position) else { return usize::from(asked == Asked::Vacant) };
        match asked {
            Asked::Room => region.slices().longest(Among::Free, most),
            Asked::Dirty => region.slices().longest(Among::Dirty, most),
            Asked::Empty => usize::from(region.slices().is_empty()),
            // The fences of the hints order it.
            Asked::Slabs => region.arena().slabs().load(Ordering::Relaxed).min(1),
            Asked::Vacant => 0,
        }
    }

    pub(in crate::heap) fn lower(&self, asked: Asked, position: usize) {
        self.hints.lower(asked, position, |most| self.measure(asked, position, most));
    }

    /// Counts a slab that was opened at `base`, or one that is closed there. The caller holds its slices.
    pub fn count_slab<P: Platform>(&self, ground: &Ground<P>, base: usize, opened: bool) {
        let region = ground.arena_of(base);
        let Some(position) = region.arena().position() else { return };
        // Relaxed (both): a count; the fences of the hints order it.
        if !opened {
            if region.arena().slabs().fetch_sub(1, Ordering::Relaxed) == 1 {
                self.lower(Asked::Slabs, position);
            }
        } else if region.arena().slabs().fetch_add(1, Ordering::Relaxed) == 0 {
            self.hints.changed().raise(Asked::Slabs, position, 1);
        }
    }

    /// Calls `visit` with the record of every slab, of the arenas that are in the table.
    pub fn each_slab(&self, section: &Section<'_>, mut visit: impl FnMut(&Slab)) {
        for position in self.positions(Asked::Slabs, Way::Up) {
            if let Some(region) = self.region(position, section) {
                each_run(region, |run| {
                    if run.usage() == Usage::Slab {
                        visit(run);
                    }
                });
            }
        }
    }

    /// Calls `visit` with the record of every slab, as [`Arenas::each_slab`], and says what is resident beside what the
    /// tallies count: one look at each run, at each free slice that may be resident, and at each arena.
    pub fn survey(&self, section: &Section<'_>, page: usize, mut visit: impl FnMut(&Slab)) -> Beside {
        let mut beside = Beside::default();
        // Relaxed: a bound for a look at figures.
        for position in 0..self.high.load(Ordering::Relaxed) {
            let Some(region) = self.region(position, section) else { continue };
            let map = region.slices();
            // Of a free slice.
            let unused = |record: &Slab| (record.gap(page) + record.spared()).min(SLICE);
            each_run(region, |run| match run.usage() {
                Usage::Slab => {
                    visit(run);
                    beside.behind += run.bytes_beside(page);
                }
                Usage::Large => {
                    beside.behind += run.bytes_beside(page);
                    beside.blocks += 1;
                    beside.bytes += run.requested() as u64;
                }
                // A spare one of a heap.
                Usage::Free | Usage::Later => beside.spared += unused(run),
            });
            map.each_dirty(|slice| {
                // SAFETY: the section keeps the arena; records are readable at any time.
                let record = unsafe { &*Slab::of(region.base() + slice * SLICE) };
                beside.spared += unused(record);
            });
            // Relaxed: a figure.
            let reached = region.arena().reached().load(Ordering::Relaxed).max(map.used_end());
            beside.records += (reached * size_of::<Slab>()).next_multiple_of(page.max(1));
        }
        beside
    }

    /// Calls `visit` with every arena that is in the table. Descriptors live forever: this needs no section, and what is
    /// seen may be that of another arena by then.
    pub fn each(&self, visit: impl FnMut(&'static Region)) {
        // Relaxed: a bound for a look at figures.
        (0..self.high.load(Ordering::Relaxed)).filter_map(|position| self.glance(position)).for_each(visit);
    }

    /// Calls `visit` with the record of every first slice of a run.
    #[cfg(any(test, feature = "simulated"))]
    pub fn each_run(&self, mut visit: impl FnMut(&Slab)) {
        self.each(|region| each_run(region, &mut visit));
    }

    /// Positions whose hint is not zero, one after the other.
    pub(in crate::heap) fn positions(&self, asked: Asked, way: Way) -> impl Iterator<Item = usize> {
        let mut bound = if way == Way::Up { 0 } else { MAX_ARENAS };
        core::iter::from_fn(move || {
            let found = self.hints.find(asked, way, bound, 1)?;
            bound = if way == Way::Up { found + 1 } else { found };
            Some(found)
        })
    }

    /// Whether nearly all of the arena that was mapped last is claimed, and used by who claimed it.
    pub(in crate::heap) fn is_last_full<P: Platform>(&self, ground: &Ground<P>, by: &Claimant) -> bool {
        let section = by.section(ground);
        // Relaxed: a guess; with several threads another arena may be the last by now.
        let last =
            self.high.load(Ordering::Relaxed).checked_sub(1).and_then(|last| self.region(last, &section));
        let Some(region) = last else { return false };
        let (mut in_slabs, mut in_large) = (0, 0);
        each_run(region, |run| match run.usage() {
            Usage::Slab => in_slabs += run.bytes_in_use(),
            Usage::Large => in_large += run.bytes_in_use(),
            Usage::Free | Usage::Later => {}
        });
        let bytes = region.slices().usable().len() * SLICE;
        // Those that are being filled still are nearly all of the rest.
        in_slabs + in_large >= bytes - bytes / 8
            // Who asks for a large block need not use all of it.
            && (in_large < bytes / 16 || ground.population().touches_all(Sampled::Run))
    }

    /// In the child of a fork: counts everything anew and sets all hints. A thread that vanished may
    /// have been between a step and what says so.
    pub fn recount<P: Platform>(&self, ground: &Ground<P>, section: &Section<'_>) {
        let mut sums = [0; Count::ALL.len()];
        // Relaxed: the child has one thread.
        let positions = 0..self.high.load(Ordering::Relaxed);
        for position in positions.clone() {
            if let Some(region) = self.region(position, section) {
                let (slabs, found) = counted(region, ground.page_size());
                region.arena().slabs().store(slabs, Ordering::Relaxed);
                sums = core::array::from_fn(|index| sums[index] + found[index]);
            }
            Asked::ALL.into_iter().for_each(|asked| self.hints.forget(asked, position));
        }
        let changed = self.hints.changed();
        for position in positions {
            for asked in Asked::ALL {
                changed.raise(asked, position, self.measure(asked, position, MOST));
            }
        }
        for (count, sum) in Count::ALL.into_iter().zip(sums) {
            ground.tally().set(count, sum);
        }
    }
}

/// What is resident of arenas, or is not, beside what the tallies count. Bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside {
    /// Of free slices that count as resident and are known not to be.
    pub spared: usize,
    /// Behind the ends of blocks, resident with them.
    pub behind: usize,
    /// The records of slices.
    pub records: usize,
    /// Large blocks, and their bytes as they were asked for: counted here and nowhere else.
    pub blocks: u64,
    pub bytes: u64,
}

/// What there is of an arena: its slabs, and what else is counted of it, in the order of [`Count::ALL`]. The caller is in
/// a section.
pub(super) fn counted(region: &Region, page: usize) -> (usize, [usize; Count::ALL.len()]) {
    let (map, mut slabs, mut soiled, mut unheld) = (region.slices(), 0, 0, 0);
    each_run(region, |run| match run.usage() {
        Usage::Slab => slabs += 1,
        Usage::Large => {
            soiled += run.tail(page).soiled(run.last().spared());
            unheld += run.unheld();
        }
        Usage::Free | Usage::Later => {}
    });
    (slabs, [map.usable().len(), map.claimed_count(), map.dirty_count(), soiled, unheld])
}

/// Calls `visit` with the record of every first slice of a slab or large block of an arena. The caller is in a section.
fn each_run(region: &Region, mut visit: impl FnMut(&Slab)) {
    let mut slice = 0;
    while let Some(claimed) = region.slices().first_claimed(slice) {
        // SAFETY: the section keeps the arena; records are readable at any time.
        let record = unsafe { &*Slab::of(region.base() + claimed * SLICE) };
        visit(record);
        let is_run = matches!(record.usage(), Usage::Slab | Usage::Large);
        slice = claimed + if is_run { record.slices().max(1) as usize } else { 1 };
    }
}
