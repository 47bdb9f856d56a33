//! A bin: the free blocks of one size class that a heap has at hand.
//!
//! Allocation pops from the bin's list. A free of a block of any of the heap's slabs pushes onto it: so the next
//! allocation gets the block that was freed last, which is still in the cache, and a free and an allocation that follow
//! each other need nothing but the bin, whatever slabs their blocks lie in. Slabs count the blocks of a bin as live.
//!
//! Such a block keeps its slab from becoming empty, so there must not be many. `room` says how many frees the list
//! still takes: `bound` of them beyond what it was last filled with, and one more for each block that is handed out.
//! What finds no room goes home to its slab, and is counted as `missed`. The bound begins small and is a bet:
//! 1. When the list is to be filled again after blocks went home, they might as well have stayed: the bound grows by
//!    their number, as long as all bounds of a heap together stay below a small share of what its slabs hold:
//!    [`Growth`].
//! 2. When several times as many miss as the bound says and nothing is asked for, or when one that missed leaves its
//!    slab empty, the program gives back more than it wants again soon: the list goes home, and the bound is what it
//!    began with. (A long list goes in parts, one with each free that misses: no call takes long.) What is freed next
//!    goes home, too, until the list is filled again: where blocks come in any order, a few at hand would hold as many
//!    slabs, which would be empty otherwise, and be filled anew in the order of their addresses. (Of large ones, of which
//!    two are at hand at first, two may stay: their slabs come and go.) Should the program want those blocks again after
//!    all, the bound grows by all that have missed.
//!
//! And there is an ebb: where frees and allocations keep the balance, one free in about 20 goes home all the same, so
//! that the list runs out in the end, and the heap looks at what it was sent and at its other slabs. Without it the few
//! blocks of a thin slab were handed out again and again, and kept it: a steady state of four threads held a fifth more
//! memory.

use crate::base::{
    LINE, MIN_BLOCK, SMALL_MAX, aligned_size, class_of, class_of_aligned, class_size, is_alike,
};
use crate::heap::block::{Block, Checks};
use crate::heap::record::Slab;
use crate::sync::{Cell, Counter, in_order, seeded, signal_fence};
use core::ptr;

/// Bytes of blocks that a bound begins with; and how many blocks that may be.
const LEAST_BYTES: usize = 2 << 10;
const LEAST: (usize, usize) = (2, 64);
/// Blocks that a bound grows to.
const MOST: usize = 1 << 13;
/// By how much all bounds of a heap may grow together: `GROWTH_BYTES`, and one part in `GROWTH_SHARE` of the bytes in
/// its slabs.
const GROWTH_BYTES: usize = 256 << 10;
const GROWTH_SHARE: usize = 32;
/// A list goes home when `SHED.0` times its bound and `SHED.1` more blocks have missed it, at the next power of two: so
/// that it seldom goes.
const SHED: (usize, usize) = (2, 32);

/// Of so many blocks that miss a bin one looks what is to be done: whether the list goes home, what was sent.
const LOOK: u16 = 8;

/// Set in a bound while the list goes home, a part with each free that finds no room: see [`Bin::goes_on_shrinking`].
const SHRINKING: u16 = 1 << 15;

/// What a free takes of a bin's room, and what an allocation gives back: a little less, which is the ebb.
const PUSHED: i32 = POPPED + 1;
const POPPED: i32 = 20;
/// What is left of the room when those differences alone have used it up since the last block went home: one free more
/// than there were allocations would have left less.
const EBB: i32 = -1;

/// Room for `frees` frees without an allocation.
const fn room_for(frees: usize) -> i32 {
    frees as i32 * PUSHED + PUSHED - 2
}

/// Largest request in bytes whose bin is found by its size; above it by granules of 16 bytes.
const BY_SIZE_MAX: usize = 1024;

/// Where the bin of a class lies in a heap, in words.
const fn bin_of(class: usize) -> u8 {
    (class * Bin::WORDS) as u8
}

/// By size in bytes: one load instead of rounding first.
static BY_SIZE: [u8; BY_SIZE_MAX + 1] = {
    let mut table = [0; BY_SIZE_MAX + 1];
    let mut size = 0;
    while size < table.len() {
        table[size] = bin_of(class_of(size));
        size += 1;
    }
    table
};

/// By size in granules, rounded up.
static BY_GRANULES: [u8; SMALL_MAX / MIN_BLOCK + 1] = {
    let mut table = [0; SMALL_MAX / MIN_BLOCK + 1];
    let mut granules = 0;
    while granules < table.len() {
        table[granules] = bin_of(class_of(granules * MIN_BLOCK));
        granules += 1;
    }
    table
};

/// By size in lines, rounded up, of what is aligned and is not [alike](is_alike).
static BY_LINES: [u8; SMALL_MAX / LINE + 1] = {
    let mut table = [0; SMALL_MAX / LINE + 1];
    let mut lines = 0;
    while lines < table.len() {
        if let Some(class) = class_of_aligned(lines * LINE, 2 * LINE) {
            table[lines] = bin_of(class);
        }
        lines += 1;
    }
    table
};

/// The free blocks of one class that a heap has at hand. Zero is an empty one.
#[repr(C)]
pub struct Bin {
    list: Cell<*mut Block>,
    room: Cell<i32>,
    bound: Cell<u16>,
    missed: Cell<u16>,
}

/// What becomes of a block that found no room in its bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::heap) enum Missed {
    /// There is room after all: it is the first block of its class that is freed.
    Welcome,
    /// It goes home.
    GoHome,
    /// It goes home, after so many others that the list should go, too.
    TooMany,
}

/// Blocks that the bound of a class begins with.
fn least(class: usize) -> usize {
    LEAST_BYTES.checked_div(class_size(class)).unwrap_or(0).clamp(LEAST.0, LEAST.1)
}

/// By how much the bounds of a heap have grown, and may grow.
pub(in crate::heap) struct Growth {
    /// Bytes of blocks.
    grown: Cell<usize>,
    /// Bytes in the heap's slabs.
    held: Cell<usize>,
    /// Pages of those that are not resident: of hollow blocks. And how many of them all heaps know of.
    hollow: Cell<usize>,
    told: Cell<usize>,
}

impl Growth {
    /// None.
    pub const fn new() -> Growth {
        Growth { grown: Cell::new(0), held: Cell::new(0), hollow: Cell::new(0), told: Cell::new(0) }
    }

    /// The heap has one slab more.
    pub fn gained(&self, slab: &Slab) {
        self.held.set(self.held.get() + slab.bytes());
        self.hollowed(slab.hollow_pages());
    }

    /// The heap has one slab less. (Slabs in an arena that found no place in the table are not counted in the child of a
    /// fork: there it may have more than the figures say, and those stay at nothing.)
    pub fn lost(&self, slab: &Slab) {
        let (held, bytes) = (self.held.get(), slab.bytes());
        self.held.set(if seeded("heap.child_lost_uncounted") {
            held - bytes
        } else {
            held.saturating_sub(bytes)
        });
        self.filled(slab.hollow_pages());
    }

    /// So many pages more of the heap's slabs are not resident.
    pub fn hollowed(&self, pages: usize) {
        self.hollow.set(self.hollow.get() + pages);
    }

    /// So many pages fewer are not: the blocks that they lie in are about to be handed out.
    pub fn filled(&self, pages: usize) {
        // Mostly none, which costs nothing so.
        if pages > 0 {
            self.hollow.set(self.hollow.get().saturating_sub(pages));
        }
    }

    /// Tells how many `pages` of the slabs of all heaps are not resident. In this order: of a thread that vanishes in
    /// between (fork) a change is told twice, or not at all, and more pages are known than there are; never fewer than none.
    pub fn tell(&self, pages: &Counter) {
        let (hollow, told) = (self.hollow.get(), self.told.get());
        let note = || self.told.set(hollow);
        if hollow > told {
            in_order(|| pages.add(hollow - told), note, "heap.hollow_noted_early");
        } else if hollow < told {
            in_order(note, || pages.take_off(told - hollow), "heap.hollow_noted_late");
        }
    }

    /// After a fork: the heap has no slabs until they are counted again.
    pub fn forget(&self) {
        self.held.set(0);
        self.hollow.set(0);
    }

    /// Bytes in the heap's slabs.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Pages of the heap's slabs that are not resident; and of how many all heaps know.
    #[cfg(any(test, feature = "simulated"))]
    pub(super) fn hollow(&self) -> usize {
        self.hollow.get()
    }

    #[cfg(any(test, feature = "simulated"))]
    pub(super) fn told(&self) -> usize {
        self.told.get()
    }

    /// Demands that the bounds of `bins` have grown by what was noted.
    #[cfg(any(test, feature = "simulated"))]
    pub(super) fn audit(&self, bins: &[Bin]) {
        let grown = |(class, bin): (usize, &Bin)| match usize::from(bin.bound.get() & !SHRINKING) {
            0 => 0,
            bound => (bound - least(class)) * class_size(class),
        };
        let grown: usize = bins.iter().enumerate().map(grown).sum();
        assert_eq!(self.grown.get(), grown, "bytes by which bounds have grown");
    }

    /// Bytes by which bounds may still grow.
    fn left(&self) -> usize {
        (GROWTH_BYTES + self.held.get() / GROWTH_SHARE).saturating_sub(self.grown.get())
    }
}

impl Bin {
    /// Words that a bin takes: bins are told apart by where they lie in words from the first, which is one instruction
    /// less than by class.
    pub const WORDS: usize = size_of::<Bin>() / size_of::<usize>();

    /// What a block of the list counts in a bin's reach: the room that its free took.
    pub(super) const BLOCK: i32 = PUSHED;

    /// Its room after a free that found none.
    pub(super) const AFTER_MISS: i32 = room_for(0);

    /// Nothing at hand.
    pub(in crate::heap) const fn new() -> Bin {
        Bin {
            list: Cell::new(ptr::null_mut()),
            room: Cell::new(0),
            bound: Cell::new(0),
            missed: Cell::new(0),
        }
    }

    /// Where the bin for `size` bytes lies, for sizes known at run time only: `None` beyond the table.
    #[inline(always)]
    pub fn of_size(size: usize) -> Option<usize> {
        BY_SIZE.get(size).map(|&at| usize::from(at))
    }

    /// The same by another table, with an entry for each granule up to [`SMALL_MAX`].
    #[inline(always)]
    pub fn of_granules(size: usize) -> Option<usize> {
        if size > SMALL_MAX {
            return None;
        }
        // SAFETY: the table's last entry is that of SMALL_MAX.
        Some(usize::from(unsafe { *BY_GRANULES.get_unchecked(size.div_ceil(MIN_BLOCK)) }))
    }

    /// The same for `size` bytes at a multiple of `align`, a power of two; `None` if no class serves them.
    #[inline(always)]
    pub fn of_aligned(size: usize, align: usize) -> Option<usize> {
        match aligned_size(size, align) {
            Some(size) if is_alike(size, align) => Bin::of_granules(size),
            Some(size) => BY_LINES.get(size.div_ceil(LINE)).map(|&at| usize::from(at)),
            None => None,
        }
    }

    /// Takes the block that was pushed last; null if there is none, or if it was written while it was free: a function
    /// that calls nothing needs no stack frame. A [`Heap::pop`](super::Heap::pop) that follows tells which it was.
    ///
    /// # Safety
    /// The caller possesses the heap.
    #[inline(always)]
    pub unsafe fn try_pop<C: Checks, const SMALL: bool>(&self, secret: usize) -> *mut Block {
        let block = self.list.get();
        if block.is_null() {
            return block;
        }
        // SAFETY: blocks of the list are free and the heap's.
        let Some(next) = (unsafe { Block::next::<C>(block, secret) }) else { return ptr::null_mut() };
        self.list.set(next);
        if SMALL {
            Block::expect(next);
        }
        self.room.set(self.room.get() + POPPED);
        // SAFETY: the block has just left the list and is the caller's.
        unsafe { Block::clear::<C>(block) };
        block
    }

    /// Takes the block that was pushed last, for another list: it stays free.
    ///
    /// # Safety
    /// The caller possesses the heap.
    pub(in crate::heap) unsafe fn take_out<C: Checks>(&self, secret: usize) -> Option<*mut Block> {
        let block = self.list.get();
        if block.is_null() {
            return None;
        }
        // SAFETY: as in `try_pop`.
        let next = unsafe { Block::follow::<C>(block, secret) };
        Block::expect(next);
        self.list.set(next);
        self.room.set(self.room.get() + POPPED);
        Some(block)
    }

    /// Takes room for another block. `false` if there was none: then [`Bin::miss`] puts the room right.
    #[inline(always)]
    pub fn take_room(&self) -> bool {
        let left = self.room.get() - PUSHED;
        self.room.set(left);
        left >= 0
    }

    /// Adds a block for which there is room. `key` is the block's, by [`Block::key`].
    ///
    /// The list is a list after every single store, in the order in which they are written here: a thread that vanishes
    /// in between (fork) loses this block at most.
    ///
    /// # Safety
    /// The caller possesses the heap and the block.
    #[inline(always)]
    pub unsafe fn push<C: Checks>(&self, block: *mut Block, key: usize) {
        // SAFETY: the caller's.
        unsafe { Block::link::<C>(block, self.list.get(), key) };
        signal_fence();
        self.list.set(block);
    }

    /// The list.
    pub(in crate::heap) fn list(&self) -> &Cell<*mut Block> {
        &self.list
    }

    /// The list, which was found empty, is filled with `count` blocks.
    #[inline(always)]
    pub(in crate::heap) fn refilled(&self, class: usize, count: u32, growth: &Growth) {
        // What was going home has been wanted again.
        self.bound.set(self.bound.get() & !SHRINKING);
        if self.missed.get() != 0 {
            self.grow(class, count as usize, growth);
        }
        self.room.set(room_for(usize::from(self.bound.get())));
    }

    #[cold]
    fn grow(&self, class: usize, count: usize, growth: &Growth) {
        let (size, bound) = (class_size(class), usize::from(self.bound.get()));
        let proven = usize::from(self.missed.get()).min(count);
        let more = proven.min(MOST - bound).min(growth.left() / size);
        self.bound.set((bound + more) as u16);
        self.missed.set(self.missed.get() - proven as u16);
        growth.grown.set(growth.grown.get() + more * size);
    }

    /// Room for frees.
    pub(super) fn room(&self) -> i32 {
        self.room.get()
    }

    /// The room that it has when it is filled, without samples.
    pub(super) fn room_when_filled(&self) -> i32 {
        room_for(usize::from(self.bound.get() & !SHRINKING))
    }

    /// Gives the bin more room, or less.
    pub(super) fn add_room(&self, more: i32) {
        self.room.set(self.room.get() + more);
    }

    /// Its room, and what `blocks` blocks of its list count: one less with each allocation, and the same after each free
    /// (but for one that found no room). See `meter`.
    pub(super) fn reach(&self, blocks: u32) -> i64 {
        i64::from(self.room.get()) + i64::from(blocks) * i64::from(Bin::BLOCK)
    }

    /// Whether a block of its class was freed before.
    #[inline(always)]
    pub(super) fn has_begun(&self) -> bool {
        self.bound.get() != 0
    }

    /// If it is the first block of its class that is freed, the room that there is for it and others.
    pub(super) fn begin(&self, class: usize) -> Option<i32> {
        (self.bound.get() == 0).then(|| self.begins(class))
    }

    /// The first block of its class is freed: the room that there is for it and others.
    #[cold]
    #[inline(never)]
    fn begins(&self, class: usize) -> i32 {
        self.bound.set(least(class) as u16);
        room_for(least(class))
    }

    /// A free has found no room: whether its block is one of those that are counted and go home, as it is nearly always
    /// while much is torn down. If not, which is so every [`LOOK`]th time at least, nothing has happened, and
    /// [`Bin::miss`] is to be called.
    #[inline(always)]
    pub fn misses_quietly(&self) -> bool {
        let (bound, missed) = (self.bound.get(), self.missed.get().wrapping_add(1));
        let is_steady = bound.wrapping_sub(1) < SHRINKING - 1;
        if !is_steady || self.room.get() == EBB || missed % LOOK == 0 {
            return false;
        }
        self.room.set(Bin::AFTER_MISS);
        self.missed.set(missed);
        true
    }

    /// A free has found no room.
    #[inline(always)]
    pub(in crate::heap) fn miss(&self, class: usize) -> Missed {
        if !self.has_begun() {
            self.room.set(self.begins(class) - PUSHED);
            return Missed::Welcome;
        }
        self.miss_again()
    }

    /// The same, and it was not the first block of its class.
    #[inline(always)]
    pub(in crate::heap) fn miss_again(&self) -> Missed {
        let bound = usize::from(self.bound.get());
        let left = self.room.get();
        self.room.set(Bin::AFTER_MISS);
        if self.bound.get() & SHRINKING != 0 {
            return Missed::TooMany;
        }
        if left == EBB {
            return Missed::GoHome;
        }
        let missed = self.missed.get().saturating_add(1);
        self.missed.set(missed);
        let too_many = missed.is_power_of_two() && usize::from(missed) >= SHED.0 * bound + SHED.1;
        if too_many { Missed::TooMany } else { Missed::GoHome }
    }

    /// Some of the list has gone home, and the rest is to follow: the next free that finds no room goes on.
    pub(in crate::heap) fn goes_on_shrinking(&self) {
        self.bound.set(self.bound.get() | SHRINKING);
        self.room.set(room_for(0));
    }

    /// The program gives back more than it wants: the bound is again what it began with. The list has gone home.
    pub(in crate::heap) fn shrink(&self, class: usize, growth: &Growth) {
        let (bound, least) = (usize::from(self.bound.get() & !SHRINKING), least(class));
        growth.grown.set(growth.grown.get() - (bound - least) * class_size(class));
        self.bound.set(least as u16);
        self.room.set(room_for(if least > LEAST.0 { 0 } else { least }));
    }
}

const _: () = assert!(size_of::<Bin>() == 2 * size_of::<usize>());
const _: () = assert!(SHED.0 * LEAST.0 + SHED.1 > LOOK as usize && LOOK.is_power_of_two());
const _: () = assert!(SHED.0 * MOST + SHED.1 <= 1 << 15 && MOST < SHRINKING as usize);
