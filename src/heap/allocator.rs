//! The door: a whole allocator, what it does for a request, and what the helper does in the background.
//!
//! The rooms below report "no memory" at once. Only here, when a request has failed, is everything that is free
//! unmapped, and the request made once more.

use super::block::{Block, Checks};
use super::ground::Outside;
use super::lives::{HelperState, Round};
use super::place::Place;
use super::small::{Heap, Heaps};
use crate::base::{SLICE, class_of_aligned, class_size};
use crate::const_unless_model;
use crate::pal::Platform;
use core::ops::Deref;
use core::ptr;

/// Largest large block in bytes, and the largest alignment of one; above it a block is huge.
pub const LARGE_MAX: usize = if cfg!(any(loom, shuttle)) { 2 * SLICE } else { 4 << 20 };

/// Which kind of block serves a request: a function of size and alignment alone, so that a typed free can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// A block of a slab of this class.
    Small(usize),
    /// A run of slices.
    Large,
    /// A region of its own.
    Huge,
}

impl BlockKind {
    /// The kind that serves `size` bytes at a multiple of `align`, a power of two.
    #[inline(always)]
    pub const fn of(size: usize, align: usize) -> BlockKind {
        match class_of_aligned(size, align) {
            Some(class) => BlockKind::Small(class),
            None if size <= LARGE_MAX && align <= LARGE_MAX => BlockKind::Large,
            None => BlockKind::Huge,
        }
    }
}

/// Milliseconds between two ticks: usually, and at most where the system refuses to take memory back.
const TICK_MS: u64 = 100;
const MOST_TICK_MS: u64 = 5_000;

/// A whole allocator: address space, arenas, heaps, huge blocks. Lives forever where it is.
///
/// 1.4 MiB of tables, of which a small program touches an entry or two each. So here, and in what this is made of, the
/// order of the fields is kept, and what is touched together stands together: words before tables, and tables with
/// their touched ends towards each other. Each page fewer is a fault fewer at the start of every program.
#[repr(C)]
pub struct Allocator<P: Platform> {
    helper: HelperState,
    heaps: Heaps<P>,
}

impl<P: Platform> Deref for Allocator<P> {
    type Target = Heaps<P>;

    #[inline(always)]
    fn deref(&self) -> &Heaps<P> {
        &self.heaps
    }
}

impl<P: Platform> Allocator<P> {
    const_unless_model! {
        /// An allocator that has not mapped anything yet. Call [`Allocator::start`] once before anything else.
        pub fn new(os: P) -> Allocator<P> {
            Allocator { heaps: Heaps::new(os), helper: HelperState::new() }
        }
    }

    /// Finds out what the platform offers, and chooses the secret. Any number of threads may race here before the first
    /// allocation.
    pub fn start(&'static self) {
        self.space().start();
        self.choose_secret();
    }

    /// Adapts the settings to how much address space the process may have. By one thread, before anybody sets anything.
    pub fn adapt(&self) {
        self.settings().adapt_to_address_space(self.os().address_space_limit());
    }

    /// A block of `size` bytes at a multiple of `align` (a power of two), zeroed if `zero`; null when there is no
    /// memory.
    ///
    /// # Safety
    /// The caller possesses `heap`.
    #[inline]
    pub unsafe fn allocate<C: Checks>(&self, heap: &Heap, size: usize, align: usize, zero: bool) -> *mut u8 {
        // SAFETY: the caller's.
        let block = unsafe { self.try_allocate::<C>(heap, size, align, zero) };
        if !block.is_null() {
            return block;
        }
        // SAFETY: the caller's.
        unsafe { self.allocate_again::<C>(heap, size, align, zero) }
    }

    /// The second try.
    ///
    /// # Safety
    /// As for [`Allocator::allocate`].
    #[cold]
    #[inline(never)]
    unsafe fn allocate_again<C: Checks>(
        &self,
        heap: &Heap,
        size: usize,
        align: usize,
        zero: bool,
    ) -> *mut u8 {
        if !self.may_make_room(size, align) {
            return ptr::null_mut();
        }
        self.make_all_room::<C>(heap);
        // SAFETY: the caller's.
        unsafe { self.try_allocate::<C>(heap, size, align, zero) }
    }

    /// Has all that is free come home, and unmaps it: for who would be told that there is no memory, or no room for a stack.
    pub fn make_all_room<C: Checks>(&self, heap: &Heap) {
        self.collect_all::<C>(heap);
        self.make_room(heap);
    }

    /// Unmaps what is free; and where there is a limit, against which it counts, purges what stays mapped.
    #[cold]
    fn make_room(&self, heap: &Heap) {
        if self.settings().has_limit() {
            self.give_back_all(heap.claimant());
        } else {
            self.unmap_free(heap.claimant());
        }
        self.space().reap_all(Some(heap.slot()));
    }

    /// Whether a request that failed may have a second try, after what is free has been unmapped. That frees no more
    /// addresses than are mapped: if the system has no room even for the rest of the request, it is of no use.
    #[cold]
    fn may_make_room(&self, size: usize, align: usize) -> bool {
        let Some(bytes) = size.checked_add(align) else { return false };
        if size > self.settings().hard_limit() {
            return false;
        }
        let longer = bytes.saturating_sub(self.space().counts().mapped);
        longer == 0 || self.space().has_room(longer)
    }

    /// A block of `class`; null when there is no memory without making room.
    ///
    /// # Safety
    /// The caller possesses `heap`; `class` is below [`CLASSES`](crate::base::CLASSES).
    #[inline(always)]
    pub unsafe fn try_allocate_small<C: Checks>(&self, heap: &Heap, class: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            if heap.has_none(class) && !self.refill::<C>(heap, class) {
                return ptr::null_mut();
            }
            heap.pop::<C>(class).cast()
        }
    }

    /// # Safety
    /// As for [`Heap::refill`].
    #[inline]
    unsafe fn refill<C: Checks>(&self, heap: &Heap, class: usize) -> bool {
        // SAFETY: the caller's.
        let filled = unsafe { heap.refill::<C, P>(self, class) };
        self.sweep_if_risen::<C>(heap);
        filled
    }

    /// Where the heap has seen the process higher than ever: what others have free is there for the next.
    #[inline]
    fn sweep_if_risen<C: Checks>(&self, heap: &Heap) {
        if heap.has_risen() {
            self.sweep::<C>(heap);
        }
    }

    #[inline]
    unsafe fn try_allocate<C: Checks>(&self, heap: &Heap, size: usize, align: usize, zero: bool) -> *mut u8 {
        match BlockKind::of(size, align) {
            BlockKind::Small(class) => {
                // SAFETY: the caller's.
                let block = unsafe { self.try_allocate_small::<C>(heap, class) };
                if zero && !block.is_null() {
                    // SAFETY: the block holds at least `size` bytes and is the caller's.
                    unsafe { block.write_bytes(0, size) };
                }
                block
            }
            BlockKind::Large => {
                heap.hollow_before_growing::<C, P>(self, size);
                self.sweep_if_risen::<C>(heap);
                self.allocate_large(heap.claimant(), size, align, zero)
            }
            BlockKind::Huge => self.allocate_huge(heap.claimant(), size, align, zero),
        }
    }

    /// A block that is a sample, which is no block of a slab, however small it is; null without memory at hand.
    #[inline(never)]
    pub fn allocate_apart(&self, heap: &Heap, size: usize, align: usize, zero: bool) -> *mut u8 {
        match BlockKind::of(size, align) {
            BlockKind::Huge => self.allocate_huge(heap.claimant(), size, align, zero),
            _ => self.allocate_large(heap.claimant(), size, align, zero),
        }
    }

    /// One allocation: if it is a sample, how many bytes it counts as; otherwise zero.
    pub fn counts_as_sample(&self, heap: &Heap, size: usize, align: usize) -> usize {
        let class = match BlockKind::of(size, align) {
            BlockKind::Small(class) => Some(class),
            _ => None,
        };
        if heap.counts_as_sample(class, size) { class.map_or(size, class_size) } else { 0 }
    }

    /// Frees what `place` found.
    ///
    /// # Safety
    /// The caller possesses `heap` and the block at `address`, which `place` was found for.
    pub unsafe fn free<C: Checks>(&self, heap: &Heap, address: *mut u8, place: Place) {
        match place {
            Place::Slab(slab) => {
                let block = address.cast::<Block>();
                // SAFETY: the caller's.
                unsafe {
                    if ptr::eq(slab.owner(), heap) {
                        heap.free_local::<C, P>(self, slab, block);
                    } else {
                        heap.free_remote::<C, P>(self, slab, block);
                    }
                }
            }
            Place::Large(slab) => self.free_large(heap.claimant(), slab),
            Place::Huge(region) => self.free_huge(heap.claimant(), region),
        }
    }

    /// Grows or shrinks a block where it is, or by moving its pages; `None` if only a copy can do it, or nothing.
    ///
    /// # Safety
    /// The caller possesses `heap` and the block that `place` was found for; both sizes are of kind
    /// [`BlockKind::Large`] or both of kind [`BlockKind::Huge`], or the block can hold `size` bytes and is no slab's.
    pub unsafe fn resize(&self, heap: &Heap, place: Place, size: usize, align: usize) -> Option<*mut u8> {
        match place {
            Place::Slab(_) => None,
            Place::Large(slab) => self.resize_large(heap.claimant(), slab, size),
            Place::Huge(region) => {
                let mut moved = self.resize_huge(heap.claimant(), region, size, align);
                if moved.is_null() && self.may_make_room(size, align) {
                    self.make_room(heap);
                    // Within a limit there may be room for more where the block is.
                    moved = match self.settings().has_limit() {
                        true => self.resize_huge(heap.claimant(), region, size, align),
                        false => self.grow_huge_elsewhere(heap.claimant(), region, size, align),
                    };
                }
                if moved.is_null() { None } else { Some(moved) }
            }
        }
    }

    /// Gives back everything that is free: in this heap, in those whose threads are outside, in those that nobody
    /// possesses, and in whole slices and regions.
    #[cold]
    pub fn trim<C: Checks>(&self, heap: &Heap) {
        self.collect_all::<C>(heap);
        self.give_back_all(heap.claimant());
    }

    /// Takes in what was sent to this heap, to those whose threads are outside, and to those that nobody possesses, and
    /// gives back their empty slabs.
    fn collect_all<C: Checks>(&self, heap: &Heap) {
        heap.collect::<C, P>(self);
        heap.give_back_pages::<C, P>(self, 1);
        self.make_round::<C>(heap, Round::All);
        self.trim_idle::<C>(heap.caller());
    }

    /// One tick of the clock: takes in what was sent to idle heaps, and gives back to the system a part of what has
    /// been free since the last tick, and arenas that have been empty for several. Returns whether anything is left to
    /// give back.
    pub fn tick<C: Checks>(&self, heap: &Heap) -> bool {
        let before = self.os().calls();
        self.collect_warm::<C>(heap);
        self.collect_idle::<C>(heap.caller());
        self.age(heap.claimant());
        let after = self.os().calls();
        if after.failed > before.failed && (after.unmap, after.purge) == (before.unmap, before.purge) {
            self.refusals().note(true, self.os().now_ms());
        }
        self.has_idle_memory()
    }

    /// Heeds what was found outside (see [`Ground::look_outside`](super::ground::Ground::look_outside)): where memory has
    /// become scarce all that is free goes back, with what threads that are outside have at hand, and otherwise what
    /// may not stay beside what the process may still get.
    pub fn heed<C: Checks>(&self, heap: &Heap, seen: Outside) {
        if self.backend().is_scarce(seen) {
            return self.trim::<C>(heap);
        }
        self.collect_idle::<C>(heap.caller());
        self.backend().bound_dirty(heap.claimant());
    }

    /// Milliseconds until the next tick is due if the last one left something.
    pub fn tick_ms(&self) -> u32 {
        self.refusals().wait(self.os().now_ms()).clamp(TICK_MS, MOST_TICK_MS) as u32
    }

    /// Whether there is anything for [`Allocator::tick`] to give back: free memory that is resident, empty arenas, heaps
    /// that threads have left warm, blocks that were sent to a heap that nobody possesses, or regions that wait to be
    /// unmapped.
    pub fn has_idle_memory(&self) -> bool {
        self.backend().has_idle_memory() || self.has_warm() || self.pool().has_unread_inbox()
    }

    /// Whether there is a helper, and whether it is wanted.
    pub fn helper(&self) -> &HelperState {
        &self.helper
    }

    /// Whether blocks that were sent to any heap are still to be received.
    pub fn has_mail(&self) -> bool {
        self.pool().each().any(Heap::has_mail)
    }

    /// What the helper does last: gives back what is free in the heap of the last thread, for blocks that it freed for
    /// threads that have gone lie in slabs that were theirs; and unmaps empty arenas, which stayed mapped while the
    /// helper was there.
    pub fn leave_alone<C: Checks>(&self, heap: &Heap) {
        // Blocks may be sent to the heap that the helper has borrowed meanwhile. And those that were sent to an idle
        // one lie in slabs that a living thread may have adopted since, and go on to it: so the living come last.
        heap.collect::<C, P>(self);
        self.collect_idle::<C>(heap.caller());
        self.make_round::<C>(heap, Round::Untidied);
        self.keep_little(heap.claimant());
        self.unmap_empty(heap.claimant());
        self.space().reap(Some(heap.slot()));
    }
}
