//! A slab: a run of slices that holds blocks of one size class, by the record of its first slice. What its heap does
//! with it.

use super::run::Run;
use super::{Bin, Heap};
use crate::base::{ClassInfo, class_info};
use crate::heap::block::{Block, Checks};
use crate::heap::record::{Slab, Usage};
use crate::sync::atomic::Ordering;
use crate::sync::{Cell, in_order, signal_fence};
use core::ptr;

/// Where a slab stands with its heap. `Slab::stand` says what the countdown means in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Standing {
    /// The one of its class that the heap extends.
    Current = 0,
    /// Its list is empty; in no list of slabs.
    Full = 1,
    /// Has something to give; linked in the heap's list of its class.
    Available = 2,
}

/// While a slab is current nobody needs to know when it is empty: the countdown starts here, less what is on the list,
/// and is set anew whenever the list is taken.
const UNCOUNTED: u32 = u32::MAX;

/// Bytes of blocks that a slab is extended by at most.
const EXTENSION: usize = 16 << 10;

/// Blocks that are linked at once for the sake of fewer slow events only.
const MOST_LINKED: usize = 64;

/// Bytes between two blocks that are freed one after the other, at most, if the next is expected as far away.
const MOST_STEP: usize = 4096;

/// What a local free brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Freed {
    /// Nothing that needs attention.
    Quietly,
    /// The countdown reached zero: the heap looks at the slab's standing.
    Event,
}

impl Slab {
    /// Makes the record that of a fresh slab of `class`, owned by `owner` and current there. So many of its slices are
    /// `dirty`.
    pub fn open(&self, class: usize, owner: *mut Heap, dirty: usize) {
        let info = class_info(class);
        self.note_resident(info.slices as usize, dirty);
        self.mark_later(info.slices);
        self.owned.free.set(ptr::null_mut());
        self.owned.previous.set(ptr::null());
        self.owned.next.set(ptr::null());
        self.forget_hollow();
        // Relaxed (all): whoever reads these holds a block, which reached it from this thread after the writes.
        let base = self.base();
        self.shared.start.store(base + info.colour(base), Ordering::Relaxed);
        self.shared.reciprocal.store(info.reciprocal, Ordering::Relaxed);
        self.shared.limit.store(0, Ordering::Relaxed);
        self.owned.handed_out.store(0, Ordering::Relaxed);
        self.shared.bin.store((class * Bin::WORDS) as u32, Ordering::Relaxed);
        self.shared.slices.store(info.slices, Ordering::Relaxed);
        // It will be used to its end, as a rule: see `spare_unborn`.
        self.last().spare(0);
        self.begin_life();
        self.shared.usage.store(Usage::Slab as u32, Ordering::Relaxed);
        self.shared.owner.store(owner.cast(), Ordering::Relaxed);
        self.make_current(0);
    }

    /// The heap that blocks of this slab go home to; null for anything that is not the first slice of a slab.
    #[inline(always)]
    pub fn owner(&self) -> *mut Heap {
        // Relaxed: the caller compares it with its own heap (its own store), or sends a block there: an inbox lives
        // forever, and an owner that has changed since forwards what it gets.
        self.shared.owner.load(Ordering::Relaxed).cast()
    }

    /// Gives the slab to another heap. The caller possesses both.
    pub fn set_owner(&self, owner: *mut Heap) {
        // Relaxed: see `owner`.
        self.shared.owner.store(owner.cast(), Ordering::Relaxed);
    }

    /// Size class of the slab.
    #[inline(always)]
    pub fn class(&self) -> usize {
        self.bin() / Bin::WORDS
    }

    /// Where in a heap the bin of the slab's class lies.
    #[inline(always)]
    pub fn bin(&self) -> usize {
        // Relaxed: see rule 1.
        self.shared.bin.load(Ordering::Relaxed) as usize
    }

    /// What is fixed for the slab's class.
    #[inline(always)]
    pub fn info(&self) -> &'static ClassInfo {
        class_info(self.class())
    }

    /// Whether a block of this slab that has been handed out starts at `address`, any address below 2^47: asked by the
    /// possessor of the owning heap, the only one who writes the fields. Plain loads, which the compiler folds into the
    /// arithmetic.
    ///
    /// # Safety
    /// The caller possesses the owning heap.
    #[inline(always)]
    pub unsafe fn has_own_block(&self, address: usize) -> bool {
        #[cfg(any(loom, shuttle))]
        return self.starts_block(address);
        #[cfg(not(any(loom, shuttle)))]
        // SAFETY: only the caller's thread writes these fields; loads by others do not conflict with loads.
        unsafe {
            let offset = address.wrapping_sub(*self.shared.start.as_ptr()) as u64;
            offset.wrapping_mul(*self.shared.reciprocal.as_ptr()) < *self.shared.limit.as_ptr()
        }
    }

    /// Puts a block of this slab on its free list. `key` is the block's, by [`Block::key`].
    ///
    /// The list is a list after every single store, in the order in which they are written here: a thread that vanishes
    /// in between (fork) loses this block at most.
    ///
    /// # Safety
    /// The caller possesses the owning heap and the block.
    #[inline(always)]
    pub unsafe fn push<C: Checks>(&self, block: *mut Block, key: usize) -> Freed {
        // SAFETY: the caller's.
        unsafe { Block::link::<C>(block, self.owned.free.get(), key) };
        signal_fence();
        self.owned.free.set(block);
        self.count_down()
    }

    /// Puts a run of blocks of this slab on its free list, in the same way: a thread that vanishes loses this run at most.
    ///
    /// # Safety
    /// The caller possesses the owning heap and the run.
    #[inline(always)]
    pub unsafe fn push_run<C: Checks>(&self, run: Run, secret: usize) -> Freed {
        // SAFETY: the caller's.
        unsafe {
            Block::move_on::<C>(run.last, secret);
            Block::link::<C>(run.last, self.owned.free.get(), Block::key(run.last, secret));
        }
        signal_fence();
        self.owned.free.set(run.first);
        // Relaxed (both): as in `count_down`.
        let left = self.owned.countdown.load(Ordering::Relaxed).saturating_sub(run.count);
        self.owned.countdown.store(left, Ordering::Relaxed);
        if left == 0 { Freed::Event } else { Freed::Quietly }
    }

    /// One step of the countdown: by its writer alone, so that no locked instruction is needed; statistics read it.
    #[inline(always)]
    #[cfg(all(target_arch = "x86_64", not(miri), not(any(loom, shuttle))))]
    fn count_down(&self) -> Freed {
        // SAFETY: one subtraction in memory that belongs to this record, as a relaxed load and store would do it. The
        // compiler makes three instructions of those, and this is the hottest store of a free.
        unsafe {
            core::arch::asm!(
                "sub dword ptr [{record} + {countdown}], 1",
                "jz {ended}",
                record = in(reg) self,
                countdown = const core::mem::offset_of!(Slab, owned.countdown),
                ended = label { return Freed::Event },
                options(nostack),
            );
        }
        Freed::Quietly
    }

    /// One step of the countdown: by its writer alone, so that no locked instruction is needed; statistics read it.
    #[inline(always)]
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(any(loom, shuttle)))))]
    fn count_down(&self) -> Freed {
        // Relaxed (both): the owner alone writes it; statistics want no order.
        let left = self.owned.countdown.load(Ordering::Relaxed).wrapping_sub(1);
        self.owned.countdown.store(left, Ordering::Relaxed);
        if left == 0 { Freed::Event } else { Freed::Quietly }
    }

    /// Has the words of the block fetched that is freed next, if blocks are freed in steps: as far behind `block` as that
    /// is behind the one that was freed before. A free has to read them first.
    #[inline(always)]
    pub fn expect_next(&self, block: *mut Block) {
        let step = block.addr().wrapping_sub(self.owned.free.get().addr());
        if step <= MOST_STEP {
            Block::expect(block.wrapping_byte_add(step));
        }
    }

    /// The slab of a block.
    ///
    /// # Safety
    /// The block counts as live: so its arena is there.
    #[inline(always)]
    pub unsafe fn of_live(block: *mut Block) -> &'static Slab {
        // SAFETY: the caller's.
        unsafe { Slab::first_of(Slab::of(block.addr())) }
    }

    /// Whether the countdown ends with the next block that is freed.
    #[inline(always)]
    pub fn is_last_of_countdown(&self) -> bool {
        // Relaxed: the owner's own store.
        self.owned.countdown.load(Ordering::Relaxed) == 1
    }

    /// Empties the free list: its blocks are on another list.
    pub fn forget_free(&self) {
        self.keep_free(ptr::null_mut());
    }

    /// The free list is the rest of what it was: the others of its blocks are on another list.
    pub fn keep_free(&self, rest: *mut Block) {
        self.owned.free.set(rest);
    }

    /// The head of the free list.
    pub fn free_list(&self) -> *mut Block {
        self.owned.free.get()
    }

    /// Blocks handed out so far at least once.
    pub fn handed_out(&self) -> u32 {
        // Relaxed: the owner's own store; a figure for statistics.
        self.owned.handed_out.load(Ordering::Relaxed)
    }

    /// Whether `block` is one of this slab's that has never been handed out.
    pub fn is_unborn(&self, block: *mut Block) -> bool {
        let offset = self.offset_of(block.addr());
        offset < self.bytes() && offset >= self.handed_out() as usize * self.info().size as usize
    }

    /// Links never used blocks into a list, which it puts into `list`, and returns how many: none when the slab has
    /// none left. As many as a `page` holds, one at least; and more in a slab that has been used for some time: a third
    /// of what it has handed out, up to [`EXTENSION`] bytes, so that not every fourth block is a slow event, and most
    /// pages are touched when they are needed and not before; and [`MOST_LINKED`] where those pages were resident when the
    /// slab was opened; but no more than `most`. A thread that vanishes in between leaves a list that begins with a block
    /// that was never handed out: see [`Slab::is_unborn`].
    ///
    /// # Safety
    /// The caller possesses the owning heap, of which `list` is an empty list.
    pub unsafe fn extend<C: Checks>(
        &self,
        page: usize,
        secret: usize,
        list: &Cell<*mut Block>,
        most: u32,
    ) -> u32 {
        let info = self.info();
        let (size, from) = (info.size as usize, self.handed_out() as usize);
        let resident = self.found_resident().saturating_sub(self.colour() + from * size) / size;
        let long = (from / 3).min(EXTENSION / size).max(resident.min(MOST_LINKED));
        let count = (page / size).max(1).max(long).min(info.capacity as usize - from).min(most as usize);
        if count == 0 {
            return 0;
        }
        let first = self.start() + from * size;
        let link_all = || {
            let mut next: *mut Block = ptr::null_mut();
            for index in (0..count).rev() {
                let block = ptr::with_exposed_provenance_mut::<Block>(first + index * size);
                // SAFETY: below the slab's capacity and above its limit: nobody has been handed this block.
                unsafe { Block::link::<C>(block, next, Block::key(block, secret)) };
                next = block;
            }
            list.set(next);
            signal_fence();
        };
        let tell = || {
            let handed_out = (from + count) as u32;
            // Relaxed (both): see rule 1: whoever is handed one of these blocks got it from this thread. A walk, which
            // was handed none, finds them free.
            self.shared.limit.store(info.limit(handed_out), Ordering::Relaxed);
            self.owned.handed_out.store(handed_out, Ordering::Relaxed);
        };
        in_order(link_all, tell, "heap.told_unlinked");
        count as u32
    }

    /// Whether some of its blocks have never been handed out.
    pub fn has_unborn(&self) -> bool {
        self.handed_out() < self.info().capacity
    }

    /// Where the slab stands with its heap.
    pub fn standing(&self) -> Standing {
        // Relaxed: the owner's own store; a figure for statistics.
        match self.owned.standing.load(Ordering::Relaxed) {
            0 => Standing::Current,
            1 => Standing::Full,
            _ => Standing::Available,
        }
    }

    /// The slab becomes the one that its heap extends. `free` blocks are on its list.
    pub fn make_current(&self, free: u32) {
        self.stand(Standing::Current, UNCOUNTED - free);
    }

    /// All blocks that were handed out are out: the first that comes home links the slab again.
    pub fn make_full(&self) {
        self.stand(Standing::Full, 1);
    }

    /// The slab has something to give; it is empty after `live` frees.
    pub fn make_available(&self, live: u32) {
        self.stand(Standing::Available, live);
    }

    /// The countdown is what turns two tests of every free into one. A full slab's first free must link it again: the
    /// countdown is 1. An available slab is empty after as many frees as blocks are out. A current slab needs neither:
    /// the countdown never ends.
    fn stand(&self, standing: Standing, countdown: u32) {
        // Relaxed (both): see `standing` and `push`.
        self.owned.standing.store(standing as u32, Ordering::Relaxed);
        self.owned.countdown.store(countdown, Ordering::Relaxed);
    }

    /// Blocks on the free list.
    pub fn free_count(&self) -> u32 {
        // Relaxed: the owner's own store; a figure for statistics.
        let countdown = self.owned.countdown.load(Ordering::Relaxed);
        match self.standing() {
            Standing::Full => 0,
            Standing::Available => self.handed_out().saturating_sub(countdown),
            Standing::Current => UNCOUNTED - countdown,
        }
    }

    /// Blocks that are out, those in bins among them.
    pub fn live(&self) -> u32 {
        self.handed_out().saturating_sub(self.free_count())
    }

    /// The slab behind this one in its list; or null.
    pub fn next(&self) -> *const Slab {
        self.owned.next.get()
    }

    /// Links the slab in front of the list that starts at `head`.
    pub fn link_before(&self, head: &Cell<*const Slab>) {
        let old = head.get();
        self.owned.previous.set(ptr::null());
        self.owned.next.set(old);
        // SAFETY: a list's slabs are records of arenas that hold live or possessed slabs, all of one heap.
        if let Some(old) = unsafe { old.as_ref() } {
            old.owned.previous.set(self);
        }
        head.set(self);
    }

    /// Takes the slab out of the list that starts at `head`.
    pub fn unlink(&self, head: &Cell<*const Slab>) {
        let (previous, next) = (self.owned.previous.get(), self.owned.next.get());
        // SAFETY: as in `link_before`.
        match unsafe { previous.as_ref() } {
            Some(previous) => previous.owned.next.set(next),
            None => head.set(next),
        }
        // SAFETY: as in `link_before`.
        if let Some(next) = unsafe { next.as_ref() } {
            next.owned.previous.set(previous);
        }
    }
}
