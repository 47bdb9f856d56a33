//! Pages inside slabs that only free blocks touch, and how they go back.
//!
//! A small block has no whole page inside; but where neighbours are free there may be a page that no live block touches. It
//! is laid *fallow* where memory is wanted more than speed: it goes back with all that is in it, the words of free blocks
//! among that. So the free blocks that touch it are in no list. Which these are is told by marks, a bit each, in the slab's
//! record: a bit for each page; or, of blocks of two pages and more, of which there are few in a slab, a bit for each block.
//! (What is inside such a block can go alone, too, with the words kept: see `hollow`.)
//!
//! That such a block is free its words do not say any more: a second free of it would find a live one. So while any of a
//! slab's pages lie fallow its limit is that of a slab without blocks, and each free of one of its blocks goes the long way,
//! which asks the bits ([`Heaps::place`](super::Heaps::place)). Nothing is asked on the fast paths.
//!
//! Only an available slab is laid fallow, and before its heap takes anything from it, it is *tilled*: its blocks are on the
//! list again, all of them. So one that is current or full never lies fallow.

use super::slab::Standing;
use super::{Heap, Heaps};
use crate::base::{CLASSES, SLICE, SMALL_MAX, align_down};
use crate::heap::block::{Block, Checked, Checks, LOOKS, Trusting};
use crate::heap::record::Slab;
use crate::pal::Platform;
use crate::sync::atomic::Ordering;
use crate::sync::{acquire, in_order, release, seeded, signal_fence};
use core::ops::{Range, RangeInclusive};
use core::{mem, ptr};

/// What a bit stands for where blocks are shorter than [`LONG`]. A page of the system's may be several of them.
const PAGE: usize = 4 << 10;
/// Blocks of so many bytes have a bit each.
const LONG: usize = 2 * PAGE;
const PAGES: usize = SLICE / PAGE;
const _: () = assert!(PAGES <= 16);
/// All marks of a slab.
const ALL: u32 = (1 << PAGES) - 1;
/// What is worth a look, and to be given back, as a part of the slab.
pub(super) const WORTH: usize = 8;
/// Frees that go the long way before the slab is tilled: they take as long as faulting in a slab's pages.
const LONG_FREES: u32 = 64;

/// The pages, counted from the slab's first, that a block of `size` bytes touches which begins `at` bytes behind it.
fn pages_of(at: usize, size: usize) -> RangeInclusive<usize> {
    at / PAGE..=(at + size - 1) / PAGE
}

/// The runs of marks that are set.
fn runs_of(marks: u32) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    core::iter::from_fn(move || {
        let first = (next..PAGES).find(|&mark| has(marks, mark))?;
        next = (first..PAGES).find(|&mark| !has(marks, mark)).unwrap_or(PAGES);
        Some(first..next)
    })
}

/// Whether one of the marks is set.
fn has(marks: u32, mark: usize) -> bool {
    mark < PAGES && marks >> mark & 1 == 1
}

impl Slab {
    /// The marks of what lies fallow in the slab; and in the upper half, how often these have changed.
    pub(in crate::heap) fn fallow(&self) -> u32 {
        // Acquire: pairs with the Release in `set_fallow`: who finds pages tilled finds their blocks listed.
        self.owned.fallow.load(acquire("heap.fallow_read"))
    }

    fn fallow_marks(&self) -> u32 {
        self.fallow() & 0xFFFF
    }

    /// Notes what lies fallow from now on.
    pub(in crate::heap) fn set_fallow(&self, marks: u32) {
        // Relaxed: the owner's own store.
        let turns = (self.owned.fallow.load(Ordering::Relaxed) & !0xFFFF).wrapping_add(1 << 16);
        // Release: see `fallow`.
        self.owned.fallow.store(turns | marks, release("heap.fallow_written"));
    }

    /// Whether the block at `offset` lies fallow: then it is free. Any thread may ask, for what holds a block
    /// holds its pages. Of an address that somebody made up, and in a walk, the record may be a large block's by now.
    pub(in crate::heap) fn lies_fallow(&self, offset: usize) -> bool {
        self.is_on(self.fallow_marks(), offset)
    }

    /// Whether the block at `offset` has one of the marks.
    fn is_on(&self, marks: u32, offset: usize) -> bool {
        let size = self.block_size().min(SMALL_MAX);
        let is_marked = || match size < LONG {
            true => pages_of(self.colour() + offset, size).any(|page| has(marks, page)),
            false => has(marks, offset / size),
        };
        marks != 0 && is_marked()
    }

    /// Whether `block` is free for sure. Its slab may be laid fallow meanwhile, between the first look and the second, or
    /// tilled, between the second and the third.
    ///
    /// # Safety
    /// A block of this slab starts at `block`, and `key` is its key.
    pub(in crate::heap) unsafe fn is_known_free(&self, block: *mut Block, key: usize) -> bool {
        let lies_fallow = || self.lies_fallow(self.offset_of(block.addr()));
        // SAFETY: the caller's.
        lies_fallow() || unsafe { Block::is_free(block, key) } || lies_fallow()
    }

    /// Whether a live block of this slab starts at `block`, any address: as the long way of a free asks where
    /// [`Slab::starts_block`] says no, for the slab may lie fallow. Without checks, whether any does that was handed out.
    ///
    /// # Safety
    /// The slab's record is that of an arena's slice, or one of no slice; `key` is that of a block at `block`.
    #[inline]
    pub unsafe fn has_live_block<C: Checks>(&self, block: *mut Block, key: usize) -> bool {
        self.was_handed_out(self.offset_of(block.addr()))
            // SAFETY: one starts there.
            && !(C::ON && unsafe { self.is_known_free(block, key) })
    }

    /// Whether anything does in it: then its list has not all of its free blocks, though it counts them.
    pub fn is_fallow(&self) -> bool {
        self.fallow_marks() != 0
    }

    /// Counts a free that went the long way because the slab lies fallow. Whether these have been so many that it is time
    /// to till it.
    fn is_in_use(&self) -> bool {
        self.owned.long_frees.set(self.owned.long_frees.get() + 1);
        self.owned.long_frees.get() >= LONG_FREES
    }

    /// Says where its blocks start, or, while it lies fallow, that none do.
    fn set_limit(&self) {
        self.owned.long_frees.set(0);
        let limit = if self.is_fallow() && !seeded("heap.fallow_limited") {
            0
        } else {
            self.info().limit(self.handed_out())
        };
        // Relaxed: the owner goes by it; others ask on where it is none.
        self.shared.limit.store(limit, Ordering::Relaxed);
    }

    /// How many blocks, never handed out or not, touch a page.
    fn blocks_on(&self, page: usize) -> usize {
        let (size, capacity) = (self.block_size().max(1), self.info().capacity as usize);
        let behind = |page: usize| (page * PAGE).saturating_sub(self.colour());
        behind(page + 1).div_ceil(size).min(capacity).saturating_sub(behind(page) / size)
    }

    /// The blocks that lie fallow, by their offsets.
    fn fallow_offsets(&self) -> impl Iterator<Item = usize> {
        let (size, marks) = (self.info().size as usize, self.fallow_marks());
        (0..self.handed_out() as usize)
            .map(move |index| index * size)
            .filter(move |&offset| self.is_on(marks, offset))
    }

    /// Enters the blocks that lie fallow, and returns their number.
    #[cfg(any(test, feature = "simulated"))]
    pub(super) fn audit_fallow(&self, mut enter: impl FnMut(*mut Block)) -> u32 {
        assert!(!self.is_fallow() || self.standing() == Standing::Available, "a slab in use lies fallow");
        let each = |offset| enter(ptr::with_exposed_provenance_mut(self.start() + offset));
        self.fallow_offsets().map(each).count() as u32
    }

    /// The slab is closed. (Only then: a thread that vanishes before leaves a slab whose blocks are known to be free.)
    pub(super) fn forget_fallow(&self) {
        if self.is_fallow() {
            self.set_fallow(0);
            self.set_limit();
        }
    }

    /// As [`Block::is_free_meanwhile`], of a block in a slab that may be laid fallow and tilled meanwhile: its words are to be
    /// believed where its pages do not lie fallow afterwards, and the slab has not taken a turn.
    ///
    /// # Safety
    /// As there; the block is one of this slab's.
    pub(in crate::heap) unsafe fn is_free_meanwhile(&self, block: *mut Block, key: usize) -> bool {
        let offset = self.offset_of(block.addr());
        for _ in 0..LOOKS {
            // SAFETY: the caller's.
            let look = || unsafe { Block::is_free_meanwhile(block, key) };
            let (before, is_free) = in_order(|| self.fallow(), look, "heap.fallow_looked_late");
            signal_fence();
            let after = self.fallow();
            if is_free || self.is_on(after & 0xFFFF, offset) && !seeded("heap.fallow_unseen") {
                return true;
            }
            if before == after || seeded("heap.fallow_turn") {
                return false;
            }
        }
        true
    }
}

impl Heap {
    /// Calls `visit` with the available slabs of which enough is free that was not looked at yet, and how many bytes that
    /// is, until it says `false`. Those of the largest blocks come first: most of them goes.
    fn each_weedy(&self, page: usize, mut visit: impl FnMut(&'static Slab, usize) -> bool) {
        for class in (0..CLASSES).rev() {
            let mut next = self.available(class).get();
            // SAFETY: slabs in a list belong to this heap, which holds their arenas.
            while let Some(slab) = unsafe { next.as_ref() } {
                next = slab.next();
                let (size, free) = (slab.info().size as usize, slab.free_count());
                // Of longer blocks that are hollow the first pages have stayed.
                let seen = if size < LONG || slab.is_fallow() { slab.hollow_blocks() } else { 0 };
                let unseen = free.saturating_sub(seen) as usize * size;
                if free as usize * size >= slab.bytes() / WORTH
                    && unseen >= page.max(slab.bytes() / WORTH / 2)
                    && !visit(slab, unseen)
                {
                    return;
                }
            }
        }
    }

    /// Bytes of free blocks in the available slabs that nobody has looked at for pages.
    pub(super) fn weedy_bytes(&self, page: usize) -> usize {
        let mut bytes = 0;
        self.each_weedy(page, |_, unseen| {
            bytes += unseen;
            true
        });
        bytes
    }

    /// Lays fallow what no live block touches in `most` of these slabs. Returns whether there were no more, or the system
    /// refused some. The caller possesses the heap.
    pub(super) fn lay_some_fallow<C: Checks, P: Platform>(&self, from: &Heaps<P>, most: usize) -> bool {
        let (mut refused, mut left) = (false, most);
        self.each_weedy(from.page_size(), |slab, _| {
            refused = !self.lay_slab_fallow::<C, P>(from, slab);
            left -= 1;
            !refused && left > 0
        });
        refused || left > 0
    }

    /// Lays fallow what no live block touches in a slab. `false` if the system refused some: then nothing is fallow.
    fn lay_slab_fallow<C: Checks, P: Platform>(&self, from: &Heaps<P>, slab: &Slab) -> bool {
        debug_assert!(slab.standing() == Standing::Available);
        if slab.info().size as usize >= LONG {
            return self.lay_blocks_fallow::<C, P>(from, slab);
        }
        let (base, size, group) = (slab.base(), slab.info().size as usize, (from.page_size() / PAGE).max(1));
        let mut free = [0_u16; PAGES];
        let mut enter = |offset| {
            for page in pages_of(slab.colour() + offset, size) {
                free.get_mut(page).into_iter().for_each(|blocks| *blocks += 1);
            }
        };
        let mut block = slab.free_list();
        while !block.is_null() {
            enter(slab.offset_of(block.addr()));
            block = self.follow::<C>(block);
        }
        slab.fallow_offsets().for_each(&mut enter);
        let touched = |page: usize| slab.blocks_on(page) as u16;
        let is_free = |page: usize| touched(page) > 0 && free.get(page) == Some(&touched(page));
        let is_new = |page: usize| !has(slab.fallow_marks(), page);
        let goes = |&page: &usize| is_new(page) && (page - page % group..).take(group).all(is_free);
        let more = (0..PAGES).filter(goes).fold(0, |pages: u32, page| pages | 1 << page);
        if (more.count_ones() as usize) < PAGES / WORTH {
            slab.note_hollow(slab.hollow_pages());
            return true;
        }
        let parts = runs_of(more).map(|pages| (base + pages.start * PAGE, pages.len() * PAGE));
        self.lay::<C, P>(from, slab, more, parts, 0)
    }

    /// The same of a slab of long blocks: all that are free lie fallow then.
    fn lay_blocks_fallow<C: Checks, P: Platform>(&self, from: &Heaps<P>, slab: &Slab) -> bool {
        let (start, size, page) = (slab.start(), slab.info().size as usize, from.page_size());
        let mut more = 0;
        let mut block = slab.free_list();
        while !block.is_null() {
            more |= 1 << (slab.offset_of(block.addr()) / size.max(1));
            block = self.follow::<C>(block);
        }
        let parts = || {
            runs_of(slab.fallow_marks() | more).map(|blocks| {
                let from = (start + blocks.start * size).next_multiple_of(page);
                (from, align_down(start + blocks.end * size, page).saturating_sub(from))
            })
        };
        let bytes: usize = parts().map(|(_, bytes)| bytes).sum();
        if more == 0 || bytes <= slab.hollow_pages() * page {
            slab.note_hollow(slab.hollow_pages());
            return true;
        }
        self.lay::<C, P>(from, slab, more, parts(), slab.hollow_pages())
    }

    /// Gives back those `parts` of a slab, each by where it begins and its bytes, of which so many pages are gone already,
    /// and has blocks of some `more` marks lie fallow. `false` if the system refused some: then nothing is fallow.
    fn lay<C: Checks, P: Platform>(
        &self,
        from: &Heaps<P>,
        slab: &Slab,
        more: u32,
        parts: impl Iterator<Item = (usize, usize)>,
        gone: usize,
    ) -> bool {
        self.unlist::<C>(slab, more);
        let (arena, mut purged, mut refused) = (from.arena_of(slab.base()), 0, false);
        for (at, bytes) in parts.filter(|&(_, bytes)| bytes > 0) {
            // SAFETY: only free blocks of this heap touch those pages, which are in no list, and are not read.
            refused = unsafe { from.purge_part(arena, at, bytes) }.is_err();
            if refused {
                break;
            }
            purged += bytes;
        }
        from.count_purged(purged);
        let fresh = purged.checked_div(from.page_size()).unwrap_or(0).saturating_sub(gone);
        self.growth.hollowed(fresh);
        slab.note_hollow(slab.hollow_pages() + fresh);
        if refused {
            self.till::<C>(slab);
        }
        !refused
    }

    /// Marks what lies fallow in a slab, too, from now on, and takes its blocks off the list.
    ///
    /// A thread that vanishes in between (fork) leaves a list with some of those blocks in it, see `mend_fallow`.
    fn unlist<C: Checks>(&self, slab: &Slab, marks: u32) {
        slab.set_fallow(slab.fallow_marks() | marks);
        // The last block that stays, and whether others that do not follow it.
        let (mut stays, mut goes) = (ptr::null_mut(), false);
        let mut block = slab.free_list();
        while !block.is_null() {
            let next = self.follow::<C>(block);
            if slab.lies_fallow(slab.offset_of(block.addr())) && !seeded("heap.fallow_listed") {
                goes = true;
            } else {
                if mem::take(&mut goes) {
                    self.put_behind::<C>(slab, stays, block);
                }
                stays = block;
            }
            block = next;
        }
        if goes {
            self.put_behind::<C>(slab, stays, ptr::null_mut());
        }
        slab.set_limit();
    }

    /// The list of a slab goes on behind `block` with `next`; or begins with it, if there is no such block.
    fn put_behind<C: Checks>(&self, slab: &Slab, block: *mut Block, next: *mut Block) {
        if block.is_null() {
            return slab.keep_free(next);
        }
        // SAFETY: a free block of this heap's.
        unsafe {
            Block::move_on::<C>(block, self.secret.get());
            Block::link::<C>(block, next, Block::key(block, self.secret.get()));
        }
    }

    /// Puts a free block that is in no list on its slab's; it counts as free already.
    fn relist<C: Checks>(&self, slab: &Slab, block: *mut Block) {
        self.put_behind::<C>(slab, block, slab.free_list());
        signal_fence();
        slab.keep_free(block);
    }

    /// In the child of a fork: what a thread that vanished while it laid a slab fallow, or tilled it, has left. Blocks that
    /// touch a fallow page are in no list, if they still were, or were again. Returns how many there are.
    pub(super) fn mend_fallow(&self, slab: &Slab) -> u32 {
        if slab.is_fallow() && !seeded("heap.child_keeps_listed") {
            let mut block = slab.free_list();
            slab.forget_free();
            while !block.is_null() {
                // What is not checked has no tag, and room for one.
                let next = self.follow::<Trusting>(block);
                if !slab.lies_fallow(slab.offset_of(block.addr())) {
                    self.relist::<Checked>(slab, block);
                }
                block = next;
            }
        }
        slab.set_limit();
        slab.fallow_offsets().count() as u32
    }

    /// A live block of a slab that lies fallow is about to be freed by the long way. If that happens often the slab is in
    /// use, and tilled.
    #[inline]
    pub fn use_fallow<C: Checks>(&self, slab: &Slab) {
        if slab.is_fallow() && slab.is_in_use() {
            self.till_all::<C>(slab);
        }
    }

    /// A slab is empty, and about to be closed: of one that lies fallow the other pages go, too. Returns whether nothing of
    /// it is resident.
    pub(super) fn purge_fallow<P: Platform>(&self, from: &Heaps<P>, slab: &Slab) -> bool {
        let (base, bytes) = (slab.base(), slab.bytes());
        if !slab.is_fallow() {
            return false;
        }
        if !seeded("heap.closed_unmarked") {
            // All of it: a walk is not to take a block for live whose words go before the slab's life has ended.
            slab.set_fallow(ALL);
        }
        // SAFETY: all blocks of the slab are free, and in no list but its own, which nobody reads any more.
        if unsafe { from.purge_part(from.arena_of(base), base, bytes) }.is_err() {
            return false;
        }
        from.count_purged(bytes);
        slab.spare_all();
        true
    }

    /// Puts the blocks of a slab that lie fallow on its list again.
    #[inline]
    pub(super) fn till<C: Checks>(&self, slab: &Slab) {
        if slab.is_fallow() {
            self.till_all::<C>(slab);
        }
    }

    /// First the blocks are listed, then the bits go. So a walk finds a bit or a block that says that it is free; and as for
    /// a thread that vanishes in between, see `mend_fallow`.
    #[cold]
    #[inline(never)]
    fn till_all<C: Checks>(&self, slab: &Slab) {
        for offset in slab.fallow_offsets() {
            self.relist::<C>(slab, ptr::with_exposed_provenance_mut(slab.start() + offset));
        }
        slab.set_fallow(0);
        self.growth.filled(slab.hollow_pages());
        slab.forget_hollow();
        slab.set_limit();
    }
}
