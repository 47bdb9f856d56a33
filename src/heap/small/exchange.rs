//! What passes between heaps: blocks freed for others, and slabs that change their heap.
//!
//! A child module of the heap's, because it works on the same private fields under the same rules.

use super::Heap;
use super::Heaps;
use super::remote::{Outbox, Parcel, Piece};
use super::run::Run;
use super::slab::Standing;
use crate::heap::block::{Block, Checks};
use crate::heap::record::Slab;
use crate::pal::Platform;
use crate::sync::atomic::Ordering;
use crate::sync::{ZERO_IS_VALID, full_fence, in_order, seeded};
use core::ptr;

/// Runs that a malloc or free receives at most, of a block each at least. As many blocks as it hands out at most in
/// return, on average over a slab ([`Slab::extend`]): so what waits does not become more while the heap grows, whatever
/// the classes on either side. A run that is not in the cache takes less than a microsecond.
pub(in crate::heap) const AT_ONCE: usize = if cfg!(any(loom, shuttle)) { 2 } else { 512 };

/// What [`Heap::free_along`] did.
#[derive(Clone, Copy)]
#[must_use]
pub enum Along {
    /// The block is freed.
    Freed,
    /// It is freed, and its piece is to be sent.
    ToSend(&'static Piece),
    /// It is no block, or none of its slice waits.
    NotFreed,
}

/// Slabs with free blocks of a class, of its own, that a heap has enough of.
const ENOUGH: usize = if cfg!(any(loom, shuttle)) { 1 } else { 2 };

impl Heap {
    /// Frees a block of another heap's slab if others of the same slice wait to be sent: these hold the slab and its
    /// arena, so there is nothing to look up.
    ///
    /// # Safety
    /// The caller possesses this heap, or it is one without blocks; the block, if it is one, is the caller's to give.
    #[inline(always)]
    pub unsafe fn free_along<C: Checks>(&self, block: *mut Block) -> Along {
        let Some(outbox) = self.outbox() else { return Along::NotFreed };
        let piece = outbox.piece(block.addr());
        if !piece.is_of(block.addr()) {
            return Along::NotFreed;
        }
        let key = Block::key(block, self.secret.get());
        // SAFETY: a piece of a slice has blocks of its slab; asked of the start of one of its blocks.
        let slab = unsafe { piece.slab() };
        // SAFETY: as above.
        if !slab.starts_block(block.addr()) || C::ON && unsafe { Block::is_free(block, key) } {
            return Along::NotFreed;
        }
        self.count_remote_free();
        // SAFETY: the caller's.
        if unsafe { piece.add::<C>(block, key) } || Heap::has_idle_owner(slab) {
            return Along::ToSend(piece);
        }
        Along::Freed
    }

    /// Sends what [`Heap::free_along`] said.
    ///
    /// # Safety
    /// The caller possesses this heap.
    pub unsafe fn send_along<C: Checks, P: Platform>(&self, from: &Heaps<P>, piece: &Piece) {
        self.send_or_adopt::<C, P>(from, piece);
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
        if self.outbox().is_some_and(|outbox| outbox.is_full_for(block)) {
            return self.send_alone::<C, P>(from, slab, block);
        }
        // SAFETY: the caller's.
        unsafe { self.send_later::<C, P>(from, slab, block) };
    }

    /// The same at once, with a heap that is borrowed for this.
    ///
    /// # Safety
    /// As for [`Heap::free_remote`].
    pub unsafe fn free_remote_at_once<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        slab: &Slab,
        block: *mut Block,
    ) {
        self.count_remote_free();
        self.send_alone::<C, P>(from, slab, block);
    }

    fn count_remote_free(&self) {
        self.remote_frees.add_alone(1);
    }

    /// Whether nobody possesses the heap that owns `slab`, which has live blocks. What is kept back for an owner whose
    /// thread has exited would hold its slabs for as long as this thread is idle.
    #[inline(always)]
    fn has_idle_owner(slab: &Slab) -> bool {
        let owner = slab.owner();
        // A model with a planted bug may come to a slab that is none any more: that is a failed model, not a crash.
        #[cfg(any(loom, shuttle))]
        assert!(!owner.is_null(), "a block goes home to no slab");
        // SAFETY: the owner of a slab with a live block is a heap, and heaps live forever.
        unsafe { (*owner).possession().possessor().is_none() }
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
        let Some(outbox) = self.outbox().or_else(|| self.make_outbox(from)) else {
            return self.send_alone::<C, P>(from, slab, block);
        };
        let piece = outbox.piece(block.addr());
        let is_known = piece.is_of(block.addr());
        if !is_known && !self.make_room::<C, P>(from, outbox, slab, piece) {
            return self.send_alone::<C, P>(from, slab, block);
        }
        let key = Block::key(block, self.secret.get());
        // SAFETY: the caller's; a piece with room for another slice is empty.
        let is_full = unsafe {
            if is_known { piece.add::<C>(block, key) } else { outbox.begin::<C>(slab, block, key) }
        };
        if is_full || Heap::has_idle_owner(slab) {
            self.send_or_adopt::<C, P>(from, piece);
        }
    }

    #[cold]
    fn make_outbox<P: Platform>(&self, from: &Heaps<P>) -> Option<&'static Outbox> {
        let (os, metadata) = (from.space().os(), from.space().metadata());
        let memory = metadata.allocate(os, size_of::<Outbox>(), align_of::<Outbox>()).ok()?.cast::<Outbox>();
        if !ZERO_IS_VALID {
            // SAFETY: fresh memory for one.
            unsafe { memory.write(Outbox::new()) };
        }
        self.outbox.set(memory.as_ptr());
        self.outbox()
    }

    /// Whether blocks of a slab that has no piece may wait in `piece`. What waits there of another slab is sent; where
    /// too much else is pinned, it stays, but for once in a while.
    fn make_room<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        outbox: &Outbox,
        slab: &Slab,
        piece: &Piece,
    ) -> bool {
        let has_room = || outbox.has_room(slab, piece, || from.watch().gated.has(self.index() as usize));
        if has_room() {
            return true;
        }
        if !piece.is_empty() {
            self.send_or_adopt::<C, P>(from, piece);
        } else if !outbox.is_a_turn() {
            return false;
        }
        while !has_room()
            && let Some(other) = outbox.next_to_go()
        {
            self.send_or_adopt::<C, P>(from, other);
        }
        true
    }

    /// Sends one block of another heap's slab for which there is no room in the outbox.
    fn send_alone<C: Checks, P: Platform>(&self, from: &Heaps<P>, slab: &Slab, block: *mut Block) {
        let idle = self.possess_idle_owner(from, slab);
        if idle.is_none() {
            let parcel = Parcel::of_one(slab.owner(), slab, block, self.secret.get());
            return self.post_here::<C, P>(from, parcel);
        }
        self.adopt_run::<C, P>(from, slab, idle, Run::of_one(block));
    }

    /// Possesses the heap that owns a slab with live blocks, if nobody does.
    #[inline(always)]
    pub(super) fn possess_idle_owner<P: Platform>(
        &self,
        from: &Heaps<P>,
        slab: &Slab,
    ) -> Option<&'static Heap> {
        if !Heap::has_idle_owner(slab) {
            return None;
        }
        // SAFETY: as in `has_idle_owner`.
        let index = unsafe { (*slab.owner()).index() } as usize;
        if seeded("heap.deliver_unpossessed") {
            return from.pool().get(index);
        }
        from.pool().possess(index, self.caller())
    }

    /// Sends a piece to its owner; or, if nobody possesses the owner, takes the slab of its blocks over: the thread
    /// that frees what an exited thread has allocated goes on with its memory. Returns how many blocks it freed itself.
    #[inline(never)]
    fn send_or_adopt<C: Checks, P: Platform>(&self, from: &Heaps<P>, piece: &Piece) -> usize {
        let Some(outbox) = self.outbox() else { return 0 };
        // SAFETY: the piece has blocks of the slab, whose owner is a heap, which lives forever.
        let (slab, owner) = unsafe { (piece.slab(), &*piece.slab().owner()) };
        let secret = self.secret.get();
        let idle = self.possess_idle_owner(from, slab);
        if idle.is_none() && !ptr::eq(owner, self) {
            // SAFETY: as above.
            self.post::<C, P>(from, unsafe { outbox.take::<C>(piece, owner, secret) });
            return 0;
        }
        // The blocks are in the piece until each of them is freed, for a thread that vanishes.
        let adopt = || self.adopt::<C, P>(from, slab, idle, || piece.pop::<C>(secret));
        in_order(adopt, || outbox.forget(piece), "heap.forget_before_adopt").0
    }

    /// Frees blocks of a slab that is this heap's own, or that of the heap `idle`, which this thread possesses, gives
    /// up, and whose slab this heap takes over unless it is current there, or there is enough of its kind here: what stays
    /// is there for all who need a slab ([`Pool::steal`](super::Pool::steal)), and not for this thread only. Returns how
    /// many.
    fn adopt<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        slab: &Slab,
        idle: Option<&Heap>,
        mut next: impl FnMut() -> Option<*mut Block>,
    ) -> usize {
        if let Some(idle) = idle
            && ptr::eq(slab.owner(), idle)
            && slab.standing() != Standing::Current
            && !self.has_enough(slab.class())
        {
            idle.hand_over(slab, self);
        }
        // While there are blocks, a slab of a heap that this thread possesses stays that heap's.
        let owner = slab.owner();
        let mut count = 0;
        while let Some(block) = next() {
            count += 1;
            #[cfg(any(loom, shuttle))]
            assert!(count < 1 << 12, "a chain without an end");
            // SAFETY: this thread possesses both heaps, and holds the block.
            unsafe {
                Block::move_on::<C>(block, self.secret.get());
                match idle {
                    _ if ptr::eq(owner, self) => _ = self.free_into_slab::<C, P>(from, slab, block),
                    Some(idle) if ptr::eq(owner, idle) => _ = idle.free_into_slab::<C, P>(from, slab, block),
                    _ => {
                        self.post::<C, P>(from, Parcel::of_one(owner, slab, block, self.secret.get()));
                    }
                }
            }
        }
        if let Some(idle) = idle {
            from.give_up(idle);
        }
        count
    }

    /// Whether [`ENOUGH`] slabs of `class` have free blocks.
    fn has_enough(&self, class: usize) -> bool {
        let mut slab = self.available(class).get();
        for _ in 0..ENOUGH {
            // SAFETY: slabs in a list belong to this heap, which holds their arenas.
            let Some(found) = (unsafe { slab.as_ref() }) else { return false };
            slab = found.next();
        }
        true
    }

    /// The same of a run that is in this thread's hands.
    #[cold]
    #[inline(never)]
    pub(super) fn adopt_run<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        slab: &Slab,
        idle: Option<&Heap>,
        mut run: Run,
    ) {
        let secret = self.secret.get();
        // SAFETY: as said.
        self.adopt::<C, P>(from, slab, idle, || unsafe { run.pop::<C>(secret) });
    }

    /// Sends a parcel to its owner's inbox.
    #[inline(never)]
    pub(super) fn post<C: Checks, P: Platform>(&self, from: &Heaps<P>, parcel: Parcel) {
        self.post_here::<C, P>(from, parcel);
    }

    /// The same, for who does so block by block.
    #[inline(always)]
    fn post_here<C: Checks, P: Platform>(&self, from: &Heaps<P>, parcel: Parcel) {
        // SAFETY: heaps live forever.
        let owner = unsafe { &*parcel.owner };
        parcel.send::<C>(self.secret.get());
        // Partners: the fences in `Heaps::give_up` and in `Heaps::tidy`: either we see that the owner has become idle
        // or was tidied, or whoever did that sees the parcel.
        if !seeded("heap.inbox_push") {
            // (Not with that bug: loom switches threads at no fence, so this one would do the work of the push.)
            full_fence("heap.post_fence");
        }
        let disturbed = !seeded("heap.post_undisturbed") && from.watch().disturb(owner.index() as usize);
        if disturbed || owner.possession().possessor().is_none() && !seeded("heap.post_blind") {
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

    /// Sends what is held back for other heaps.
    pub(in crate::heap) fn send_all<C: Checks, P: Platform>(&self, from: &Heaps<P>) {
        self.send_most::<C, P>(from, usize::MAX);
    }

    /// The same until `most` blocks have been freed here, which are this heap's own by now: no call takes long.
    pub(in crate::heap) fn send_most<C: Checks, P: Platform>(&self, from: &Heaps<P>, most: usize) {
        let mut freed = 0;
        while freed < most
            && let Some(piece) = self.outbox().and_then(Outbox::waiting)
        {
            freed += self.send_or_adopt::<C, P>(from, piece);
        }
    }

    /// Whether other threads have sent anything that is still to be freed. A hint, but for the possessor.
    #[inline(always)]
    pub fn has_mail(&self) -> bool {
        // Relaxed: as said; the possessor's own store.
        !self.inbox().is_empty() || !self.received.load(Ordering::Relaxed).is_null()
    }

    /// Takes some of what came, and sends what is held back for other heaps: at the end of an operation with a borrowed
    /// heap.
    pub fn settle<C: Checks, P: Platform>(&self, from: &Heaps<P>) {
        self.receive::<C, P>(from, AT_ONCE);
        self.send_all::<C, P>(from);
    }

    /// Takes all that came, and sends what is held back for other heaps.
    pub(in crate::heap) fn settle_all<C: Checks, P: Platform>(&self, from: &Heaps<P>) {
        debug_assert!(self.possession().possessor().is_some(), "nobody's heap is settled");
        while self.receive::<C, P>(from, AT_ONCE) != 0 {}
        self.send_all::<C, P>(from);
    }

    /// Blocks that were sent and are still to be received.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(in crate::heap) fn mail<C: Checks>(&self) -> usize {
        let lists = [self.inbox().first(), self.received.load(Ordering::Relaxed)];
        lists.map(|list| self.length::<C>(list) as usize).iter().sum()
    }

    /// Slices that what waits to be sent pins.
    #[cfg(all(test, not(loom)))]
    pub(in crate::heap) fn pinned(&self) -> u32 {
        self.outbox().map_or(0, Outbox::pinned)
    }

    /// Gives an available slab of `class` to another heap that needs one: returns whether there was one. The caller
    /// possesses both.
    pub fn give_away(&self, class: usize, to: &Heap) -> bool {
        // SAFETY: slabs in a list belong to this heap.
        let slab = unsafe { self.available(class).get().as_ref() };
        slab.inspect(|slab| self.hand_over(slab, to)).is_some()
    }
}
