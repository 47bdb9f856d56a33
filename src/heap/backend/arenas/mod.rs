//! The arenas of a process: where runs of slices come from and go back to.
//!
//! A claim finds an arena with room by the hints, inside a reader section, and takes slices by compare-and-swap on its
//! bitmap; when no arena has room the claimant maps another. No lock is common to any two of these: whoever maps an
//! arena keeps nobody waiting, and an arena that is being unmapped turns claims away: it has no room. What a claim, a
//! release or a figure costs does not depend on how many arenas there are or were: whoever looks for one asks the
//! hints.
//!
//! Freed slices are dirty until they are purged: see `giving_back`, which also unmaps arenas.

#[cfg(any(test, feature = "simulated"))]
mod audit;
mod giving_back;
pub(in crate::heap) mod hints;
mod known;

use self::hints::{Asked, Hints, MOST, Way};
pub use self::known::Beside;
use crate::base::{GRANULE, GRANULE_SLICES, SLICE};
use crate::heap::ground::{Claimant, Count, Ground};
use crate::heap::record::Slab;
use crate::heap::seat::Seat;
use crate::pal::Platform;
use crate::rcu::Section;
use crate::region::{Attempt, Kind, Prefer, Region, Run};
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::{ZERO_IS_VALID, acquire, in_order, release, seeded};
use crate::{atomic_array, const_unless_model};
use core::ptr;

/// Arenas that the table has places for: 2 TiB of slabs and large blocks. One beyond those serves the request that it
/// was mapped for, and no other.
const MAX_ARENAS: usize = if cfg!(any(loom, shuttle)) { 2 } else { 1 << 16 };
/// Smallest arena, mapped when address space is short.
const SMALLEST: usize = if cfg!(any(loom, shuttle)) { GRANULE } else { 1 << 20 };
/// Slices of a large block for each arena that it looks at, before it takes the one where it lies best; and among how many
/// these are sought: a byte is read for each.
const FEW: usize = 4;
const NEXT: usize = 16;
/// Arenas that a claim at an alignment tries in the hope that a run happens to lie well.
const HOPES: usize = 8;

/// A run of slices that the caller holds.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Address of the first slice.
    pub base: usize,
    /// Whether every byte is known to be zero.
    pub zero: bool,
    /// Slices that were not resident.
    pub clean: usize,
}

/// What is wanted of a claim.
#[derive(Clone, Copy)]
struct Wanted {
    slices: usize,
    /// In slices.
    align: usize,
    prefer: Prefer,
    /// For a large block: where in the run it is to lie.
    seat: Option<Seat>,
    /// Slices behind the run that are to be free: asked of a few arenas only.
    room: usize,
}

/// The arenas of the process.
#[repr(C)] // As `Allocator`.
pub struct Arenas {
    /// Positions ever used.
    high: AtomicUsize,
    table: [AtomicPtr<Region>; MAX_ARENAS],
    hints: Hints,
}

impl Arenas {
    const_unless_model! {
        /// No arenas.
        pub(in crate::heap) fn new() -> Arenas {
            Arenas {
                table: atomic_array!(AtomicPtr::new(ptr::null_mut()); MAX_ARENAS),
                hints: Hints::new(),
                high: AtomicUsize::new(0),
            }
        }
    }

    /// Claims `slices` slices starting at a multiple of `align` slices. `None` when there is no memory.
    pub fn claim<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        slices: usize,
        align: usize,
        prefer: Prefer,
    ) -> Option<Claim> {
        self.claim_mapped(ground, by, slices, align, prefer).or_else(|| self.grow(ground, by, slices, align))
    }

    /// Claims slices for a large block that is to lie so: where what it does not need of them is not resident, as nearly as
    /// may be. A block whose tail is not resident wastes nothing, and one that finds its pages there does not fault. Asks the
    /// lowest arena first, for what is packed together leaves long runs free. A block that is to have `room` slices free
    /// behind it takes the first place, of a mapped arena, that has them.
    pub fn claim_fitting<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        seat: Seat,
        room: usize,
    ) -> Option<Claim> {
        let slices = seat.slices;
        let wanted = Wanted { slices, align: 1, prefer: Prefer::Dirty, seat: Some(seat), room };
        let claim = self.claim_wanted(ground, by, wanted);
        if room > 0 { claim } else { claim.or_else(|| self.grow(ground, by, slices, 1)) }
    }

    /// Claims slices of an arena that is there. Whenever an arena that could serve is quiescent, its hints say so: none
    /// is mapped beside free slices.
    pub(in crate::heap) fn claim_mapped<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        slices: usize,
        align: usize,
        prefer: Prefer,
    ) -> Option<Claim> {
        self.claim_wanted(ground, by, Wanted { slices, align: align.max(1), prefer, seat: None, room: 0 })
    }

    fn claim_wanted<P: Platform>(&self, ground: &Ground<P>, by: &Claimant, wanted: Wanted) -> Option<Claim> {
        let section = by.section(ground);
        let Wanted { slices, align, prefer, room, .. } = wanted;
        // In a run of this length the claim fits wherever the run begins.
        let surely = slices + align - 1;
        let most = if room > 0 { HOPES } else { usize::MAX };
        let ask = |asked, prefer, least, most| {
            self.claim_hinted(ground, by, &section, Wanted { prefer, ..wanted }, asked, [least, most])
        };
        // Dirty slices of any arena before clean ones of the nearest: or else each arena keeps dirty slices of its own.
        let dirty = if prefer == Prefer::Dirty { ask(Asked::Dirty, prefer, surely, most) } else { None };
        dirty
            .or_else(|| ask(Asked::Room, Prefer::Any, surely + room, most))
            .or_else(|| if align == 1 { None } else { ask(Asked::Room, Prefer::Any, slices, HOPES) })
    }

    /// Claims what is wanted in an arena whose hint is at least `least`. Asks at most `most` arenas, first the one that
    /// served this claimant last; for a large block the one where it lies best, or the lowest.
    fn claim_hinted<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        section: &Section<'_>,
        wanted: Wanted,
        asked: Asked,
        [least, most]: [usize; 2],
    ) -> Option<Claim> {
        let least = least.min(MOST);
        let home = match wanted.seat {
            None => by.position().get(),
            Some(seat) if asked == Asked::Room && wanted.room == 0 => self.best_place(section, seat),
            Some(_) => 0,
        };
        let mut position = home;
        let mut wrapped = false;
        for _ in 0..most {
            if self.hints.get(asked, position) < least {
                let next = self.hints.find(asked, Way::Up, position, least);
                let next = match next {
                    None if !wrapped => {
                        wrapped = true;
                        self.hints.find(asked, Way::Up, 0, least)
                    }
                    next => next,
                };
                position = next.filter(|&next| !wrapped || next < home)?;
            }
            if let Some(region) = self.region(position, section) {
                let attempt = attempt(region, wanted);
                by.count_lookup(attempt.run.is_some());
                if let Some(run) = self.settled(ground, by, position, region, attempt, section) {
                    if wanted.seat.is_none() {
                        by.position().set(position);
                    }
                    self.claimed(ground, by, position, region, run);
                    return Some(self.claim_of(region, run));
                }
            }
            self.lower(asked, position);
            position += 1;
            if position == MAX_ARENAS {
                if wrapped {
                    return None;
                }
                (position, wrapped) = (0, true);
            }
            if wrapped && position >= home {
                return None;
            }
        }
        None
    }

    /// The position of the arena, of the lowest that have room, where a block that is to lie so lies best. A longer block
    /// looks at more, for it would have more to fault in; a short one takes the lowest.
    fn best_place(&self, section: &Section<'_>, seat: Seat) -> usize {
        let slices = seat.slices;
        let most = slices / FEW;
        if most < 2 {
            return 0;
        }
        let least = slices.min(MOST);
        let Some(lowest) = self.hints.find(Asked::Room, Way::Up, 0, least) else { return 0 };
        let next = lowest..MAX_ARENAS.min(lowest + NEXT);
        let rooms = next.filter(|&position| self.hints.get(Asked::Room, position) >= least);
        let costs = rooms.take(most).filter_map(|position| {
            let region = self.region(position, section)?;
            Some((region.slices().least_misfit(slices, misfit(region, seat))?, position))
        });
        costs.min().map_or(0, |(_, position)| position)
    }

    fn claim_of(&self, region: &Region, run: Run) -> Claim {
        // The run is ours: the region cannot change under us, whichever generation this is.
        let clean = run.len - region.slices().dirty_within(run.start, run.len);
        Claim { base: region.base() + run.start * SLICE, zero: run.all_clean, clean }
    }

    /// Counts a run that was claimed in the arena at `position`, and corrects what the hints say of its room and of
    /// emptiness. Not of its dirty slices: that hint is corrected by the next claim that asks for some in vain, so that
    /// threads which free and claim by turns do not write it by turns.
    fn claimed<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        position: usize,
        region: &Region,
        run: Run,
    ) {
        let dirty = region.slices().dirty_within(run.start, run.len);
        ground.tally().add(by, Count::Claimed, run.len);
        if dirty > 0 {
            ground.tally().take_off(by, Count::Dirty, dirty);
        }
        if region.slices().may_have_cut(run.start, run.len, self.hints.get(Asked::Room, position)) {
            self.lower(Asked::Room, position);
        }
        if self.hints.get(Asked::Empty, position) != 0 {
            // A tick that misses this looks at the claimed slices, too.
            region.arena().empty_for().set(0);
            self.lower(Asked::Empty, position);
        }
    }

    /// Claims the `extra` slices behind a large block's run of `slices` at `base`, if they are free.
    pub fn extend<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        base: usize,
        slices: usize,
        extra: usize,
    ) -> bool {
        let region = ground.arena_of(base);
        let start = (base - region.base()) / SLICE;
        let attempt = region.slices().extend_claim(start, slices, extra);
        let run = match region.arena().position() {
            Some(position) => {
                let run = self.settled(ground, by, position, region, attempt, &by.section(ground));
                run.inspect(|&run| self.claimed(ground, by, position, region, run))
            }
            None => attempt.run,
        };
        run.is_some() || seeded("heap.extend_unclaimed")
    }

    /// Maps another arena and claims the run in it before anybody else can.
    fn grow<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        slices: usize,
        align: usize,
    ) -> Option<Claim> {
        // The first slice, the header, is not for use, so an aligned run starts `align` slices in. Nor is the last one,
        // with the guard page.
        let is_steady = ground.grows_steadily() && self.is_last_full(ground, by);
        let least = ((align.max(1) + slices + 1) * SLICE).next_power_of_two();
        let mut len = ground.arena_bytes().max(least).min(GRANULE);
        let region = loop {
            match ground.space().map_region(Kind::Arena, len, GRANULE, 0) {
                Ok(region) => break region,
                Err(_) if len / 2 >= SMALLEST.max(least) => len /= 2,
                Err(_) => return None,
            }
        };
        if is_steady {
            ground.population().take(ground.os(), region, 0..region.len());
        }
        if !ZERO_IS_VALID {
            for slice in 0..GRANULE_SLICES {
                // SAFETY: the header slice of an arena that nobody else knows yet.
                unsafe { Slab::of(region.base() + slice * SLICE).write(Slab::unused()) };
            }
        }
        // The map was published closed. It is opened and claimed from inside a section, so that the arena is still
        // there if others take everything and leave again in between.
        let section = by.section(ground);
        region.slices().reopen();
        let run = region.slices().claim(slices, Prefer::Any, align.max(1)).run;
        match self.enter_table(region) {
            Some(position) => {
                ground.tally().add(by, Count::Usable, region.slices().usable().len());
                if let Some(run) = run {
                    by.position().set(position);
                    self.claimed(ground, by, position, region, run);
                }
                let _looked = self.renew_hints(position);
            }
            None if run.is_some() => {}
            None => {
                let _retired = ground.space().retire_arena(region, &section);
            }
        }
        run.map(|run| self.claim_of(region, run))
    }

    /// Enters an arena at the lowest position that is vacant.
    fn enter_table(&self, region: &'static Region) -> Option<usize> {
        loop {
            let vacant = self.hints.find(Asked::Vacant, Way::Up, 0, 1);
            let position = match vacant {
                Some(position) => position,
                None => self.new_position()?,
            };
            region.arena().set_position(Some(position));
            // Release: pairs with the Acquire in `region`: whoever finds the arena finds it complete.
            let entered = self.table[position].compare_exchange(
                ptr::null_mut(),
                ptr::from_ref(region).cast_mut(),
                release("heap.table_publish"),
                Ordering::Relaxed,
            );
            if vacant.is_some() {
                self.lower(Asked::Vacant, position);
            }
            if entered.is_ok() {
                return Some(position);
            }
            if !seeded("heap.no_place_kept") {
                region.arena().set_position(None);
            }
        }
    }

    /// A position that was never used.
    fn new_position(&self) -> Option<usize> {
        let next = |high| if high < MAX_ARENAS { Some(high + 1) } else { None };
        // Relaxed (both): a bound for scans in the child of a fork.
        self.high.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()
    }

    /// Gives the run of `slices` slices at `base` back. The records are closed already.
    pub fn release<P: Platform>(&self, ground: &Ground<P>, by: &Claimant, base: usize, slices: usize) {
        let region = ground.arena_of(base);
        let start = (base - region.base()) / SLICE;
        let position = region.arena().position();
        let release = || {
            if position.is_some() {
                ground.tally().take_off(by, Count::Claimed, slices);
                // Before the slices are free: whoever claims them takes this off again.
                ground.tally().add(by, Count::Dirty, slices);
            }
            // The last access to the arena gives it away: what follows happens inside the section that starts here.
            let section = by.section(ground);
            region.slices().release(start, slices);
            self.given_back(ground, by, region, [start, slices], true, &section);
        };
        in_order(release, || ground.ring(), "heap.ring_before_release");
    }

    /// Whether the slice at `base`, which the caller has just claimed, was written to before.
    pub fn is_dirty<P: Platform>(&self, ground: &Ground<P>, base: usize) -> bool {
        let region = ground.arena_of(base);
        region.slices().dirty_within((base - region.base()) / SLICE, 1) > 0
    }

    /// Whether some mapped arena may be empty.
    pub fn has_empty(&self) -> bool {
        self.hints.find(Asked::Empty, Way::Up, 0, 1).is_some()
    }

    /// The arena at `position`, which stays as long as the section.
    pub(in crate::heap) fn region(&self, position: usize, _: &Section<'_>) -> Option<&'static Region> {
        self.glance(position)
    }

    /// The arena at `position`, which may be another by now.
    pub(in crate::heap) fn glance(&self, position: usize) -> Option<&'static Region> {
        // Acquire: pairs with the Release in `enter_table`.
        // SAFETY: descriptors live forever; a section keeps this one from being recycled.
        unsafe { self.table[position].load(acquire("heap.table_read")).as_ref() }
    }

    /// Whether an arena found no place in the table when it was mapped.
    #[cfg(all(test, shuttle))]
    pub(in crate::heap) fn is_outside(region: &Region) -> bool {
        region.arena().position().is_none()
    }

    /// Arenas that are in the table.
    #[cfg(all(test, shuttle))]
    pub(in crate::heap) fn listed(&self) -> usize {
        (0..MAX_ARENAS).filter(|&position| self.glance(position).is_some()).count()
    }
}

/// Claims what is wanted in the arena of `region`, if it is there. The caller is in a section.
fn attempt(region: &Region, wanted: Wanted) -> Attempt {
    let Wanted { slices, align, prefer, seat, room } = wanted;
    if room > 0 {
        return region.slices().claim_with_room(slices, prefer, room);
    }
    let Some(seat) = seat else { return region.slices().claim(slices, prefer, align) };
    region.slices().claim_fitting(slices, prefer, misfit(region, seat))
}

/// How ill a block would lie in a run of the arena of `region`. The caller is in a section.
fn misfit(region: &Region, seat: Seat) -> impl Fn(usize, bool) -> usize {
    move |last, is_dirty| {
        // SAFETY: the section keeps the arena; records are readable at any time, and a hint is all that is wanted.
        let record = |slice| unsafe { &*Slab::of(region.base() + slice * SLICE) };
        let colour = record(last + 1 - seat.slices).colour();
        seat.misfit(colour, if is_dirty { record(last).spared() } else { SLICE })
    }
}
