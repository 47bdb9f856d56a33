//! Huge blocks: one region each, with address space in reserve behind them.
//!
//! The space bet: a block that grew once will grow again, and address space costs nothing until it is touched. So the
//! region is longer than what was asked for; growth inside it makes no system call. Beyond it the pages move to a
//! longer region (mremap): old and new are never resident at once.
//!
//! A freed block's region is kept for a while, bounded in number and bytes: an unmap costs a grace period and fresh
//! page faults, so it is for memory that is not coming back. A kept region stays in the index with `used` zero, which
//! is how a second free of it is recognised.

mod kept;

use crate::base::{align_down, align_up};
use crate::heap::ground::{Claimant, Ground, HUGE_PAGE, Sampled, clear, is_filled, is_sparse};
use crate::index::Move;
use crate::pal::{Call, Errno, Misuse, Platform, broken_contract};
use crate::region::{Kind, Region};
use crate::sync::atomic::AtomicPtr;
use crate::sync::{in_order, seeded};
use crate::{atomic_array, const_unless_model};
use core::ops::Range;
use core::ptr;

/// Regions that a growing block tries to move to before it stays where it is.
const TRIES: usize = 2;
/// Bytes of a block that was used before which are cleared by writing at most.
const MOST_WRITTEN: usize = 64 << 20;
/// Bytes of the smallest block that is bet on to be touched as a whole.
const LEAST_POPULATED: usize = 4 * HUGE_PAGE;
/// Largest reserve behind a block.
const MOST_RESERVE: usize = 1 << 30;

/// Gives the pages of `start..end` back, byte offsets in a region that the caller holds. Nobody uses their contents.
fn purge<P: Platform>(ground: &Ground<P>, region: &Region, start: usize, end: usize) -> Result<(), Errno> {
    if start < end {
        // SAFETY: the caller's; a region is one mapping.
        unsafe { ground.purge_pages(region.base() + start, end - start) }?;
        ground.count_purged(end - start);
    }
    Ok(())
}

fn base_of(region: &Region) -> *mut u8 {
    ptr::with_exposed_provenance_mut(region.base())
}

fn block_of(region: &Region) -> *mut u8 {
    ptr::with_exposed_provenance_mut(region.base() + region.huge().colour())
}

/// Freed huge regions that wait to be used again.
pub struct Huge {
    kept: [AtomicPtr<Region>; kept::KEPT],
}

impl Huge {
    const_unless_model! {
        /// No huge blocks.
        pub(in crate::heap) fn new() -> Huge {
            Huge {
                kept: atomic_array!(AtomicPtr::new(ptr::null_mut()); kept::KEPT),
            }
        }
    }

    /// A block in a region at a multiple of `align` that the program uses for `used` bytes, whole pages; it begins `colour`
    /// bytes behind its start. All zero if `zero`; null when there is no memory.
    pub fn allocate<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        [used, colour]: [usize; 2],
        align: usize,
        zero: bool,
    ) -> *mut u8 {
        let kept = self.take_kept(ground, by, used, align);
        if let Some(region) = kept
            && zero
        {
            self.clear(ground, region, used);
        }
        let Some(region) = kept.or_else(|| Huge::map(ground, used, align)) else { return ptr::null_mut() };
        if !Huge::populate(ground, region, used) && kept.is_none() && used >= LEAST_POPULATED {
            // For the looks at blocks that are freed. After the bet, which wants a region that nobody has touched.
            ground.population().measure_fault(ground.os(), region.base());
        }
        Huge::hand_out(ground, region, used, colour);
        block_of(region)
    }

    /// Has a region populated by huge pages, if a block of `used` bytes in it, most of them not resident, is likely to be
    /// touched as a whole: those that were freed lately tell. Says whether it is from now on.
    fn populate<P: Platform>(ground: &Ground<P>, region: &Region, used: usize) -> bool {
        let dirty = region.huge().dirty();
        let is_likely =
            || used >= dirty * 2 + LEAST_POPULATED && ground.population().touches_all(Sampled::Huge);
        Huge::bet(ground, region, dirty..used, is_likely)
    }

    /// The same of a block that grows from `old` to `used` bytes in a region of which no more than `resident` are: what
    /// it was tells.
    fn populate_growth<P: Platform>(
        ground: &Ground<P>,
        region: &Region,
        colour: usize,
        [old, resident, used]: [usize; 3],
    ) {
        let is_likely =
            || old >= LEAST_POPULATED && is_filled(ground.os(), region.base() + colour, old - colour);
        Huge::bet(ground, region, resident..used, is_likely);
    }

    /// Bets on the `fresh` bytes of a region, if they are many, it was not bet on before, and is likely to be touched as a
    /// whole. Says whether it is populated by huge pages from now on.
    fn bet<P: Platform>(
        ground: &Ground<P>,
        region: &Region,
        fresh: Range<usize>,
        is_likely: impl FnOnce() -> bool,
    ) -> bool {
        let populated = fresh.len() >= LEAST_POPULATED
            && region.huge().unit().is_none()
            && is_likely()
            && ground.population().take(ground.os(), region, fresh);
        if populated {
            region.huge().set_unit(HUGE_PAGE);
        }
        populated
    }

    fn map<P: Platform>(ground: &Ground<P>, used: usize, align: usize) -> Option<&'static Region> {
        // What may be populated by huge pages begins with one.
        let align = if used >= LEAST_POPULATED { align.max(HUGE_PAGE) } else { align };
        let reserve = if ground.settings().reserves_space() { used.min(MOST_RESERVE) } else { 0 };
        let region = ground.space().map_region(Kind::Huge, used, align, reserve).ok();
        if region.is_none() && used <= MOST_RESERVE {
            // Address space has become short since the start: by a limit that the program sets itself.
            ground.settings().set_reserve(false);
        }
        region
    }

    fn hand_out<P: Platform>(ground: &Ground<P>, region: &Region, used: usize, colour: usize) {
        Huge::set_used(ground, region, used, colour);
        let figures = ground.huge_figures();
        figures.live_blocks().add(1);
        figures.live_bytes().add_in_one_step(used, "heap.huge_count_two_steps");
    }

    /// Notes that the program uses `used` bytes, all of which it may touch, for a block `colour` bytes behind their start.
    fn set_used<P: Platform>(ground: &Ground<P>, region: &Region, used: usize, colour: usize) {
        let notes = region.huge();
        notes.set_used(used, colour);
        notes.set_dirty(notes.dirty().max(Huge::whole_units(ground, region, used)));
    }

    /// `bytes` of a region rounded up to what becomes resident together.
    fn whole_units<P: Platform>(ground: &Ground<P>, region: &Region, bytes: usize) -> usize {
        let unit = region.huge().unit().unwrap_or(ground.page_size());
        align_up(bytes, unit).map_or(region.len(), |bytes| bytes.min(region.len()))
    }

    /// The same rounded down.
    fn down_to_units<P: Platform>(ground: &Ground<P>, region: &Region, bytes: usize) -> usize {
        align_down(bytes, region.huge().unit().unwrap_or(ground.page_size()))
    }

    /// Makes the first `used` bytes zero. Writing costs a tenth of faulting again, at any size; but pages that were
    /// never touched are looked at then, and so it is bounded, and not done where hardly any was written.
    fn clear<P: Platform>(&self, ground: &Ground<P>, region: &Region, used: usize) {
        let (block, dirty, page) = (base_of(region), region.huge().dirty().min(used), ground.page_size());
        // SAFETY: the region is the caller's, read-write; regions begin with a page.
        let is_written = || dirty <= MOST_WRITTEN && !unsafe { is_sparse(block, dirty, page) };
        if is_written() || purge(ground, region, 0, dirty).is_err() {
            // SAFETY: as above.
            unsafe { clear(block, dirty, page) };
        }
    }

    /// Frees the block of `region`, which the caller holds.
    pub fn free<P: Platform>(&self, ground: &Ground<P>, by: &Claimant, region: &'static Region) {
        let used = region.huge().used();
        if !Huge::take_in(ground, region) {
            broken_contract(Misuse::DoubleFree, Call::Free, block_of(region).addr());
        }
        let notes = region.huge();
        if used >= LEAST_POPULATED && notes.unit() != Some(ground.page_size()) {
            // SAFETY: the caller holds the region, all of which is read-write.
            let touched = unsafe {
                let purge = |page| ground.purge_page(page);
                ground.population().sample_huge(ground.os(), &purge, [region.base(), notes.colour()], used)
            };
            if !touched && notes.unit().is_none() {
                // Neither bet on nor looked at again, though it may be kept.
                notes.set_unit(ground.page_size());
            }
        }
        let keep = || if self.keep(ground, by, region) { 0 } else { Huge::retire(ground, by, region) };
        let (waiting, ()) = in_order(keep, || ground.ring(), "heap.ring_before_keep");
        if ground.settings().reserves_space() {
            ground.space().reap_in_time(Some(by.slot()), waiting);
        } else {
            // Addresses are short.
            ground.space().reap(Some(by.slot()));
        }
    }

    /// Has `region`, whose block is freed, unmapped after a grace period. Where others wait for that already, or the
    /// barrier fails by now, or where there is a limit, its pages are not to wait, and go at once: so those of one region
    /// are lost at most where the first barrier fails. Returns how many bytes may be resident meanwhile.
    fn retire<P: Platform>(ground: &Ground<P>, by: &Claimant, region: &'static Region) -> usize {
        let dirty = region.huge().dirty();
        let rcu = ground.space().rcu().statistics();
        let waits = ground.space().rcu().batch() > 1
            || rcu.stopped
            || rcu.pending > 0
            || ground.settings().has_limit();
        let purge = || waits && Huge::cut_in_hand(ground, by, region, 0).is_ok();
        // What is retired may be another's at once.
        let retire = || ground.space().retire_region(region);
        let (is_bare, _retired) = in_order(purge, retire, "heap.purge_retired");
        if is_bare { 0 } else { dirty }
    }

    /// The opposite of `hand_out`; `false` if another thread has just freed the block.
    #[must_use]
    fn take_in<P: Platform>(ground: &Ground<P>, region: &Region) -> bool {
        let used = region.huge().end_use();
        if used == 0 {
            return false;
        }
        ground.huge_figures().live_bytes().take_off(used);
        ground.huge_figures().live_blocks().take_off(1);
        true
    }

    /// As `cut`, of a region that has no block and is in no list.
    fn cut_in_hand<P: Platform>(
        ground: &Ground<P>,
        by: &Claimant,
        region: &'static Region,
        stays: usize,
    ) -> Result<(), Errno> {
        let cuts = stays < region.huge().dirty();
        let _held = cuts.then(|| ground.space().note_in_hand(Some(by.slot()), region, 0..0));
        Huge::cut(ground, region, stays)
    }

    /// Gives back the pages of a region that the caller holds but for the first `stays` bytes.
    fn cut<P: Platform>(ground: &Ground<P>, region: &Region, stays: usize) -> Result<(), Errno> {
        if stays < region.huge().dirty() {
            purge(ground, region, stays, region.huge().dirty())?;
            region.huge().set_dirty(stays);
        }
        Ok(())
    }

    /// Grows or shrinks the block of `region`: the program uses `used` bytes then, whole pages. Null when there is no
    /// memory: the block is as before.
    pub fn resize<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        region: &'static Region,
        used: usize,
        align: usize,
    ) -> *mut u8 {
        let (old, dirty) = (region.huge().used(), region.huge().dirty());
        if used <= region.len() {
            let colour = region.huge().colour();
            if used > old {
                ground.space_bet().count(true);
                Huge::populate_growth(ground, region, colour, [old, dirty, used]);
            } else if dirty - used >= ground.page_size() * 16 {
                // The block's holder gave the tail up; what is behind it was an earlier holder's.
                let _refused = Huge::cut(ground, region, Huge::whole_units(ground, region, used));
            }
            Huge::change_live(ground, old, used);
            Huge::set_used(ground, region, used, colour);
            return block_of(region);
        }
        ground.space_bet().count(false);
        self.grow_elsewhere(ground, by, region, used, align)
    }

    /// Grows the block of `region` in another region: the program uses `used` bytes then, whole pages, more than the first
    /// region has. Null when there is no memory: the block is as before.
    pub fn grow_elsewhere<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        region: &'static Region,
        used: usize,
        align: usize,
    ) -> *mut u8 {
        let old = region.huge().used();
        for _ in 0..TRIES {
            let Some(longer) = Huge::map(ground, used, align) else { break };
            // SAFETY: the caller holds the block, and nobody knows the new region.
            if !unsafe { self.carry(ground, region, longer, old) } {
                let _retired = ground.space().retire_region(longer);
                continue;
            }
            let colour = region.huge().colour();
            Huge::populate_growth(ground, longer, colour, [old, old, used]);
            Huge::hand_out(ground, longer, used, colour);
            let take_in = || {
                if !Huge::take_in(ground, region) {
                    broken_contract(Misuse::DoubleFree, Call::Free, block_of(region).addr());
                }
            };
            // Not kept: what is kept is counted by the pages that it saves, and it has hardly any.
            let retire = || ground.space().retire_region(region);
            let ((), _retired) = in_order(take_in, retire, "heap.take_in_retired");
            if !seeded("heap.no_ring_after_move") {
                ground.ring();
            }
            ground.space().reap(Some(by.slot()));
            return block_of(longer);
        }
        ptr::null_mut()
    }

    /// Brings the first `len` bytes of a region into a longer one; `false` if they are where they were, and the longer
    /// one is of no use. The two are never resident as a whole at once, unless somebody has pinned the old one, who
    /// must keep their view of it.
    ///
    /// # Safety
    /// The caller holds the block of the first, and nobody knows the second.
    unsafe fn carry<P: Platform>(
        &self,
        ground: &Ground<P>,
        region: &Region,
        longer: &Region,
        len: usize,
    ) -> bool {
        if region.state().pins() > 0 {
            // SAFETY: the caller's.
            unsafe { ptr::copy_nonoverlapping(base_of(region), base_of(longer), len) };
            return true;
        }
        // SAFETY: the caller's.
        let moved = unsafe { ground.space().move_pages(region, longer, len) };
        if moved == Move::Refused {
            // SAFETY: the caller's.
            unsafe { ground.space().copy_away(region, longer, len) };
        }
        moved != Move::Undone
    }

    fn change_live<P: Platform>(ground: &Ground<P>, old: usize, new: usize) {
        let live_bytes = ground.huge_figures().live_bytes();
        if new >= old { live_bytes.add(new - old) } else { live_bytes.take_off(old - new) }
    }
}
