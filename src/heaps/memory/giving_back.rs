//! What a heap gives back to the system: pages of free slices, as many as are more than may stay.

use super::{DIRTY_PARTS, Memory, ROOM};
use crate::base::SLICE;
use crate::region::Region;
use std::sync::atomic::Ordering;

impl Memory {
    /// Gives back `slices` slices from `base` on, whose records say that they are free; and pages, if too many are free.
    pub(in crate::heaps) fn release(&self, base: usize, slices: usize) {
        self.put_back(base, slices);
        self.look_at_what_is_free();
    }

    /// The same, and no pages.
    pub(in crate::heaps) fn put_back(&self, base: usize, slices: usize) {
        let area = self.region_of(base);
        // Relaxed: a figure. Before anybody can take them again.
        self.words().dirty.fetch_add(slices * SLICE, Ordering::Relaxed);
        area.slices().release((base - area.base()) / SLICE, slices);
        self.renew_room(area);
        self.pay_back(slices * SLICE);
    }

    /// The caller has claimed slices, some of which may have been dirty.
    pub(super) fn uses(&self, area: &Region, start: usize, len: usize) {
        // Relaxed: a figure.
        self.words().dirty.fetch_sub(area.slices().dirty_within(start, len) * SLICE, Ordering::Relaxed);
    }

    /// Bytes of free slices that may be resident.
    pub(in crate::heaps) fn dirty(&self) -> usize {
        // Relaxed: a figure.
        self.words().dirty.load(Ordering::Relaxed)
    }

    /// Gives back what is free, if that is more than may stay.
    #[inline]
    pub(in crate::heaps) fn look_at_what_is_free(&self) {
        // Relaxed: a hint.
        let free = self.dirty() + self.words().unused.load(Ordering::Relaxed);
        // (Not more than the share of what is held, if the program wants all back at once.)
        if free > self.dirty_max.saturating_add(self.held() / DIRTY_PARTS) {
            self.give_back();
        }
    }

    /// Closes slabs that have no block, and gives pages back until half of what may be free and resident is.
    #[cold]
    #[inline(never)]
    fn give_back(&self) {
        self.retire_unused();
        self.close_unused();
        self.purge(self.dirty_max.saturating_add(self.held() / DIRTY_PARTS) / 2);
    }

    /// There may be room in the area. After what was released is free.
    pub(super) fn renew_room(&self, area: &Region) {
        let renewed = |word: usize| Some((word | ROOM).wrapping_add(1) | ROOM);
        // Relaxed (both): see `ROOM`. Whoever finds the hint lower has changed it before.
        let _ = area.heap().use_word().fetch_update(Ordering::Relaxed, Ordering::Relaxed, renewed);
    }

    /// Gives the pages of free slices back, until `rest` bytes of them are left. Returns how many bytes went.
    pub(in crate::heaps) fn purge(&self, rest: usize) -> usize {
        let mut purged = 0;
        for area in self.areas() {
            while let Some(most) = self.dirty().checked_sub(rest).filter(|&most| most > 0) {
                let attempt = area.slices().claim_dirty_run(most.div_ceil(SLICE));
                if attempt.took_back {
                    self.renew_room(area);
                }
                let Some(run) = attempt.run else { break };
                self.uses(area, run.start, run.len);
                let (from, bytes) = (run.start * SLICE, run.len * SLICE);
                // SAFETY: the run is claimed here.
                let is_clean =
                    unsafe { self.backing.purge(area.base() + from, area.heap().offset() + from, bytes) };
                if is_clean {
                    area.slices().release_clean(run.start, run.len);
                } else {
                    // Relaxed: as in `put_back`.
                    self.words().dirty.fetch_add(bytes, Ordering::Relaxed);
                    area.slices().release(run.start, run.len);
                }
                self.renew_room(area);
                if !is_clean {
                    return purged;
                }
                purged += bytes;
            }
        }
        purged
    }
}
