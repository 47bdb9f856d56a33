//! The gate of a heap: how a thread that lives, but does nothing at the moment, is visited.
//!
//! The thread that possesses a heap, its *owner*, is inside its heap during each *step* (the middle of a malloc or
//! free) and outside otherwise. A *visitor* (the helper, malloc_trim, statistics) may touch what is in the heap while
//! the owner is outside. The owner pays no locked instruction for that: it enters by one instruction on memory, which
//! also tells whether it may, and leaves by a plain store.
//!
//! The word counts down from [`IDLE`]: an owner subtracts one and is in if that makes zero. Anything else sends it the
//! slow way: a signal handler that interrupted a step finds zero and makes -1; where a visitor has marked the gate
//! ([`TAKEN`], [`PROBE`]) the upper bits are not zero. Whoever was refused adds the one again, with a locked
//! instruction. A gate of zero is *closed*: that of a heap that nobody possesses, or one whose owner does not use the
//! gate (a thread of the Rust interface). It is taken for one that somebody is in.
//!
//! # Why a visitor and the owner are never inside together
//!
//! A visitor knocks (see [`Visit`]: one at a time), **marks the gate TAKEN** by an atomic or, runs the **heavy
//! barrier**, and **looks**. Only if the word is exactly `TAKEN | IDLE` (a probe aside) it goes in. On x86-64:
//!
//! - The owner's subtraction is not atomic as the or sees it: the or may come between its load and its store, which
//!   then wipes the mark out. But it is one instruction, and the barrier interrupts each processor of the process
//!   between two instructions, all earlier stores done (one that runs another thread has switched, which is as good).
//!   So each subtraction is wholly before or wholly after the barrier; even that of a thread that is preempted for an
//!   hour. That is why the test and the mark must be one instruction: between a test and a mark the hour would fit.
//! - *A subtraction wholly after* the barrier loads the mark, unless a store of the owner has wiped it out, and is
//!   refused.
//! - *A subtraction wholly before* that let the owner in has left zero, or zero with the mark. What the owner stores
//!   from then on, as it leaves, is a word without the mark. So what the look finds is not `TAKEN | IDLE`, whether the
//!   owner is in or has left, and however often since.
//! - So if the look finds `TAKEN | IDLE`, no subtraction before the barrier has let the owner in since the mark, and
//!   none after it will: the mark stays until the visitor takes it off, for whoever is refused adds what it has
//!   subtracted.
//!
//! What one does inside the other sees: the owner's accesses before the barrier are done, by the barrier; the owner
//! that comes in later has loaded what the visitor stored to take the mark off, a release.
//!
//! On other processors the subtraction is an atomic read-modify-write: it comes before the or, and then the or finds
//! zero, or after it, and is refused. The barrier then orders the data only.
//!
//! *A mark that comes back.* A subtraction whose load came before the mark was taken off and whose store comes after
//! brings the mark back, with no visitor. That is why the mark is only a sign to go the slow way. The truth is in the
//! visit's word: an owner that finds a mark and no visitor knocks itself, and takes all marks off.
//!
//! # Probes
//!
//! PROBE is the accessed bit of a page table, the other way round: the helper sets it, the owner's next step is refused
//! once, and takes it off (`lives::visits`). A probe that is still there a second later says that the heap was not used
//! meanwhile. A probe that gets lost says that it was.
//!
//! Whoever tidies a heap leaves a probe behind, set together with its mark: by the argument above the owner has not come
//! in since then, so the probe was not lost, and it cannot come in again without taking it off.

use super::possession::ThreadId;
use crate::const_unless_model;
use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::sync::{acquire, light_barrier, release, seeded};
use core::num::NonZeroUsize;

/// The owner is outside, and may come in.
const IDLE: u32 = 1;
/// A visitor is at the gate, or inside.
const TAKEN: u32 = 1 << 31;
/// The owner has not come in since this was set.
const PROBE: u32 = 1 << 30;
const MARKS: u32 = TAKEN | PROBE;

/// The gate, by the argument above. Zero is closed.
pub struct Gate {
    word: AtomicU32,
    /// Held for as long as the owner's entering instruction takes: what the barrier waits for in a model.
    #[cfg(loom)]
    instruction: loom::sync::Mutex<()>,
}

impl Gate {
    const_unless_model! {
        /// A closed gate.
        pub(in crate::heap) fn new() -> Gate {
            Gate {
                word: AtomicU32::new(0),
                #[cfg(loom)]
                instruction: loom::sync::Mutex::new(()),
            }
        }
    }

    /// The owner comes in, if this returns `true`. If not, it owes a [`Gate::undo`].
    #[inline(always)]
    #[cfg(all(target_arch = "x86_64", not(miri), not(any(loom, shuttle))))]
    pub fn enter(&self) -> bool {
        // SAFETY: one subtraction in memory that belongs to this word, and only the owner's is not atomic.
        unsafe {
            core::arch::asm!(
                "sub dword ptr [{word}], 1",
                "jnz {refused}",
                word = in(reg) &raw const self.word,
                refused = label { return false },
                options(nostack),
            );
        }
        true
    }

    /// The owner comes in, if this returns `true`. If not, it owes a [`Gate::undo`].
    #[inline(always)]
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(any(loom, shuttle)))))]
    pub fn enter(&self) -> bool {
        self.subtract() == IDLE
    }

    /// The order in which an owner comes in. Acquire: pairs with the Release in `unmark`, so that what a visitor did
    /// inside has happened. (On x86-64 each load is one.)
    #[inline(always)]
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(any(loom, shuttle)))))]
    fn entering() -> Ordering {
        acquire("heap.gate_enter")
    }

    /// One less; returns what it was before.
    #[inline(always)]
    #[cfg(not(any(loom, all(target_arch = "x86_64", not(miri), not(shuttle)))))]
    fn subtract(&self) -> u32 {
        self.word.fetch_sub(1, Gate::entering())
    }

    /// As x86-64 does it: a load and a store, and no barrier between them. (An exchange for the store, for loom lets a
    /// plain store come between the halves of another thread's read-modify-write.)
    #[cfg(loom)]
    fn subtract(&self) -> u32 {
        let whole = (!seeded("heap.gate_two_steps")).then(|| self.instruction.lock().unwrap());
        let before = self.word.load(Gate::entering());
        self.word.swap(before.wrapping_sub(1), Ordering::Relaxed);
        drop(whole);
        before
    }

    /// The owner leaves.
    #[inline(always)]
    pub fn leave(&self) {
        // The owner's half of the barrier: what it did inside is done before a visitor finds it outside.
        if !seeded("heap.gate_leave") {
            // loom switches threads at accesses, not at fences: were the store before the fence, then between them.
            #[cfg(loom)]
            self.word();
            light_barrier();
        }
        // Relaxed: as said. Wipes out whatever mark there is.
        self.set(IDLE);
    }

    #[inline(always)]
    fn set(&self, word: u32) {
        // Relaxed: see the callers.
        #[cfg(not(loom))]
        self.word.store(word, Ordering::Relaxed);
        #[cfg(loom)]
        self.word.swap(word, Ordering::Relaxed);
    }

    /// After a refusal: adds what was subtracted, and returns whether it is the marks alone that refuse.
    pub fn undo(&self) -> bool {
        // Relaxed: nothing is touched that this could order; see `Visit::knock`.
        self.word.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & !MARKS == IDLE
    }

    /// Opens a closed gate: by whoever has just come to possess the heap, and is not inside.
    pub fn open(&self) {
        // Relaxed: the owner's own steps, and visitors' looks, come after it on this word.
        self.set(IDLE);
    }

    /// Closes the gate for good: by whoever has the heap from here on, whatever the word says.
    pub fn close(&self) {
        // Relaxed: no owner is there.
        self.set(0);
    }

    /// Whether a step is in progress, or the gate is closed; a hint, but for the owner.
    pub(in crate::heap) fn is_occupied(&self) -> bool {
        self.word() & !MARKS != IDLE
    }

    /// Whether the owner has not come in since the probe.
    pub(in crate::heap) fn is_probed(&self) -> bool {
        self.word() & PROBE != 0
    }

    fn word(&self) -> u32 {
        // Relaxed: a hint, or a look behind a barrier.
        self.word.load(Ordering::Relaxed)
    }

    /// Sets the probe.
    pub(in crate::heap) fn probe(&self) {
        // Relaxed: only the bit counts.
        self.word.fetch_or(PROBE, Ordering::Relaxed);
    }

    /// The owner's way past marks, by whoever has knocked: takes them off and comes in. Returns whether it was probed.
    pub(in crate::heap) fn pass_marks(&self) -> bool {
        // Relaxed: the knock has ordered what the last visitor did.
        let probed = self.word.fetch_and(!MARKS, Ordering::Relaxed) & PROBE != 0;
        // Relaxed: this thread alone enters, and the marks are the knocker's.
        self.word.fetch_sub(1, Ordering::Relaxed);
        probed
    }

    /// A visitor's mark, by whoever has knocked. The heavy barrier follows.
    pub(in crate::heap) fn mark(&self) {
        // Relaxed: the barrier orders it before the look, and behind what the owner did before it left.
        self.word.fetch_or(TAKEN, Ordering::Relaxed);
    }

    /// The same, and the probe with it: if the look lets the visitor in, the probe is there, and the owner's next step
    /// takes it off. (One that was set before may be lost by then, and the owner's steps with it.)
    pub(in crate::heap) fn mark_and_probe(&self) {
        let marks = if seeded("heap.tidied_unprobed") { TAKEN } else { MARKS };
        // Relaxed: as above.
        self.word.fetch_or(marks, Ordering::Relaxed);
    }

    /// What the barrier does in a model: it falls between two instructions of the owner.
    pub(in crate::heap) fn pass_instruction(&self) {
        #[cfg(loom)]
        drop(self.instruction.lock().unwrap());
    }

    /// The look behind the barrier: whether the owner is outside, and stays there until the mark is taken off.
    pub(in crate::heap) fn is_taken(&self) -> bool {
        self.word() & !PROBE == TAKEN | IDLE || seeded("heap.visit_unlooked")
    }

    /// Takes the visitor's mark off.
    pub(in crate::heap) fn unmark(&self) {
        // Release: pairs with the Acquire in `entering`.
        self.word.fetch_and(!TAKEN, release("heap.gate_release"));
    }
}

/// The visitor is inside, and not only at the gate.
const INSIDE: usize = 1;
/// The owner has exited meanwhile. It will not come in again; the visitor gives the heap up for it.
const GONE: usize = 2;
const FLAGS: u32 = 2;
const NO_VISITOR: usize = 0;

/// Who is visiting a heap: the [`ThreadId`] and two flags, or zero for nobody. Whoever has knocked here is the one who
/// may change the marks at the gate, but for probes.
pub struct Visit(AtomicUsize);

impl Visit {
    const_unless_model! {
        /// Nobody's.
        pub(in crate::heap) fn new() -> Visit {
            Visit(AtomicUsize::new(NO_VISITOR))
        }
    }

    fn of(by: ThreadId) -> usize {
        by.number() << FLAGS
    }

    /// Begins a visit unless there is one.
    pub(in crate::heap) fn knock(&self, by: ThreadId) -> bool {
        // Acquire: pairs with the Release in `end_as`.
        self.0.compare_exchange(NO_VISITOR, Visit::of(by), acquire("heap.knock"), Ordering::Relaxed).is_ok()
    }

    /// Notes that the visitor goes in, or comes out: for a child of fork only, where it vanishes.
    pub(in crate::heap) fn set_inside(&self, inside: bool) {
        // Relaxed (both): the order of a thread's own stores is what a fork leaves of it.
        if inside {
            self.0.fetch_or(INSIDE, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!INSIDE, Ordering::Relaxed);
        }
    }

    /// Ends the visit; `false` if the owner has gone meanwhile: then the visitor has its heap.
    #[must_use]
    pub(in crate::heap) fn end(&self, by: ThreadId) -> bool {
        self.end_as(Visit::of(by))
    }

    /// Ends the visit of whoever took over from an owner that is gone.
    pub(in crate::heap) fn end_taken_over(&self, by: ThreadId) {
        let _ended = self.end_as(Visit::of(by) | GONE);
    }

    fn end_as(&self, state: usize) -> bool {
        // Release: pairs with the Acquire in `knock`: the next visitor comes after this one. Acquire on failure: pairs
        // with the Release in `hand_over`.
        self.0
            .compare_exchange(state, NO_VISITOR, release("heap.visit_end"), acquire("heap.visit_gone"))
            .is_ok()
    }

    /// The owner, refused because of a visitor, exits: the visitor is to give the heap up. `false` if there is no
    /// visitor any more.
    #[must_use]
    pub(in crate::heap) fn hand_over(&self) -> bool {
        // Relaxed: the exchange decides.
        let state = self.0.load(Ordering::Relaxed);
        // Release: pairs with the Acquire in `end_as`: the visitor sees what the owner did.
        state != NO_VISITOR
            && self
                .0
                .compare_exchange(state, state | GONE, release("heap.hand_over"), Ordering::Relaxed)
                .is_ok()
    }

    /// The visitor that is inside.
    pub(in crate::heap) fn inside(&self) -> Option<ThreadId> {
        self.visitor().filter(|_| self.is_inside())
    }

    /// The visitor; `None` for nobody.
    pub(in crate::heap) fn visitor(&self) -> Option<ThreadId> {
        // Relaxed: for the visitor itself, for an owner that is in, after whose entry no visitor is inside, and for the
        // one thread of a child.
        NonZeroUsize::new(self.0.load(Ordering::Relaxed) >> FLAGS).map(|number| ThreadId::new(number.get()))
    }

    /// Whether the visitor is inside.
    pub(in crate::heap) fn is_inside(&self) -> bool {
        // Relaxed: as above.
        self.0.load(Ordering::Relaxed) & INSIDE != 0
    }

    /// Whether the owner is gone.
    pub(in crate::heap) fn is_gone(&self) -> bool {
        // Relaxed: as above.
        self.0.load(Ordering::Relaxed) & GONE != 0
    }

    /// In the child of a fork: the owner has vanished, and the visitor is the calling thread.
    pub(in crate::heap) fn set_gone(&self) {
        // Relaxed: the child has one thread.
        self.0.fetch_or(GONE, Ordering::Relaxed);
    }

    /// In the child of a fork: the visitor has vanished.
    pub(in crate::heap) fn forget(&self) {
        // Relaxed: the child has one thread.
        self.0.store(NO_VISITOR, Ordering::Relaxed);
    }
}
