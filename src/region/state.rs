//! The state word of a region: who may pin it, who may unmap it.
//!
//! | word | meaning |
//! |---|---|
//! | 0 | detached: describes nothing |
//! | 1 | attached, no pins |
//! | 1 + n | attached, n pins |
//! | EXCLUDE + n | being unmapped; n pins still to drain; no new pin succeeds but by the side of one that is held |
//!
//! One law for all transitions: whoever makes the count zero under EXCLUDE, or finds it zero there, is followed by no
//! other pin until the region is attached again. So every step is one atomic read-modify-write of the whole word,
//! except [`State::attach`] and [`State::detach`], which only the one owner of a detached or drained region takes.
//!
//! The word is immortal: a descriptor's memory is never unmapped, so waking on it after the last unpin is sound.

use crate::pal::Platform;
use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Exchange, acquire, release, seeded};

/// No new pin succeeds, the base reference is gone.
const EXCLUDE: u32 = 1 << 31;

/// Largest count: the base reference and all pins. Smaller under a checker, so that it can be reached.
const MAX_COUNT: u32 = if cfg!(any(loom, shuttle)) { 3 } else { 1 << 30 };

const _: () =
    assert!(MAX_COUNT > 1 && MAX_COUNT < EXCLUDE, "at least one pin, and none that looks like EXCLUDE");

/// One value of the state word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u32);

impl Word {
    const DETACHED: Word = Word(0);
    const ATTACHED: Word = Word(1);
    const DRAINED: Word = Word(EXCLUDE);

    const fn count(self) -> u32 {
        self.0 & !EXCLUDE
    }

    const fn phase(self) -> Phase {
        if self.0 & EXCLUDE != 0 {
            Phase::Excluded
        } else if self.0 == 0 {
            Phase::Detached
        } else {
            Phase::Attached
        }
    }

    const fn pinned(self) -> Word {
        Word(self.0 + 1)
    }

    const fn excluded(self) -> Word {
        Word((self.0 - 1) | EXCLUDE)
    }
}

/// Where a region is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Describes nothing.
    Detached,
    /// In use; pins are granted.
    Attached,
    /// Being unmapped: for everybody else it is not there.
    Excluded,
}

/// What became of an attempt to pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Pinning {
    /// The caller holds a pin and owes one [`State::unpin`].
    Pinned,
    /// The descriptor describes nothing: it was recycled; look up again.
    Detached,
    /// The region is being unmapped: it is not there.
    Excluded,
    /// There are as many pins as the word can count.
    Full,
}

/// What became of an attempt to exclude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Exclusion {
    /// The caller alone unlinks and unmaps the region; `drained` says that there is no pin to wait for.
    Won {
        /// Whether no pin was left.
        drained: bool,
    },
    /// Another thread has excluded it, or it is detached.
    Lost,
}

/// The state word. See the table at the head of this file.
pub struct State {
    word: AtomicU32,
}

impl State {
    crate::const_unless_model! {
        /// A detached word.
        pub fn new() -> State {
            State { word: AtomicU32::new(Word::DETACHED.0) }
        }
    }

    /// Where the region is right now; by the time the caller looks at the answer it may have moved on.
    pub fn phase(&self) -> Phase {
        // Relaxed: an answer that is already old either way; whoever needs the region pins it or is in a section.
        Word(self.word.load(Relaxed)).phase()
    }

    /// Number of pins held right now.
    pub fn pins(&self) -> u32 {
        // Relaxed: a figure for statistics and checks by the owner.
        let word = Word(self.word.load(Relaxed));
        word.count() - u32::from(word.phase() == Phase::Attached)
    }

    /// Detached to attached, by the one owner of a detached descriptor, after all its fields are set.
    pub fn attach(&self) {
        debug_assert!(self.phase() == Phase::Detached, "attach: not detached");
        // Release: partner is the Acquire of `try_pin`: who pins this life of the descriptor sees its fields.
        self.word.store(Word::ATTACHED.0, release("region.attach_relaxed"));
    }

    /// Adds a pin, unless the region is detached, excluded, or pinned as often as can be counted. Never waits.
    pub fn try_pin(&self) -> Pinning {
        // Relaxed: only the guess for the exchange below, which looks at the word anew.
        let mut seen = Word(self.word.load(Relaxed));
        loop {
            match seen.phase() {
                Phase::Detached => return Pinning::Detached,
                Phase::Excluded => return Pinning::Excluded,
                Phase::Attached if seen.count() == MAX_COUNT && !seeded("region.pin_unlimited") => {
                    return Pinning::Full;
                }
                Phase::Attached => {}
            }
            // Acquire: partner is the Release of `attach`. Relaxed on failure: nothing is read but the word.
            let (order, next) = (acquire("region.pin_relaxed"), seen.pinned());
            match self.word.exchange(seen.0, next.0, order, Relaxed, "region.pin_two_steps") {
                Ok(_) => return Pinning::Pinned,
                Err(now) => seen = Word(now),
            }
        }
    }

    /// Adds a pin beside one that the caller holds: so it succeeds under EXCLUDE, too. `false` if there are as many as
    /// can be counted.
    #[must_use]
    pub fn pin_beside(&self) -> bool {
        // Relaxed: only the guess for the exchange below.
        let mut seen = Word(self.word.load(Relaxed));
        loop {
            debug_assert!(seen.count() > u32::from(seen.phase() == Phase::Attached), "no pin is held");
            if seen.count() >= MAX_COUNT {
                return false;
            }
            // Relaxed: the pin that is held has acquired already, and as a read-modify-write this step keeps the
            // release sequence of the unpins before it.
            match self.word.exchange(seen.0, seen.pinned().0, Relaxed, Relaxed, "region.beside_two_steps") {
                Ok(_) => return true,
                Err(now) => seen = Word(now),
            }
        }
    }

    /// Drops a pin; the last one under EXCLUDE wakes the thread in [`State::wait_drained`]. Nothing of the region is
    /// touched after the decrement but this immortal word, and that only by its address.
    pub fn unpin<P: Platform>(&self, os: &P) {
        // Release: partner is the Acquire of `is_drained`: what the holder did with the memory comes before munmap.
        let before = Word(self.word.fetch_sub(1, release("region.unpin_relaxed")));
        debug_assert!(before.count() > u32::from(before.phase() == Phase::Attached), "unpin: no pin is held");
        if before == Word::DRAINED.pinned() && !seeded("region.no_wake") {
            os.wake(&self.word, 1);
        }
    }

    /// Sets EXCLUDE and drops the base reference in one step. Of several threads that try, one wins.
    pub fn exclude(&self) -> Exclusion {
        // Relaxed: only the guess for the exchange below.
        let mut seen = Word(self.word.load(Relaxed));
        loop {
            if seen.phase() != Phase::Attached {
                return Exclusion::Lost;
            }
            let next = seen.excluded();
            // Relaxed: carries nothing to the pins it refuses; the memory is waited for by `is_drained`, and as a
            // read-modify-write this step keeps the release sequence of the unpins before it.
            match self.word.exchange(seen.0, next.0, Relaxed, Relaxed, "region.exclude_two_steps") {
                Ok(_) => return Exclusion::Won { drained: next == Word::DRAINED },
                Err(now) => seen = Word(now),
            }
        }
    }

    /// As [`State::exclude`], but only if there is no pin: one step from attached to drained. [`Exclusion::Lost`] if
    /// there is one, too.
    pub fn exclude_unpinned(&self) -> Exclusion {
        let (before, after) = (Word::ATTACHED.0, Word::DRAINED.0);
        // Relaxed (both): as in `exclude`.
        match self.word.exchange(before, after, Relaxed, Relaxed, "region.unpinned_two_steps") {
            Ok(_) => Exclusion::Won { drained: true },
            Err(_) => Exclusion::Lost,
        }
    }

    /// Whether the region is excluded and no pin is left: nobody can come any more, and what the holders of pins did
    /// with the memory has happened.
    pub fn is_drained(&self) -> bool {
        // Acquire: partner is the Release of every `unpin`, through the release sequence on the word.
        Word(self.word.load(acquire("region.drained_relaxed"))) == Word::DRAINED
    }

    /// Sleeps until [`State::is_drained`]. Only the thread that won [`State::exclude`] calls it, and not while it holds
    /// a pin of its own.
    pub fn wait_drained<P: Platform>(&self, os: &P) {
        loop {
            if self.is_drained() {
                return;
            }
            // Relaxed: the value to sleep on; if it is old, the wait returns at once and the loop looks again.
            let seen = self.word.load(Relaxed);
            if Word(seen) != Word::DRAINED {
                os.wait(&self.word, seen, None);
            }
        }
    }

    /// Drained to detached, by the thread that won [`State::exclude`], once the memory is gone.
    pub fn detach(&self) {
        debug_assert!(self.is_drained(), "detach: not drained");
        // Relaxed: says only "nothing here" to those that come late; the next life begins with `attach`.
        self.word.store(Word::DETACHED.0, Relaxed);
    }
}

impl Default for State {
    fn default() -> State {
        State::new()
    }
}
