//! Visits: what the helper, a trim and the statistics do in the heaps of threads that are alive and outside (see `gate`).
//!
//! The helper watches heaps: about once a second it *probes* those that were used, and *tidies* those that were not used since
//! it probed them. A tidied heap keeps its probe, and is not looked at again before its owner has come in or blocks were
//! sent to it: both end that state, and ring the bell. So a process full of sleeping threads costs the helper nothing, and
//! it may sleep without a timer once no heap is left that is not tidied.
//!
//! The race that must not happen: blocks arrive while the heap is tidied, and lie there for ever. The helper notes that
//! the heap is tidied, passes a full fence, and then looks at the inbox; a sender pushes, passes a full fence, and looks for
//! the note. So one sees the other's. (An owner needs no such pair: it takes the probe off, and only then the note.)

use super::pool::{Holder, MAX_HEAPS};
use super::{Allocator, Checks, Heap};
use crate::pal::Platform;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{full_fence, seeded};
use crate::{atomic_array, const_unless_model};

const WORD: usize = u64::BITS as usize;
const WORDS: usize = MAX_HEAPS.div_ceil(WORD);

/// A set of heaps, by index. What it says is a hint, but where a comment says more.
struct Set([AtomicU64; WORDS]);

impl Set {
    const_unless_model! {
        fn new() -> Set {
            Set(atomic_array!(AtomicU64::new(0); WORDS))
        }
    }

    fn bits(&self, word: usize) -> u64 {
        // Relaxed: a hint.
        self.0[word].load(Ordering::Relaxed)
    }

    fn has(&self, index: usize) -> bool {
        self.bits(index / WORD) & 1 << (index % WORD) != 0
    }

    fn add(&self, index: usize) {
        // Relaxed: see the callers.
        self.0[index / WORD].fetch_or(1 << (index % WORD), Ordering::Relaxed);
    }

    /// Answers whether it was there.
    fn remove(&self, index: usize) -> bool {
        let bit = 1 << (index % WORD);
        // Relaxed: see the callers.
        self.has(index) && self.0[index / WORD].fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }
}

/// Which heaps can be visited, and which need not be watched.
pub(super) struct Watch {
    /// Those with an open gate.
    gated: Set,
    /// Those that the helper has tidied, and nobody has used since.
    tidied: Set,
}

impl Watch {
    const_unless_model! {
        /// Nothing to watch.
        pub(super) fn new() -> Watch {
            Watch { gated: Set::new(), tidied: Set::new() }
        }
    }

    /// Something has come to a heap: it is not tidied any more. Answers whether it was, and the bell is to be rung.
    pub(super) fn disturb(&self, index: usize) -> bool {
        self.tidied.remove(index)
    }

    fn untidied(&self, word: usize) -> u64 {
        self.gated.bits(word) & !self.tidied.bits(word)
    }
}

/// The numbers of the bits that are set in `bits`.
fn each_bit(mut bits: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(bit)
    })
}

impl Heap {
    /// In the child of a fork: whose hands the heap was in.
    fn fate(&self, own: Holder) -> Fate {
        let (owner, visitor) = (self.possession().holder(), self.visit().visitor());
        let (is_owner, is_visitor) = (owner == Some(own), visitor == Some(own));
        let has_vanished = visitor.is_some() && !is_visitor;
        if is_visitor && (is_owner || self.visit().is_inside() || self.visit().is_gone()) {
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
    pub(super) fn is_in_hand(&self, own: Holder) -> bool {
        let holds = self.possession().holder() == Some(own) || self.visit().visitor() == Some(own);
        holds && self.fate(own) == Fate::InHand
    }

    /// In the child of a fork: whether a thread was in it that does not exist here.
    pub(super) fn is_torn(&self, own: Holder) -> bool {
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

impl<P: Platform> Allocator<P> {
    /// A thread that uses the gate has come to possess `heap`.
    pub fn open_gate(&self, heap: &Heap) {
        let index = heap.index() as usize;
        heap.gate().open();
        self.watch.tidied.remove(index);
        self.watch.gated.add(index);
        // The helper may sleep: it is to notice when the thread pauses.
        self.stir();
    }

    /// The owner was refused at its gate. Takes in what it may: past marks that stand for no visitor. `false` if the heap is
    /// not to be had now: another thread visits it, or this is a handler that interrupted a step. Never waits.
    #[cold]
    pub fn readmit(&self, heap: &Heap, by: Holder) -> bool {
        if !heap.gate().undo() || !heap.visit().knock(by) {
            return false;
        }
        let probed = heap.gate().pass_marks();
        // The owner is here: it cannot have gone.
        let _ended = heap.visit().end(by);
        if probed && self.watch.disturb(heap.index() as usize) {
            self.stir();
        }
        true
    }

    /// The owner exits: gives the heap up without what is empty in it. Never waits: a visitor that is inside does it.
    pub fn leave_heap<C: Checks>(&self, heap: &Heap, by: Holder) {
        while !heap.gate().enter() && !self.readmit(heap, by) {
            if heap.gate().is_occupied() {
                // A signal handler ends the thread in the middle of a step, which nobody will finish: the heap stays as it is.
                return;
            }
            if heap.visit().hand_over() {
                return;
            }
        }
        self.abandon::<C>(heap);
    }

    /// Gives up a heap that the caller possesses and nobody visits, or is inside as its owner.
    pub fn abandon<C: Checks>(&self, heap: &Heap) {
        self.watch.gated.remove(heap.index() as usize);
        heap.gate().close();
        heap.collect::<C, P>(self);
        self.give_up(heap);
    }

    /// Visits each heap that `wants` picks and whose owner is outside, and does what `body` says there. One barrier for as
    /// many as a word has bits; heaps that are being visited are left out.
    pub(super) fn visit<C: Checks>(&self, by: Holder, wants: impl Fn(&Heap) -> bool, body: impl Fn(&Heap)) {
        for word in 0..self.pool.made().div_ceil(WORD) {
            let heap = |bit: usize| self.pool.get(word * WORD + bit);
            let mut knocked = 0;
            for bit in each_bit(self.watch.gated.bits(word)) {
                if let Some(heap) = heap(bit)
                    && wants(heap)
                    && !heap.gate().is_occupied()
                    && heap.visit().knock(by)
                {
                    heap.gate().mark();
                    knocked |= 1 << bit;
                }
            }
            let no_barrier = seeded("heap.visit_unbarred");
            let barred = knocked != 0 && (no_barrier || self.space.rcu().interrupt_all(self.space.os()));
            for heap in each_bit(knocked).filter_map(heap) {
                if !no_barrier {
                    heap.gate().pass_instruction();
                }
                if barred && heap.gate().is_taken() {
                    heap.visit().set_inside(true);
                    body(heap);
                    heap.visit().set_inside(false);
                }
                self.end_visit::<C>(heap, by);
            }
        }
    }

    fn end_visit<C: Checks>(&self, heap: &Heap, by: Holder) {
        heap.gate().unmark();
        if heap.visit().end(by) || seeded("heap.visit_forgets_gone") {
            return;
        }
        // The owner has gone, and left its heap to us: from here on we possess it. In this order: a child of fork finds it
        // an orphan whatever it sees.
        heap.possession().pass_to(by);
        heap.gate().close();
        heap.visit().end_taken_over(by);
        self.abandon::<C>(heap);
    }

    /// The helper's look at the heaps that were not tidied since they were used, with the heap that it
    /// has borrowed.
    pub fn watch<C: Checks>(&self, heap: &Heap) {
        let wants = |other: &Heap| self.is_untidied(other) && other.gate().is_probed();
        self.visit::<C>(heap.holder(), wants, |idle| self.tidy::<C>(idle));
        for word in 0..self.pool.made().div_ceil(WORD) {
            for bit in each_bit(self.watch.untidied(word)) {
                if let Some(used) = self.pool.get(word * WORD + bit) {
                    used.gate().probe();
                }
            }
        }
    }

    /// Tidies every heap whose owner is outside, used just now or not.
    pub(super) fn tidy_all<C: Checks>(&self, heap: &Heap) {
        self.visit::<C>(heap.holder(), |other| self.is_untidied(other), |idle| self.tidy::<C>(idle));
    }

    fn is_untidied(&self, heap: &Heap) -> bool {
        !self.watch.tidied.has(heap.index() as usize)
    }

    /// Takes in what was sent to a heap, and gives back what is free in it, until somebody uses it again. The caller is
    /// inside.
    fn tidy<C: Checks>(&self, heap: &Heap) {
        self.watch.tidied.add(heap.index() as usize);
        // Partner: the fence in `Heap::post`: either we see what was sent, or the sender sees that it has to ring.
        full_fence("heap.tidy_fence");
        heap.collect::<C, P>(self);
    }

    /// Whether there are heaps for [`Allocator::watch`] to look at.
    pub fn has_untidied(&self) -> bool {
        (0..self.pool.made().div_ceil(WORD)).any(|word| self.watch.untidied(word) != 0)
    }

    /// In the child of a fork, when what was torn is mended: the heaps of vanished threads become idle, and vanished
    /// visitors are forgotten.
    pub(super) fn settle_gates(&self, own: Holder) {
        for heap in (0..self.pool.made()).filter_map(|index| self.pool.get(index)) {
            let fate = heap.fate(own);
            if heap.visit().visitor() == Some(own) {
                if heap.possession().holder().is_some_and(|owner| owner != own) {
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
                self.watch.gated.remove(heap.index() as usize);
                heap.gate().close();
                self.pool.give_up(heap);
            }
        }
    }
}
