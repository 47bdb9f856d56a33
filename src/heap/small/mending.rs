//! What a fork leaves of a heap whose thread vanished, and how it is made whole: see `lives::fork`.

use super::Heap;
use crate::heap::block::Trusting;
use crate::heap::mend::Mend;
use crate::heap::record::Slab;
use crate::sync::atomic::Ordering;
use crate::sync::seeded;
use core::ptr;

impl Mend for Heap {
    /// The thread that possessed this heap, or visited it, vanished in the middle of anything. Forgets the lists of
    /// slabs, which [`Heap::link_again`] builds anew from the slabs' records, and repairs what that thread left half
    /// done. What it had in its hands counts as live for ever.
    fn mend(&self) {
        for list in self.available.iter().filter(|_| !seeded("heap.child_keeps_available")) {
            list.set(ptr::null());
        }
        self.growth.forget();
        if !seeded("heap.child_keeps_spare_count") {
            self.claimant.spares().recount();
        }
        for (bin, current) in self.bins.iter().zip(&self.current) {
            // SAFETY: a current slab is this heap's.
            let slab = unsafe { current.get().as_ref() };
            let is_unborn = |slab: &Slab| slab.is_unborn(bin.list().get());
            if slab.is_some_and(is_unborn) && !seeded("heap.child_keeps_unborn") {
                // In the middle of `Slab::extend`.
                bin.list().set(ptr::null_mut());
            }
        }
        if let Some(outbox) = self.outbox() {
            outbox.mend();
        }
        if !seeded("heap.child_keeps_on_its_way") {
            self.mend_received();
        }
        // Relaxed (both): the child has one thread.
        if self.inbox().holds(self.received.load(Ordering::Relaxed)) && !seeded("heap.child_keeps_received") {
            // In the middle of `Inbox::take`.
            self.received.store(ptr::null_mut(), Ordering::Relaxed);
        }
    }
}

impl Heap {
    /// In the child of a fork: takes a slab of this heap into its lists again.
    pub(in crate::heap) fn link_again(&self, slab: &Slab) {
        let class = slab.class();
        let list = self.bin(class).list().get();
        if !list.is_null() && ptr::eq(list, slab.free_list()) && !seeded("heap.child_keeps_taken") {
            // In the middle of `take_over`.
            slab.forget_free();
        }
        if !seeded("heap.child_keeps_spared") {
            // In the middle of `Heap::close`.
            slab.forget_spared();
        }
        let fallow = self.mend_fallow(slab);
        let free = self.length::<Trusting>(slab.free_list()) + fallow;
        // In the middle of `take_over` or `take_some`.
        slab.keep_hollow(free);
        self.growth.gained(slab);
        if ptr::eq(self.current(class).get(), slab) {
            return slab.make_current(free);
        }
        let live = slab.handed_out().saturating_sub(free).max(1);
        if free > 0 || slab.has_unborn() {
            slab.make_available(live);
            slab.link_before(self.available(class));
        } else {
            slab.make_full();
        }
    }
}
