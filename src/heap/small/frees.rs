//! Where a freed block goes: to its bin, or home to its slab. The slow half of a free.
//!
//! A child module of the heap's, because it works on the same private fields under the same rules.

use super::Heap;
use super::Heaps;
use super::bin::{Bin, Missed};
use super::exchange::AT_ONCE;
use super::meter::Counted;
use super::slab::Freed;
use crate::base::CLASSES;
use crate::heap::block::{Block, Checks};
use crate::heap::record::Slab;
use crate::pal::Platform;
use crate::sync::seeded;
use core::ptr;

impl Heap {
    /// Frees a block of a slab that this heap owns.
    ///
    /// # Safety
    /// The caller possesses the heap and the block, which lies in `slab`.
    #[inline(always)]
    pub unsafe fn free_local<C: Checks, P: Platform>(&self, from: &Heaps<P>, slab: &Slab, block: *mut Block) {
        let bin = self.bin(slab.class());
        if bin.take_room() {
            // SAFETY: the caller's.
            unsafe { bin.push::<C>(block, Block::key(block, self.secret.get())) };
            return;
        }
        // SAFETY: the caller's.
        unsafe {
            if !self.free_home::<C>(slab, block) {
                self.free_beyond::<C, P>(from, slab, block);
            }
        }
    }

    /// Frees a block of a slab that this heap owns, for which the bin had no room, if it goes home and nothing is to be
    /// done beside, as it is nearly always where much is torn down. `false` if not: then nothing has happened, and
    /// [`Heap::free_beyond`] is to be called. Each block that is freed there misses the cache, and the fewer instructions
    /// lie between one and the next, the more of these misses overlap.
    ///
    /// # Safety
    /// As for [`Heap::free_local`].
    #[inline(always)]
    pub unsafe fn free_home<C: Checks>(&self, slab: &Slab, block: *mut Block) -> bool {
        if slab.is_last_of_countdown() {
            return false;
        }
        // SAFETY: a slab's own.
        let quietly = unsafe {
            match self.has_meter() {
                true => self.counts_quiet_miss(slab.bin()),
                false => self.bin_at(slab.bin()).misses_quietly(),
            }
        };
        if !quietly {
            return false;
        }
        // SAFETY: the caller's.
        let _quietly = unsafe { self.push_home::<C>(slab, block) };
        true
    }

    /// Frees a block of a slab that this heap owns, for which the bin had no room.
    ///
    /// # Safety
    /// As for [`Heap::free_local`].
    #[inline(always)]
    pub unsafe fn free_beyond<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        slab: &Slab,
        block: *mut Block,
    ) {
        // SAFETY: the caller's.
        unsafe {
            if self.has_meter() {
                self.free_counted::<C, P>(from, slab, block);
            } else {
                self.free_uncounted::<C, P>(from, slab, block);
            }
        }
    }

    /// The same of a heap that is not sampled. As in `free_counted`, what is seldom is behind calls that end this, so that
    /// what is not needs no stack.
    ///
    /// # Safety
    /// As for [`Heap::free_local`].
    #[cold]
    #[inline(never)]
    unsafe fn free_uncounted<C: Checks, P: Platform>(&self, from: &Heaps<P>, slab: &Slab, block: *mut Block) {
        let bin = self.bin(slab.class());
        let missed = bin.miss(slab.class());
        if missed == Missed::Welcome {
            // SAFETY: the caller's.
            return unsafe { bin.push::<C>(block, Block::key(block, self.secret.get())) };
        }
        // SAFETY: the caller's.
        let freed = unsafe { self.push_home::<C>(slab, block) };
        if freed == Freed::Event || missed == Missed::TooMany || self.has_mail() {
            self.went_home::<C, P>(from, slab, freed, missed, 0);
        }
    }

    /// The same of a heap that is sampled.
    ///
    /// # Safety
    /// As for [`Heap::free_local`].
    #[cold]
    #[inline(never)]
    unsafe fn free_counted<C: Checks, P: Platform>(&self, from: &Heaps<P>, slab: &Slab, block: *mut Block) {
        if self.counts_miss(slab.class()) == Counted::Missed {
            // SAFETY: the caller's.
            return unsafe { self.free_missed::<C, P>(from, slab, block) };
        }
        // SAFETY: the caller's.
        let freed = unsafe { self.push_home::<C>(slab, block) };
        if freed == Freed::Event || self.has_mail() {
            self.went_home_clipped::<C, P>(from, slab, freed);
        }
    }

    /// The same where there would be no room without samples, either.
    ///
    /// # Safety
    /// As for [`Heap::free_local`].
    #[inline(never)]
    unsafe fn free_missed<C: Checks, P: Platform>(&self, from: &Heaps<P>, slab: &Slab, block: *mut Block) {
        let class = slab.class();
        if !self.bin(class).has_begun() {
            // SAFETY: the caller's.
            return unsafe { self.free_first::<C, P>(from, slab, block) };
        }
        if let Some(room) = self.counts_as_missed(class) {
            // SAFETY: the caller's.
            return unsafe { self.free_missed_near::<C, P>(from, slab, block, room) };
        }
        let missed = self.bin(class).miss_again();
        // SAFETY: the caller's.
        let freed = unsafe { self.push_home::<C>(slab, block) };
        if freed == Freed::Event || missed == Missed::TooMany || self.has_mail() {
            self.went_home::<C, P>(from, slab, freed, missed, Bin::AFTER_MISS);
        }
    }

    /// The same of the first block of its class that is freed.
    ///
    /// # Safety
    /// As for [`Heap::free_local`].
    #[cold]
    #[inline(never)]
    unsafe fn free_first<C: Checks, P: Platform>(&self, from: &Heaps<P>, slab: &Slab, block: *mut Block) {
        // SAFETY: the caller's.
        unsafe {
            if self.begins_to_miss(slab.class()) {
                self.bin(slab.class()).push::<C>(block, Block::key(block, self.secret.get()));
            } else {
                self.free_counted::<C, P>(from, slab, block);
            }
        }
    }

    /// The same near the next sample; there was `room`.
    ///
    /// # Safety
    /// As for [`Heap::free_local`].
    #[inline(never)]
    unsafe fn free_missed_near<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        slab: &Slab,
        block: *mut Block,
        room: i32,
    ) {
        let class = slab.class();
        let missed = self.bin(class).miss_again();
        // SAFETY: the caller's.
        let freed = unsafe { self.push_home::<C>(slab, block) };
        if freed == Freed::Event || missed == Missed::TooMany || self.has_mail() {
            return self.went_home::<C, P>(from, slab, freed, missed, room);
        }
        self.was_changed(class, room, 0);
    }

    /// After a block went home that had `missed` its bin, which had `room`: something is to be done beside.
    #[inline(never)]
    fn went_home<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        slab: &Slab,
        freed: Freed,
        missed: Missed,
        room: i32,
    ) {
        let class = slab.class();
        let closed = freed == Freed::Event && self.countdown_ended(from, slab, 1);
        // A thread whose bins never ran out would not look otherwise.
        let received = if self.has_mail() { self.receive::<C, P>(from, AT_ONCE) } else { 0 };
        let mut gone = 0;
        if closed || missed == Missed::TooMany {
            gone = self.empty_bin::<C, P>(from, class, AT_ONCE - received);
            if self.has_none(class) {
                self.bin(class).shrink(class, &self.growth);
            } else {
                self.bin(class).goes_on_shrinking();
            }
        }
        self.was_changed(class, room, gone);
    }

    /// The same of a block for which there was no room only because of the next sample.
    #[inline(never)]
    fn went_home_clipped<C: Checks, P: Platform>(&self, from: &Heaps<P>, slab: &Slab, freed: Freed) {
        if freed == Freed::Event {
            self.countdown_ended(from, slab, 1);
        }
        if self.has_mail() {
            self.receive::<C, P>(from, AT_ONCE);
        }
    }

    /// Puts a block on the list of its slab, which this heap owns. Returns whether that left the slab empty, which is
    /// closed then.
    ///
    /// # Safety
    /// As for [`Heap::free_local`].
    #[inline]
    pub(in crate::heap) unsafe fn free_into_slab<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        slab: &Slab,
        block: *mut Block,
    ) -> bool {
        debug_assert!(self.possession().possessor().is_some(), "a block goes home to nobody's heap");
        // SAFETY: the caller's.
        let freed = unsafe { self.push_home::<C>(slab, block) };
        freed == Freed::Event && self.countdown_ended(from, slab, 1)
    }

    /// The same, and looks at nothing.
    ///
    /// # Safety
    /// As for [`Heap::free_local`].
    #[inline(always)]
    unsafe fn push_home<C: Checks>(&self, slab: &Slab, block: *mut Block) -> Freed {
        slab.expect_next(block);
        #[cfg(any(loom, shuttle))]
        assert!(ptr::eq(slab.owner(), self), "freed into a slab of another heap");
        // SAFETY: the caller's.
        unsafe { slab.push::<C>(block, Block::key(block, self.secret.get())) }
    }

    /// Puts a block that counts as live, and is this heap's to give, where it belongs: on the list of its slab, or
    /// among those that are to be sent, if the slab is another heap's by now.
    ///
    /// # Safety
    /// The caller possesses the heap and the block, which is in no list, and lies in `slab`.
    pub(in crate::heap) unsafe fn return_block<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        slab: &Slab,
        block: *mut Block,
    ) {
        // SAFETY: the caller holds the block.
        unsafe { Block::move_on::<C>(block, self.secret.get()) };
        // SAFETY: the caller's.
        unsafe {
            if ptr::eq(slab.owner(), self) || seeded("heap.no_forward") {
                // A list that is in two places has no end once it is pushed onto itself.
                #[cfg(any(loom, shuttle))]
                assert!(!self.is_on::<C>(slab.free_list(), block), "a block is on its slab's list already");
                self.free_into_slab::<C, P>(from, slab, block);
            } else {
                self.send_later::<C, P>(from, slab, block);
            }
        }
    }

    /// Brings the blocks of all bins home.
    pub(in crate::heap) fn empty_bins<C: Checks, P: Platform>(&self, from: &Heaps<P>) {
        for class in 0..CLASSES {
            let room = self.bin(class).room();
            let gone = self.empty_bin::<C, P>(from, class, usize::MAX);
            self.was_emptied(class, room, gone);
        }
    }

    /// Brings the blocks of a bin home, `most` of them: one at a time, so that no more than one is lost with a thread
    /// that vanishes. Returns how many these were.
    fn empty_bin<C: Checks, P: Platform>(&self, from: &Heaps<P>, class: usize, most: usize) -> u32 {
        let mut gone = 0;
        for _ in 0..most {
            // SAFETY: this heap is the caller's.
            let Some(block) = (unsafe { self.bin(class).take_out::<C>(self.secret.get()) }) else { break };
            // SAFETY: the possessor's own block, which has just left the bin.
            unsafe { self.return_block::<C, P>(from, Slab::of_live(block), block) };
            gone += 1;
        }
        gone
    }
}
