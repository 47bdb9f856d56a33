//! What passes between heaps: blocks freed for others, and slabs that change their heap.
//!
//! A child module of the heap's, because it works on the same private fields under the same rules.

use super::Heap;
use super::Heaps;
use super::remote::{Parcel, Piece};
use super::slab::Standing;
use crate::heap::block::{Block, Checks};
use crate::heap::record::Slab;
use crate::pal::Platform;
use crate::sync::atomic::Ordering;
use crate::sync::{full_fence, seeded};
use core::ptr;

/// Blocks that a malloc or free receives at most. As many as it hands out at most in return, on average over a slab
/// ([`Slab::extend`]): so what waits does not become more while the heap grows, whatever the classes on either side. A
/// block that is not in the cache takes less than a microsecond.
pub(in crate::heap) const AT_ONCE: usize = if cfg!(any(loom, shuttle)) { 2 } else { 512 };

impl Heap {
    /// Frees a block of another heap's slab if others of the same slice wait to be sent: these hold the slab and its
    /// arena, so there is nothing to look up. Returns whether it did.
    ///
    /// # Safety
    /// The caller possesses this heap, or it is one without blocks; the block, if it is one, is the caller's to give.
    #[inline(always)]
    pub unsafe fn free_along<C: Checks, P: Platform>(&self, from: &Heaps<P>, block: *mut Block) -> bool {
        let piece = self.outbox.piece(block.addr());
        if !piece.is_of(block.addr()) {
            return false;
        }
        let key = Block::key(block, self.secret.get());
        // SAFETY: a piece of a slice has blocks of its slab; asked of the start of one of its blocks.
        let slab = unsafe { piece.slab() };
        // SAFETY: as above.
        if !slab.starts_block(block.addr()) || C::ON && unsafe { Block::is_free(block, key) } {
            return false;
        }
        self.count_remote_free();
        // SAFETY: the caller's.
        if unsafe { piece.add::<C>(block, key) } || Heap::has_idle_owner(slab) {
            self.send_or_adopt::<C, P>(from, piece);
        }
        true
    }

    /// Frees a block whose slab another heap owns.
    ///
    /// # Safety
    /// The caller possesses this heap and the block, which lies in `slab`.
    pub unsafe fn free_remote<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        slab: &Slab,
        block: *mut Block,
    ) {
        self.count_remote_free();
        // SAFETY: the caller's.
        unsafe { self.send_later::<C, P>(from, slab, block) };
    }

    fn count_remote_free(&self) {
        self.remote_frees.add_alone(1);
    }

    /// Whether nobody possesses the heap that owns `slab`, which has live blocks. What is kept back for an owner whose
    /// thread has exited would hold its slabs for as long as this thread is idle.
    #[inline(always)]
    fn has_idle_owner(slab: &Slab) -> bool {
        // SAFETY: the owner of a slab with a live block is a heap, and heaps live forever.
        unsafe { (*slab.owner()).possession().possessor().is_none() }
    }

    /// Puts a free block among those that are to be sent to the heap that owns its slab.
    ///
    /// # Safety
    /// As for [`Heap::free_remote`].
    pub(in crate::heap) unsafe fn send_later<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        slab: &Slab,
        block: *mut Block,
    ) {
        let key = Block::key(block, self.secret.get());
        let piece = self.outbox.piece(block.addr());
        let is_known = piece.is_of(block.addr());
        if !is_known && !piece.is_empty() {
            self.send_or_adopt::<C, P>(from, piece);
        }
        // SAFETY: the caller's; what the piece held of another slice was sent.
        let is_full = unsafe {
            if is_known { piece.add::<C>(block, key) } else { self.outbox.begin::<C>(slab, block, key) }
        };
        if is_full || Heap::has_idle_owner(slab) {
            self.send_or_adopt::<C, P>(from, piece);
        }
        while let Some(piece) = self.outbox.to_go(block) {
            self.send_or_adopt::<C, P>(from, piece);
        }
    }

    /// Sends a piece to its owner; or, if nobody possesses the owner, takes the slab of its blocks over: the thread
    /// that frees what an exited thread has allocated goes on with its memory.
    #[inline(never)]
    fn send_or_adopt<C: Checks, P: Platform>(&self, from: &Heaps<P>, piece: &Piece) {
        if piece.is_empty() {
            // A vanished thread was about to begin it.
            return self.outbox.forget(piece);
        }
        // SAFETY: the piece has blocks of the slab, whose owner is a heap, which lives forever.
        let (slab, owner) = unsafe { (piece.slab(), &*piece.slab().owner()) };
        let (index, secret) = (owner.index() as usize, self.secret.get());
        let idle = match Heap::has_idle_owner(slab) {
            true if !seeded("heap.deliver_unpossessed") => from.pool().possess(index, self.caller()),
            true => from.pool().get(index),
            false => None,
        };
        if idle.is_none() && !ptr::eq(owner, self) {
            if let Some(parcel) = self.outbox.take::<C>(piece, owner, secret) {
                self.post::<C, P>(from, parcel);
            }
            return;
        }
        if let Some(idle) = idle
            && ptr::eq(slab.owner(), idle)
            && slab.standing() != Standing::Current
        {
            idle.hand_over(slab, self);
        }
        // While there are blocks, a slab of a heap that this thread possesses stays that heap's.
        let owner = slab.owner();
        #[cfg(any(loom, shuttle))]
        let mut count = 0;
        while let Some(block) = piece.pop::<C>(secret) {
            #[cfg(any(loom, shuttle))]
            {
                count += 1;
                assert!(count < 1 << 12, "a chain without an end");
            }
            // SAFETY: this thread possesses both heaps, and holds the block.
            unsafe {
                match idle {
                    _ if ptr::eq(owner, self) => _ = self.free_into_slab::<C, P>(from, slab, block),
                    Some(idle) if ptr::eq(owner, idle) => _ = idle.free_into_slab::<C, P>(from, slab, block),
                    _ => self.post::<C, P>(from, Parcel::of_one(owner, block)),
                }
            }
        }
        self.outbox.forget(piece);
        if let Some(idle) = idle {
            from.give_up(idle);
        }
    }

    /// Sends a parcel to its owner's inbox.
    fn post<C: Checks, P: Platform>(&self, from: &Heaps<P>, parcel: Parcel) {
        // SAFETY: heaps live forever.
        let index = unsafe { (*parcel.owner).index() } as usize;
        parcel.send::<C>(self.secret.get());
        // Partners: the fences in `Heaps::give_up` and in `Heaps::tidy`: either we see that the owner has become idle
        // or was tidied, or whoever did that sees the parcel.
        if !seeded("heap.inbox_push") {
            // (Not with that bug: loom switches threads at no fence, so this one would do the work of the push.)
            full_fence("heap.post_fence");
        }
        let disturbed = !seeded("heap.post_undisturbed") && from.watch().disturb(index);
        if disturbed || from.pool().is_idle(index) && !seeded("heap.post_blind") {
            from.ring();
        }
    }

    /// Makes a slab of this heap that is not current one of `to`'s. The caller possesses both heaps.
    fn hand_over(&self, slab: &Slab, to: &Heap) {
        let available = slab.standing() == Standing::Available;
        if available {
            slab.unlink(self.available(slab.class()));
        }
        if !seeded("heap.hand_over_keeps_own") {
            self.own.leave(slab);
        }
        self.growth.lost(slab);
        to.growth.gained(slab);
        slab.set_owner(ptr::from_ref(to).cast_mut());
        to.own.enter(slab);
        if available {
            slab.link_before(to.available(slab.class()));
        }
    }

    pub(in crate::heap) fn send_all<C: Checks, P: Platform>(&self, from: &Heaps<P>) {
        while let Some(piece) = self.outbox.waiting() {
            self.send_or_adopt::<C, P>(from, piece);
        }
    }

    /// Whether other threads have sent anything that is still to be freed. A hint, but for the possessor.
    #[inline(always)]
    pub fn has_mail(&self) -> bool {
        // Relaxed: as said; the possessor's own store.
        !self.inbox().is_empty() || !self.received.load(Ordering::Relaxed).is_null()
    }

    /// Takes some of the blocks that other threads sent, and frees them here or sends them on. Returns how many.
    ///
    /// Not all: there may be millions, and a malloc or free, which comes here, must not pause. Whoever allocates comes
    /// again before it has used up as many: see [`AT_ONCE`].
    pub fn receive<C: Checks, P: Platform>(&self, from: &Heaps<P>) -> usize {
        let mut count = 0;
        while count < AT_ONCE
            && let Some(block) = self.next_received::<C>()
        {
            // SAFETY: the block came to us with its chain. (If it is sent on: it was counted when it was freed.)
            unsafe { self.return_block::<C, P>(from, block) };
            count += 1;
        }
        count
    }

    fn next_received<C: Checks>(&self) -> Option<*mut Block> {
        // Relaxed (all): the possessor's own.
        if self.received.load(Ordering::Relaxed).is_null() {
            if self.inbox().is_empty() {
                return None;
            }
            self.inbox().take(&self.received);
        }
        let block = self.received.load(Ordering::Relaxed);
        if block.is_null() {
            return None;
        }
        self.received.store(self.follow::<C>(block), Ordering::Relaxed);
        Some(block)
    }

    /// Takes some of what came, and sends what is held back for other heaps: at the end of an operation with a borrowed
    /// heap.
    pub fn settle<C: Checks, P: Platform>(&self, from: &Heaps<P>) {
        self.receive::<C, P>(from);
        self.send_all::<C, P>(from);
    }

    /// Takes all that came, and sends what is held back for other heaps.
    pub(in crate::heap) fn settle_all<C: Checks, P: Platform>(&self, from: &Heaps<P>) {
        while self.receive::<C, P>(from) != 0 {}
        self.send_all::<C, P>(from);
    }

    /// Blocks that were sent and are still to be received.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(in crate::heap) fn mail<C: Checks>(&self) -> usize {
        let lists = [self.inbox().first(), self.received.load(Ordering::Relaxed)];
        lists.map(|list| self.length::<C>(list) as usize).iter().sum()
    }

    /// Slices that what waits to be sent pins.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(in crate::heap) fn pinned(&self) -> u32 {
        self.outbox.pinned()
    }

    /// Gives an available slab of `class` to another heap that needs one: returns whether there was one. The caller
    /// possesses both.
    pub fn give_away(&self, class: usize, to: &Heap) -> bool {
        // SAFETY: slabs in a list belong to this heap.
        let slab = unsafe { self.available(class).get().as_ref() };
        slab.inspect(|slab| self.hand_over(slab, to)).is_some()
    }
}
