//! Huge blocks: one region each, with address space in reserve behind them.
//!
//! The space bet: a block that grew once will grow again, and address space costs nothing until it is touched. So the
//! region is longer than what was asked; growth inside it is one store. Beyond it the pages move to a longer region
//! (mremap): old and new are never resident at once.
//!
//! A freed block's region is kept for a while, bounded in number and bytes: an unmap costs a grace period and fresh
//! page faults, so it is for memory that is not coming back. A kept region stays in the index with `used`
//! zero, which is how a second free of it is recognised.

use super::Allocator;
use super::local::Heap;
use crate::base::{SLICE, align_down, align_up, is_aligned};
use crate::index::Move;
use crate::pal::{Call, Errno, Misuse, Platform, broken_contract};
use crate::region::{Kind, Region};
use crate::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{acquire, release, seeded};
use crate::{atomic_array, const_unless_model};
use core::ptr;

/// Regions kept at most, and those of them that may be kept without pages, for their address space.
const KEPT: usize = if cfg!(any(loom, shuttle)) { 2 } else { 512 };
const KEPT_BARE: usize = if cfg!(any(loom, shuttle)) { 2 } else { 16 };
/// Places that a block that grows is moved to before it stays where it is.
const TRIES: usize = 2;
/// Bytes of a block used before that are cleared by writing at most.
const MOST_WRITTEN: usize = 64 << 20;
/// Largest reserve behind a block.
const MOST_RESERVE: usize = 1 << 30;

/// The note of a huge block's region that says how many bytes the program uses; zero while the region is kept.
const USED: usize = 0;
/// The note that says how many bytes from the start may be resident.
const DIRTY: usize = 1;

fn set(region: &Region, note: usize, bytes: usize) {
    // Relaxed: only who holds the block writes or needs it; handing the block over orders.
    region.note(note).store(bytes, Ordering::Relaxed);
}

/// Bytes that the program uses of a huge block's region; zero while the region is kept.
pub fn used_of(region: &Region) -> usize {
    // Relaxed: as above.
    region.note(USED).load(Ordering::Relaxed)
}

pub(super) fn dirty_of(region: &Region) -> usize {
    // Relaxed: as above.
    region.note(DIRTY).load(Ordering::Relaxed)
}

/// Gives the pages of `start..end` back, byte offsets in a region that the caller holds. Nobody uses their contents.
fn purge<P: Platform>(from: &Allocator<P>, region: &Region, start: usize, end: usize) -> Result<(), Errno> {
    if start < end {
        // SAFETY: the caller's; a region is one mapping.
        unsafe { from.space().os().purge(region.base() + start, end - start) }?;
        // Relaxed: a figure.
        from.huge().purged.fetch_add((end - start) as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn base_of(region: &Region) -> *mut u8 {
    ptr::with_exposed_provenance_mut(region.base())
}

/// Freed huge regions that wait to be used again, and the figures of the huge blocks.
#[repr(C)] // As `Allocator`.
pub struct Huge {
    /// Bytes in kept regions that may be resident.
    kept_bytes: AtomicUsize,
    live_bytes: AtomicUsize,
    live_blocks: AtomicUsize,
    purged: AtomicU64,
    kept: [AtomicPtr<Region>; KEPT],
}

impl Huge {
    const_unless_model! {
        /// No huge blocks.
        pub(super) fn new() -> Huge {
            Huge {
                kept: atomic_array!(AtomicPtr::new(ptr::null_mut()); KEPT),
                kept_bytes: AtomicUsize::new(0),
                live_bytes: AtomicUsize::new(0),
                live_blocks: AtomicUsize::new(0),
                purged: AtomicU64::new(0),
            }
        }
    }

    /// A block of `size` bytes at a multiple of `align`, all zero if `zero`; null when there is no memory.
    pub fn allocate<P: Platform>(
        &self,
        from: &Allocator<P>,
        heap: &Heap,
        size: usize,
        align: usize,
        zero: bool,
    ) -> *mut u8 {
        let Some(used) = align_up(size.max(1), from.page_size()) else { return ptr::null_mut() };
        let region = match self.take_kept(from, used, align) {
            Some(region) => {
                if zero {
                    self.clear(from, region, used);
                }
                region
            }
            None => match Huge::map(from, used, align) {
                Some(region) => region,
                None => return ptr::null_mut(),
            },
        };
        self.hand_out(region, used);
        // What is live has grown beside what is free and resident.
        from.bound_dirty(heap);
        base_of(region)
    }

    fn map<P: Platform>(from: &Allocator<P>, used: usize, align: usize) -> Option<&'static Region> {
        let reserve = if from.settings().reserves_space() { used.min(MOST_RESERVE) } else { 0 };
        let region = from.space().map_region(Kind::Huge, used, align, reserve).ok();
        if region.is_none() && used <= MOST_RESERVE {
            // Address space has become short since the start: by a limit that the program sets itself.
            from.settings().set_reserve(false);
        }
        region
    }

    fn hand_out(&self, region: &Region, used: usize) {
        set(region, USED, used);
        set(region, DIRTY, dirty_of(region).max(used));
        if seeded("heap.huge_count_two_steps") {
            // Relaxed: a seeded bug.
            self.live_bytes.store(self.live_bytes() + used, Ordering::Relaxed);
            self.live_blocks.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Relaxed (both): figures.
        self.live_bytes.fetch_add(used, Ordering::Relaxed);
        self.live_blocks.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes the first `used` bytes zero. Writing costs a tenth of faulting again, at any size; but what was never touched would
    /// be resident then, and so it is bounded.
    fn clear<P: Platform>(&self, from: &Allocator<P>, region: &Region, used: usize) {
        let dirty = dirty_of(region).min(used);
        if dirty <= MOST_WRITTEN || purge(from, region, 0, dirty).is_err() {
            // SAFETY: the region is the caller's, read-write.
            unsafe { base_of(region).write_bytes(0, dirty) };
        }
    }

    /// Frees the block of `region`, which the caller holds.
    pub fn free<P: Platform>(&self, from: &Allocator<P>, heap: &Heap, region: &'static Region) {
        if !self.take_in(region) {
            broken_contract(Misuse::DoubleFree, Call::Free, region.base());
        }
        if seeded("heap.ring_before_keep") {
            from.stir();
        }
        let waiting = if self.keep(from, region) { 0 } else { self.retire(from, region) };
        if !seeded("heap.ring_before_keep") {
            from.stir();
        }
        from.space().reap_in_time(Some(heap.slot()), waiting);
    }

    /// Has `region`, whose block is freed, unmapped after a grace period. Where that is one for many regions, or will not come
    /// because the barrier fails by now, its pages are not to wait, and go at once. Answers how many bytes may be resident
    /// meanwhile.
    fn retire<P: Platform>(&self, from: &Allocator<P>, region: &'static Region) -> usize {
        let dirty = dirty_of(region);
        let waits = from.space().rcu().batch() > 1 || from.space().rcu().statistics().stopped;
        let is_bare = waits && purge(from, region, 0, dirty).is_ok();
        let _retired = from.space().retire_region(region);
        if is_bare { 0 } else { dirty }
    }

    /// The opposite of `hand_out`; `false` if another thread has just freed the block.
    #[must_use]
    fn take_in(&self, region: &Region) -> bool {
        // Relaxed: as in `set`; of two threads that free the same block one finds it free.
        let used = region.note(USED).swap(0, Ordering::Relaxed);
        if used == 0 {
            return false;
        }
        // Relaxed (both): figures.
        self.live_bytes.fetch_sub(used, Ordering::Relaxed);
        self.live_blocks.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Keeps a freed region, with as many of its pages as may stay; `false` if it has to be unmapped.
    pub(super) fn keep<P: Platform>(&self, from: &Allocator<P>, region: &'static Region) -> bool {
        let dirty = dirty_of(region);
        if !from.settings().reserves_space() && region.len() > dirty + dirty / 8 + SLICE {
            // Where address space is short, what lies behind the block is not for keeping.
            return false;
        }
        let stays = align_down(dirty.saturating_sub(from.excess(dirty)), from.page_size());
        // Without its pages the address space stays for a while: that saves the grace period of an unmap, and a second free of
        // the block is still recognised.
        self.cut(from, region, stays).is_ok() && self.put(region)
    }

    /// Gives back the pages of a region that the caller holds but for the first `stays` bytes.
    fn cut<P: Platform>(&self, from: &Allocator<P>, region: &Region, stays: usize) -> Result<(), Errno> {
        if stays < dirty_of(region) {
            purge(from, region, stays, dirty_of(region))?;
            set(region, DIRTY, stays);
        }
        Ok(())
    }

    /// Puts a region that the caller holds among the kept ones; `false` if there is no place.
    fn put(&self, region: &'static Region) -> bool {
        let bytes = dirty_of(region);
        let new = ptr::from_ref(region).cast_mut();
        for place in &self.kept[..if bytes == 0 { KEPT_BARE } else { KEPT }] {
            // Relaxed: a hint that saves the rest.
            if !place.load(Ordering::Relaxed).is_null() {
                continue;
            }
            let late = seeded("heap.count_kept_late");
            // Relaxed: a figure, added before the region can be taken.
            self.kept_bytes.fetch_add(if late { 0 } else { bytes }, Ordering::Relaxed);
            // Release: pairs with the Acquire in `take`: who takes the region sees the last owner's accesses done.
            if place
                .compare_exchange(ptr::null_mut(), new, release("heap.huge_keep"), Ordering::Relaxed)
                .is_ok()
            {
                self.kept_bytes.fetch_add(if late { bytes } else { 0 }, Ordering::Relaxed);
                return true;
            }
            // Relaxed: as above.
            self.kept_bytes.fetch_sub(if late { 0 } else { bytes }, Ordering::Relaxed);
        }
        false
    }

    /// The regions that wait to be used again.
    pub(super) fn each_kept(&self) -> impl Iterator<Item = &'static Region> {
        // SAFETY: descriptors live forever.
        // Relaxed: for who looks while nobody keeps or takes.
        self.kept.iter().filter_map(|place| unsafe { place.load(Ordering::Relaxed).as_ref() })
    }

    /// Takes what a place holds.
    fn take(place: &AtomicPtr<Region>) -> *mut Region {
        if seeded("heap.huge_take_two_steps") {
            // Relaxed: a seeded bug.
            let found = place.load(Ordering::Acquire);
            place.store(ptr::null_mut(), Ordering::Relaxed);
            return found;
        }
        // Acquire: pairs with the Release in `keep`.
        place.swap(ptr::null_mut(), acquire("heap.huge_take"))
    }

    /// Takes the kept region for `used` bytes whose pages come nearest to that. Those that are not wanted are given back, for the
    /// most part.
    pub(super) fn take_kept<P: Platform>(
        &self,
        from: &Allocator<P>,
        used: usize,
        align: usize,
    ) -> Option<&'static Region> {
        let fits = |region: &Region| region.len() >= used && is_aligned(region.base(), align);
        let waste = |place: &AtomicPtr<Region>| {
            // Relaxed: a hint to choose by.
            // SAFETY: descriptors live forever.
            let region = unsafe { place.load(Ordering::Relaxed).as_ref() }?;
            fits(region).then(|| dirty_of(region).abs_diff(used))
        };
        loop {
            let (_, place) = self
                .kept
                .iter()
                .filter_map(|place| Some((waste(place)?, place)))
                .min_by_key(|&(waste, _)| waste)?;
            // Judged again when it is ours: what a place holds may have changed under the look.
            let found = Huge::take(place);
            // SAFETY: descriptors live forever, and this one is ours now.
            let Some(region) = (unsafe { found.as_ref() }) else { continue };
            // Relaxed: a figure.
            self.kept_bytes.fetch_sub(dirty_of(region), Ordering::Relaxed);
            let most = used + align_down(used / 8, from.page_size());
            if fits(region) {
                // Locked memory stays.
                let _cut = self.cut(from, region, most);
                return Some(region);
            }
            self.put_back(from, region, true);
        }
    }

    /// Puts a region back that was taken from among the kept ones, if it `may_stay`.
    fn put_back<P: Platform>(&self, from: &Allocator<P>, region: &'static Region, may_stay: bool) {
        if !may_stay || !self.put(region) {
            let _resident = self.retire(from, region);
        }
        // The helper may have looked while the region was in our hands.
        if !seeded("heap.no_ring_after_put_back") {
            from.stir();
        }
    }

    /// Gives `bytes` of the pages of kept regions back, and answers how many are left to be given back elsewhere. What has no
    /// pages left is unmapped.
    pub(super) fn shrink_kept<P: Platform>(&self, from: &Allocator<P>, mut bytes: usize) -> usize {
        for place in &self.kept {
            if bytes == 0 {
                break;
            }
            // Relaxed: a hint that saves the swap.
            if place.load(Ordering::Relaxed).is_null() {
                continue;
            }
            let found = Huge::take(place);
            // SAFETY: descriptors live forever, and this one is ours now.
            let Some(region) = (unsafe { found.as_ref() }) else { continue };
            let dirty = dirty_of(region);
            // Relaxed: a figure.
            self.kept_bytes.fetch_sub(dirty, Ordering::Relaxed);
            let stays = align_down(dirty.saturating_sub(bytes), from.page_size());
            bytes = bytes.saturating_sub(dirty);
            self.put_back(from, region, stays > 0 && self.cut(from, region, stays).is_ok());
        }
        bytes
    }

    /// Unmaps all kept regions.
    pub fn drop_kept<P: Platform>(&self, from: &Allocator<P>) {
        let _rest = self.shrink_kept(from, usize::MAX);
    }

    /// Grows or shrinks the block of `region` to `size` bytes. Null when there is no memory: the block is as before.
    pub fn resize<P: Platform>(
        &self,
        from: &Allocator<P>,
        heap: &Heap,
        region: &'static Region,
        size: usize,
        align: usize,
    ) -> *mut u8 {
        let Some(used) = align_up(size.max(1), from.page_size()) else { return ptr::null_mut() };
        let (old, dirty) = (used_of(region), dirty_of(region));
        if used <= region.len() {
            if used > old {
                from.settings().space_bet().taken();
                from.settings().space_bet().won();
            } else if dirty - used >= from.page_size() * 16 {
                // The block's holder gave the tail up; what is behind it was an earlier holder's.
                if purge(from, region, used, dirty).is_ok() {
                    set(region, DIRTY, used);
                }
            }
            self.change_live(old, used);
            set(region, USED, used);
            set(region, DIRTY, dirty_of(region).max(used));
            return base_of(region);
        }
        from.settings().space_bet().taken();
        from.settings().space_bet().lost();
        for _ in 0..TRIES {
            let Some(longer) = Huge::map(from, used, align) else { break };
            // SAFETY: the caller holds the block, and nobody knows the new region.
            if !unsafe { self.carry(from, region, longer, old) } {
                let _retired = from.space().retire_region(longer);
                continue;
            }
            self.hand_out(longer, used);
            if !self.take_in(region) {
                broken_contract(Misuse::DoubleFree, Call::Free, region.base());
            }
            // Not kept: what is kept is counted by the pages that it saves, and it has hardly any.
            let _retired = from.space().retire_region(region);
            if !seeded("heap.no_ring_after_move") {
                from.stir();
            }
            from.space().reap(Some(heap.slot()));
            return base_of(longer);
        }
        ptr::null_mut()
    }

    /// Brings the first `len` bytes of a region into a longer one; `false` if they are where they were, and the longer one is of
    /// no use. Both are never resident as a whole, but if somebody has pinned the old one, who must keep his view of it.
    ///
    /// # Safety
    /// The caller holds the block of the first, and nobody knows the second.
    unsafe fn carry<P: Platform>(
        &self,
        from: &Allocator<P>,
        region: &Region,
        longer: &Region,
        len: usize,
    ) -> bool {
        if region.state().pins() > 0 {
            // SAFETY: the caller's.
            unsafe { ptr::copy_nonoverlapping(base_of(region), base_of(longer), len) };
            return true;
        }
        // SAFETY: the caller's.
        let moved = unsafe { from.space().move_pages(region, longer, len) };
        if moved == Move::Refused {
            // SAFETY: the caller's.
            unsafe { from.space().copy_away(region, longer, len) };
        }
        moved != Move::Undone
    }

    fn change_live(&self, old: usize, new: usize) {
        // Relaxed (both): figures.
        if new >= old {
            self.live_bytes.fetch_add(new - old, Ordering::Relaxed);
        } else {
            self.live_bytes.fetch_sub(old - new, Ordering::Relaxed);
        }
    }

    /// In the child of a fork: a thread that vanished may have counted what it did not keep, or kept what it had not counted.
    pub(super) fn recount(&self) {
        let bytes = self.each_kept().map(dirty_of).sum();
        // Relaxed: the child has one thread.
        self.kept_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes in live huge blocks.
    pub fn live_bytes(&self) -> usize {
        // Relaxed: a figure.
        self.live_bytes.load(Ordering::Relaxed)
    }

    /// Live huge blocks.
    pub fn live_blocks(&self) -> usize {
        // Relaxed: a figure.
        self.live_blocks.load(Ordering::Relaxed)
    }

    /// Bytes in kept regions that may be resident.
    pub fn kept_bytes(&self) -> usize {
        // Relaxed: a figure.
        self.kept_bytes.load(Ordering::Relaxed)
    }

    /// Bytes purged so far.
    pub fn purged_bytes(&self) -> u64 {
        // Relaxed: a figure.
        self.purged.load(Ordering::Relaxed)
    }
}
