//! What a heap's bins are filled with, and what becomes of its slabs: the slow half of an allocation.
//!
//! A child module of the heap's, because it works on the same private fields under the same rules.

use super::Heap;
use super::Heaps;
use super::exchange::AT_ONCE;
use super::slab::Standing;
use crate::base::{CLASSES, SLICE};
use crate::heap::block::{Block, Checks};
use crate::heap::ground::MOST_SPARE_OF_SLABS;
use crate::heap::record::Slab;
use crate::pal::Platform;
use crate::sync::{Cell, signal_fence};
use core::ptr;

/// Whether a slab's list is that of all its free blocks, and there are some.
fn has_free(slab: &&Slab) -> bool {
    !slab.free_list().is_null() && !slab.is_fallow()
}

impl Heap {
    /// Fills the bin of `class`, which is empty, from the current slab or an available one, if that has free blocks.
    /// Returns how many, as far as the slab's count tells, which in the child of a fork may be none of a list. (For a heap
    /// that counts its allocations, [`Heap::take_counted`].)
    ///
    /// # Safety
    /// The caller possesses the heap; `class` is below [`CLASSES`], and its bin is empty.
    #[inline(always)]
    pub unsafe fn take_over(&self, class: usize) -> Option<u32> {
        // SAFETY: current slabs belong to this heap, which holds their arenas.
        let (slab, count) = if let Some(slab) = unsafe { self.current(class).get().as_ref() }.filter(has_free)
        {
            let count = slab.free_count();
            slab.make_current(0);
            (slab, count)
        // SAFETY: slabs in a list belong to this heap, which holds their arenas.
        } else if let Some(slab) = unsafe { self.available(class).get().as_ref() }.filter(has_free) {
            let count = slab.free_count();
            slab.unlink(self.available(class));
            slab.make_full();
            if !ptr::eq(self.own_slab(slab.base()).slab(), slab) {
                self.own.enter(slab);
            }
            (slab, count)
        } else {
            return None;
        };
        let bin = self.bin(class);
        bin.refilled(class, count, &self.growth);
        // In this order: a thread that vanishes in between leaves the list in both places, which `Heap::link_again`
        // sees, and never in neither.
        bin.list().set(slab.free_list());
        signal_fence();
        slab.forget_free();
        self.growth.filled(slab.keep_hollow(0));
        Some(count)
    }

    /// The same, and no more than as many as the bin may be filled with.
    ///
    /// # Safety
    /// As for [`Heap::take_over`].
    #[inline(never)]
    pub unsafe fn take_counted<C: Checks>(&self, class: usize) -> bool {
        let slab = |list: &Cell<*const Slab>| {
            // SAFETY: as in `take_over`.
            let slab = unsafe { list.get().as_ref() };
            slab.inspect(|slab| self.till::<C>(slab)).filter(has_free)
        };
        let Some(first) = slab(self.current(class)).or_else(|| slab(self.available(class))) else {
            return false;
        };
        let ((most, list_most), room) = (self.most(class), self.bin(class).room());
        let count = if first.free_count() > list_most {
            Some(self.take_some::<C>(first, class, most))
        } else {
            // SAFETY: the caller's.
            unsafe { self.take_over(class) }
        };
        count.inspect(|&count| self.was_filled(class, room, count)).is_some()
    }

    /// Fills the bin of `class`, which is empty, with the first `count` of the list of `slab`, which has more: one at a
    /// time, so that no more than one is lost with a thread that vanishes.
    #[cold]
    fn take_some<C: Checks>(&self, slab: &Slab, class: usize, count: u32) -> u32 {
        let (bin, left) = (self.bin(class), slab.free_count() - count);
        bin.refilled(class, count, &self.growth);
        for _ in 0..count {
            let block = slab.free_list();
            slab.keep_free(self.follow::<C>(block));
            signal_fence();
            // SAFETY: the block has just left its slab's list, and is the heap's.
            unsafe { bin.push::<C>(block, Block::key(block, self.secret.get())) };
        }
        self.growth.filled(slab.keep_hollow(left));
        match slab.standing() {
            Standing::Current => slab.make_current(left),
            _ => {
                slab.make_available(slab.handed_out() - left);
                self.own.enter(slab);
            }
        }
        count
    }

    /// Fills the bin of `class`, which is empty; `false` when there is no memory. In this order: what was sent is
    /// received, what is on a slab's list taken over, the current slab extended, another slab made current.
    ///
    /// # Safety
    /// The caller possesses the heap; `class` is below [`CLASSES`].
    #[cold]
    #[inline(never)]
    pub unsafe fn refill<C: Checks, P: Platform>(&self, from: &Heaps<P>, class: usize) -> bool {
        let came = self.has_mail() && self.receive::<C, P>(from, AT_ONCE) != 0;
        loop {
            // SAFETY: the caller's.
            if unsafe { self.take_counted::<C>(class) || self.extend_current::<C, P>(from, class) } {
                return true;
            }
            if !self.change_current(class) && !self.get_slab::<C, P>(from, class, !came) {
                return false;
            }
        }
    }

    /// Fills the bin of `class` with blocks that were never handed out, by extending the current slab. `false` if it
    /// has none left: then it is no longer current.
    ///
    /// # Safety
    /// The caller possesses the heap; the class's bin is empty, and so is the list of its current slab.
    unsafe fn extend_current<C: Checks, P: Platform>(&self, from: &Heaps<P>, class: usize) -> bool {
        // SAFETY: current slabs belong to this heap, which holds their arenas.
        let Some(slab) = (unsafe { self.current(class).get().as_ref() }) else { return false };
        let (bin, page, secret) = (self.bin(class), from.page_size(), self.secret.get());
        let ((most, _), room) = (self.most(class), bin.room());
        // SAFETY: possessed by the caller.
        let count = unsafe { slab.extend::<C>(page, secret, bin.list(), most) };
        if count == 0 {
            // Nothing on its list and nothing left to hand out: every block is out.
            self.current(class).set(ptr::null());
            slab.make_full();
            return false;
        }
        bin.refilled(class, count, &self.growth);
        self.was_filled(class, room, count);
        true
    }

    /// Makes the first available slab current: its list is empty, but some of its blocks were never handed out. `false`
    /// if there is none.
    fn change_current(&self, class: usize) -> bool {
        // SAFETY: slabs in a list belong to this heap, which holds their arenas.
        let Some(slab) = (unsafe { self.available(class).get().as_ref() }) else { return false };
        debug_assert!(!slab.is_fallow(), "it was tilled when it was asked for free blocks");
        slab.unlink(self.available(class));
        slab.make_current(0);
        self.current(class).set(slab);
        true
    }

    /// Gets another slab: an idle heap's, which is available then, or a fresh one, which is current. Before that sends
    /// what is held back, if `sends`: some of it may be this heap's by now. `false` when there is no memory.
    fn get_slab<C: Checks, P: Platform>(&self, from: &Heaps<P>, class: usize, sends: bool) -> bool {
        if sends {
            self.send_most::<C, P>(from, AT_ONCE);
        }
        if let Some(slab) = from.new_slab::<C>(self, class) {
            self.growth.gained(slab);
            self.own.make_room(from, slab, self.growth.held() / SLICE);
            self.own.enter(slab);
            self.current(class).set(slab);
            return true;
        }
        // One that came back in the meantime, or was another heap's.
        !self.available(class).get().is_null()
    }

    /// A slab's countdown reached zero as `freed` blocks came home: it was full, or it is empty. Returns whether it was
    /// closed.
    #[cold]
    #[inline(never)]
    pub(super) fn countdown_ended<P: Platform>(&self, from: &Heaps<P>, slab: &Slab, freed: u32) -> bool {
        let list = self.available(slab.class());
        match slab.standing() {
            // Not reached: there are fewer blocks.
            Standing::Current => return false,
            Standing::Full => {
                let live = slab.handed_out() - freed;
                slab.make_available(live);
                slab.link_before(list);
                if live > 0 {
                    return false;
                }
            }
            Standing::Available => {}
        }
        slab.unlink(list);
        self.close(from, slab);
        true
    }

    /// Closes an empty slab, and keeps its slices for the next.
    fn close<P: Platform>(&self, from: &Heaps<P>, slab: &Slab) {
        let (base, slices) = (slab.base(), slab.slices() as usize);
        self.own.leave(slab);
        self.growth.lost(slab);
        let (is_hollow, is_purged) = (slab.hollow_pages() > 0, self.purge_fallow(from, slab));
        if !is_purged {
            slab.spare_unborn(from.page_size());
        }
        slab.close();
        slab.forget_fallow();
        if is_hollow && !is_purged {
            self.purge_hollow(from, slab);
        }
        from.count_slab(base, false);
        from.keep_slices(&self.claimant, base, slices, slices * SLICE, MOST_SPARE_OF_SLABS);
    }

    /// Gives back what is free: blocks in bins go to their slabs, and slabs without live blocks to their arenas. Walks
    /// every bin.
    pub fn collect<C: Checks, P: Platform>(&self, from: &Heaps<P>) {
        from.watch().warm.remove(self.index() as usize);
        self.empty_bins::<C, P>(from);
        self.settle_all::<C, P>(from);
        for class in 0..CLASSES {
            // SAFETY: a current slab is this heap's.
            let Some(slab) = (unsafe { self.current(class).get().as_ref() }) else { continue };
            self.current(class).set(ptr::null());
            let live = slab.live();
            if live == 0 {
                self.close(from, slab);
            } else if slab.has_unborn() || !slab.free_list().is_null() {
                slab.make_available(live);
                slab.link_before(self.available(class));
            } else {
                slab.make_full();
            }
        }
        self.tell_hollow(from);
        self.own.shrink(from, &self.own_first, self.growth.held() / SLICE);
        from.give_back_kept_slices(&self.claimant);
        self.forget_seen();
    }
}
