//! What can be set.

use crate::base::GRANULE;
use crate::const_unless_model;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// With less address space than this, in bytes, none is reserved ahead: 64 GiB.
const PLENTY: usize = 64 << 30;

/// One setting, stored as its difference from the default, so that an allocator that has not started yet is all zero:
/// as a static it takes no room in the program's file, and none in memory.
struct Setting<const DEFAULT: usize> {
    difference: AtomicUsize,
}

impl<const DEFAULT: usize> Setting<DEFAULT> {
    const_unless_model! {
        fn new() -> Setting<DEFAULT> {
            Setting { difference: AtomicUsize::new(0) }
        }
    }

    fn get(&self) -> usize {
        // Relaxed: read by slow paths, in no order with anything.
        self.difference.load(Ordering::Relaxed) ^ DEFAULT
    }

    fn set(&self, value: usize) {
        // Relaxed: as above.
        self.difference.store(value ^ DEFAULT, Ordering::Relaxed);
    }
}

/// What can be set. Read on slow paths only.
pub struct Settings {
    arena_bytes: Setting<GRANULE>,
    reserve: Setting<1>,
    keep_huge: Setting<1>,
    helper: AtomicBool,
    /// Dirty bytes allowed, as a share of the live bytes, in percent.
    dirty_percent: Setting<12>,
    /// Dirty bytes allowed besides.
    dirty_bytes: Setting<{ 4 << 20 }>,
    /// Bytes of memory that the process may have in all.
    memory: Setting<{ usize::MAX }>,
    /// Bytes for each allocation that is a sample, on average; zero for none.
    sample_rate: Setting<0>,
    /// Bytes beyond which nothing is held, and beyond which the program is told.
    hard_limit: Setting<{ usize::MAX }>,
    soft_limit: Setting<{ usize::MAX }>,
    /// The least of these three.
    least: Setting<{ usize::MAX }>,
}

impl Settings {
    const_unless_model! {
        /// The defaults.
        pub(in crate::heap) fn new() -> Settings {
            Settings {
                arena_bytes: Setting::new(),
                reserve: Setting::new(),
                keep_huge: Setting::new(),
                helper: AtomicBool::new(false),
                dirty_percent: Setting::new(),
                dirty_bytes: Setting::new(),
                memory: Setting::new(),
                sample_rate: Setting::new(),
                hard_limit: Setting::new(),
                soft_limit: Setting::new(),
                least: Setting::new(),
            }
        }
    }

    /// Reserves less when the process may not have much address space: `limit` bytes in all.
    pub fn adapt_to_address_space(&self, limit: usize) {
        self.stop_reserving_below(limit);
        if limit < PLENTY {
            let share = (limit / 16).max(1 << 20).next_power_of_two();
            self.arena_bytes.set(share.min(GRANULE));
        }
    }

    /// Reserves nothing if the process may have `limit` bytes of address space in all and that is not plenty: what is
    /// reserved counts against it.
    pub fn stop_reserving_below(&self, limit: usize) {
        if limit < PLENTY {
            self.reserve.set(0);
        }
    }

    /// Notes that a helper thread purges by age, or no longer does.
    pub fn set_helper(&self, runs: bool) {
        // Relaxed: read by slow paths, in no order with anything.
        self.helper.store(runs, Ordering::Relaxed);
    }

    /// Whether a helper thread purges by age.
    pub fn has_helper(&self) -> bool {
        // Relaxed: as above.
        self.helper.load(Ordering::Relaxed)
    }

    /// Sets what may be dirty: a share of the live bytes in percent, and bytes; `None` leaves it.
    pub fn set_dirty(&self, percent: Option<usize>, bytes: Option<usize>) {
        if let Some(percent) = percent {
            self.dirty_percent.set(percent);
        }
        if let Some(bytes) = bytes {
            self.dirty_bytes.set(bytes);
        }
    }

    /// What may be dirty: percent of the live bytes, and bytes.
    pub fn dirty(&self) -> (usize, usize) {
        (self.dirty_percent.get(), self.dirty_bytes.get())
    }

    /// Sets whether address space is reserved beyond what was asked.
    pub fn set_reserve(&self, on: bool) {
        self.reserve.set(usize::from(on));
    }

    /// Sets whether regions of freed huge blocks are kept for the next ones.
    pub fn set_keep_huge(&self, on: bool) {
        self.keep_huge.set(usize::from(on));
    }

    /// Whether regions of freed huge blocks are kept for the next ones.
    pub fn keeps_huge(&self) -> bool {
        self.keep_huge.get() != 0
    }

    /// Sets the bytes of address space for an arena: a power of two, at most a granule.
    pub fn set_arena_bytes(&self, bytes: usize) {
        self.arena_bytes.set(bytes);
    }

    /// Bytes that may be dirty while `live` bytes are live; small enough to be added up.
    pub fn dirty_limit(&self, live: usize) -> usize {
        let (percent, bytes) = self.dirty();
        (live / 100).saturating_mul(percent).saturating_add(bytes).min(usize::MAX >> 16)
    }

    /// Notes that the process may have `bytes` of memory in all.
    pub fn set_memory(&self, bytes: usize) {
        self.memory.set(bytes);
        self.note_least();
    }

    fn note_least(&self) {
        self.least.set(self.memory.get().min(self.hard_limit.get()).min(self.soft_limit.get()));
    }

    /// Bytes that the process may still have while `live` bytes are live.
    pub fn memory_left(&self, live: usize) -> usize {
        self.least.get().saturating_sub(live)
    }

    /// Sets the limits, in bytes; `usize::MAX` is none, and `None` leaves one as it is.
    pub fn set_limits(&self, hard: Option<usize>, soft: Option<usize>) {
        if let Some(hard) = hard {
            self.hard_limit.set(hard);
        }
        if let Some(soft) = soft {
            self.soft_limit.set(soft);
        }
        self.note_least();
    }

    /// Bytes beyond which nothing is held.
    pub fn hard_limit(&self) -> usize {
        self.hard_limit.get()
    }

    /// Bytes beyond which the program is told.
    pub fn soft_limit(&self) -> usize {
        self.soft_limit.get()
    }

    /// Whether there is a limit of either kind.
    #[inline]
    pub fn has_limit(&self) -> bool {
        self.hard_limit.get() & self.soft_limit.get() != usize::MAX
    }

    /// Sets for how many bytes on average an allocation is a sample; zero for none.
    pub fn set_sample_rate(&self, bytes: usize) {
        self.sample_rate.set(bytes);
    }

    /// For how many bytes on average an allocation is a sample; zero for none.
    #[inline(always)]
    pub fn sample_rate(&self) -> usize {
        self.sample_rate.get()
    }

    /// Bytes of address space for an arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes.get()
    }

    /// Whether address space is reserved beyond what was asked.
    pub fn reserves_space(&self) -> bool {
        self.reserve.get() != 0
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_dirty_is_a_share_and_an_amount_however_large() {
        let settings = Settings::new();
        assert_eq!(settings.dirty_limit(1000), 120 + (4 << 20));
        settings.set_dirty(Some(50), Some(7));
        assert_eq!(settings.dirty_limit(1000), 507);
        settings.set_dirty(Some(1000), Some(usize::MAX));
        let limit = settings.dirty_limit(usize::MAX);
        assert!(limit > 1 << 40 && limit << 10 >> 10 == limit);
    }

    #[test]
    fn what_is_left_is_left_by_the_least_of_all_limits() {
        let settings = Settings::new();
        settings.set_memory(1000);
        assert_eq!(settings.memory_left(300), 700);
        settings.set_limits(Some(900), None);
        assert_eq!(settings.memory_left(300), 600);
        settings.set_limits(None, Some(800));
        assert_eq!(settings.memory_left(300), 500);
        settings.set_limits(Some(usize::MAX), Some(usize::MAX));
        settings.set_memory(700);
        assert_eq!([300, 800].map(|live| settings.memory_left(live)), [400, 0]);
    }

    #[test]
    fn switches_are_as_the_options_say() {
        let settings = Settings::new();
        for on in [false, true] {
            settings.set_reserve(on);
            settings.set_keep_huge(!on);
            assert_eq!((settings.reserves_space(), settings.keeps_huge()), (on, !on));
        }
    }
}
