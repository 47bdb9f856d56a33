//! `heap`: slabs, thread heaps, remote frees, large and huge blocks, purging.
//!
//! May import `base`, `sync`, `pal`, `rcu`, `region` and `index`. The front door is [`Allocator`], a value: a process
//! has one in a static (`global`), a test as many as it likes, on whatever platform.
//!
//! The life of an allocation: `Bin::pop` -> [`Heap::refill`] -> `Allocator::new_slab` -> [`Arenas::claim`] ->
//! `SliceMap::claim`, or `Space::map_region` when no arena has room. And of a free: [`Bin::push`], or [`Slab::push`] ->
//! `Heap::countdown_ended` -> `Heap::close` -> [`Arenas::release`].

mod arenas;
mod bell;
mod block;
mod census;
mod gate;
mod helper_state;
mod huge;
#[cfg(all(test, not(any(loom, shuttle))))]
mod huge_tests;
mod large;
mod local;
#[cfg(all(test, any(loom, shuttle)))]
pub(crate) mod models;
mod place;
mod pool;
mod refusals;
mod remote;
mod retention;
mod settings;
mod slab;
mod tally;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod visits;

pub use arenas::{Arenas, Claim};
pub use bell::Bell;
pub use block::{Block, Checked, Checks, Trusting};
pub use census::{Census, ClassCensus, LiveBlocks};
pub use gate::{Gate, Visit};
pub use helper_state::HelperState;
pub use huge::Huge;
pub use local::{Bin, Heap};
pub use place::{Place, first_of};
pub use pool::{Holder, MAX_HEAPS, Pool, Possession};
pub use retention::Retention;
pub use settings::{Bet, BetCount, Settings};
pub use slab::{Freed, Slab, Standing, Usage};
pub use tally::{Count, Tally};

use refusals::Refusals;

use crate::base::{GRANULE, SLICE, class_info, class_of_aligned};
use crate::const_unless_model;
use crate::index::{Coarse, Space};
use crate::pal::{Call, Misuse, Platform, broken_contract};
use crate::rcu::ReaderSlot;
use crate::region::{Prefer, Region};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{full_fence, seeded};
use core::ptr;
use visits::Watch;

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
/// 1.4 MiB of tables, of which a small program touches an entry or two each. So here, and in what this is made of, the order of
/// the fields is kept, and what is touched together stands together: words before tables, and tables with their touched
/// ends towards each other. Each page less is a fault less at the start of every program.
#[repr(C)]
pub struct Allocator<P: Platform> {
    settings: Settings,
    retention: Retention,
    refusals: Refusals,
    bell: Bell,
    helper: HelperState,
    secret: AtomicUsize,
    space: Space<P>,
    arenas: Arenas,
    huge: Huge,
    pool: Pool,
    watch: Watch,
}

impl<P: Platform> Allocator<P> {
    const_unless_model! {
        /// An allocator that has not mapped anything yet. Call [`Allocator::start`] once before anything else.
        pub fn new(os: P) -> Allocator<P> {
            Allocator {
                space: Space::new(os),
                arenas: Arenas::new(),
                pool: Pool::new(),
                huge: Huge::new(),
                settings: Settings::new(),
                retention: Retention::new(),
                refusals: Refusals::new(),
                bell: Bell::new(),
                helper: HelperState::new(),
                watch: Watch::new(),
                secret: AtomicUsize::new(0),
            }
        }
    }

    /// Finds out what the platform offers. Any number of threads may race here before the first allocation.
    pub fn start(&'static self) {
        self.space.start();
        let secret = self.space.os().entropy() as usize | 1;
        // Relaxed (both): one of the racing threads wins, and the exchange tells the others its value.
        let _ = self.secret.compare_exchange(0, secret, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Adapts the settings to what the process may have of address space. By one thread, before anybody sets anything.
    pub fn adapt(&self) {
        self.settings.adapt_to_address_space(self.space.os().address_space_limit());
    }

    /// A block of `size` bytes at a multiple of `align` (a power of two), zeroed if `zero`; null when there is no memory.
    ///
    /// # Safety
    /// The caller possesses `heap`.
    #[inline]
    pub unsafe fn allocate<C: Checks>(&self, heap: &Heap, size: usize, align: usize, zero: bool) -> *mut u8 {
        // SAFETY: the caller's.
        let block = unsafe { self.try_allocate::<C>(heap, size, align, zero) };
        if !block.is_null() || !self.may_make_room(size, align) {
            return block;
        }
        self.collect_all::<C>(heap);
        self.make_room(heap);
        // SAFETY: the caller's.
        unsafe { self.try_allocate::<C>(heap, size, align, zero) }
    }

    /// Whether a request that failed may have a second try, after what is free has been unmapped. That frees no more
    /// addresses than are mapped: if the system has no room even for what the request is longer, there is no use in it.
    #[cold]
    fn may_make_room(&self, size: usize, align: usize) -> bool {
        let Some(bytes) = size.checked_add(align) else { return false };
        let longer = bytes.saturating_sub(self.space.counts().mapped);
        longer == 0 || self.space.has_room(longer)
    }

    #[inline]
    unsafe fn try_allocate<C: Checks>(&self, heap: &Heap, size: usize, align: usize, zero: bool) -> *mut u8 {
        match BlockKind::of(size, align) {
            BlockKind::Small(class) => {
                // SAFETY: the caller's.
                let mut block = unsafe { heap.pop::<C>(class) };
                if block.is_null() {
                    // SAFETY: the caller's.
                    block = unsafe { heap.refill::<C, P>(self, class) };
                }
                let block = block.cast::<u8>();
                if zero && !block.is_null() {
                    // SAFETY: the block holds at least `size` bytes and is the caller's.
                    unsafe { block.write_bytes(0, size) };
                }
                block
            }
            BlockKind::Large => self.allocate_large(heap, size, align, zero),
            BlockKind::Huge => self.huge.allocate(self, heap, size, align, zero),
        }
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
            Place::Large(slab) => self.free_large(heap, slab),
            Place::Huge(region) => self.huge.free(self, heap, region),
        }
    }

    /// Grows or shrinks a block where it is, or by moving its pages; `None` if only a copy can do it, or nothing.
    ///
    /// # Safety
    /// The caller possesses `heap` and the block that `place` was found for; both sizes are of kind [`BlockKind::Large`]
    /// or both of kind [`BlockKind::Huge`], or the block is large and can hold `size` bytes.
    pub unsafe fn resize(&self, heap: &Heap, place: Place, size: usize, align: usize) -> Option<*mut u8> {
        match place {
            Place::Slab(_) => None,
            Place::Large(slab) => self.resize_large(heap, slab, size),
            Place::Huge(region) => {
                let mut moved = self.huge.resize(self, heap, region, size, align);
                if moved.is_null() && self.may_make_room(size, align) {
                    self.make_room(heap);
                    moved = self.huge.resize(self, heap, region, size, align);
                }
                if moved.is_null() { None } else { Some(moved) }
            }
        }
    }

    /// A fresh slab of `class` for `heap`, current there; in slices that it has to spare, or has claimed. `None` without
    /// memory, and if an idle heap had an available one to spare, which is `heap`'s now.
    fn new_slab<C: Checks>(&self, heap: &Heap, class: usize) -> Option<&'static Slab> {
        let slices = class_info(class).slices as usize;
        let base = match heap.spare(slices) {
            Some(base) => base,
            None if self.pool.steal::<C, P>(self, heap, class) => return None,
            None => self.arenas.claim(self, heap, slices, 1, Prefer::Dirty)?.base,
        };
        // SAFETY: the slices are the heap's; records live as long as their arena, which claimed slices hold.
        let slab = unsafe { &*Slab::of(base) };
        slab.open(class, ptr::from_ref(heap).cast_mut());
        self.arenas.count_slab(self, base, true);
        Some(slab)
    }

    /// The arena that `address` lies in, which the caller holds a part of.
    fn region_of_arena(&self, address: usize) -> &'static Region {
        match self.space.index().lookup_coarse(address) {
            Coarse::Region(region) => region,
            // The caller holds a part of the arena: only a corrupted record can lead here.
            Coarse::Nothing | Coarse::Unsure => broken_contract(Misuse::Interior, Call::Free, address),
        }
    }

    /// Gives back everything that is free: in this heap, in those whose threads are outside, in those that nobody possesses,
    /// and in whole slices and regions.
    #[cold]
    pub fn give_back<C: Checks>(&self, heap: &Heap) {
        self.collect_all::<C>(heap);
        self.relieve(heap);
    }

    /// Takes in what was sent to this heap, to those whose threads are outside, and to those that nobody possesses, and gives back
    /// their empty slabs.
    fn collect_all<C: Checks>(&self, heap: &Heap) {
        heap.collect::<C, P>(self);
        self.visit::<C>(heap.holder(), |_| true, |idle| idle.collect::<C, P>(self));
        self.collect_idle::<C>(heap.holder());
    }

    /// Gives back what is free in whole slices and regions.
    pub fn relieve(&self, heap: &Heap) {
        self.arenas.purge(self, heap, usize::MAX);
        self.make_room(heap);
    }

    /// When address space, mappings or what may be committed are short: unmaps everything that is free. Purging what stays
    /// mapped would not help.
    fn make_room(&self, heap: &Heap) {
        self.huge.drop_kept(self);
        self.arenas.unmap_empty(self, heap);
        self.space.reap(Some(heap.slot()));
        // What waits for a grace period was idle in nobody's eyes while it was on its way here.
        self.stir();
    }

    /// One tick of the clock: what has been free since the last tick goes back to the system, and arenas that have been
    /// empty for several.
    /// Answers whether anything is left to give back.
    pub fn tick<C: Checks>(&self, heap: &Heap) -> bool {
        let before = self.space.os().calls();
        self.collect_idle::<C>(heap.holder());
        self.age_dirty(heap);
        self.arenas.age_empty(self, heap);
        self.space.reap(Some(heap.slot()));
        let after = self.space.os().calls();
        if after.failed > before.failed && (after.unmap, after.purge) == (before.unmap, before.purge) {
            self.refusals.note(true, self.space.os().now_ms());
        }
        self.has_idle_memory()
    }

    /// Milliseconds until the next tick is due if the last one left something.
    pub fn tick_ms(&self) -> u32 {
        self.refusals.wait(self.space.os().now_ms()).clamp(TICK_MS, MOST_TICK_MS) as u32
    }

    /// Whether there is anything for [`Allocator::tick`] to give back: free memory that is resident, empty arenas, blocks that
    /// were sent to a heap that nobody possesses, or regions that wait to be unmapped.
    pub fn has_idle_memory(&self) -> bool {
        self.arenas.dirty_slices() > 0
            || self.arenas.has_empty()
            || self.huge.kept_bytes() > 0
            || self.pool.has_unread_inbox()
            || self.space.has_retired()
    }

    /// Tells the helper that memory has become idle.
    pub fn stir(&self) {
        self.bell.ring(self.space.os());
    }

    /// Where the helper sleeps.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Whether there is a helper, and whether it is wanted.
    pub fn helper(&self) -> &HelperState {
        &self.helper
    }

    /// What the helper does last. Arenas that became empty while it was there stayed for it to unmap, and so did what the
    /// last thread holds that is free: blocks that it freed for threads that have gone lie in slabs that were theirs.
    pub fn leave_alone<C: Checks>(&self, heap: &Heap) {
        self.tidy_all::<C>(heap);
        self.collect_idle::<C>(heap.holder());
        self.keep_little(heap);
        self.arenas.unmap_empty(self, heap);
        self.space.reap(Some(heap.slot()));
    }

    /// Gives a heap up: it is idle afterwards, and may be another thread's at once. Blocks that were sent to it meanwhile
    /// are the helper's to look after.
    pub fn give_up(&self, heap: &Heap) {
        self.pool.give_up(heap);
        // Partner: the fence in `Heap::post`: either we see what was sent, or the sender sees that the heap is idle.
        full_fence("heap.give_up_fence");
        if heap.has_mail() && !seeded("heap.give_up_blind") {
            self.stir();
        }
    }

    /// Tidies the heaps that nobody possesses: takes in what was sent to them, and gives back what is empty.
    pub fn collect_idle<C: Checks>(&self, by: Holder) {
        for index in self.pool.idle_heaps() {
            if let Some(idle) = self.pool.possess(index, by) {
                if idle.needs_collecting() {
                    idle.collect::<C, P>(self);
                }
                self.give_up(idle);
            }
        }
    }

    /// In the child of a fork: what belonged to threads that do not exist here belongs to nobody. `own` is the calling
    /// thread, in whose hands heaps may be, also those that calls of its own were busy with when a handler forked.
    ///
    /// # Safety
    /// The calling thread is the only one.
    pub unsafe fn child_after_fork(&'static self, own: Holder) {
        // SAFETY: heaps attach their slots, and nobody else does.
        let owns = |slot: &ReaderSlot| unsafe { Heap::of_slot(slot) }.is_in_hand(own);
        // SAFETY: the caller's.
        unsafe { self.space.child_after_fork(&owns) };
        for heap in self.pool.torn(own) {
            heap.forget_slabs();
        }
        {
            // The slot of any heap would do: the calling thread may have none.
            let _section = self.space.rcu().enter_guest();
            self.arenas.recount();
            self.arenas.each_slab(|slab| {
                // SAFETY: an owner is a heap, and lives forever.
                let owner = unsafe { slab.owner().as_ref() };
                if let Some(owner) = owner.filter(|owner| owner.is_torn(own)) {
                    owner.regain(slab);
                }
            });
        }
        self.settle_gates(own);
        self.pool.renew_hints();
        if !seeded("heap.child_keeps_count") {
            self.huge.recount();
        }
        self.bell.forget_helper();
    }

    /// Whether an arena that has just become empty stays mapped: the helper thread unmaps it when it has been empty for
    /// a while; without one, it goes at once if the other arenas have a quarter of its room, so that a program at the
    /// edge does not map and unmap with every slab, and if its pages are not likely to be wanted again.
    fn keeps_empty_arena(&self, arena: &Region) -> bool {
        let here = arena.slices().usable().len();
        self.settings.has_helper()
            || self.arenas.free_elsewhere(here) < arena.len() / SLICE / 4
            || arena.slices().dirty_count() > 0 && self.is_wanted_again()
    }

    /// Bytes given back by purging so far.
    pub fn purged_bytes(&self) -> u64 {
        self.arenas.purged_bytes() + self.huge.purged_bytes()
    }

    /// Bytes of address space for a new arena.
    fn arena_bytes(&self) -> usize {
        self.settings.arena_bytes().min(GRANULE)
    }

    /// Address space, index, regions.
    pub fn space(&self) -> &Space<P> {
        &self.space
    }

    /// The arenas.
    pub fn arenas(&self) -> &Arenas {
        &self.arenas
    }

    /// What is counted of the arenas.
    pub fn tally(&self) -> &Tally {
        self.arenas.tally()
    }

    /// The heaps.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The huge blocks.
    pub fn huge(&self) -> &Huge {
        &self.huge
    }

    /// What may stay resident though free.
    pub fn retention(&self) -> &Retention {
        &self.retention
    }

    /// What can be set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How often a bet was taken, won and lost.
    pub fn bet(&self, bet: Bet) -> [u64; 3] {
        match bet {
            Bet::Lookup => {
                let heaps = (0..self.pool.made()).filter_map(|index| self.pool.get(index));
                let [won, lost] =
                    heaps.map(Heap::lookups).fold([0; 2], |sum, [won, lost]| [sum[0] + won, sum[1] + lost]);
                [won + lost, won, lost]
            }
            Bet::Space => self.settings.space_bet().counts(),
            // Not taken yet.
            Bet::Population => [0; 3],
        }
    }

    /// Bytes in a page.
    pub fn page_size(&self) -> usize {
        self.space.os().page_size()
    }

    fn secret(&self) -> usize {
        // Relaxed: set before the first heap is made.
        self.secret.load(Ordering::Relaxed)
    }
}
