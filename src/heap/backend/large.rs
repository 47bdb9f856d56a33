//! Large blocks: runs of slices. And how much of the last slice is resident beyond the block.
//!
//! A run of slices is up to 64 KiB longer than what was asked for. In memory that nobody has used that is address space
//! only; slices that were used to their end are resident to their end. Each slice's record says how much at its end is
//! known not to be. So a block is put where about as much is resident as it needs (`SliceMap::claim_fitting`): what it
//! needs is not faulted in, and little behind it is *soiled*, resident for nothing.
//!
//! What is soiled is free and resident, and counts with what is dirty (`Retention::excess`): the more of the one, the
//! less of the other stays. A block that would soil more than an eighth of its size gives the rest of its last slice
//! back before it is handed out. Blocks of different sizes by turns would purge and fault at each turn; so a heap purges
//! a tail for each large block more than it has, and besides by what it allocates (`Tails`).

use super::Backend;
use crate::base::{LINE, SLICE, SMALL_MAX, step_of};
use crate::heap::ground::{Claimant, Count, MOST_SPARE, clear};
use crate::heap::record::Slab;
use crate::heap::seat::{Seat, Tail};
use crate::pal::Platform;
use crate::region::Prefer;
use crate::sync::in_order;
use core::ptr;

/// A kept run is taken if it fits as well as this: two pages are to be faulted in.
const FITS: usize = 8 << 10;
/// Slices behind a block that is likely to grow: as many as it has, but not fewer, nor more.
const LEAST_ROOM: usize = if cfg!(any(loom, shuttle)) { 1 } else { 8 };
const MOST_ROOM: usize = 32;

impl<P: Platform> Backend<P> {
    /// The address of a spare run of `slices` slices, of the heap's, for a slab. Best is one that was used to its end.
    pub(in crate::heap) fn take_kept(&self, by: &Claimant, slices: usize) -> Option<usize> {
        let spares = by.spares();
        spares.take(slices, step_of(slices * SLICE)).or_else(|| spares.take_of(slices))
    }

    /// A large block of `size` bytes, where one of about that size was freed before; null if the heap has kept none.
    #[inline(always)]
    pub fn reuse_large(&self, by: &Claimant, size: usize) -> *mut u8 {
        let movable = self.movable_seat(by, size);
        match by.spares().take(movable.slices, step_of(size)) {
            Some(base) => {
                // SAFETY: the slices are the heap's; their records are ours.
                let colour = unsafe { &*Slab::of(base) }.colour();
                let before = movable.as_before(colour);
                let seat = if before.colour == 0 { self.next_seat(by, size) } else { before };
                self.open_large(by, base, seat, false)
            }
            None => ptr::null_mut(),
        }
    }

    /// That of a block which may begin anywhere in its run.
    #[inline(always)]
    fn movable_seat(&self, by: &Claimant, size: usize) -> Seat {
        let page = self.page_size();
        let keeps = if by.colours().has_gaps() { SLICE - 1 } else { page - 1 };
        Seat::movable(size, page, keeps, || self.has_room_for_colours(by))
    }

    /// Whether blocks that fill their slices have one more: few grow, and slices are not dear. (In models a size says how
    /// many slices are claimed.)
    #[cold]
    #[inline(never)]
    fn has_room_for_colours(&self, by: &Claimant) -> bool {
        !cfg!(any(loom, shuttle))
            && by.colours().is_calm()
            && self.settings().reserves_space()
            && !self.settings().has_limit()
    }

    /// The same with the next colour.
    #[inline(always)]
    fn next_seat(&self, by: &Claimant, size: usize) -> Seat {
        let seat = self.movable_seat(by, size);
        Seat { colour: by.colours().next(size, seat.room()), ..seat }
    }

    #[inline(always)] // Where it is no sample; that costs no call.
    pub(in crate::heap) fn allocate_large(
        &self,
        by: &Claimant,
        size: usize,
        align: usize,
        zero: bool,
    ) -> *mut u8 {
        // What is no longer than a small block may be a sample that stands for one, and can hold as much as that.
        let may_move = align <= LINE && size > SMALL_MAX;
        let seat = if may_move { self.next_seat(by, size) } else { Seat::first(size, self.page_size()) };
        let slices = seat.slices;
        // SAFETY: the slices are the heap's; their records are ours.
        let record = |slice: usize| unsafe { &*Slab::of(slice) };
        let kept = if align <= SLICE {
            let (step, last) = (step_of(size), (slices - 1) * SLICE);
            let misfit = |base| seat.misfit(record(base).colour(), record(base + last).spared());
            let near = || by.spares().take_near(slices, step, |base| misfit(base) <= FITS);
            by.spares().take(slices, step).or_else(near)
        } else {
            None
        };
        let claimed = match kept {
            Some(base) => Some((base, false)),
            None if align <= SLICE => self.claim_fitting(by, seat, 0).map(|claim| (claim.base, claim.zero)),
            None => self
                .claim(by, slices, align.div_ceil(SLICE), Prefer::Dirty)
                .map(|claim| (claim.base, claim.zero)),
        };
        let Some((base, is_zero)) = claimed else { return ptr::null_mut() };
        if kept.is_none() {
            self.lend(by, slices);
        }
        let seat = if kept.is_some() || self.arenas.is_dirty(&self.ground, base) {
            seat.as_before(record(base).colour())
        } else if seat.has_gap() {
            seat.behind(seat.colour + by.colours().gap(seat.room(), seat.page))
        } else {
            seat
        };
        let block = self.open_large(by, base, seat, kept.is_none());
        if zero && !is_zero {
            // SAFETY: the run holds the block, and is ours.
            unsafe { clear(block, size, seat.page) };
        }
        block
    }

    /// Makes the run at `base`, which is the heap's, a large block that lies so. It was claimed just now if `fresh`.
    #[inline(always)]
    fn open_large(&self, by: &Claimant, base: usize, seat: Seat, fresh: bool) -> *mut u8 {
        // SAFETY: the slices are the heap's; their records are ours.
        let slab = unsafe { &*Slab::of(base) };
        slab.open_large(seat.slices as u32, seat.colour, seat.size);
        by.tails().allocated(seat.size);
        let soiled = self.bound_tail(by, slab, seat.tail(), fresh, false);
        self.count_soiled(by, 0, soiled);
        ptr::with_exposed_provenance_mut(base + seat.colour)
    }

    /// What there is to do when a large block is freed, but for its slices.
    #[inline(always)]
    fn close_large(&self, by: &Claimant, slab: &Slab) {
        self.count_soiled(by, self.soiled(slab), 0);
        by.tails().freed();
        slab.close_large();
    }

    pub(in crate::heap) fn free_large(&self, by: &Claimant, slab: &Slab) {
        let unheld = slab.unheld();
        self.close_large(by, slab);
        self.see(by, slab.base(), slab.slices() as usize);
        self.keep_slices(by, slab.base(), slab.slices() as usize, slab.requested(), MOST_SPARE);
        if unheld > 0 {
            self.hold(by, unheld);
        }
    }

    /// What no memory was held for, behind a sample, is a part of a free slice by now: that may have to be given back at
    /// once, which is enough.
    #[cold]
    #[inline(never)]
    fn hold(&self, by: &Claimant, unheld: usize) {
        let promised = self.may_take(by, unheld);
        self.tally().take_off(by, Count::Unheld, unheld);
        self.has_taken(by, promised.unwrap_or(0));
    }

    /// The same, if the heap has room for the run; `false` if it has none: then nothing was done.
    #[inline(always)]
    pub fn keep_large(&self, by: &Claimant, slab: &Slab) -> bool {
        let (slices, spares) = (slab.slices() as usize, by.spares());
        if !spares.has_room(slices) {
            return false;
        }
        self.close_large(by, slab);
        self.see(by, slab.base(), slices);
        spares.keep(slab.kept(), slab.base(), slices, step_of(slab.requested()));
        true
    }

    /// Makes a large block one of `size` bytes in the slices that it has; `false` if it needs others: then nothing was
    /// done.
    #[inline(always)]
    pub fn resize_in_run(&self, by: &Claimant, slab: &Slab, size: usize) -> bool {
        let before = slab.seat(self.page_size());
        let after = before.resized(size);
        if after.slices != before.slices {
            return false;
        }
        if size != before.size {
            self.resized(by, slab, [before, after], false, || slab.resize_large(after.slices as u32, size));
        }
        true
    }

    /// A large block is resized by `resize`; its last slice was claimed just now if `fresh`.
    #[inline(always)]
    fn resized(
        &self,
        by: &Claimant,
        slab: &Slab,
        [before, after]: [Seat; 2],
        fresh: bool,
        resize: impl FnOnce(),
    ) {
        if before.size <= SMALL_MAX && after.size > SMALL_MAX {
            // It was made a large one before it had to be, and that was worth it.
            by.growers().early().prove(1);
        }
        let (soiled, shrinks) = (before.tail().soiled(slab.last().spared()), after.size < before.size);
        if !shrinks {
            by.colours().grown();
            by.tails().grown();
        }
        resize();
        let is_soiled = self.bound_tail(by, slab, after.tail(), fresh, shrinks);
        self.count_soiled(by, soiled, is_soiled);
    }

    /// What is behind a large block was soiled by `before` bytes, and is by `after` now.
    #[inline(always)]
    fn count_soiled(&self, by: &Claimant, before: usize, after: usize) {
        match after.wrapping_sub(before) {
            0 => {}
            more if after > before => self.tally().add(by, Count::Soiled, more),
            fewer => self.tally().take_off(by, Count::Soiled, fewer.wrapping_neg()),
        }
    }

    /// A block of `size` bytes, for a block that has to move to grow, itself a large one if `was_large`: where there are
    /// free slices behind it. Null if there are none, or it is not likely that it goes on growing.
    // Cold, as far as the text goes: a small program does not pay for its pages.
    #[cold]
    #[inline(never)]
    pub fn allocate_to_grow(&self, by: &Claimant, size: usize, was_large: bool) -> *mut u8 {
        by.colours().grown();
        let (is_early, growers) = (size <= SMALL_MAX, by.growers());
        match (is_early, was_large) {
            (true, _) if !growers.early().spend() => return ptr::null_mut(),
            (true, _) => {}
            (false, true) => growers.room().prove(2),
            (false, false) => growers.early().prove(1),
        }
        match growers.room().spend().then(|| self.find_room(by, size)).flatten() {
            Some((base, fresh)) => self.open_large(by, base, Seat::first(size, self.page_size()), fresh),
            None if is_early => self.allocate_large(by, size, 1, false),
            None => ptr::null_mut(),
        }
    }

    /// A run for a large block of `size` bytes, behind which there are free slices; and whether it was claimed just now.
    #[cold]
    #[inline(never)]
    fn find_room(&self, by: &Claimant, size: usize) -> Option<(usize, bool)> {
        let seat = Seat::first(size, self.page_size());
        let slices = seat.slices;
        if let Some((base, longer)) = by.spares().take_longer(2 * slices) {
            // What is behind the block is resident, and free for it to grow into.
            // SAFETY: the record of the run, which is the heap's.
            let forget = || unsafe { &*Slab::of(base) }.forget(slices, longer);
            let release = || self.release(by, base + slices * SLICE, longer - slices);
            in_order(forget, release, "heap.spare_cut_released_early");
            return Some((base, false));
        }
        if !self.retention().regret().is_calm() {
            // To copy it to where pages are costs less than to fault in what is behind it.
            return None;
        }
        let claim = self.claim_fitting(by, seat, slices.clamp(LEAST_ROOM, MOST_ROOM))?;
        Some((claim.base, true))
    }

    pub(in crate::heap) fn resize_large(&self, by: &Claimant, slab: &Slab, size: usize) -> Option<*mut u8> {
        let (base, before) = (slab.base(), slab.seat(self.page_size()));
        let after = before.resized(size);
        let (old, new) = (before.slices, after.slices);
        if new > old {
            let promised = self.may_take(by, (new - old) * SLICE)?;
            let extended = self.arenas.extend(&self.ground, by, base, old, new - old);
            self.has_taken(by, promised);
            if !extended {
                return None;
            }
            by.growers().room().prove(1);
        }
        let resize = || {
            slab.resize_large(new as u32, size);
            slab.forget(new, old);
        };
        let release = || {
            if new < old {
                self.release(by, base + new * SLICE, old - new);
            }
        };
        self.resized(by, slab, [before, after], new > old, || {
            in_order(resize, release, "heap.cut_released_early");
        });
        Some(ptr::with_exposed_provenance_mut(base + after.colour))
    }

    /// Notes how much of the last slice of a large block is not resident, and gives back what is, behind the block, if
    /// that is much. The slice was claimed just now if `fresh`; the block was longer just now if it `shrinks`. The caller
    /// holds the block, and counts what is soiled then, which is returned.
    fn bound_tail(&self, by: &Claimant, slab: &Slab, tail: Tail, fresh: bool, shrinks: bool) -> usize {
        let last = slab.last();
        let mut soiled = tail.soiled(last.spared());
        if soiled == 0 {
            last.spare(tail.bytes());
            return 0;
        }
        if fresh && !self.arenas.is_dirty(&self.ground, last.base()) {
            soiled = 0;
        }
        if tail.is_too_soiled(soiled)
            && (if shrinks {
                by.tails().take_shrunk()
            } else {
                by.tails().take(self.settings().has_helper())
            })
            && self.purge_tail(slab.base() + slab.bytes() - tail.bytes(), soiled)
        {
            soiled = 0;
        }
        last.spare(tail.bytes() - soiled);
        soiled
    }

    /// How much behind a large block counts as soiled.
    fn soiled(&self, slab: &Slab) -> usize {
        slab.tail(self.page_size()).soiled(slab.last().spared())
    }

    /// Gives back `len` bytes at `at`, which are behind a block and inside its run.
    fn purge_tail(&self, at: usize, len: usize) -> bool {
        // SAFETY: nobody uses what is behind a block that its holder is about to be given or to get back.
        let purged = unsafe { self.purge_part(self.arena_of(at), at, len) }.is_ok();
        if purged {
            self.count_purged(len);
        }
        purged
    }
}
