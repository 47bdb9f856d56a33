//! Whether the bytes of a unit are there, in a region whose bytes the program fetches itself: one word for each unit.
//!
//! A unit is in one phase at a time:
//!
//! | phase | the bytes are | becomes | by whom |
//! |---|---|---|---|
//! | `ABSENT` | not there, which is what zero memory says | `BUSY` | who comes first and fetches them |
//! | `BUSY` | one thread's, which fetches them or takes them away | any | that thread |
//! | `PRESENT` | there, and held by so many | `PRESENT`, `BUSY` | holders come and go; who evicts |
//! | `FAILED` | not to be had, until the unit is evicted | `BUSY` | who evicts |
//!
//! Rules:
//! 1. Only the thread whose `BUSY` it is puts bytes there or takes them away. So the system's calls for the two never
//!    meet.
//! 2. Who evicts waits for nobody. Of a unit that is held, or busy, it says that it is *stale*, and leaves: the last
//!    holder takes the bytes away, and who fetches them throws away what it has, and fetches once more.
//! 3. What is fetched is as new as the last eviction that was over before anybody came: who evicts changes the source
//!    first and looks at the unit then, who fetches takes the unit first and looks at the source then, with a fence on
//!    either side.
//! 4. Threads that wait for the bytes in the system, in a fault, are woken after the phase has changed: who looks on
//!    behalf of one and finds the unit busy leaves it to whoever is busy.

use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Exchange, acquire, full_fence, in_order, release};

const ABSENT: u32 = 0;
const BUSY: u32 = 1;
const PRESENT: u32 = 2;
const FAILED: u32 = 3;
const PHASE: u32 = 3;
/// Evicted, but busy or held at that moment.
const STALE: u32 = 4;
/// One holder; of a busy unit, one in the number of the thread.
const ONE: u32 = 8;
/// Holders at most.
const MOST: u32 = (1 << 29) - 1;

/// What came of the wish to hold a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Hold {
    /// The caller holds it: the bytes are there until it lets go.
    Held,
    /// The unit is the caller's, who fetches the bytes: see [`Unit::fetched`].
    Fetch,
    /// A thread of this number, or one that evicts (zero), is busy with it.
    Busy(u32),
    /// The bytes could not be had.
    Failed,
    /// As many hold it as can be counted.
    Full,
}

/// What came of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Evict {
    /// Nothing is there.
    Nothing,
    /// The unit is the caller's, who takes the bytes away: see [`Unit::absent`].
    Now,
    /// Somebody holds it, or is busy with it, and sees to it.
    Later,
}

/// One unit. See the rules at the head of this file.
pub struct Unit(AtomicU32);

impl Unit {
    crate::const_unless_model! {
        /// One whose bytes are not there.
        pub fn new() -> Unit {
            Unit(AtomicU32::new(ABSENT))
        }
    }

    /// Holds the unit, or takes it to fetch its bytes. `thread` is the caller's number, not zero.
    pub fn hold(&self, thread: u32) -> Hold {
        self.take(thread, ONE)
    }

    /// The same for somebody who touches the bytes without holding them: [`Hold::Held`] says that they are there now.
    pub fn touch(&self, thread: u32) -> Hold {
        self.take(thread, 0)
    }

    fn take(&self, thread: u32, holders: u32) -> Hold {
        debug_assert!((1..=MOST).contains(&thread));
        // Relaxed: only the guess for the exchange below.
        let mut seen = self.0.load(Relaxed);
        loop {
            let next = match seen & PHASE {
                ABSENT => BUSY | (thread * ONE),
                PRESENT if seen / ONE == MOST => return Hold::Full,
                PRESENT => seen + holders,
                FAILED => return Hold::Failed,
                _ => return Hold::Busy(seen / ONE),
            };
            // Acquire: partner is the Release of `settle`: the bytes are there.
            let order = acquire("region.unit_hold_relaxed");
            match self.0.exchange(seen, next, order, Relaxed, "region.unit_hold_two_steps") {
                Ok(_) if next & PHASE == PRESENT => return Hold::Held,
                Ok(_) => {
                    // Partner: the fence of `evict`. Either that one sees that the unit is busy, or what is fetched now
                    // is as new as what it knew of. And partner of the Release of `absent`: nothing is there any more.
                    full_fence("region.unit_fetch_unfenced");
                    return Hold::Fetch;
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Whether what the caller fetches is old already.
    pub fn is_stale(&self) -> bool {
        // Relaxed: a hint; `settle` decides.
        self.0.load(Relaxed) & STALE != 0
    }

    /// The caller has put the bytes there, and holds the unit now if it wants to. `false` if it was evicted meanwhile:
    /// the unit is still the caller's, who takes the bytes away, says so by [`Unit::again`] and fetches them once more.
    #[must_use]
    pub fn fetched(&self, holds: bool) -> bool {
        self.settle(if holds { PRESENT | ONE } else { PRESENT })
    }

    /// The bytes could not be had. `false` as for [`Unit::fetched`].
    #[must_use]
    pub fn failed(&self) -> bool {
        self.settle(FAILED)
    }

    fn settle(&self, to: u32) -> bool {
        // Relaxed: the exchange decides.
        let seen = self.0.load(Relaxed);
        // Release: partner is the Acquire of `hold`.
        let order = release("region.unit_settled_relaxed");
        seen & STALE == 0
            && self.0.exchange(seen, to, order, Relaxed, "region.unit_settled_two_steps").is_ok()
    }

    /// What was fetched was old, and is gone. The caller fetches once more.
    pub fn again(&self) {
        // Relaxed: the fence orders it. Its partner: the fence of `evict`, as in `hold`.
        let fresh = || _ = self.0.fetch_and(!STALE, Relaxed);
        in_order(fresh, || full_fence("region.unit_again_unfenced"), "region.unit_again_fenced_first");
    }

    /// The caller, whose the unit is, has taken the bytes away. `wake` wakes those who wait in a fault.
    pub fn absent(&self, wake: impl FnOnce()) {
        // Release: partner is the fence of `hold`.
        let order = release("region.unit_absent_relaxed");
        // That it was evicted meanwhile comes to the same.
        in_order(|| self.0.store(ABSENT, order), wake, "region.unit_wake_first");
    }

    /// Lets go. Whether the unit is the caller's now, who takes the bytes away: it was evicted while it was held.
    #[must_use]
    pub fn release(&self) -> bool {
        // Release: partner is the Acquire below, and that of `evict`: who held it has done with the bytes.
        let before = self.0.fetch_sub(ONE, release("region.unit_release_relaxed"));
        let order = acquire("region.unit_last_relaxed");
        before == PRESENT | STALE | ONE
            && self.0.exchange(PRESENT | STALE, BUSY, order, Relaxed, "region.unit_last_two_steps").is_ok()
    }

    /// Has the bytes taken away, whatever anybody does with them, and does not wait.
    pub fn evict(&self) -> Evict {
        // Partner: the fences of `hold` and `again`.
        full_fence("region.unit_evict_unfenced");
        // Relaxed: only the guess for the exchange below.
        let mut seen = self.0.load(Relaxed);
        loop {
            let (next, outcome) = match seen & PHASE {
                ABSENT => return Evict::Nothing,
                FAILED | PRESENT if seen / ONE == 0 => (BUSY, Evict::Now),
                _ if seen & STALE != 0 => return Evict::Later,
                _ => (seen | STALE, Evict::Later),
            };
            // Acquire: partner is the Release of `release`.
            let order = acquire("region.unit_evict_relaxed");
            match self.0.exchange(seen, next, order, Relaxed, "region.unit_evict_two_steps") {
                Ok(_) => return outcome,
                Err(now) => seen = now,
            }
        }
    }

    /// Whether a thread is busy with it at this moment.
    pub fn is_busy(&self) -> bool {
        // Relaxed: who waits for the end of it looks again.
        self.0.load(Relaxed) & PHASE == BUSY
    }

    /// Whether the bytes are there at this moment.
    pub fn is_present(&self) -> bool {
        // Relaxed: known to who holds it, and where there is one thread; a figure for anybody else.
        self.0.load(Relaxed) & PHASE == PRESENT
    }
}

impl Default for Unit {
    fn default() -> Unit {
        Unit::new()
    }
}
