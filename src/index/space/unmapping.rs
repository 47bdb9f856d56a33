//! How a region goes: retired, and unmapped when its grace period is over and its pins have drained.

use super::Space;
use crate::index::pages::PageNode;
use crate::pal::{Errno, Platform, twin};
use crate::rcu::{GraceError, Rcu, ReaderSlot, RetireLink, Section};
use crate::region::{Exclusion, Kind, Region, Retired, RetiredAs};
use crate::sync::atomic::AtomicU32;
use crate::sync::{if_first, seeded};

/// Why an unmap did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmapError {
    /// The caller is inside a reader section of its own and would wait for itself. Nothing was changed.
    InsideSection,
    /// Another thread unmaps the region, or it is gone. Nothing was changed.
    NotThere,
    /// There is no barrier any more: the region is not there for anybody, but its memory stays until one works.
    NoBarrier,
    /// The system refused: the region is not there for anybody, and `reap` tries again.
    Kept(Errno),
}

/// Bytes that may be resident in regions that wait for others to share a grace period with.
const WAITING_MOST: usize = 32 << 20;
/// Bytes in a region whose pages are given back before it is unmapped. The process's map is locked for as long as an unmap
/// takes, and whoever else maps or unmaps waits: for all pages of 128 MiB 6 ms, and two threads that do so by turns fall
/// into step and wait for each other. An madvise before it locks the map for reading, and since Linux 6.17 not at all where
/// its range lies in one mapping.
const EMPTIED: usize = 1 << 20;
/// Looks at what is on its way, for who needs it: those after which another thread runs, and those after a millisecond each.
const SHORT_LOOKS: usize = if cfg!(any(loom, shuttle)) { 1 } else { 32 };
const MOST_LOOKS: usize = SHORT_LOOKS + if cfg!(any(loom, shuttle)) { 0 } else { 100 };

impl<P: Platform> Space<P> {
    /// Takes a region out of use: excludes it and unlinks it, and leaves the rest to [`Space::reap`]. Never waits.
    /// `false` if another thread has excluded it.
    ///
    /// The caller owns the region or is in a section in which it found it, and no block in it is live. Of an arena:
    /// it is frozen by [`Space::freeze_arena`], and the caller in that section still.
    pub fn retire_region(&self, region: &'static Region) -> bool {
        let won = self.take_out(region);
        if won {
            self.retire(region);
        }
        won
    }

    /// Excludes a region and unlinks it. `false` if another thread has excluded it, whichever way it is taken out: so
    /// only one touches the index, the figures and what comes after.
    fn take_out(&self, region: &'static Region) -> bool {
        let exclude = || region.exclude() != Exclusion::Lost;
        if_first(exclude, || self.unlink(region), "index.unlink_first")
    }

    /// Takes an arena out of use to which nothing leads but the index, if no slice of it is claimed. The caller is in a
    /// section in which it found the arena: otherwise the arena's life could have ended.
    pub fn retire_arena(&self, region: &'static Region, section: &Section<'_>) -> bool {
        self.freeze_arena(region, section) && self.retire_region(region)
    }

    /// Closes an arena if no slice of it is claimed: what leads to it beside the index can be cleared then, and the
    /// region retired. The caller is in a section, as for [`Space::retire_arena`].
    pub fn freeze_arena(&self, region: &'static Region, _section: &Section<'_>) -> bool {
        debug_assert!(region.kind() == Kind::Arena);
        // Cheap to ask, and spares those who claim at this moment a map that is closed for a while.
        region.slices().is_empty() && (region.slices().freeze() || seeded("index.no_freeze"))
    }

    /// After exclusion, before the grace period.
    pub(in crate::index) fn unlink(&self, region: &'static Region) {
        debug_assert!(region.is_valid());
        self.count_retired(region);
        if !seeded("index.unlink_late") {
            self.index.remove(&self.rcu, region);
        }
    }

    pub(in crate::index) fn retire(&self, region: &'static Region) {
        if !seeded("index.no_grace") {
            // SAFETY: unlinked, and this thread alone won the exclusion, so it is retired once. `done` below frees it.
            unsafe { self.rcu.retire(region.retire_link()) };
        } else {
            self.parked.give(region);
        }
    }

    /// Does what is due: moves retired regions on, unmaps those past their grace period that nobody pins, and tries
    /// again where the system refused. Returns how many regions were unmapped. Never waits; `own` is the caller's slot.
    pub fn reap(&self, own: Option<&ReaderSlot>) -> usize {
        if self.waiting.get() != 0 {
            self.waiting.set(0);
        }
        self.rcu.reclaim(&self.os, own, |link| self.grace_over(link));
        if self.parked.is_empty() && self.unready.is_empty() {
            0
        } else {
            self.reap_parked(Some(Rcu::identity(own)))
        }
    }

    /// As [`Space::reap`], and waits until nothing is on its way any more that another thread has in hand, or that waits for
    /// one in the middle of a section: for who would be told that there is no memory. A thread may be preempted there, so
    /// for a tenth of a second at most. The caller is in no section.
    #[cold]
    pub fn reap_all(&self, own: Option<&ReaderSlot>) {
        for look in 0..MOST_LOOKS {
            self.reap(own);
            let waits = self.rcu.statistics();
            // Whatever is parked now is pinned, or the system refuses to take it.
            let is_in_hand = self.parked.is_empty() && self.unready.is_empty();
            if self.retired.get() == 0 || !(is_in_hand || waits.pending > 0 && !waits.stopped) {
                return;
            }
            if look < SHORT_LOOKS {
                self.os.yield_now();
            } else {
                self.os.wait(&AtomicU32::new(0), 0, Some(1));
            }
        }
    }

    /// As [`Space::reap`], if so much waits that it is worth a grace period. For a caller who retires one region after
    /// the other while thousands of threads sleep: each of them would be looked at for each region. `bytes` of the last
    /// one may be resident; when [`WAITING_MOST`] wait, they wait no longer. Fewer wait for the helper's next tick.
    pub fn reap_in_time(&self, own: Option<&ReaderSlot>, bytes: usize) -> usize {
        self.waiting.add(bytes);
        if self.waiting.get() < WAITING_MOST && !self.rcu.has_batch() { 0 } else { self.reap(own) }
    }

    /// Whether [`Space::reap`] may have something to do before long: regions wait for a grace period, for pins, or for
    /// the system to let them go.
    pub fn has_retired(&self) -> bool {
        let rcu = self.rcu.statistics();
        !rcu.stopped && (rcu.pending > 0 || !self.parked.is_empty() || !self.unready.is_empty())
    }

    /// Unmaps what is parked and drained; returns how many regions. One at a time is in this thread's hands, so that no
    /// more are lost should it vanish in a fork; those that are not ready wait in `unready` meanwhile. Bounded, for
    /// another thread may be at it, too.
    pub(super) fn reap_parked(&self, holder: Option<usize>) -> usize {
        let most = self.counts().retired;
        let mut unmapped = 0;
        for region in (0..most).map_while(|_| self.parked.take()) {
            let drained = region.state().is_drained() || seeded("index.undrained");
            if drained && self.finish(region, holder).is_ok() {
                unmapped += 1;
            } else {
                self.unready.give(region);
            }
        }
        for region in (0..most).map_while(|_| self.unready.take()) {
            self.parked.give(region);
        }
        unmapped
    }

    /// A retired thing has come out of its grace period.
    fn grace_over(&self, link: &RetireLink) {
        // SAFETY: everything retired through this `Rcu` is a region or a page node, and both expose themselves.
        match unsafe { Retired::recover(link) } {
            // SAFETY: the link says that a region begins at the address; descriptors are immortal.
            (RetiredAs::Region, at) => self.parked.give(unsafe { &*core::ptr::with_exposed_provenance(at) }),
            // SAFETY: the link says that a page node begins at the address; their memory is immortal.
            (RetiredAs::PageNode, at) => self.index.recycle(unsafe { PageNode::at(at) }),
        }
    }

    /// Unmaps a drained region past its grace period and recycles its descriptor. `holder` is the caller, if it is known.
    fn finish(&self, region: &'static Region, holder: Option<usize>) -> Result<(), Errno> {
        let (base, mapped, held) = (region.base(), region.left(), region.held());
        let _locked = twin::growing();
        let resident = region.may_be_resident().min(mapped);
        if resident >= EMPTIED {
            // First its pages. From where they are gone a thread that vanishes in a fork takes address space with it alone.
            let _held = holder.map(|holder| self.hands.hold(holder, region, 0..0));
            // SAFETY: the law of the space: excluded, unlinked, a grace period, drained. Nobody uses the memory.
            unsafe { self.os.empty(base, mapped, resident) };
        }
        // SAFETY: as above.
        if let Err(error) = unsafe { self.os.unmap(base, mapped) } {
            self.failed_unmaps.add(1);
            return Err(error);
        }
        self.count_unmapped(region);
        if seeded("index.unlink_late") {
            self.index.remove(&self.rcu, region);
        }
        region.detach();
        self.descriptors.recycle(region);
        self.placement.give_back(&self.os, &self.metadata, base, held);
        Ok(())
    }

    /// Unmaps a region, waiting for the sections and pins of others. The caller holds no pin on it: it would wait for
    /// itself. Otherwise as [`Space::retire_region`].
    ///
    /// # Errors
    /// See [`UnmapError`].
    pub fn unmap_now(&self, region: &'static Region, own: Option<&ReaderSlot>) -> Result<(), UnmapError> {
        if own.is_some_and(ReaderSlot::is_inside) {
            return Err(UnmapError::InsideSection);
        }
        if !self.take_out(region) {
            return Err(UnmapError::NotThere);
        }
        let grace = if !seeded("index.no_grace") { self.rcu.synchronize(&self.os, own) } else { Ok(()) };
        if let Err(error) = grace {
            self.retire(region);
            return Err(match error {
                GraceError::InsideSection => UnmapError::InsideSection,
                GraceError::NoBarrier => UnmapError::NoBarrier,
            });
        }
        if !seeded("index.undrained") {
            region.state().wait_drained(&self.os);
        }
        self.finish(region, Some(Rcu::identity(own))).map_err(|error| {
            self.parked.give(region);
            UnmapError::Kept(error)
        })
    }
}
