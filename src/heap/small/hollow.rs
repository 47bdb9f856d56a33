//! What free blocks of several pages hold inside slabs that are used in part, and how it goes back while they serve.
//!
//! A free block needs no more than its first two words: by them it is linked, and known to be free. The whole pages
//! behind those are given back near a limit, and when the process grows higher than ever though much of the heap is such
//! blocks. (Where memory is wanted more than speed all goes that no live block touches, of smaller ones, too: `fallow`.)
//!
//! *Hollow* blocks lie at the end of their slab's list, and the slab says how many these are: what is freed comes in
//! front of them, and who takes the list takes them last. So none is given back twice, and nothing is asked on the fast
//! paths.
//!
//! A slab may also have found pages resident that it has not come to handing out. They go when the heap idles.

use super::fallow::WORTH;
use super::{Heap, Heaps};
use crate::base::{CLASSES, align_down, class_info};
use crate::heap::block::{Block, Checks};
use crate::heap::record::Slab;
use crate::pal::Platform;
use crate::sync::Cell;
use crate::sync::atomic::Ordering;
use core::ops::Range;
use core::ptr;

/// Bytes that an idle heap may keep in free blocks of its slabs.
pub(in crate::heap) const LEAST_IDLE: usize = 256 << 10;
/// A heap that takes slices looks at what it has when they have come to this share of all that is live, and these bytes.
const LOOK_SHARE: usize = 32;
const LOOK_BYTES: usize = 1 << 20;
/// Slabs looked at in one look while a program waits for a block; and those of them that are made hollow, about a system
/// call for each 16 KiB. If there are more the next look comes after so many bytes.
const LOOKED_AT_ONCE: usize = 1024;
const HOLLOWED_AT_ONCE: usize = 32;
const GO_ON_BYTES: usize = 256 << 10;
/// Part of what a heap holds that is too much in free blocks when it grows; and bytes that always are.
const MOST_SHARE: usize = 8;
const MOST_BYTES: usize = 32 << 20;
/// Near the limit is a program to which less than this part of what is live is left.
const NEAR_SHARE: usize = 4;

/// When a heap that takes slices looks at its free blocks.
pub(super) struct Heights {
    /// Bytes that it takes before the next look.
    left: Cell<usize>,
    /// The most that was live in the process at a look of this heap.
    highest: Cell<usize>,
    /// Whether the last look has left something to the next.
    goes_on: Cell<bool>,
    /// Whether the heap was collected since all its slabs were looked at.
    unseen: Cell<bool>,
    /// Whether the last look found the process higher than the looks before.
    risen: Cell<bool>,
}

impl Heights {
    pub const fn new() -> Heights {
        Heights {
            left: Cell::new(0),
            highest: Cell::new(0),
            goes_on: Cell::new(false),
            unseen: Cell::new(false),
            risen: Cell::new(false),
        }
    }
}

/// The whole pages inside a free block at `block` that nobody needs: where they begin, and their bytes.
fn pages_inside(block: usize, size: usize, page: usize) -> (usize, usize) {
    let from = (block + size_of::<Block>()).next_multiple_of(page);
    (from, align_down(block + size, page).saturating_sub(from))
}

impl Slab {
    /// Pages of its free blocks that were given back; roughly, if the slab is not the caller's.
    pub fn hollow_pages(&self) -> usize {
        // Relaxed: the owner's own store; a figure for others.
        (self.owned.hollow.load(Ordering::Relaxed) >> 16) as usize
    }

    /// Blocks at the end of the free list that are hollow; or, of smaller blocks, that were looked at for fallow pages.
    pub(super) fn hollow_blocks(&self) -> u32 {
        // Relaxed: the owner's own store.
        self.owned.hollow.load(Ordering::Relaxed) & 0xFFFF
    }

    /// Notes that the list has come to `left` blocks: if there are fewer than were hollow, it is not known how much of
    /// those is. Returns the pages that are no longer known to be given back.
    #[inline(always)]
    pub(super) fn keep_hollow(&self, left: u32) -> usize {
        if left >= self.hollow_blocks() {
            return 0;
        }
        let pages = self.hollow_pages();
        self.forget_hollow();
        pages
    }

    pub(super) fn forget_hollow(&self) {
        // Relaxed: see `hollow_pages`.
        self.owned.hollow.store(0, Ordering::Relaxed);
    }

    /// Notes that all free blocks were looked at, and that in the slab so many `pages` were given back.
    pub(super) fn note_hollow(&self, pages: usize) {
        // Relaxed: see `hollow_pages`.
        self.owned.hollow.store((pages as u32) << 16 | self.free_count(), Ordering::Relaxed);
    }

    /// Whether no more blocks are hollow than the `free` ones.
    #[cfg(any(test, feature = "simulated"))]
    pub(super) fn is_hollow_behind(&self, free: u32) -> bool {
        self.hollow_blocks() <= free && (free > 0 || self.hollow_pages() == 0)
    }

    /// Bytes of free blocks on the list that are not hollow.
    fn solid_bytes(&self) -> usize {
        self.free_count().saturating_sub(self.hollow_blocks()) as usize * self.info().size as usize
    }
}

impl Heap {
    /// Calls `visit` with the current and the available slabs of those classes, until it says `false`.
    fn each_giving(
        &self,
        classes: impl Iterator<Item = usize>,
        mut visit: impl FnMut(&'static Slab) -> bool,
    ) {
        for class in classes {
            for list in [self.current(class), self.available(class)] {
                let mut next = list.get();
                // SAFETY: slabs in a list belong to this heap, which holds their arenas.
                while let Some(slab) = unsafe { next.as_ref() } {
                    next = if ptr::eq(list, self.current(class)) { ptr::null() } else { slab.next() };
                    if !visit(slab) {
                        return;
                    }
                }
            }
        }
    }

    /// Calls `visit` with slabs that have blocks of two pages and more, `most` of them.
    fn each_roomy(&self, page: usize, mut most: usize, mut visit: impl FnMut(&'static Slab)) {
        // The largest come first: most of a block is pages inside.
        let classes = (0..CLASSES).rev().take_while(|&class| class_info(class).size as usize >= 2 * page);
        self.each_giving(classes, |slab| {
            let has_left = most > 0;
            if has_left {
                most -= 1;
                visit(slab);
            }
            has_left
        });
    }

    /// Bytes of free blocks of two pages and more on the lists of slabs, `most` of these, that are not hollow.
    fn solid_bytes(&self, page: usize, most: usize) -> usize {
        let mut bytes = 0;
        self.each_roomy(page, most, |slab| bytes += slab.solid_bytes());
        bytes
    }

    /// Calls `visit` with the slabs that were opened where pages were resident, and have not come to handing them out,
    /// and with where these are, until it says `false`.
    fn each_unborn(&self, page: usize, mut visit: impl FnMut(&'static Slab, Range<usize>) -> bool) {
        self.each_giving(0..CLASSES, |slab| {
            let pages = slab.unborn_pages(page);
            pages.len() < page.max(slab.bytes() / WORTH) || visit(slab, pages)
        });
    }

    /// Bytes of free blocks that nobody has looked at for pages, and of pages in slabs that nobody was handed.
    fn idle_bytes(&self, page: usize) -> usize {
        let mut bytes = self.weedy_bytes(page);
        self.each_unborn(page, |_, pages| {
            bytes += pages.len();
            true
        });
        bytes
    }

    /// Gives back the pages of slabs that nobody was handed, as far as the system takes them.
    fn give_back_unborn<P: Platform>(&self, from: &Heaps<P>) {
        self.each_unborn(from.page_size(), |slab, pages| {
            let arena = from.arena_of(slab.base());
            // SAFETY: in a slab of this heap, behind all blocks that it has handed out or linked.
            let purged = unsafe { from.purge_part(arena, slab.base() + pages.start, pages.len()) }.is_ok();
            if purged {
                slab.forget_unborn_pages();
                from.count_purged(pages.len());
            }
            purged
        });
    }

    /// Whether an idle heap has more in free blocks than it may keep. Asked once after the heap was collected: a look at all
    /// its slabs, which those that nobody uses stay as they were seen.
    pub(in crate::heap) fn is_roomy(&self, page: usize) -> bool {
        self.heights.unseen.replace(false) && self.idle_bytes(page) >= LEAST_IDLE
    }

    /// Notes that the heap was collected: what is in its slabs has not been seen.
    pub(super) fn forget_seen(&self) {
        self.heights.unseen.set(true);
    }

    /// Gives back the pages of slabs that only free blocks touch, or none, if there are `least` bytes of them: of free
    /// blocks, those that nobody has looked at for pages. The caller possesses the heap.
    pub(in crate::heap) fn give_back_pages<C: Checks, P: Platform>(&self, from: &Heaps<P>, least: usize) {
        if least <= 1 || self.idle_bytes(from.page_size()) >= least {
            let _all = self.lay_some_fallow::<C, P>(from, usize::MAX);
            self.give_back_unborn(from);
        }
        self.heights.unseen.set(false);
        self.tell_hollow(from);
        self.heights.highest.set(from.live_bytes());
    }

    /// Tells all heaps how much of this one's slabs is not resident: that is not in use, though claimed.
    pub(in crate::heap) fn tell_hollow<P: Platform>(&self, from: &Heaps<P>) {
        self.growth.tell(from.hollow());
    }

    /// Makes `most` slabs hollow, looking at `looks` of them. Returns whether there were no more.
    pub(in crate::heap) fn hollow_slabs<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        looks: usize,
        most: usize,
    ) -> bool {
        // What the system refuses once, as it does of locked memory, it is not asked again in this look.
        let (mut refused, mut left) = (false, most);
        self.each_roomy(from.page_size(), looks, |slab| {
            if !refused && left > 0 && slab.solid_bytes() > 0 {
                refused = !self.hollow_slab::<C, P>(from, slab);
                left -= 1;
            }
        });
        self.tell_hollow(from);
        refused || left > 0
    }

    /// Gives back the pages inside the free blocks of a slab that are not hollow. `false` if the system refused some.
    fn hollow_slab<C: Checks, P: Platform>(&self, from: &Heaps<P>, slab: &Slab) -> bool {
        let (page, size, free) = (from.page_size(), slab.info().size as usize, slab.free_count());
        let arena = from.arena_of(slab.base());
        let mut pages = 0;
        let (mut block, solid) = (slab.free_list(), free.saturating_sub(slab.hollow_blocks()));
        for _ in 0..solid {
            // In the child of a fork the count may be more than the list has.
            if block.is_null() {
                break;
            }
            let next = self.follow::<C>(block);
            let (at, bytes) = pages_inside(block.addr(), size, page);
            // SAFETY: inside a free block of this heap, behind what is read of such a one.
            if bytes > 0 && unsafe { from.purge_part(arena, at, bytes) }.is_err() {
                return false;
            }
            pages += bytes / page;
            block = next;
        }
        from.count_purged(pages * page);
        self.growth.hollowed(pages);
        slab.note_hollow(slab.hollow_pages() + pages);
        true
    }

    /// A slab was closed that had hollow blocks: its other pages go, too. Where these are in free slices nobody knows which
    /// they are, and all would be told as resident.
    #[cold]
    pub(super) fn purge_hollow<P: Platform>(&self, from: &Heaps<P>, slab: &Slab) {
        let (base, bytes) = (slab.base(), slab.bytes());
        // SAFETY: the slices are this heap's, and nobody reads what is in them any more: the slab's life has ended.
        if unsafe { from.purge_part(from.arena_of(base), base, bytes) }.is_ok() {
            from.count_purged(bytes);
            slab.spare_all();
        }
    }

    /// Before the heap takes so many `bytes` from the arenas: once in a while gives back first what lies in free blocks,
    /// where that is much and the process grows, or little memory is left. So the peak is not what some sizes needed and
    /// what the next ones need together.
    #[inline]
    pub(in crate::heap) fn hollow_before_growing<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        bytes: usize,
    ) {
        match self.heights.left.get().checked_sub(bytes) {
            Some(left) => self.heights.left.set(left),
            None => self.look_for_hollow::<C, P>(from),
        }
    }

    /// Whether the process was found higher than ever since this was asked.
    pub(in crate::heap) fn has_risen(&self) -> bool {
        self.heights.risen.replace(false)
    }

    #[cold]
    fn look_for_hollow<C: Checks, P: Platform>(&self, from: &Heaps<P>) {
        self.tell_hollow(from);
        let Heights { left, highest, goes_on, .. } = &self.heights;
        let held = self.growth.held();
        if held < LOOK_BYTES {
            return left.set(LOOK_BYTES);
        }
        let (live, page) = (from.live_bytes(), from.page_size());
        left.set((live / LOOK_SHARE).max(LOOK_BYTES));
        let is_near = from.settings().memory_left(live) < live / NEAR_SHARE;
        if !is_near && !goes_on.get() && live <= highest.get() {
            return;
        }
        self.heights.risen.set(live > highest.get());
        highest.set(live.max(highest.get()));
        let solid = self.solid_bytes(page, LOOKED_AT_ONCE);
        let is_much = solid >= (held / MOST_SHARE).clamp(LOOK_BYTES, MOST_BYTES);
        let goes = is_near && solid > 0 || goes_on.get() || is_much;
        goes_on.set(goes && !self.hollow_slabs::<C, P>(from, LOOKED_AT_ONCE, HOLLOWED_AT_ONCE));
        if is_near && !goes_on.get() {
            // Pages of smaller blocks go only where it is that or nothing: who takes those again tills the slab. As many at
            // once as will do until the next look, for this one walks over all slabs.
            let _all = self.lay_some_fallow::<C, P>(from, LOOKED_AT_ONCE);
        }
        if goes_on.get() {
            left.set(GO_ON_BYTES);
        }
    }
}
