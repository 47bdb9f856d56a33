//! The word that says whether a thread is inside a reader section, and the slot it lives in.

use crate::const_unless_model;
use crate::pal::twin;
use crate::rcu::interrupt;
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::{acquire, release, seeded};
use core::marker::PhantomData;
use core::num::NonZero;
use core::ptr;

/// The lower half of the word counts the sections that are open; the upper half is the generation.
const DEPTH_BITS: u32 = usize::BITS / 2;
const DEPTH: usize = (1 << DEPTH_BITS) - 1;
const GENERATION: usize = 1 << DEPTH_BITS;

/// One reading of a [`SectionWord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading(usize);

impl Reading {
    /// How many sections are open.
    fn depth(self) -> usize {
        self.0 & DEPTH
    }

    /// Whether a section is open.
    pub(super) fn inside(self) -> bool {
        self.depth() != 0
    }

    /// Whether every section that was open at `self` has ended at `now`, a later reading of the same word.
    ///
    /// "Outside or changed": a reader that is inside again has left in between, so a busy one cannot starve a
    /// waiter. An equal generation proves nothing, for it may have wrapped or been put back by an interrupted
    /// entry; then the answer is `false` and the waiter looks again, so every such mistake is on the safe side.
    pub(super) fn ended_by(self, now: Reading) -> bool {
        let changed = now.0 / GENERATION != self.0 / GENERATION || self != now && seeded("rcu.any_change");
        !self.inside() || !now.inside() || changed
    }

    /// The word after one more section was opened.
    fn entered(self) -> usize {
        debug_assert!(self.depth() < DEPTH, "more open sections than the depth can count");
        self.0 + 1
    }

    /// The word after one section was closed. The generation moves on when the last one is.
    fn left(self) -> usize {
        debug_assert!(self.inside(), "a section is closed twice");
        let generation = if self.depth() == 1 && !seeded("rcu.same_generation") { GENERATION } else { 0 };
        (self.0 - 1).wrapping_add(generation)
    }
}

/// A reading that a waiter keeps. For the holder of the reclaimer's lock, which orders the accesses.
pub(super) struct Snapshot(AtomicUsize);

impl Snapshot {
    const_unless_model! {
        pub(super) fn new() -> Snapshot {
            Snapshot(AtomicUsize::new(0))
        }
    }

    /// Notes which sections are open on `word`, and returns whether any is. Where none was and none is there is nothing
    /// to note: most threads sleep, and a store would take the line from them.
    pub(super) fn take(&self, word: &SectionWord) -> bool {
        let now = word.read();
        // Relaxed (both): the reclaimer's lock orders them.
        if now.inside() || Reading(self.0.load(Ordering::Relaxed)).inside() {
            self.0.store(now.0, Ordering::Relaxed);
        }
        now.inside()
    }

    /// Whether those sections have ended on `word`.
    pub(super) fn ended(&self, word: &SectionWord) -> bool {
        // Relaxed: the reclaimer's lock orders it.
        Reading(self.0.load(Ordering::Relaxed)).ended_by(word.read())
    }
}

/// Depth and generation of the sections of one reader (or, for guests, of those that share the word).
///
/// One word and not two, so that there is no instruction between them at which a signal handler could find one changed
/// and the other not. A handler closes every section that it opened, so between the load and the store of the
/// interrupted step the word moved at most to another generation at the same depth, and the store puts back the old
/// generation: see [`Reading::ended_by`].
pub(super) struct SectionWord(AtomicUsize);

impl SectionWord {
    const_unless_model! {
        pub(super) fn new() -> SectionWord {
            SectionWord(AtomicUsize::new(0))
        }
    }

    /// Opens a section on a word that only the calling thread writes. The caller's barrier follows.
    #[inline(always)]
    pub(super) fn enter_owned(&self) {
        interrupt::point();
        // Relaxed: only this thread writes the word.
        let before = Reading(self.0.load(Ordering::Relaxed));
        interrupt::point();
        // Release: partner is the acquire load in `read`. A waiter that finds this value instead of that of the
        // leave before it takes the section before it as ended, so this store must carry that section's loads too.
        self.0.store(before.entered(), release("rcu.enter_relaxed"));
        interrupt::point();
    }

    /// Closes a section on a word that only the calling thread writes.
    #[inline(always)]
    pub(super) fn leave_owned(&self) {
        interrupt::point();
        // Relaxed: only this thread writes the word.
        let before = Reading(self.0.load(Ordering::Relaxed));
        interrupt::point();
        // Release: partner is the acquire load in `read`: what the section loaded, it loaded before the waiter goes on.
        self.0.store(before.left(), release("rcu.leave_relaxed"));
        interrupt::point();
    }

    /// Opens a section on a word that several threads write, and returns the word; `None` if `only_free` and another
    /// section is open on it.
    pub(super) fn enter_shared(&self, only_free: bool) -> Option<Reading> {
        // Relaxed: a first guess, which the compare-exchange corrects.
        let mut before = Reading(self.0.load(Ordering::Relaxed));
        while !(only_free && before.inside()) {
            // Relaxed: a read-modify-write carries on what earlier leavers released (their release sequence), and the
            // caller's full fence orders the section after it.
            match self.0.compare_exchange_weak(
                before.0,
                before.entered(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(Reading(before.entered())),
                Err(now) => before = Reading(now),
            }
        }
        None
    }

    /// Closes a section that `enter_shared` opened with `entry`. If the word has another generation by now, a fork
    /// has reset it in this child: then there is nothing to close.
    pub(super) fn leave_shared(&self, entry: Reading) {
        // Relaxed: a first guess, which the compare-exchange corrects.
        let mut before = Reading(self.0.load(Ordering::Relaxed));
        while before.0 / GENERATION == entry.0 / GENERATION {
            // Release: partner is the acquire load in `read`, as in `leave_owned`.
            match self.0.compare_exchange_weak(
                before.0,
                before.left(),
                release("rcu.guest_leave_relaxed"),
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => before = Reading(now),
            }
        }
    }

    /// Reads the word as a waiter.
    pub(super) fn read(&self) -> Reading {
        // Acquire: partner is the release of the section's end (or of the next entry): what is freed after this was
        // loaded by that section before.
        Reading(self.0.load(acquire("rcu.read_relaxed")))
    }

    /// Reads the word as the thread that owns it.
    pub(super) fn read_own(&self) -> Reading {
        // Relaxed: only this thread writes the word.
        Reading(self.0.load(Ordering::Relaxed))
    }

    /// Closes all sections of a thread that does not exist in this process (the child of a fork).
    pub(super) fn reset(&self) {
        // Relaxed: the child of a fork has one thread.
        let before = Reading(self.0.load(Ordering::Relaxed));
        if before.inside() {
            // Relaxed: as above.
            self.0.store((before.0 & !DEPTH).wrapping_add(GENERATION), Ordering::Relaxed);
        }
    }
}

/// What one thread reads through: its `SectionWord`, and what a waiter keeps about it.
///
/// A slot lives forever once it is attached. When its thread exits it stays attached, outside any section, and goes to
/// a later thread together with the structure it is embedded in; that hand-over must synchronise, as that of any
/// memory does.
///
/// 1. `word` is written by the owning thread only, and by the child of a fork.
/// 2. `snapshot` is read and written only by whoever holds the reclaimer's lock.
/// 3. `next` is written once, before the slot is attached.
/// 4. `lone` is written by the thread that takes the slot, and read by the child of a fork, which has one thread.
///
/// The owner writes the word twice per section: so the structure that a slot is embedded in has on the same line what
/// its owner alone touches. A waiter looks at all three.
pub struct ReaderSlot {
    word: SectionWord,
    snapshot: Snapshot,
    next: AtomicPtr<ReaderSlot>,
    /// Zero for a slot that is embedded in something that says whose it is; else the number of the thread that has it.
    lone: AtomicUsize,
}

impl ReaderSlot {
    const_unless_model! {
        /// A slot that is not attached, outside any section.
        pub fn new() -> ReaderSlot {
            ReaderSlot {
                word: SectionWord::new(),
                snapshot: Snapshot::new(),
                next: AtomicPtr::new(ptr::null_mut()),
                lone: AtomicUsize::new(0),
            }
        }
    }

    /// Makes it the slot of the thread with this number, which is not zero: one that stands alone, embedded in nothing.
    pub fn belong_to(&self, thread: usize) {
        // Relaxed, here and below: rule 4.
        self.lone.store(thread, Ordering::Relaxed);
    }

    /// The number of the thread that has it, if it stands alone.
    pub fn thread(&self) -> Option<usize> {
        Some(self.lone.load(Ordering::Relaxed)).filter(|&thread| thread != 0)
    }

    /// Whether the calling thread, which owns the slot, is inside a section.
    pub fn is_inside(&self) -> bool {
        self.word.read_own().inside()
    }

    /// Whether the calling thread, which owns the slot, has entered more than one.
    pub(super) fn is_nested(&self) -> bool {
        self.word.read_own().depth() > 1
    }

    pub(super) fn word(&self) -> &SectionWord {
        &self.word
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl Default for ReaderSlot {
    fn default() -> Self {
        Self::new()
    }
}

/// All slots that were ever attached, newest first. Only ever grows.
pub(super) struct SlotList {
    head: AtomicPtr<ReaderSlot>,
    count: AtomicUsize,
}

impl SlotList {
    const_unless_model! {
        pub(super) fn new() -> SlotList {
            SlotList { head: AtomicPtr::new(ptr::null_mut()), count: AtomicUsize::new(0) }
        }
    }

    /// Adds `slot`.
    ///
    /// # Safety
    /// The slot lives forever and was in no list before.
    pub(super) unsafe fn push(&self, slot: &ReaderSlot) {
        let new = ptr::from_ref(slot).cast_mut();
        // Relaxed: a count, not a promise.
        self.count.fetch_add(1, Ordering::Relaxed);
        // Relaxed: a first guess, which the compare-exchange corrects.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // Relaxed: the release below publishes it.
            slot.next.store(head, Ordering::Relaxed);
            // Release: partner is the acquire load in `head`: who finds the slot finds the slots behind it.
            match self.head.compare_exchange_weak(head, new, release("rcu.attach_relaxed"), Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// How many slots there are.
    pub(super) fn count(&self) -> usize {
        // Relaxed: as in `push`.
        self.count.load(Ordering::Relaxed)
    }

    /// Whether no slot is attached but `own`, as far as this thread sees.
    pub(super) fn is_only(&self, own: Option<&ReaderSlot>) -> bool {
        // Relaxed (both): the caller's fence orders the look, and nothing is followed.
        let head = self.head.load(Ordering::Relaxed);
        ptr::eq(head, own.map_or(ptr::null(), ptr::from_ref))
            && own.is_none_or(|own| own.next.load(Ordering::Relaxed).is_null())
    }

    /// The newest slot, or null.
    pub(super) fn head(&self) -> *mut ReaderSlot {
        // Acquire: partner is the release in `push`. Later pushes are read-modify-writes and carry on what earlier ones
        // released, so the newest slot publishes all.
        self.head.load(acquire("rcu.head_relaxed"))
    }

    /// The slots from `first` on, which is a slot of this list or null.
    pub(super) fn from(&self, first: *mut ReaderSlot) -> Slots<'_> {
        Slots { next: first, list: PhantomData }
    }
}

/// Iterates over slots.
pub(super) struct Slots<'a> {
    next: *mut ReaderSlot,
    list: PhantomData<&'a SlotList>,
}

impl<'a> Iterator for Slots<'a> {
    type Item = &'a ReaderSlot;

    fn next(&mut self) -> Option<&'a ReaderSlot> {
        // SAFETY: `next` is null or a slot of the list, and slots live forever once they are in it.
        let slot = unsafe { self.next.as_ref() }?;
        // Relaxed: `next` is written once, before the release that published the slot.
        self.next = slot.next.load(Ordering::Relaxed);
        Some(slot)
    }
}

/// The right to follow what the index and other published structures point to: what was reachable when or after the
/// section was entered is not freed before it is dropped. Sections nest; their order of dropping is free.
///
/// A section is short: nothing inside it waits for another thread, or grace periods wait for both.
#[must_use = "a section that is dropped at once protects nothing"]
pub struct Section<'a> {
    word: &'a SectionWord,
    /// For a guest, the word as it was right after the entry: not zero, for it says that a section is open. So a section is
    /// two words, which a reader keeps in registers.
    guest: Option<NonZero<usize>>,
    _locked: twin::Held,
    /// A section belongs to the thread that entered it.
    not_send: PhantomData<*const ()>,
}

impl<'a> Section<'a> {
    /// A section opened by [`SectionWord::enter_owned`], or, with `guest`, by [`SectionWord::enter_shared`].
    #[inline(always)]
    pub(super) fn opened(word: &'a SectionWord, guest: Option<Reading>) -> Section<'a> {
        let guest = guest.and_then(|entry| NonZero::new(entry.0));
        Section { word, guest, _locked: twin::reading(), not_send: PhantomData }
    }
}

impl Drop for Section<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        match self.guest {
            None => self.word.leave_owned(),
            Some(entry) => self.word.leave_shared(Reading(entry.get())),
        }
    }
}
