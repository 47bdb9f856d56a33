//! A simulated operating system for tests and models: one more [`Platform`], with an address space of its own.
//!
//! Mappings are real memory inside a reserved range, so what was unmapped faults when it is touched. The simulation
//! keeps books as Linux does (neighbouring mappings that agree are one), enforces limits, records every call, and
//! fails the calls it is told to fail. A contract that the caller breaks is a panic with the reason.
//!
//! Test equipment: it uses std and allocates; nothing of the allocator refers to it, and only tests name it. It is
//! compiled in tests and model builds, and with the feature `simulated`, for the integration tests of the package.
//!
//! What Linux does and this does not: mappings whose pages were touched before they became neighbours stay two there
//! (each has an `anon_vma`), so Linux may count more of them.

mod address_space;
mod barrier;
mod config;
mod parking;
mod record;
mod reserve;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod turns;
mod vanishing;

pub use config::{Barrier, Config, Mapping};
pub use record::{Call, CallKind};

use super::{Access, CallCounts, Errno, Folios, Platform};
use crate::sync::atomic::AtomicU32;
use address_space::{AddressSpace, Kind, Piece};
use barrier::HeavyBarrier;
use parking::Parking;
use record::Record;
use reserve::Reserve;
use std::ffi::CStr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;
use turns::Turns;

/// A simulated operating system. Clones are handles to the same one: a test keeps one to look and to interfere while
/// the allocator owns another. The address space goes with the last handle.
#[derive(Clone)]
pub struct Simulated(Arc<System>);

struct System {
    page_size: usize,
    reserve: Reserve,
    state: Mutex<State>,
    parking: Parking,
    barrier: HeavyBarrier,
    turns: Turns,
}

struct State {
    config: Config,
    space: AddressSpace,
    record: Record,
    now_ms: u64,
    draws: u64,
    barriers: u64,
    /// Ranges for which huge pages were asked for.
    advised: u64,
}

const OUT_OF_MEMORY: Result<usize, Errno> = Err(Errno(libc::ENOMEM));

/// What a freshly mapped range is.
fn fresh(access: Access) -> Kind {
    Kind { access, name: None, huge_pages: false, moved: 0 }
}

impl State {
    /// Replaces what is mapped inside `range` unless there would be too many mappings or bytes then.
    fn paint(&mut self, range: &Range<usize>, pieces: Vec<Piece>) -> Result<(), Errno> {
        let (count, mapped, writable) = (self.space.count(), self.space.mapped(), self.space.writable());
        let before = self.space.paint(range, pieces);
        let exceeds = |now: usize, before: usize, limit: usize| now > before && now > limit;
        if exceeds(self.space.count(), count, self.config.mapping_limit)
            || exceeds(self.space.mapped(), mapped, self.config.address_space_limit)
            || exceeds(self.space.writable(), writable, self.config.commit_limit)
        {
            self.space.paint(range, before);
            return Err(Errno(libc::ENOMEM));
        }
        Ok(())
    }

    /// The parts of a mapped range, each changed by `change`.
    fn changed(&self, range: &Range<usize>, change: impl Fn(&mut Kind)) -> Vec<Piece> {
        let mut pieces = self.space.pieces(range);
        pieces.iter_mut().for_each(|(_, kind)| change(kind));
        pieces
    }
}

impl Simulated {
    /// A system with pages of 4 KiB and no limit but Linux's default number of mappings.
    pub fn new() -> Simulated {
        Simulated::with(Config::default())
    }

    /// A system of the kind described.
    ///
    /// Panics if the machine cannot simulate it.
    pub fn with(config: Config) -> Simulated {
        // SAFETY: sysconf reads a constant of the system.
        let machine = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        assert!(config.page_size.is_power_of_two() && config.page_size >= machine);
        assert!(config.reserve > 0 && config.reserve.is_multiple_of(crate::base::GRANULE));
        let reserve = Reserve::new(config.reserve);
        let space = AddressSpace::new(reserve.usable());
        let state =
            State { config, space, record: Record::default(), now_ms: 1, draws: 0, barriers: 0, advised: 0 };
        Simulated(Arc::new(System {
            page_size: config.page_size,
            reserve,
            state: Mutex::new(state),
            parking: Parking::default(),
            barrier: HeavyBarrier::new(),
            turns: Turns::new(),
        }))
    }

    /// The addresses that there are. Mapping at an address outside them fails with EEXIST: they are somebody else's.
    pub fn range(&self) -> Range<usize> {
        self.0.reserve.usable()
    }

    /// Makes the call with this ordinal fail, with ENOMEM or what is usual for its kind. The first call since the
    /// system was made has ordinal zero.
    pub fn fail_at(&self, ordinal: u64) {
        self.state().record.fail_at = Some(ordinal);
    }

    /// Makes every call from this ordinal on fail.
    pub fn fail_from(&self, ordinal: u64) {
        self.state().record.fail_from = Some(ordinal);
    }

    /// Makes every call of one kind fail with `errno`.
    pub fn fail_kind(&self, kind: CallKind, errno: Errno) {
        self.state().record.fail_kind.push((kind, errno));
    }

    /// Ends all failures that were asked for. Limits stay.
    pub fn heal(&self) {
        let mut state = self.state();
        state.record.fail_at = None;
        state.record.fail_from = None;
        state.record.fail_kind.clear();
    }

    /// Changes limits, the barrier or the seed. The size of a page and of the address space are fixed.
    pub fn reconfigure(&self, change: impl FnOnce(&mut Config)) {
        let mut state = self.state();
        let fixed = (state.config.page_size, state.config.reserve);
        change(&mut state.config);
        assert_eq!(fixed, (state.config.page_size, state.config.reserve));
    }

    /// All calls so far that may fail, in order: the position of a call is its ordinal.
    pub fn record(&self) -> Vec<Call> {
        self.state().record.calls.clone()
    }

    /// Lets the clock go on by `ms` milliseconds, and whoever waits for that time return.
    pub fn advance_ms(&self, ms: u64) {
        self.state().now_ms += ms;
        self.0.parking.look_again();
    }

    /// How often huge pages were asked for.
    pub fn advised(&self) -> u64 {
        self.state().advised
    }

    /// Whether the page at `address` is mapped and is to be part of a huge one.
    pub fn prefers_huge_pages(&self, address: usize) -> bool {
        let page = address..address + self.0.page_size;
        self.state().space.pieces(&page).iter().any(|(_, kind)| kind.huge_pages)
    }

    /// All mappings in order of their addresses.
    pub fn mappings(&self) -> Vec<Mapping> {
        self.state()
            .space
            .iter()
            .map(|(range, kind)| Mapping { range, access: kind.access, name: kind.name })
            .collect()
    }

    /// Bytes mapped, accessible or not.
    pub fn mapped_bytes(&self) -> usize {
        self.state().space.mapped()
    }

    /// Whether nothing is mapped (any more).
    pub fn unmapped_everything(&self) -> bool {
        self.state().space.count() == 0
    }

    /// Held across no operation of a model checker: its threads take turns on one thread of the system.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    fn range_of(&self, addr: usize, len: usize) -> Range<usize> {
        let page = self.0.page_size;
        assert!(addr.is_multiple_of(page), "address {addr:#x} is not the start of a page");
        assert!(len != 0 && len.is_multiple_of(page), "length {len:#x} is not a number of pages");
        addr..addr.checked_add(len).expect("the range has an end")
    }

    /// Makes one call: numbers and records it, and fails it if it is to fail.
    #[track_caller]
    fn call(
        &self,
        kind: CallKind,
        addr: usize,
        len: usize,
        act: impl FnOnce(&mut State, &Reserve) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        self.0.turns.around(|| {
            let mut state = self.state();
            if state.record.vanishes() {
                drop(state);
                vanishing::vanish();
            }
            let result = match state.record.injected(kind) {
                Some(errno) => Err(errno),
                None => act(&mut state, &self.0.reserve),
            };
            state.record.add(Call { kind, addr, len, result });
            result
        })
    }
}

impl Default for Simulated {
    fn default() -> Simulated {
        Simulated::new()
    }
}

// SAFETY: `map` hands out ranges that were free in the books, backed by fresh zero pages of a reserve that nothing
// else in the process uses.
unsafe impl Platform for Simulated {
    fn page_size(&self) -> usize {
        self.0.page_size
    }

    #[track_caller]
    fn map(&self, at: Option<usize>, len: usize, access: Access) -> Result<usize, Errno> {
        self.call(CallKind::Map, at.unwrap_or(0), len, |state, reserve| {
            if len == 0 {
                return Err(Errno(libc::EINVAL));
            }
            let addr = match at {
                Some(addr) if state.space.is_free(&self.range_of(addr, len)) => addr,
                Some(_) => return Err(Errno(libc::EEXIST)),
                None => match state.space.find_free(len) {
                    Some(addr) => addr,
                    None => return OUT_OF_MEMORY,
                },
            };
            let range = self.range_of(addr, len);
            state.paint(&range, vec![(range.clone(), fresh(access))])?;
            reserve.renew(&range, access);
            Ok(addr)
        })
    }

    #[track_caller]
    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), Errno> {
        let range = self.range_of(addr, len);
        let outcome = self.call(CallKind::Unmap, addr, len, |state, reserve| {
            assert!(state.space.is_mapped(&range), "unmapping {range:x?}, which is not mapped");
            state.paint(&range, Vec::new())?;
            reserve.renew(&range, Access::None);
            Ok(addr)
        });
        outcome.map(|_| ())
    }

    #[track_caller]
    unsafe fn empty(&self, addr: usize, len: usize, used: usize) {
        let range = self.range_of(addr, len);
        let _refused = self.call(CallKind::Empty, addr, used, |state, reserve| {
            assert!(state.space.is_mapped(&range), "emptying {range:x?}, which is not mapped");
            reserve.purge(&(addr..addr + used.min(len)));
            Ok(addr)
        });
    }

    #[track_caller]
    unsafe fn protect(&self, addr: usize, len: usize, access: Access) -> Result<(), Errno> {
        let range = self.range_of(addr, len);
        let outcome = self.call(CallKind::Protect, addr, len, |state, reserve| {
            assert!(state.space.is_mapped(&range), "protecting {range:x?}, which is not mapped");
            let pieces = state.changed(&range, |kind| kind.access = access);
            state.paint(&range, pieces)?;
            reserve.protect(&range, access);
            Ok(addr)
        });
        outcome.map(|_| ())
    }

    #[track_caller]
    unsafe fn purge(&self, addr: usize, len: usize) -> Result<(), Errno> {
        let range = self.range_of(addr, len);
        let outcome = self.call(CallKind::Purge, addr, len, |state, reserve| {
            assert!(
                state.space.single(&range).is_some(),
                "purging {range:x?}, which is not inside one mapping"
            );
            reserve.purge(&range);
            Ok(addr)
        });
        outcome.map(|_| ())
    }

    #[track_caller]
    unsafe fn resize(&self, addr: usize, old: usize, new: usize) -> Result<(), Errno> {
        let (from, to) = (self.range_of(addr, old), self.range_of(addr, new));
        let outcome = self.call(CallKind::Resize, addr, new, |state, reserve| {
            let kind = state
                .space
                .single(&from)
                .unwrap_or_else(|| panic!("resizing {from:x?}, which is no mapping"));
            if to.end < from.end {
                let tail = to.end..from.end;
                state.paint(&tail, Vec::new())?;
                reserve.renew(&tail, Access::None);
            } else if to.end > from.end {
                let tail = from.end..to.end;
                if !state.space.is_free(&tail) {
                    return OUT_OF_MEMORY;
                }
                state.paint(&tail, vec![(tail.clone(), kind)])?;
                reserve.renew(&tail, kind.access);
            }
            Ok(addr)
        });
        outcome.map(|_| ())
    }

    #[track_caller]
    unsafe fn move_pages(&self, from: usize, to: usize, len: usize) -> Result<(), Errno> {
        let (source, target) = (self.range_of(from, len), self.range_of(to, len));
        assert!(source.end <= target.start || target.end <= source.start, "moving {source:x?} over itself");
        let outcome = self.call(CallKind::Move, from, len, |state, reserve| {
            assert!(state.space.is_mapped(&target), "moving to {target:x?}, which is not mapped");
            let kind = state.space.single(&source);
            let kind = kind.unwrap_or_else(|| panic!("moving {source:x?}, which is not inside one mapping"));
            assert_eq!(kind.access, Access::ReadWrite, "moving pages that cannot be read");
            let moved = kind.moved.wrapping_add(from.wrapping_sub(to));
            state.paint(&target, vec![(target.clone(), Kind { moved, ..kind })])?;
            reserve.renew(&target, Access::ReadWrite);
            reserve.copy(&source, to);
            reserve.purge(&source);
            Ok(to)
        });
        outcome.map(|_| ())
    }

    #[track_caller]
    fn prefer_huge_pages(&self, addr: usize, len: usize, preferred: bool) -> Result<(), Errno> {
        let range = self.range_of(addr, len);
        self.0.turns.around(|| {
            let mut state = self.state();
            assert!(state.space.is_mapped(&range), "advice for {range:x?}, which is not mapped");
            let pieces = state.changed(&range, |kind| kind.huge_pages = preferred);
            state.paint(&range, pieces)?;
            state.advised += u64::from(preferred);
            Ok(())
        })
    }

    #[track_caller]
    unsafe fn split(&self, addr: usize) {
        let page = self.range_of(addr, self.0.page_size);
        let _refused = self.call(CallKind::Split, addr, page.len(), |state, reserve| {
            assert!(state.space.is_mapped(&page), "splitting {page:x?}, which is not mapped");
            // As the system may, of a page that nobody needs.
            reserve.purge(&page);
            Ok(addr)
        });
    }

    #[track_caller]
    fn are_resident(&self, addr: usize, pages: &mut [u8]) -> Result<(), Errno> {
        let len = pages.len() * self.0.page_size;
        let range = self.range_of(addr, len);
        let outcome = self.call(CallKind::Look, addr, len, |state, reserve| {
            assert!(state.space.is_mapped(&range), "a look at {range:x?}, which is not mapped");
            reserve.are_resident(&range, pages);
            Ok(addr)
        });
        outcome.map(|_| ())
    }

    #[track_caller]
    fn name(&self, addr: usize, len: usize, name: &'static CStr) {
        let range = self.range_of(addr, len);
        self.0.turns.around(|| {
            let mut state = self.state();
            assert!(state.space.is_mapped(&range), "naming {range:x?}, which is not mapped");
            let pieces = state.changed(&range, |kind| kind.name = Some(name));
            // A hint: without it if there are too many mappings.
            let _ = state.paint(&range, pieces);
        });
    }

    #[track_caller]
    fn register_barrier(&self) -> Result<(), Errno> {
        let outcome = self.call(CallKind::RegisterBarrier, 0, 0, |state, _| match state.config.barrier {
            Barrier::Missing => Err(Errno(libc::ENOSYS)),
            Barrier::Works | Barrier::StopsAfter(_) => self.0.barrier.register().map(|()| 0),
        });
        outcome.map(|_| ())
    }

    #[track_caller]
    fn heavy_barrier(&self) -> Result<(), Errno> {
        self.call(CallKind::HeavyBarrier, 0, 0, |state, _| {
            state.barriers += 1;
            match state.config.barrier {
                Barrier::Missing => Err(Errno(libc::ENOSYS)),
                Barrier::StopsAfter(times) if state.barriers > times => Err(Errno(libc::EPERM)),
                Barrier::Works | Barrier::StopsAfter(_) => Ok(0),
            }
        })?;
        // Outside the call: under a checker this is a point at which another thread may be scheduled.
        self.0.barrier.run()
    }

    #[track_caller]
    fn wait(&self, word: &AtomicU32, expected: u32, timeout_ms: Option<u32>) {
        let end = timeout_ms.map(|ms| self.state().now_ms + u64::from(ms));
        let early = || end.is_some_and(|end| self.state().now_ms >= end);
        self.0.turns.around(|| self.0.parking.wait(word, expected, timeout_ms, early));
    }

    #[track_caller]
    fn wake(&self, word: &AtomicU32, count: u32) {
        self.0.turns.around(|| self.0.parking.wake(word, count));
    }

    fn yield_now(&self) {
        #[cfg(not(any(loom, shuttle)))]
        std::thread::yield_now();
        #[cfg(any(loom, shuttle))]
        crate::sync::spin_hint();
    }

    #[track_caller]
    fn now_ms(&self) -> u64 {
        self.0.turns.around(|| self.state().now_ms)
    }

    fn now_ns(&self) -> u64 {
        self.now_ms() * 1_000_000
    }

    fn address_space_limit(&self) -> usize {
        self.state().config.address_space_limit
    }

    fn memory_left(&self) -> usize {
        self.state().config.memory_left
    }

    fn stalled_us(&self) -> usize {
        self.state().config.stalled_us
    }

    fn folios(&self) -> Folios {
        self.state().config.folios
    }

    fn entropy(&self) -> u64 {
        let mut state = self.state();
        state.draws += 1;
        // Multiples of an odd number near 2^64 / phi, rotated: spread, and the same in every run.
        (state.config.seed.wrapping_add(state.draws)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(27)
    }

    fn calls(&self) -> CallCounts {
        self.state().record.counts()
    }
}
