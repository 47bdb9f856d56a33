//! `rcu`: reader sections without a fence, grace periods, and lists of what waits for one.
//!
//! May import `base`, `sync` and `pal`. An [`Rcu`] is a value; nothing here is a static, allocates, or calls the system
//! for anything but its barrier and a yield.
//!
//! # Why no reader sees a freed thing: two outcomes
//!
//! A thing is freed in this order: unlink it; note it for a grace period; **heavy barrier**; look at every slot; wait
//! until each section seen open has ended; free. A reader does: mark its slot; **light barrier**; follow links; unmark.
//! The two barriers are the two halves of one full fence (`membarrier` runs the reader's half for it), so for every
//! reader and every grace period one of two things holds:
//!
//! 1. *The waiter sees the section.* The mark was stored before the heavy barrier: the waiter finds the slot inside and
//!    waits for its end. The end is a release store and the waiter's look an acquire load, so everything that the
//!    section loaded was loaded before the thing is freed.
//! 2. *The reader sees the unlinking.* The mark was stored after the heavy barrier: then everything that the reader
//!    loads after its light barrier is at least as new as what the heavy barrier found, which includes the unlinking.
//!    It does not get to the thing.
//!
//! There is no third: the mark is before or after the barrier. What each variation adds:
//!
//! - *A slot attached during a grace period.* Attaching comes before the mark, so a waiter that does not find the slot
//!   in the list is in outcome 2 with its thread.
//! - *A waiter that is alone*, whose slot is the only one that was ever attached, needs no membarrier. It unlinks,
//!   passes a fence, and looks for other slots; whoever attaches one passes a fence behind that and reads. So either
//!   the waiter sees the slot and runs the barrier, or the new thread is in outcome 2. A program with one thread makes
//!   no such system call.
//! - *A batch.* Links retired before the heavy barrier share it, whoever unlinked them: the push releases and the
//!   reclaimer acquires, so every unlinking comes before the barrier.
//! - *A look that comes later.* A slot is looked at at any time after the heavy barrier; a section found then may be
//!   newer than the barrier, and is waited for without need, once.
//! - *A busy reader.* A slot that was left and entered again has another generation; the section seen has ended.
//! - *A signal handler* opens and closes its sections on the slot of the thread that it interrupted. Depth and
//!   generation are one word, and a nested entry runs the light barrier too, for the outer one may not have come to it
//!   yet.
//! - *A guest*, a thread without a slot, shares words with others and enters with a full fence.
//! - *No membarrier.* Every entry executes the full fence, and so does the waiter. Which it is, is decided once:
//!   before that, entries use the fence and nothing is freed, so no waiter takes an unfenced reader for a fenced one.
//!
//! # Who waits
//!
//! [`Rcu::retire`] and [`Rcu::reclaim`] never wait: a reclaimer that finds a section open leaves the rest to whoever
//! calls next, and one that finds another at work leaves at once. Only [`Rcu::synchronize`] waits.
//!
//! # What a grace period costs
//!
//! One barrier, and one look at every slot; a second look at those from the first that was found inside. The barrier
//! interrupts each processor that runs a thread of the process. And slots of sleeping threads cannot be told from others
//! without a look: a section's entry is one plain store to the thread's own word, and whoever is to know of it has to read
//! that. So whoever retires one thing after the other waits until there is a [`Rcu::batch`], if it can bear that: then
//! eight things share a barrier, and each costs 64 looks at most, however many threads there are.

mod grace;
mod interrupt;
mod retire;
mod slot;

#[cfg(all(test, loom))]
pub(crate) mod models;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

pub use grace::GraceError;
pub use retire::RetireLink;
pub use slot::{ReaderSlot, Section};

use crate::const_unless_model;
use crate::pal::{Platform, twin};
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::{CachePadded, full_fence, light_barrier, seeded};
use grace::{Grace, Guest};
use retire::RetireList;
use slot::SlotList;

/// Words that threads without a slot share. Beyond this many guests at once they double up, and only then can guests
/// that overlap without a gap hold up a grace period.
const GUESTS: usize = if cfg!(any(loom, shuttle)) { 1 } else { 32 };

/// How the barrier between readers and waiters is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flavour {
    /// [`Rcu::start`] has not run: readers use the fence, no grace period completes.
    Undecided = 0,
    /// There is no membarrier: a full fence at each entry.
    Fence = 1,
    /// A compiler fence at each entry, membarrier in each grace period.
    Membarrier = 2,
}

/// Counts for the statistics. Each is read by itself: together they need not be of one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// How the barrier is made.
    pub flavour: Flavour,
    /// Grace periods completed.
    pub grace_periods: usize,
    /// Links that are retired and not yet handed over.
    pub pending: usize,
    /// Whether grace periods stand still: the barrier failed when it was last tried.
    pub stopped: bool,
}

/// Readers, and what was retired while they may have seen it.
pub struct Rcu {
    /// A [`Flavour`]. Changes at most once, from undecided: an observer that finds it decided knows it for all.
    /// On a line of its own: every entry reads it.
    flavour: CachePadded<AtomicU8>,
    slots: SlotList,
    guests: [Guest; GUESTS],
    retired: RetireList,
    grace: Grace,
}

impl Rcu {
    const_unless_model! {
        /// An undecided one, without slots.
        pub fn new() -> Rcu {
            Rcu {
                flavour: CachePadded::new(AtomicU8::new(Flavour::Undecided as u8)),
                slots: SlotList::new(),
                guests: crate::atomic_array![Guest::new(); GUESTS],
                retired: RetireList::new(),
                grace: Grace::new(),
            }
        }
    }

    /// Finds out whether `os` has a barrier and decides the flavour, unless that is done already. May run at any time,
    /// on any thread, and twice at once.
    pub fn start<P: Platform>(&self, os: &P) {
        if self.flavour() != Flavour::Undecided {
            return;
        }
        let works = os.register_barrier().and_then(|()| os.heavy_barrier()).is_ok();
        let found = if works { Flavour::Membarrier } else { Flavour::Fence };
        // Relaxed: the value alone matters. The loser of a race takes the winner's answer: both are safe, since
        // `Membarrier` frees nothing where the barrier fails.
        let _ = self.flavour.compare_exchange(
            Flavour::Undecided as u8,
            found as u8,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    #[inline(always)]
    fn flavour(&self) -> Flavour {
        // Relaxed: the word changes once, so an observer that finds it decided knows what every other one may find:
        // the same, or undecided, which is the stronger entry.
        match self.flavour.load(Ordering::Relaxed) {
            0 => Flavour::Undecided,
            1 => Flavour::Fence,
            _ => Flavour::Membarrier,
        }
    }

    /// Makes each thread of the process that runs pass a full fence between two of its instructions. `false` where
    /// there is no membarrier.
    pub fn interrupt_all<P: Platform>(&self, os: &P) -> bool {
        self.flavour() == Flavour::Membarrier && self.grace.try_barrier(os, self.retired.len()).is_ok()
    }

    /// Makes `slot` one that grace periods look at, for good.
    ///
    /// # Safety
    /// The slot is attached once in its life, to one `Rcu`, and lives as long as that (forever, in a process).
    pub unsafe fn attach(&self, slot: &ReaderSlot) {
        // SAFETY: passed on.
        unsafe { self.slots.push(slot) }
        // Partner: the fence of a waiter that is alone.
        if !seeded("heap.made_publish") {
            // (Not with that bug: this fence would do the work of the release with which the slot's owner is
            // published.)
            full_fence("rcu.attach_fence");
        }
    }

    /// Enters a reader section; dropping it leaves. Costs a load, a store and a compiler fence, or a full fence where
    /// there is no membarrier. Safe in a signal handler at any instruction.
    ///
    /// # Safety
    /// The slot is attached to this `Rcu` and belongs to the calling thread: no other enters or leaves on it.
    #[inline(always)]
    pub unsafe fn enter<'a>(&'a self, slot: &'a ReaderSlot) -> Section<'a> {
        slot.word().enter_owned();
        if !seeded("rcu.nested_without_barrier") || !slot.is_nested() {
            self.light();
        }
        interrupt::point();
        Section::opened(slot.word(), None)
    }

    /// The reader's half of the barrier, between the mark and the first look.
    #[inline(always)]
    fn light(&self) {
        match self.flavour() {
            Flavour::Membarrier if !seeded("rcu.light_barrier") => light_barrier(),
            Flavour::Membarrier => {}
            Flavour::Fence => full_fence("rcu.entry_fence"),
            Flavour::Undecided => full_fence("rcu.undecided_entry"),
        }
    }

    /// Enters a reader section on a thread that has no slot: before its heap exists, or after it is gone. A few
    /// read-modify-writes on shared words, and a full fence. Never waits.
    pub fn enter_guest(&self) -> Section<'_> {
        let free = self.guests.iter().find_map(|guest| Some((guest, guest.word.enter_shared(true)?)));
        // More guests than words: share one. `enter_shared(false)` always enters.
        let (guest, entry) = free.unwrap_or_else(|| {
            let guest = &self.guests[0];
            loop {
                if let Some(entry) = guest.word.enter_shared(false) {
                    return (guest, entry);
                }
            }
        });
        full_fence("rcu.guest_fence");
        Section::opened(&guest.word, Some(entry))
    }

    /// Hands a thing over to be freed after a grace period: a later [`Rcu::reclaim`], by any thread, passes `link` to
    /// its `done`. Never waits, never calls the system, safe in a signal handler.
    ///
    /// # Safety
    /// What `link` stands for is unlinked: nobody who enters a section from now on finds it. The link is valid until it
    /// is passed to `done`, is not retired a second time before that, and `done` knows how to free it.
    pub unsafe fn retire(&self, link: &RetireLink) {
        // SAFETY: passed on.
        unsafe { self.retired.push(link) }
    }

    /// Makes the child of a fork able to go on: the sections of all threads but the calling one are closed, and so is
    /// the reclaimer's lock if another thread held it. What was retired stays retired; only a link whose `done` was
    /// running in another thread is lost, with the thing it stands for, and it is not counted any more.
    ///
    /// `owns` tells the slots of the calling thread, which may have several, one to a call that a signal handler
    /// interrupted. If it has none, guests and a reclaimer that is a guest are taken to be the calling thread itself,
    /// and left alone: grace periods may then stand still in this child, which leaks but is safe.
    ///
    /// # Safety
    /// The calling thread is the only one of the process, since a fork.
    pub unsafe fn child_after_fork(&self, owns: &dyn Fn(&ReaderSlot) -> bool) {
        twin::forget();
        let slots = || self.slots.from(self.slots.head());
        for slot in slots().filter(|slot| !owns(slot)) {
            if !seeded("rcu.child_keeps_sections") {
                slot.word().reset();
            }
        }
        let has_slot = slots().any(owns);
        if has_slot {
            for guest in &self.guests {
                guest.word.reset();
            }
        }
        if !self.is_own(self.grace.holder(), owns) && !seeded("rcu.child_keeps_lock") {
            self.take_over();
        }
    }

    /// What a thread is known by that has this slot, or none: never zero.
    pub fn identity(own: Option<&ReaderSlot>) -> usize {
        Grace::identity(own)
    }

    /// In the child of a fork: whether the calling thread, whose slots `owns` tells, was known by this.
    pub fn is_own(&self, identity: usize, owns: &dyn Fn(&ReaderSlot) -> bool) -> bool {
        let mut slots = self.slots.from(self.slots.head());
        match identity {
            grace::GUEST => !slots.any(owns),
            slot => slots.any(|own| core::ptr::from_ref(own).addr() == slot && owns(own)),
        }
    }

    /// The counts.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            flavour: self.flavour(),
            grace_periods: self.grace.completed(),
            pending: self.retired.len(),
            stopped: self.grace.has_stopped(),
        }
    }
}

impl Default for Rcu {
    fn default() -> Self {
        Self::new()
    }
}
