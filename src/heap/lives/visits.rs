//! Visits: what the helper, a trim and the statistics do in the heaps of threads that are alive and outside (see
//! `gate`).
//!
//! The helper watches heaps: about once a second it *probes* those that were used, and *tidies* those that were not
//! used since it probed them. A tidied heap keeps its probe, and is not looked at again before its owner has come in or
//! blocks were sent to it: both end that state, and ring the bell. So a process full of sleeping threads costs the
//! helper nothing, and it may sleep without a timer once no heap is left that is not tidied.
//!
//! The race that must not happen: blocks arrive while the heap is tidied, and lie there for ever. The helper notes that
//! the heap is tidied, passes a full fence, and then looks at the inbox; a sender pushes, passes a full fence, and
//! looks for the note. So one sees the other's. (An owner needs no such pair: it takes the probe off, and only then the
//! note.)
//!
//! A thread that exits leaves its heap *warm* where there is a helper: with the blocks in its bins, its current slabs and
//! its spare slices, as if it were asleep. Threads that follow each other so pay for those once: the next takes the heap
//! as it is. If none comes, the helper's next tick tidies it. Whoever leaves a heap warm rings after it is idle. Not more
//! than a few heaps stay warm, and none that holds much: the others give back at once what is free. Where a thread that is
//! not counted exits while the helper ends, its heap may stay warm until the next thread comes or memory is asked back.

use crate::heap::block::Checks;
use crate::heap::gate::Gate;
use crate::heap::possession::ThreadId;
use crate::heap::small::hollow::LEAST_IDLE;
use crate::heap::small::watch::{WORD, each_bit};
use crate::heap::small::{Heap, Heaps};
use crate::pal::Platform;
use crate::sync::{full_fence, in_order, seeded};

/// Heaps that stay warm at most, and the bytes of slabs in one of them: about one slab of each class.
const MOST_WARM: usize = 16;
const MOST_HELD_WARM: usize = 8 << 20;

/// Which heaps are visited, and what for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::heap) enum Round {
    /// All: takes in what was sent to them, and gives back what is free in them.
    All,
    /// Those that were not tidied since they were used, and tidies them.
    Untidied,
    /// Those of them that were not used since they were probed, and tidies them.
    Idle,
}

impl<P: Platform> Heaps<P> {
    /// A thread that uses the gate has come to possess `heap`.
    pub fn open_gate(&self, heap: &Heap) {
        let index = heap.index() as usize;
        heap.gate().open();
        self.watch().tidied.remove(index);
        self.watch().note_used(index);
        // The helper may sleep: it is to notice when the thread pauses.
        in_order(|| self.watch().gated.add(index), || self.ring(), "heap.ring_before_open");
    }

    /// The owner was refused at its gate. Lets it in past marks that stand for no visitor. `false` if the heap is not
    /// to be had now: another thread visits it, or this is a handler that interrupted a step. Never waits.
    #[cold]
    pub fn readmit(&self, heap: &Heap, by: ThreadId) -> bool {
        if !heap.gate().undo() || !heap.visit().knock(by) {
            return false;
        }
        let probed = heap.gate().pass_marks();
        self.watch().note_used(heap.index() as usize);
        // The owner is here: it cannot have gone.
        let _ended = heap.visit().end(by);
        if probed && self.watch().disturb(heap.index() as usize) && !seeded("heap.back_silently") {
            self.ring();
        }
        true
    }

    /// The owner exits, and gives the heap up: see [`Heaps::abandon`]. Never waits: a visitor that is there does it in the
    /// owner's place.
    pub fn leave_heap<C: Checks>(&self, heap: &Heap, by: ThreadId) {
        while !heap.gate().enter() && !self.readmit(heap, by) {
            if heap.gate().is_occupied() {
                // A signal handler ends the thread in the middle of a step, which nobody will finish: the heap stays as
                // it is.
                return;
            }
            if heap.visit().hand_over() {
                return;
            }
        }
        self.abandon::<C>(heap, by);
    }

    /// Gives up a heap that the caller possesses, which nobody visits or which the caller is inside as its owner. What is
    /// free in it goes back before, unless the heap may stay warm.
    pub fn abandon<C: Checks>(&self, heap: &Heap, by: ThreadId) {
        debug_assert_eq!(heap.possession().possessor(), Some(by), "another's heap is given up");
        self.watch().gated.remove(heap.index() as usize);
        heap.gate().close();
        if !self.may_stay_warm(heap) {
            heap.collect::<C, P>(self);
            return self.give_up(heap);
        }
        // What waits in the outbox would hold slabs of others.
        heap.settle_all::<C, P>(self);
        // Before the next thread can have it, which takes it off.
        in_order(|| self.watch().warm.add(heap.index() as usize), || self.give_up(heap), "heap.warm_late");
        if !seeded("heap.left_warm_silently") {
            self.ring();
        }
    }

    /// Whether there is a helper to tidy the heap if no thread comes, few others wait for that, and little can be free in
    /// it.
    fn may_stay_warm(&self, heap: &Heap) -> bool {
        self.settings().has_helper()
            && heap.held() <= MOST_HELD_WARM
            && self.watch().warm.count(self.pool().made()) < MOST_WARM
    }

    /// Tidies the heap that the caller has borrowed, if that was left warm: it is no idle one meanwhile, and the same may
    /// be borrowed each time.
    pub(in crate::heap) fn collect_warm<C: Checks>(&self, heap: &Heap) {
        if self.watch().warm.has(heap.index() as usize) {
            heap.collect::<C, P>(self);
        }
    }

    /// Whether heaps are as a thread left them.
    pub(in crate::heap) fn has_warm(&self) -> bool {
        self.watch().warm.count(self.pool().made()) > 0
    }

    /// Visits each heap that `wants` picks and whose owner is outside, and does what `body` says there; `mark` is how it
    /// marks the gate. One barrier for as many as a word has bits; heaps that are being visited are left out.
    pub(in crate::heap) fn visit<C: Checks>(
        &self,
        by: ThreadId,
        mark: impl Fn(&Gate),
        wants: impl Fn(&Heap) -> bool,
        body: impl Fn(&Heap),
    ) {
        for word in 0..self.pool().made().div_ceil(WORD) {
            let heap = |bit: usize| self.pool().get(word * WORD + bit);
            let mut knocked = 0;
            for bit in each_bit(self.watch().gated.bits(word)) {
                if let Some(heap) = heap(bit)
                    && wants(heap)
                    && !heap.gate().is_occupied()
                    && heap.visit().knock(by)
                {
                    mark(heap.gate());
                    knocked |= 1 << bit;
                }
            }
            let marked = || each_bit(knocked).filter_map(heap);
            let barred = knocked != 0 && (seeded("heap.visit_unbarred") || self.interrupt_owners(marked()));
            for heap in marked() {
                if barred && heap.gate().is_taken() {
                    heap.visit().set_inside(true);
                    body(heap);
                    heap.visit().set_inside(false);
                }
                self.end_visit::<C>(heap, by);
            }
        }
    }

    /// The visitor's half of the barrier: whether owners of `marked` heaps that come in from now on find the marks.
    fn interrupt_owners<'a>(&self, marked: impl Iterator<Item = &'a Heap>) -> bool {
        marked.for_each(|heap| heap.gate().pass_instruction());
        self.space().rcu().interrupt_all(self.os())
    }

    fn end_visit<C: Checks>(&self, heap: &Heap, by: ThreadId) {
        heap.gate().unmark();
        if heap.visit().end(by) || seeded("heap.visit_forgets_gone") {
            return;
        }
        // The owner has gone, and left its heap to us: from here on we possess it. In this order: a child of fork finds
        // it an orphan whatever it sees.
        heap.possession().pass_to(by);
        if !seeded("heap.left_open") {
            heap.gate().close();
        }
        // Its next owner may be gone before we are: it must not leave the heap to a visit that is over.
        let end = || heap.visit().end_taken_over(by);
        in_order(end, || self.abandon::<C>(heap, by), "heap.abandoned_visited");
    }

    /// The helper's look at the heaps that were not tidied since they were used. `heap` is the one that it has
    /// borrowed.
    pub fn watch_heaps<C: Checks>(&self, heap: &Heap) {
        self.make_round::<C>(heap, Round::Idle);
        for word in 0..self.pool().made().div_ceil(WORD) {
            for bit in each_bit(self.watch().untidied(word)) {
                if let Some(used) = self.pool().get(word * WORD + bit) {
                    used.gate().probe();
                }
            }
        }
    }

    /// Visits the heaps that a round is about. `heap` is the visitor's own.
    #[inline(never)]
    pub(in crate::heap) fn make_round<C: Checks>(&self, heap: &Heap, round: Round) {
        let tidies = round != Round::All;
        let wants = |other: &Heap| {
            !tidies || self.is_untidied(other) && (round == Round::Untidied || other.gate().is_probed())
        };
        let mark = |gate: &Gate| if tidies { gate.mark_and_probe() } else { gate.mark() };
        if seeded("heap.hollow_unvisited") {
            let others = self.pool().each().filter(|other| wants(other));
            others.for_each(|other| other.give_back_pages::<C, P>(self, 1));
        }
        self.visit::<C>(heap.caller(), mark, wants, |other| match tidies {
            true => self.tidy::<C>(other),
            false => {
                other.collect::<C, P>(self);
                other.give_back_pages::<C, P>(self, 1);
            }
        });
    }

    fn is_untidied(&self, heap: &Heap) -> bool {
        !self.watch().tidied.has(heap.index() as usize)
    }

    /// Takes in what was sent to a heap, and gives back what is free in it, until somebody uses it again. The caller is
    /// inside, and has probed the heap.
    fn tidy<C: Checks>(&self, heap: &Heap) {
        self.watch().tidied.add(heap.index() as usize);
        // Partner: the fence in `Heap::post`: either we see what was sent, or the sender sees that it has to ring.
        full_fence("heap.tidy_fence");
        heap.collect::<C, P>(self);
        heap.give_back_pages::<C, P>(self, LEAST_IDLE);
    }

    /// Whether there are heaps for [`Heaps::watch_heaps`] to look at.
    pub fn has_untidied(&self) -> bool {
        (0..self.pool().made().div_ceil(WORD)).any(|word| self.watch().untidied(word) != 0)
    }
}
