//! The child of a fork: what the threads that vanished had in their hands is mended, and their heaps become idle.
//!
//! Each part of an allocator knows what a thread may have left half done in it ([`Mend`]); here is the order, and what
//! takes more than one of them: whose hands a heap was in, and the lists of slabs, which are built anew from the slabs'
//! records.

use crate::heap::mend::Mend;
use crate::heap::possession::ThreadId;
use crate::heap::small::{Heap, Heaps};
use crate::pal::Platform;
use crate::rcu::ReaderSlot;
use crate::sync::seeded;

impl Heap {
    /// In the child of a fork: whose hands the heap was in.
    fn fate(&self, own: ThreadId) -> Fate {
        let (owner, visitor) = (self.possession().possessor(), self.visit().visitor());
        let (is_owner, is_visitor) = (owner == Some(own), visitor == Some(own));
        let has_vanished = visitor.is_some() && !is_visitor;
        if is_visitor && (self.visit().is_inside() || self.visit().is_gone()) {
            Fate::InHand
        } else if owner.is_some() && !is_owner || has_vanished && self.visit().is_gone() {
            Fate::Orphan
        } else if has_vanished && self.visit().is_inside() && !seeded("heap.child_keeps_torn") {
            Fate::Torn
        } else {
            Fate::InHand
        }
    }

    /// In the child of a fork: whether the calling thread may have been in the middle of something in this heap.
    fn is_in_hand(&self, own: ThreadId) -> bool {
        let holds = self.possession().possessor() == Some(own) || self.visit().visitor() == Some(own);
        holds && self.fate(own) == Fate::InHand
    }

    /// In the child of a fork: whether a thread was in it that does not exist here.
    fn is_torn(&self, own: ThreadId) -> bool {
        self.fate(own) != Fate::InHand
    }
}

/// What a fork found in a heap.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nobody's, or the calling thread's, which goes on with what it was doing.
    InHand,
    /// The calling thread's, in which a visitor has vanished.
    Torn,
    /// That of a thread that vanished, or was gone before.
    Orphan,
}

impl<P: Platform> Heaps<P> {
    /// In the child of a fork: what belonged to threads that do not exist here belongs to nobody. `own` is the calling
    /// thread, in whose hands heaps may be, those included that calls of its own were busy with when a handler forked;
    /// `number` is what slots that stand alone know it by.
    ///
    /// # Safety
    /// The calling thread is the only one.
    pub unsafe fn child_after_fork(&'static self, own: ThreadId, number: usize) {
        let owns = |slot: &ReaderSlot| match slot.thread() {
            Some(thread) => thread == number,
            // SAFETY: heaps attach the slots that do not stand alone, and nobody else does.
            None => unsafe { Heap::of_slot(slot) }.is_in_hand(own),
        };
        // SAFETY: the caller's.
        unsafe { self.space().child_after_fork(&owns) };
        self.pool().each().filter(|heap| heap.is_torn(own)).for_each(Mend::mend);
        self.backend().mend();
        // A thread that vanished may have been between the heap's count and the ground's.
        self.lent().set(self.pool().each().map(|heap| heap.claimant().spares().lent()).sum());
        self.link_slabs(own);
        self.pool().each().filter(|heap| heap.is_torn(own)).for_each(|heap| heap.tell_hollow(self));
        self.settle_gates(own);
        let others: [&dyn Mend; 2] = [self.pool(), self.bell()];
        others.into_iter().for_each(Mend::mend);
        // What was on its way is nobody's idle memory: no helper is here, and the next to come by may be long in coming.
        if self.space().has_retired() {
            self.space().reap(None);
        }
    }

    /// Takes the slabs of torn heaps back into the heaps' lists, which `mend` has emptied.
    fn link_slabs(&self, own: ThreadId) {
        // As a guest: the calling thread may have no heap, and so no slot.
        let section = self.space().rcu().enter_guest();
        self.arenas().each_slab(&section, |slab| {
            // SAFETY: an owner is a heap, and lives forever.
            let owner = unsafe { slab.owner().as_ref() };
            if let Some(owner) = owner.filter(|owner| owner.is_torn(own)) {
                owner.link_again(slab);
            }
        });
    }

    /// When what was torn is mended: the heaps of vanished threads become idle, and vanished visitors are forgotten.
    fn settle_gates(&self, own: ThreadId) {
        for heap in self.pool().each() {
            let fate = heap.fate(own);
            if heap.visit().visitor() == Some(own) {
                if heap.possession().possessor().is_some_and(|owner| owner != own) {
                    // The calling thread goes on with its visit, and gives the heap up as it leaves.
                    heap.visit().set_gone();
                }
                continue;
            }
            if heap.visit().visitor().is_some() && !seeded("heap.child_keeps_visits") {
                heap.visit().forget();
                heap.gate().unmark();
            }
            if fate == Fate::Orphan && !seeded("heap.child_drops_owners") {
                self.watch().gated.remove(heap.index() as usize);
                heap.gate().close();
                self.pool().give_up(heap);
            }
        }
    }
}
