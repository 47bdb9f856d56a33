//! What everything in this layer stands on: address space, settings, the bell, and what is known of how much is used
//! and how much is free. Has no arenas, no blocks and no heaps.

mod bell;
mod bets;
mod claimant;
mod clearing;
mod colour;
mod folios;
mod limit;
mod population;
mod refusals;
mod regret;
mod retention;
mod scarcity;
mod settings;
mod spare;
mod tally;
mod touches;

pub use bell::Bell;
pub use bets::{Bet, BetCount, Bets};
pub use claimant::Claimant;
pub use clearing::{clear, is_sparse};
pub use limit::Limit;
pub use population::{HUGE_PAGE, Population, Sampled, UNSEEN};
pub use refusals::Refusals;
pub use retention::Retention;
pub use scarcity::{Outside, Scarcity};
pub use settings::Settings;
pub use spare::{Kept, MOST_SPARE, MOST_SPARE_OF_SLABS};
pub use tally::{Count, Tally};
pub use touches::is_filled;

use crate::base::{GRANULE, SLICE};
use crate::const_unless_model;
use crate::index::{Found, Space};
use crate::pal::{Call, Errno, Misuse, Platform, broken_contract, twin};
use crate::region::Region;
use crate::sync::Counter;

/// The figures of the huge blocks.
pub struct HugeFigures {
    live_blocks: Counter,
    live_bytes: Counter,
    kept_bytes: Counter,
}

impl HugeFigures {
    /// Live huge blocks.
    pub fn live_blocks(&self) -> &Counter {
        &self.live_blocks
    }

    /// Their bytes.
    pub fn live_bytes(&self) -> &Counter {
        &self.live_bytes
    }

    /// Bytes in kept regions that may be resident.
    pub fn kept_bytes(&self) -> &Counter {
        &self.kept_bytes
    }
}

/// See the head of this file.
#[repr(C)] // As `Allocator`.
pub struct Ground<P: Platform> {
    settings: Settings,
    retention: Retention,
    refusals: Refusals,
    limit: Limit,
    scarcity: Scarcity,
    bell: Bell,
    huge: HugeFigures,
    lent: Counter,
    hollow: Counter,
    space_bet: BetCount,
    population: Population,
    space: Space<P>,
    tally: Tally,
}

impl<P: Platform> Ground<P> {
    const_unless_model! {
        /// Nothing is mapped yet.
        pub(in crate::heap) fn new(os: P) -> Ground<P> {
            Ground {
                space: Space::new(os),
                settings: Settings::new(),
                bell: Bell::new(),
                tally: Tally::new(),
                huge: HugeFigures {
                    live_blocks: Counter::new(),
                    live_bytes: Counter::new(),
                    kept_bytes: Counter::new(),
                },
                lent: Counter::new(),
                hollow: Counter::new(),
                space_bet: BetCount::new(),
                population: Population::new(),
                retention: Retention::new(),
                refusals: Refusals::new(),
                limit: Limit::new(),
                scarcity: Scarcity::new(),
            }
        }
    }

    /// Address space, index, regions.
    pub fn space(&self) -> &Space<P> {
        &self.space
    }

    /// The system below.
    pub fn os(&self) -> &P {
        self.space.os()
    }

    /// Bytes in a page.
    pub fn page_size(&self) -> usize {
        self.os().page_size()
    }

    /// What can be set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where the helper sleeps.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Tells the helper that memory has become idle.
    pub fn ring(&self) {
        self.bell.ring(self.os());
    }

    /// What is counted of the arenas.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What is counted of the huge blocks.
    pub fn huge_figures(&self) -> &HugeFigures {
        &self.huge
    }

    /// Counts bytes given back by purging.
    pub(in crate::heap) fn count_purged(&self, bytes: usize) {
        self.space.count_purged(bytes);
        self.population.note_purge(bytes, || self.live_bytes());
    }

    /// Gives back `len` bytes at `at`, a part of `arena`: see [`Population::end`].
    ///
    /// # Safety
    /// The caller holds them, in slices of the arena, and nobody needs their contents.
    pub(in crate::heap) unsafe fn purge_part(
        &self,
        arena: &Region,
        at: usize,
        len: usize,
    ) -> Result<(), Errno> {
        self.population.end(self.os(), arena);
        // SAFETY: the caller's promise; an arena is one mapping.
        unsafe { self.purge_pages(at, len) }
    }

    /// Gives back `len` bytes at `at`: at once, also where they are a part of what came at one fault.
    ///
    /// # Safety
    /// The caller holds them, whole pages of one mapping, and nobody needs their contents.
    pub unsafe fn purge_pages(&self, at: usize, len: usize) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        unsafe {
            self.population.split(self.os(), at, len);
            self.os().purge(at, len)
        }
    }

    /// Gives the page at `at` back, if the system takes it.
    ///
    /// # Safety
    /// The caller holds it, and nobody needs its contents.
    pub(in crate::heap) unsafe fn purge_page(&self, at: usize) {
        // SAFETY: the caller's promise.
        if unsafe { self.os().purge(at, self.page_size()) }.is_ok() {
            self.count_purged(self.page_size());
        }
    }

    /// Bytes given back by purging so far.
    pub fn purged_bytes(&self) -> u64 {
        self.space.purged_bytes() as u64
    }

    /// How the bets on address space behind huge blocks have gone.
    pub fn space_bet(&self) -> &BetCount {
        &self.space_bet
    }

    /// The bet that what is mapped will be touched as a whole.
    pub fn population(&self) -> &Population {
        &self.population
    }

    /// What may stay resident though free.
    pub fn retention(&self) -> &Retention {
        &self.retention
    }

    /// What the system does not take back.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// What is promised under a limit, and whether the program is to be told.
    pub fn limit(&self) -> &Limit {
        &self.limit
    }

    /// Whether memory is scarce outside of this process.
    pub(in crate::heap) fn scarcity(&self) -> &Scarcity {
        &self.scarcity
    }

    /// Asks the system for what it says of memory; opens files.
    pub fn look_outside(&self) -> Outside {
        let left = if self.scarcity.is_thorough() { Some(self.os().memory_left()) } else { None };
        Outside { stalled_us: self.os().stalled_us(), left }
    }

    /// Bytes that count against a limit: what is resident, or may be, of slices and huge blocks. See [`Limit`].
    #[inline(never)]
    pub fn held_bytes(&self) -> usize {
        let [claimed, dirty, unheld] = self.tally.sums([Count::Claimed, Count::Dirty, Count::Unheld]);
        ((claimed + dirty) * SLICE).saturating_sub(unheld)
            + self.huge.live_bytes.get()
            + self.huge.kept_bytes.get()
    }

    /// Slices that slabs and large blocks hold.
    pub fn claimed_slices(&self) -> usize {
        self.tally.sum(Count::Claimed)
    }

    /// Free slices whose pages may be resident.
    pub fn dirty_slices(&self) -> usize {
        self.tally.sum(Count::Dirty)
    }

    /// Bytes that slabs and blocks hold, but for what of the slabs was given back.
    pub(in crate::heap) fn live_bytes(&self) -> usize {
        self.resident_of(self.claimed_slices()) + self.huge.live_bytes.get()
    }

    /// Bytes of so many `claimed` slices that are in use: all but what was given back inside of free blocks.
    fn resident_of(&self, claimed: usize) -> usize {
        (claimed * SLICE).saturating_sub(self.hollow.get() * self.page_size())
    }

    /// Pages inside free blocks of slabs that were given back.
    pub(in crate::heap) fn hollow(&self) -> &Counter {
        &self.hollow
    }

    /// Bytes that are free and may be resident.
    #[inline(never)]
    pub(in crate::heap) fn dirty_bytes(&self) -> usize {
        self.dirty_slices() * SLICE + self.huge.kept_bytes.get()
    }

    /// How much of what is free and resident may not stay, once `more` bytes have become free and resident.
    pub(in crate::heap) fn excess(&self, more: usize) -> usize {
        let now = || self.os().now_ms();
        let [claimed, dirty, soiled] = self.tally.sums([Count::Claimed, Count::Dirty, Count::Soiled]);
        let live = self.resident_of(claimed) + self.huge.live_bytes.get();
        let dirty = dirty * SLICE + self.huge.kept_bytes.get() + more;
        let soiled = soiled + self.population.ahead_of_claims() + self.lent.get() * SLICE;
        self.retention.excess(&self.settings, live, dirty, soiled, now)
    }

    /// Slices that heaps may keep, all of them together, beyond what each may: half of what may be dirty; and none while
    /// what is purged is faulted in again.
    pub(in crate::heap) fn may_lend(&self) -> usize {
        if self.settings.has_limit() || !self.retention.regret().is_calm() {
            return 0;
        }
        // What is lent is no reason to lend more.
        let live = self.live_bytes().saturating_sub(self.lent.get() * SLICE);
        self.settings.dirty_limit(live).min(self.settings.memory_left(live) / 2) / 2 / SLICE
    }

    /// Slices that heaps may keep beyond what each may: as good as dirty.
    pub(in crate::heap) fn lent(&self) -> &Counter {
        &self.lent
    }

    /// Whether use has grown steadily since the last arena was mapped, and somebody may want to know. Another is about to
    /// be.
    pub(in crate::heap) fn grows_steadily(&self) -> bool {
        self.population.is_allowed()
            && self.population.is_steady(self.live_bytes(), self.purged_bytes() as usize)
    }

    /// Whether what is dirty in an arena that has just become empty may stay, and is likely to be wanted again: where use
    /// has been higher more than once, or the options let as much be dirty as an arena.
    fn is_wanted_again(&self, arena: &Region) -> bool {
        let live = self.live_bytes();
        self.excess(0) == 0
            && (self.settings.dirty_limit(live) >= arena.len()
                || self.retention.expects_rise(&self.settings, live, self.os().now_ms()))
    }

    /// Whether an arena that has just become empty stays mapped: the helper thread unmaps it when it has been empty for
    /// a while; without one, it goes at once if the other arenas have a quarter of its room free, so that a program at
    /// the edge does not map and unmap with every slab, and if its pages are not likely to be wanted again. (The purge
    /// that takes the last of these comes here, too.)
    pub(in crate::heap) fn keeps_empty_arena(&self, arena: &Region) -> bool {
        let here = arena.slices().usable().len();
        let free = self.tally.sum(Count::Usable).saturating_sub(self.claimed_slices());
        self.settings.has_helper()
            || free.saturating_sub(here) < arena.len() / SLICE / 4
            || arena.slices().dirty_count() > 0 && self.is_wanted_again(arena)
    }

    /// Bytes of address space for a new arena.
    pub(in crate::heap) fn arena_bytes(&self) -> usize {
        self.settings.arena_bytes().min(GRANULE)
    }

    /// The arena that `address` lies in, which the caller holds a part of.
    pub(in crate::heap) fn arena_of(&self, address: usize) -> &'static Region {
        let _locked = twin::reading();
        match self.space.index().lookup_coarse(address) {
            Found::Region(region) => region,
            // The caller holds a part of the arena: only a corrupted record can lead here.
            Found::Nothing | Found::Unsure => broken_contract(Misuse::Interior, Call::Free, address),
        }
    }
}
