//! What can be set, and the bets' counters.

use crate::base::GRANULE;
use crate::const_unless_model;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The three speculative steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bet {
    /// An address or a slice is looked up without a lock.
    Lookup = 0,
    /// Address space is reserved beyond what was asked.
    Space = 1,
    /// Memory is faulted in ahead.
    Population = 2,
}

/// How often a bet was taken, won and lost.
pub struct BetCount {
    taken: AtomicU64,
    won: AtomicU64,
    lost: AtomicU64,
}

impl BetCount {
    const_unless_model! {
        fn new() -> BetCount {
            BetCount { taken: AtomicU64::new(0), won: AtomicU64::new(0), lost: AtomicU64::new(0) }
        }
    }

    /// Counts a bet taken.
    pub fn taken(&self) {
        // Relaxed: a figure.
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a bet won.
    pub fn won(&self) {
        // Relaxed: a figure.
        self.won.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a bet lost.
    pub fn lost(&self) {
        // Relaxed: a figure.
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Taken, won, lost.
    pub fn counts(&self) -> [u64; 3] {
        // Relaxed: figures.
        [&self.taken, &self.won, &self.lost].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Address space below which space is not reserved ahead, in bytes: 64 GiB.
const PLENTY: usize = 64 << 30;

/// What can be set. Read on slow paths only.
pub struct Settings {
    arena_bytes: AtomicUsize,
    reserve: AtomicBool,
    helper: AtomicBool,
    /// Dirty bytes allowed: this share of the live bytes, in percent, and ...
    dirty_percent: AtomicUsize,
    /// ... so many bytes.
    dirty_bytes: AtomicUsize,
    bets: [BetCount; 3],
}

impl Settings {
    const_unless_model! {
        /// The defaults.
        pub fn new() -> Settings {
            Settings {
                arena_bytes: AtomicUsize::new(GRANULE),
                reserve: AtomicBool::new(true),
                helper: AtomicBool::new(false),
                dirty_percent: AtomicUsize::new(12),
                dirty_bytes: AtomicUsize::new(4 << 20),
                bets: [BetCount::new(), BetCount::new(), BetCount::new()],
            }
        }
    }

    /// Reserves less when the process may not have much address space: `limit` bytes in all.
    pub fn adapt_to_address_space(&self, limit: usize) {
        if limit < PLENTY {
            // Relaxed (both): read by slow paths, in no order with anything.
            self.reserve.store(false, Ordering::Relaxed);
            let share = (limit / 64).max(1 << 20).next_power_of_two();
            self.arena_bytes.store(share.min(GRANULE), Ordering::Relaxed);
        }
    }

    /// Notes that a helper thread purges by age, or no longer does.
    pub fn set_helper(&self, runs: bool) {
        // Relaxed: as above.
        self.helper.store(runs, Ordering::Relaxed);
    }

    /// Whether a helper thread purges by age.
    pub fn has_helper(&self) -> bool {
        // Relaxed: as above.
        self.helper.load(Ordering::Relaxed)
    }

    /// Sets what may be dirty: a share of the live bytes in percent, and bytes; `None` leaves it.
    pub fn set_dirty(&self, percent: Option<usize>, bytes: Option<usize>) {
        // Relaxed (both): as above.
        if let Some(percent) = percent {
            self.dirty_percent.store(percent, Ordering::Relaxed);
        }
        if let Some(bytes) = bytes {
            self.dirty_bytes.store(bytes, Ordering::Relaxed);
        }
    }

    /// What may be dirty: percent of the live bytes, and bytes.
    pub fn dirty(&self) -> (usize, usize) {
        // Relaxed (both): as above.
        (self.dirty_percent.load(Ordering::Relaxed), self.dirty_bytes.load(Ordering::Relaxed))
    }

    /// Sets whether address space is reserved beyond what was asked.
    pub fn set_reserve(&self, on: bool) {
        // Relaxed: as above.
        self.reserve.store(on, Ordering::Relaxed);
    }

    /// Sets the bytes of address space for an arena: a power of two, at most a granule.
    pub fn set_arena_bytes(&self, bytes: usize) {
        // Relaxed: as above.
        self.arena_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that may be dirty while `live` bytes are live. A helper thread purges by age as well, and allows more.
    pub fn dirty_limit(&self, live: usize) -> usize {
        let (percent, bytes) = self.dirty();
        let limit = live / 100 * percent + bytes;
        if self.has_helper() { limit.saturating_mul(4) } else { limit }
    }

    /// Bytes of freed huge blocks that may be kept, whatever is live.
    pub fn kept_limit(&self) -> usize {
        const KEPT: usize = 64 << 20;
        if self.reserves_space() { KEPT } else { KEPT / 16 }
    }

    /// Bytes of address space for an arena.
    pub fn arena_bytes(&self) -> usize {
        // Relaxed: as above.
        self.arena_bytes.load(Ordering::Relaxed)
    }

    /// Whether address space is reserved beyond what was asked.
    pub fn reserves_space(&self) -> bool {
        // Relaxed: as above.
        self.reserve.load(Ordering::Relaxed)
    }

    /// The counters of a bet.
    pub fn bet(&self, bet: Bet) -> &BetCount {
        &self.bets[bet as usize]
    }
}
