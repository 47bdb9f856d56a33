//! Grace periods: one that a batch of retired links goes through in steps, and one that a caller waits for.

use super::slot::{ReaderSlot, SectionWord, Snapshot};
use super::{Flavour, Rcu, RetireLink};
use crate::const_unless_model;
use crate::pal::{Platform, twin};
use crate::rcu::interrupt;
use crate::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use crate::sync::{acquire, full_fence, if_first, in_order, release, seeded, spin_hint};
use core::ptr;

/// Why a grace period was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraceError {
    /// The calling thread is inside a reader section and would wait for itself.
    InsideSection,
    /// There is no barrier: [`Rcu::start`] has not run, or membarrier fails by now (a seccomp filter, say).
    NoBarrier,
}

/// Looks at a slot before the caller of [`Rcu::synchronize`] lets others run.
const SPINS: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 100 };

/// Slots that a grace period looks at for each link of a batch that is worth it. Mapping and unmapping a region takes
/// some microseconds; these looks take less than one.
const SLOTS_A_LINK: usize = 64;
/// Links that are worth a barrier, which interrupts every processor that runs a thread of the process, and takes as long
/// as all else that unmapping a region does.
const BARRIER_LINKS: usize = if cfg!(any(loom, shuttle)) { 2 } else { 8 };

/// No batch is on its way; links may be ready to be handed over.
const IDLE: u8 = 0;
/// The heavy barrier is behind the batch; sections of the snapshot may be open.
const WAITING: u8 = 1;
/// The grace period is over; the batch is being cut off the stack.
const CUTTING: u8 = 2;

/// Nobody holds the reclaimer's lock.
const UNHELD: usize = 0;
/// A thread without a slot holds it. Otherwise the address of the holder's slot does.
pub(super) const GUEST: usize = 1;

/// The reclaimer's state. Everything but `holder` and `completed` belongs to the holder, and each step can be repeated
/// by the next one should the holder vanish in a fork.
pub(super) struct Grace {
    holder: AtomicUsize,
    step: AtomicU8,
    /// The first slot whose snapshot is not known to have ended.
    cursor: AtomicPtr<ReaderSlot>,
    completed: AtomicUsize,
    /// How many links were retired when the last barrier failed, and one more; zero if it did not fail.
    failed_at: AtomicUsize,
}

/// A word for threads without a slot, and what the reclaimer notes about it.
pub(super) struct Guest {
    pub(super) word: SectionWord,
    snapshot: Snapshot,
}

impl Guest {
    const_unless_model! {
        pub(super) fn new() -> Guest {
            Guest { word: SectionWord::new(), snapshot: Snapshot::new() }
        }
    }
}

impl Grace {
    const_unless_model! {
        pub(super) fn new() -> Grace {
            Grace {
                holder: AtomicUsize::new(UNHELD),
                step: AtomicU8::new(IDLE),
                cursor: AtomicPtr::new(ptr::null_mut()),
                completed: AtomicUsize::new(0),
                failed_at: AtomicUsize::new(0),
            }
        }
    }

    pub(super) fn completed(&self) -> usize {
        // Relaxed: a count, not a promise.
        self.completed.load(Ordering::Relaxed)
    }

    /// Whether grace periods stand still because there is no barrier.
    pub(super) fn has_stopped(&self) -> bool {
        // Relaxed: a hint.
        self.failed_at.load(Ordering::Relaxed) != 0
    }

    /// Runs the heavy barrier while `retired` links wait, unless it has failed lately: what has failed will most likely
    /// fail again, for a filter of system calls stays. It is tried again when twice as many wait for it.
    pub(super) fn try_barrier<P: Platform>(&self, os: &P, retired: usize) -> Result<(), GraceError> {
        // Relaxed, here and below: a hint; looked at first, for it hardly ever changes.
        let failed_at = self.failed_at.load(Ordering::Relaxed);
        if retired + 1 < 2 * failed_at {
            return Err(GraceError::NoBarrier);
        }
        let outcome = os.heavy_barrier().map_err(|_| GraceError::NoBarrier);
        let now = if outcome.is_err() { retired + 1 } else { 0 };
        if failed_at != now {
            self.failed_at.store(now, Ordering::Relaxed);
        }
        outcome
    }

    fn count(&self) {
        // Relaxed: a count, not a promise.
        self.completed.fetch_add(1, Ordering::Relaxed);
    }

    /// What a thread is known by that has this slot, or none.
    pub(super) fn identity(own: Option<&ReaderSlot>) -> usize {
        own.map_or(GUEST, |slot| ptr::from_ref(slot).addr())
    }

    fn try_lock(&self, own: Option<&ReaderSlot>) -> bool {
        // Acquire: partner is the release in `unlock`: the holder's fields are as the last one left them.
        self.holder
            .compare_exchange(UNHELD, Self::identity(own), acquire("rcu.lock_relaxed"), Ordering::Relaxed)
            .is_ok()
    }

    fn unlock(&self) {
        // Release: partner is the acquire in `try_lock`.
        self.holder.store(UNHELD, release("rcu.unlock_relaxed"));
    }

    fn step(&self) -> u8 {
        // Relaxed: the lock orders it.
        self.step.load(Ordering::Relaxed)
    }

    fn go_to(&self, step: u8) {
        interrupt::point();
        // Relaxed: the lock orders it.
        self.step.store(step, Ordering::Relaxed);
        interrupt::point();
    }

    /// Who holds the lock: [`GUEST`], the address of a slot, or zero. For the child of a fork, which has one thread.
    pub(super) fn holder(&self) -> usize {
        // Relaxed: as said.
        self.holder.load(Ordering::Relaxed)
    }

    /// In the child of a fork: frees the lock of a holder that vanished.
    pub(super) fn forget_holder(&self) {
        // Relaxed: the child has one thread.
        self.holder.store(UNHELD, Ordering::Relaxed);
    }
}

impl Rcu {
    /// Moves what is retired towards its end, and passes each link whose grace period is over to `done`; returns how
    /// many. `own` is the calling thread's slot if it has one. Never waits: what is not over yet is left to later
    /// calls.
    ///
    /// `done` may retire, and may call this again, to no effect. It must not unwind. It may free what holds the link.
    pub fn reclaim<P: Platform>(
        &self,
        os: &P,
        own: Option<&ReaderSlot>,
        mut done: impl FnMut(&RetireLink),
    ) -> usize {
        if self.retired.len() == 0 || !self.grace.try_lock(own) {
            return 0;
        }
        interrupt::point();
        // What a vanished holder left comes first: no batch may be ready when the next one is cut off.
        let mut handed = self.hand_over(&mut done);
        if self.advance(os, own) {
            handed += self.hand_over(&mut done);
        }
        self.grace.unlock();
        handed
    }

    /// How many links are worth a grace period, which interrupts other threads and looks at every slot that there is, most
    /// of them of threads that sleep. One, where no thread but one ever had a slot.
    pub fn batch(&self) -> usize {
        match self.slots.count() {
            0 | 1 => 1,
            slots => slots.div_ceil(SLOTS_A_LINK).max(BARRIER_LINKS),
        }
    }

    /// Whether a batch waits, or nothing does, so that there is nothing to put off.
    pub fn has_batch(&self) -> bool {
        let waiting = self.retired.len();
        waiting == 0 || waiting >= self.batch()
    }

    /// One move of the batch; `true` if its grace period is over and its links are ready. For the lock's holder.
    fn advance<P: Platform>(&self, os: &P, own: Option<&ReaderSlot>) -> bool {
        if self.grace.step() == IDLE {
            if !self.retired.note_batch() {
                return false;
            }
            interrupt::point();
            let barrier = || self.heavy(os, own).is_ok();
            if !if_first(barrier, || self.take_snapshots(), "rcu.snapshot_early") {
                return false;
            }
            self.grace.go_to(WAITING);
        }
        if self.grace.step() == WAITING {
            if !self.snapshots_ended() && !seeded("rcu.no_wait") {
                return false;
            }
            self.grace.go_to(CUTTING);
        }
        in_order(|| self.retired.cut_batch(), || self.grace.go_to(IDLE), "rcu.idle_before_cut");
        self.grace.count();
        true
    }

    /// In the child of a fork: frees the lock of a holder that vanished, if there is one, and counts what waits. The
    /// caller does not hold the lock itself.
    pub(super) fn take_over(&self) {
        if self.grace.step() == CUTTING {
            // So that each link is on one list.
            self.retired.cut_batch();
            self.grace.go_to(IDLE);
        }
        if !seeded("rcu.child_keeps_count") {
            self.retired.recount();
        }
        self.grace.forget_holder();
    }

    fn hand_over(&self, done: &mut impl FnMut(&RetireLink)) -> usize {
        let mut handed = 0;
        while self.grace.step() == IDLE {
            let Some(link) = self.retired.pop_ready() else { break };
            done(link);
            handed += 1;
        }
        handed
    }

    fn take_snapshots(&self) {
        if twin::IS_LOCKED {
            return;
        }
        let mut first: *mut ReaderSlot = ptr::null_mut();
        for slot in self.slots.from(self.slots.head()) {
            if slot.snapshot().take(slot.word()) && first.is_null() {
                first = ptr::from_ref(slot).cast_mut();
            }
        }
        for guest in &self.guests {
            guest.snapshot.take(&guest.word);
        }
        // Relaxed: the lock orders it. Those before the first with an open section need no second look.
        self.grace.cursor.store(first, Ordering::Relaxed);
    }

    /// Whether all sections of the snapshots have ended. Slots found so are not looked at again.
    fn snapshots_ended(&self) -> bool {
        // Relaxed: the lock orders it.
        for slot in self.slots.from(self.grace.cursor.load(Ordering::Relaxed)) {
            // Relaxed: as above.
            self.grace.cursor.store(ptr::from_ref(slot).cast_mut(), Ordering::Relaxed);
            if !slot.snapshot().ended(slot.word()) {
                return false;
            }
        }
        // Relaxed: as above.
        self.grace.cursor.store(ptr::null_mut(), Ordering::Relaxed);
        self.guests.iter().all(|guest| guest.snapshot.ended(&guest.word)) || seeded("rcu.guests_ignored")
    }

    /// Waits for a grace period: every section that was open when this was called has ended when it returns. Spins
    /// a little, then lets other threads run between looks.
    ///
    /// `own` is the calling thread's slot. A caller without one must not be inside a guest's section.
    ///
    /// # Errors
    /// The grace period has not passed: see [`GraceError`].
    pub fn synchronize<P: Platform>(&self, os: &P, own: Option<&ReaderSlot>) -> Result<(), GraceError> {
        if own.is_some_and(ReaderSlot::is_inside) {
            return Err(GraceError::InsideSection);
        }
        self.heavy(os, own)?;
        for slot in self.slots.from(self.slots.head()) {
            wait_out(os, slot.word());
        }
        for guest in &self.guests {
            wait_out(os, &guest.word);
        }
        self.grace.count();
        Ok(())
    }

    /// Whether no thread but the caller has a slot, and whoever attaches one from now on sees what the caller did
    /// before.
    fn is_alone(&self, own: Option<&ReaderSlot>) -> bool {
        if !self.slots.is_only(own) {
            return false;
        }
        // Partner: the fence in `attach`: either we see the slot, or its thread sees what we unlinked.
        full_fence("rcu.alone_fence");
        self.slots.is_only(own) || seeded("rcu.alone_looks_early")
    }

    /// The waiter's half of the barrier. Its other half is that of all threads with a slot: where there is none but the
    /// caller's, a fence is enough, and [`Rcu::attach`] has the other.
    fn heavy<P: Platform>(&self, os: &P, own: Option<&ReaderSlot>) -> Result<(), GraceError> {
        if twin::IS_LOCKED {
            // Who reads would wait for itself.
            if own.is_some_and(ReaderSlot::is_inside) {
                return Err(GraceError::InsideSection);
            }
            let _until_here = twin::writing();
            return Ok(());
        }
        match self.flavour() {
            Flavour::Undecided => Err(GraceError::NoBarrier),
            Flavour::Fence => {
                full_fence("rcu.heavy_fence");
                Ok(())
            }
            Flavour::Membarrier if self.is_alone(own) || seeded("rcu.heavy_barrier") => Ok(()),
            Flavour::Membarrier => self.grace.try_barrier(os, self.retired.len()),
        }
    }
}

/// Waits until every section that is open on `word` has ended.
fn wait_out<P: Platform>(os: &P, word: &SectionWord) {
    let first = word.read();
    let mut looks = 0;
    while !first.ended_by(word.read()) {
        looks += 1;
        if looks <= SPINS {
            spin_hint();
        } else {
            os.yield_now();
        }
    }
}
