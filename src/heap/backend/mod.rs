//! The backend: where slabs, large blocks and huge blocks get their memory from, and what of it goes back, and when.
//! May import the rooms before it, and knows of no heap.
//!
//! Runs of slices are [`Arenas`]' matter, regions of their own [`Huge`]'s; [`Backend`] has both, and what one rule says
//! for both: how much may stay resident though it is free. Nothing here tries a second time: where there is no memory,
//! it says `None` or null at once.

mod arenas;
mod huge;
mod large;
mod limited;

#[cfg(all(test, not(shuttle)))]
pub(in crate::heap) use arenas::hints;
pub use arenas::{Arenas, Beside, Claim};
pub use huge::Huge;

use super::ground::{Claimant, Ground, MOST_SPARE, Outside, UNSEEN};
use super::mend::Mend;
use super::record::Slab;
use super::seat::Seat;
use crate::base::{LINE, SLICE, align_up, step_of};
use crate::const_unless_model;
use crate::pal::Platform;
use crate::region::{Prefer, Region};
use crate::sync::{in_order, seeded};
use core::ops::Deref;
use core::ptr;

/// Slices that a claimant changes between two looks at how much is dirty.
const LOOK: usize = if cfg!(any(loom, shuttle)) { 1 } else { 16 };

/// See the head of this file. Stands on the ground, and lends its functions.
#[repr(C)] // As `Allocator`.
pub struct Backend<P: Platform> {
    ground: Ground<P>,
    arenas: Arenas,
    huge: Huge,
}

impl<P: Platform> Deref for Backend<P> {
    type Target = Ground<P>;

    #[inline(always)]
    fn deref(&self) -> &Ground<P> {
        &self.ground
    }
}

impl<P: Platform> Backend<P> {
    const_unless_model! {
        /// Nothing is mapped yet.
        pub(in crate::heap) fn new(os: P) -> Backend<P> {
            Backend { ground: Ground::new(os), arenas: Arenas::new(), huge: Huge::new() }
        }
    }

    /// The arenas.
    pub fn arenas(&self) -> &Arenas {
        &self.arenas
    }

    /// The huge blocks' regions that are kept.
    pub fn huge(&self) -> &Huge {
        &self.huge
    }

    /// Demands what must hold of arenas and huge blocks while nobody is in the middle of anything. Returns
    /// whether all arenas have a place in the table.
    #[cfg(any(test, feature = "simulated"))]
    pub(in crate::heap) fn audit(&self) -> bool {
        self.limit().audit();
        self.huge.audit(&self.ground);
        self.arenas.audit(&self.ground)
    }

    /// Claims `slices` slices starting at a multiple of `align` slices. `None` when there is no memory.
    pub fn claim(&self, by: &Claimant, slices: usize, align: usize, prefer: Prefer) -> Option<Claim> {
        let promised = self.may_take(by, slices * SLICE)?;
        let claim = self.arenas.claim(&self.ground, by, slices, align, prefer);
        self.has_taken(by, promised);
        let claim = claim?;
        // What is live has grown beside what is free and resident.
        self.count_faulted(by, claim.clean);
        Some(claim)
    }

    /// Claims slices for a large block that is to lie so, and wants so much `room` behind them.
    fn claim_fitting(&self, by: &Claimant, seat: Seat, room: usize) -> Option<Claim> {
        let promised = self.may_take(by, seat.slices * SLICE)?;
        let claim = self.arenas.claim_fitting(&self.ground, by, seat, room);
        self.has_taken(by, promised);
        let claim = claim?;
        self.count_faulted(by, claim.clean);
        Some(claim)
    }

    /// Gives the run of `slices` slices at `base` back. The records are closed already.
    pub fn release(&self, by: &Claimant, base: usize, slices: usize) {
        let see = || self.see(by, base, slices);
        let release = || self.arenas.release(&self.ground, by, base, slices);
        in_order(see, release, "heap.sampled_released");
        self.count_change(by, slices);
        // What was retired, now or before, is unmapped by whoever comes by after its grace period.
        self.space().reap(Some(by.slot()));
    }

    /// Looks at one in so many runs that are no longer used: whether it was touched as a whole. The caller holds it.
    #[inline(always)]
    fn see(&self, by: &Claimant, base: usize, slices: usize) {
        if by.is_turn(UNSEEN) {
            // SAFETY: the slices are the caller's until they are released, which is afterwards.
            unsafe {
                let purge = |page| self.ground.purge_page(page);
                let colour = (*Slab::of(base)).colour();
                self.population().sample_run(self.os(), &purge, [base, colour], slices * SLICE);
            };
        }
    }

    /// Keeps a run of slices that no longer holds anything for the next slab or large block of that length, or gives it
    /// back; and others of which there are more than `most`. What it held was `size` bytes long.
    pub(in crate::heap) fn keep_slices(
        &self,
        by: &Claimant,
        base: usize,
        slices: usize,
        size: usize,
        most: usize,
    ) {
        let release = |base, slices| {
            // What slabs give up proves nothing for large blocks.
            if most == MOST_SPARE {
                by.spares().miss(slices);
            }
            self.release_kept(by, base, slices);
        };
        if by.spares().make_room(slices, most, release) {
            // SAFETY: the slices are the heap's; their records are ours.
            by.spares().keep(unsafe { &*Slab::of(base) }.kept(), base, slices, step_of(size));
        } else {
            release(base, slices);
        }
    }

    /// Gives back all runs of slices that are kept, and what was lent for more.
    pub(in crate::heap) fn give_back_kept_slices(&self, by: &Claimant) {
        while let Some((base, slices)) = by.spares().take_any() {
            self.release_kept(by, base, slices);
        }
        self.lent().take_off(by.spares().take_back(usize::MAX));
    }

    /// Gives back the run of `slices` slices at `base`, which was to be kept: its later slices may still say that they
    /// are.
    fn release_kept(&self, by: &Claimant, base: usize, slices: usize) {
        // SAFETY: the record of the run, which is the caller's until it is released.
        unsafe { &*Slab::of(base) }.forget(1, slices);
        self.release(by, base, slices);
    }

    /// The heap has claimed `slices` slices: lends it room for more spare ones, if that would have saved the claim, and
    /// there is something to lend.
    fn lend(&self, by: &Claimant, slices: usize) {
        let more = by.spares().wanted(slices);
        if more == 0 {
            return;
        }
        if self.lent().get() + more <= self.may_lend() {
            by.spares().lend(more);
            self.lent().add(more);
        } else {
            by.spares().give_up();
        }
    }

    /// Takes back what was lent to the heap, if less is to be lent by now. What it has spare goes with its next frees.
    fn take_back(&self, by: &Claimant) {
        if by.spares().lent() > 0 {
            let excess = self.lent().get().saturating_sub(self.may_lend());
            self.lent().take_off(by.spares().take_back(excess));
        }
    }

    /// Counts slices that were claimed although they are not resident.
    fn count_faulted(&self, by: &Claimant, slices: usize) {
        if slices > 0 {
            self.retention().regret().faulted(slices * SLICE);
        }
        self.count_change(by, slices);
    }

    /// Counts slices that were released, or claimed although they were not resident: once in a while somebody looks at
    /// how much is dirty.
    fn count_change(&self, by: &Claimant, slices: usize) {
        let looks = by.adds_up(slices, LOOK);
        if looks {
            self.retention().regret().turned(LOOK * SLICE);
        }
        if looks || self.retention().is_held() {
            self.bound_dirty(by);
        }
    }

    /// Counts a slab that was opened at `base`, or one that is closed there. The caller holds its slices.
    pub(in crate::heap) fn count_slab(&self, base: usize, opened: bool) {
        self.arenas.count_slab(&self.ground, base, opened);
    }

    /// A huge block of `size` bytes at a multiple of `align`, all zero if `zero`; null when there is no memory.
    pub fn allocate_huge(&self, by: &Claimant, size: usize, align: usize, zero: bool) -> *mut u8 {
        let colour = if align <= LINE { by.colours().next(size, usize::MAX) } else { 0 };
        let used = size.max(1).checked_add(colour).and_then(|bytes| align_up(bytes, self.page_size()));
        let Some(used) = used else { return ptr::null_mut() };
        let Some(promised) = self.may_take(by, used) else { return ptr::null_mut() };
        let block = self.huge.allocate(&self.ground, by, [used, colour], align, zero);
        self.has_taken(by, promised);
        if !block.is_null() {
            // What is live has grown beside what is free and resident.
            self.bound_dirty(by);
        }
        block
    }

    /// Frees the huge block of `region`, which the caller holds.
    pub fn free_huge(&self, by: &Claimant, region: &'static Region) {
        self.huge.free(&self.ground, by, region);
        // The block's own pages stay as far as they may; those that stayed before may be too many now.
        self.bound_dirty(by);
    }

    /// Grows or shrinks the huge block of `region` to `size` bytes. Null when there is no memory: the block is as
    /// before.
    pub fn resize_huge(&self, by: &Claimant, region: &'static Region, size: usize, align: usize) -> *mut u8 {
        self.change_huge(by, region, size, align, false)
    }

    /// What [`Backend::resize_huge`] could not do, once there is more room.
    pub fn grow_huge_elsewhere(
        &self,
        by: &Claimant,
        region: &'static Region,
        size: usize,
        align: usize,
    ) -> *mut u8 {
        self.change_huge(by, region, size, align, true)
    }

    #[inline(never)]
    fn change_huge(
        &self,
        by: &Claimant,
        region: &'static Region,
        size: usize,
        align: usize,
        elsewhere: bool,
    ) -> *mut u8 {
        let Some(used) = region.huge().used_for(size, self.page_size()) else { return ptr::null_mut() };
        let more = used.saturating_sub(region.huge().used());
        let Some(promised) = self.may_take(by, more) else { return ptr::null_mut() };
        let block = match elsewhere {
            true => self.huge.grow_elsewhere(&self.ground, by, region, used, align),
            false => self.huge.resize(&self.ground, by, region, used, align),
        };
        self.has_taken(by, promised);
        block
    }

    /// Purges dirty slices: see [`Arenas::purge`].
    pub fn purge(&self, by: &Claimant, most: usize) -> usize {
        self.arenas.purge(&self.ground, by, most)
    }

    /// Unmaps empty arenas.
    pub fn unmap_empty(&self, by: &Claimant) {
        self.arenas.unmap_empty(&self.ground, by);
    }

    /// Unmaps all regions of huge blocks that are kept.
    pub fn drop_kept(&self, by: &Claimant) {
        let _rest = self.huge.shrink_kept(&self.ground, by, usize::MAX);
    }

    /// Unmaps everything that is free, where address space, mappings or what may be committed are short. Purging what
    /// stays mapped would not help.
    #[cold]
    #[inline(never)]
    pub fn unmap_free(&self, by: &Claimant) {
        self.drop_kept(by);
        self.unmap_empty(by);
        self.space().reap(Some(by.slot()));
        // What waits for a grace period was idle in nobody's eyes while it was on its way here.
        self.ring();
    }

    /// Gives back what is free in whole slices and regions.
    #[cold]
    #[inline(never)]
    pub fn give_back_all(&self, by: &Claimant) {
        self.purge(by, usize::MAX);
        self.unmap_free(by);
    }

    /// Whether free memory is resident, an arena is empty, or a region waits to be unmapped.
    pub(in crate::heap) fn has_idle_memory(&self) -> bool {
        self.dirty_slices() > 0
            || self.arenas.has_empty()
            || self.huge_figures().kept_bytes().get() > 0
            || self.space().has_retired()
    }

    /// One tick of the clock: a part of what has been free since the last tick goes back to the system, and so do
    /// arenas that have been empty for several.
    pub(in crate::heap) fn age(&self, by: &Claimant) {
        let now = self.os().now_ms();
        let old = self.retention().aged(self.settings(), self.live_bytes(), self.dirty_bytes(), now);
        self.give_back_some(by, old);
        self.arenas.age_empty(&self.ground, by);
        self.space().reap(Some(by.slot()));
    }

    /// Notes how much memory the process may have, what the system leaves it and what it has already, and in which pieces
    /// it comes. See `global`.
    pub fn learn_limits(&self) {
        self.population().learn_folios(self.os().folios());
        self.note_left(self.os().memory_left());
        self.adapt_to_late_limit();
    }

    fn note_left(&self, left: usize) {
        let has = self.live_bytes() + self.dirty_bytes();
        self.settings().set_memory(left.saturating_add(has));
    }

    /// Takes in what a look outside has found: whether memory has become scarce.
    pub(in crate::heap) fn is_scarce(&self, seen: Outside) -> bool {
        if let Some(left) = seen.left {
            self.note_left(left);
        }
        self.scarcity().has_risen(seen.stalled_us, self.os().now_ms())
    }

    /// The process may have set itself a limit, or have had one from the start: reserves no address space that would
    /// count against it.
    pub fn adapt_to_late_limit(&self) {
        let limit = self.os().address_space_limit().min(self.os().data_limit());
        self.settings().stop_reserving_below(limit);
    }

    /// Gives back what may not stay.
    pub(in crate::heap) fn bound_dirty(&self, by: &Claimant) {
        self.take_back(by);
        let excess = self.excess(0);
        // Huge blocks that are kept go first.
        let slices = excess.saturating_sub(self.huge_figures().kept_bytes().get());
        if slices > 0 {
            self.retention().regret().purging(slices, self.live_bytes());
            by.spares().give_up();
        }
        self.give_back_some(by, excess);
    }

    /// Leaves no more free memory than a quarter of what the options allow, whatever is proven: nobody is going to look
    /// whether it is needed.
    pub(in crate::heap) fn keep_little(&self, by: &Claimant) {
        let most = self.settings().dirty_limit(self.live_bytes()) / 4;
        self.give_back_some(by, self.dirty_bytes().saturating_sub(most));
    }

    #[inline(never)]
    fn give_back_some(&self, by: &Claimant, bytes: usize) {
        if bytes == 0 {
            return;
        }
        // Huge blocks first: one call gives back much.
        let left = self.huge.shrink_kept(&self.ground, by, bytes);
        let now = self.os().now_ms();
        if left > 0 && self.refusals().wait(now) == 0 {
            let purged = self.purge(by, left.div_ceil(SLICE));
            self.refusals().note(purged == 0, now);
        }
        // Regions that are kept no more, and arenas that have become empty, may be resident still. Whoever is alone unmaps
        // them at once: nobody comes by for them.
        self.space().reap_in_time(Some(by.slot()), 0);
    }
}

impl<P: Platform> Mend for Backend<P> {
    fn mend(&self) {
        {
            // As a guest: the calling thread may have no heap, and so no slot.
            let section = self.space().rcu().enter_guest();
            self.arenas.recount(&self.ground, &section);
        }
        self.retention().forget_who_asks();
        if !seeded("heap.child_keeps_count") {
            self.huge.recount(&self.ground);
        }
        self.limit().forget();
    }
}
