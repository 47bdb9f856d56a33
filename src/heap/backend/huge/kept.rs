//! Freed huge regions that wait to be used again.

use super::Huge;
use crate::base::{SLICE, is_aligned};
use crate::heap::ground::{Claimant, Ground};
use crate::pal::Platform;
use crate::region::Region;
use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::sync::{Exchange, acquire, in_order, release, seeded};
use core::ptr;

/// Regions kept at most, and those of them that may be kept without pages, for their address space.
pub(super) const KEPT: usize = if cfg!(any(loom, shuttle)) { 2 } else { 512 };
const KEPT_BARE: usize = if cfg!(any(loom, shuttle)) { 2 } else { 16 };

impl Huge {
    /// Keeps a freed region, with as many of its pages as may stay; `false` if it has to be unmapped.
    pub(in crate::heap) fn keep<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        region: &'static Region,
    ) -> bool {
        let dirty = region.huge().dirty();
        if !ground.settings().keeps_huge() {
            return false;
        }
        if !ground.settings().reserves_space() && region.len() > dirty + dirty / 8 + SLICE {
            // Where address space is short, what lies behind the block is not for keeping.
            return false;
        }
        let stays = Huge::down_to_units(ground, region, dirty.saturating_sub(ground.excess(dirty)));
        // Without its pages the address space stays for a while: that saves the grace period of an unmap, and a second
        // free of the block is still recognised.
        Huge::cut_in_hand(ground, by, region, stays).is_ok() && self.put(ground, region)
    }

    /// Puts a region that the caller holds among the kept ones; `false` if there is no place.
    fn put<P: Platform>(&self, ground: &Ground<P>, region: &'static Region) -> bool {
        let bytes = region.huge().dirty();
        let (new, kept_bytes) = (ptr::from_ref(region).cast_mut(), ground.huge_figures().kept_bytes());
        for place in &self.kept[..if bytes == 0 { KEPT_BARE } else { KEPT }] {
            // Relaxed: a hint that saves the rest.
            if !place.load(Ordering::Relaxed).is_null() {
                continue;
            }
            // Release: pairs with the Acquire in `take`: who takes the region sees the last owner's accesses done.
            let order = release("heap.huge_keep");
            let put = || place.compare_exchange(ptr::null_mut(), new, order, Ordering::Relaxed).is_ok();
            // Counted before the region can be taken.
            if in_order(|| kept_bytes.add(bytes), put, "heap.count_kept_late").1 {
                return true;
            }
            kept_bytes.take_off(bytes);
        }
        false
    }

    /// The regions that wait to be used again.
    pub(in crate::heap) fn each_kept(&self) -> impl Iterator<Item = &'static Region> {
        // SAFETY: descriptors live forever.
        // Relaxed: for whoever looks while nobody keeps or takes.
        self.kept.iter().filter_map(|place| unsafe { place.load(Ordering::Relaxed).as_ref() })
    }

    /// Demands that the count of what is kept is right, while nobody keeps or takes.
    #[cfg(any(test, feature = "simulated"))]
    pub(in crate::heap) fn audit<P: Platform>(&self, ground: &Ground<P>) {
        let mut bytes = 0;
        for region in self.each_kept() {
            let notes = region.huge();
            assert!(notes.used() == 0 && notes.dirty() <= region.len(), "a region that is kept and used");
            bytes += notes.dirty();
        }
        assert_eq!(ground.huge_figures().kept_bytes().get(), bytes, "bytes that are kept");
    }

    /// Takes what a place holds.
    fn take(place: &AtomicPtr<Region>) -> *mut Region {
        // Acquire: pairs with the Release in `put`.
        place.replace(ptr::null_mut(), acquire("heap.huge_take"), "heap.huge_take_two_steps")
    }

    /// Takes the kept region for `used` bytes whose pages come nearest to that. Those that are not wanted are given
    /// back, for the most part.
    pub(in crate::heap) fn take_kept<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        used: usize,
        align: usize,
    ) -> Option<&'static Region> {
        let fits = |region: &Region| region.len() >= used && is_aligned(region.base(), align);
        let waste = |place: &AtomicPtr<Region>| {
            // Relaxed: a hint to choose by.
            // SAFETY: descriptors live forever.
            let region = unsafe { place.load(Ordering::Relaxed).as_ref() }?;
            fits(region).then(|| region.huge().dirty().abs_diff(used))
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
            ground.huge_figures().kept_bytes().take_off(region.huge().dirty());
            let most = Huge::whole_units(ground, region, used + used / 8);
            if fits(region) {
                // Locked memory stays.
                let _cut = Huge::cut(ground, region, most);
                return Some(region);
            }
            if !seeded("heap.misfit_dropped") {
                self.put_back(ground, by, region, true);
            }
        }
    }

    /// Puts a region back that was taken from among the kept ones, if it `may_stay`.
    fn put_back<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        region: &'static Region,
        may_stay: bool,
    ) {
        if !may_stay || !self.put(ground, region) {
            let _resident = Huge::retire(ground, by, region);
        }
        // The helper may have looked while the region was in our hands.
        if !seeded("heap.no_ring_after_put_back") {
            ground.ring();
        }
    }

    /// Gives `bytes` of the pages of kept regions back, and returns how many are left to be given back elsewhere. What
    /// has no pages left is unmapped.
    pub(in crate::heap) fn shrink_kept<P: Platform>(
        &self,
        ground: &Ground<P>,
        by: &Claimant,
        mut bytes: usize,
    ) -> usize {
        for place in &self.kept {
            if bytes == 0 {
                break;
            }
            // Relaxed: a hint that saves the swap.
            let seen = place.load(Ordering::Relaxed);
            if seen.is_null() {
                continue;
            }
            let found = Huge::take(place);
            // SAFETY: descriptors live forever, and this one is ours now.
            let Some(region) = (unsafe { found.as_ref() }) else { continue };
            // What the place held may have changed under the look.
            // SAFETY: as above.
            let counted = if seeded("heap.shrunk_as_seen") { unsafe { &*seen } } else { region };
            let dirty = counted.huge().dirty();
            ground.huge_figures().kept_bytes().take_off(dirty);
            let stays = Huge::down_to_units(ground, region, dirty.saturating_sub(bytes));
            bytes = bytes.saturating_sub(dirty);
            let may_stay = stays > 0 && Huge::cut_in_hand(ground, by, region, stays).is_ok();
            self.put_back(ground, by, region, may_stay);
        }
        bytes
    }

    /// In the child of a fork: a thread that vanished may have counted what it did not keep, or kept what it had not
    /// counted.
    pub(in crate::heap) fn recount<P: Platform>(&self, ground: &Ground<P>) {
        let bytes = self.each_kept().map(|region| region.huge().dirty()).sum();
        ground.huge_figures().kept_bytes().set(bytes);
    }
}
