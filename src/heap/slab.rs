//! A slab: a run of slices that holds blocks of one size class. And the record that every slice of an arena has in the
//! arena's first slice, which tells what the slice is used for.
//!
//! Who may touch which field:
//! 1. The *shared* line is written by whoever has claimed the slices, before it hands out the first block, and then
//!    only `owner` changes (a slab moves to another heap) and `limit` grows. Whoever holds a block of the slab may
//!    read it: the block came to them after those writes.
//! 2. The *owner's* line is touched only by the thread that possesses the owning heap.
//! 3. `countdown`, `handed_out` and `standing` are the exception: statistics read them from any thread, and believe them only roughly.
//! 4. The record of a slice that is not the first of its run says only how far back the first is.

use super::block::{Block, Checks};
use super::local::{Bin, Heap};
use crate::base::{ClassInfo, GRANULE, SLICE, align_down, class_info};
use crate::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Cell, signal_fence};
use core::ptr;

/// What a slice is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Usage {
    /// Nothing that a pointer of the program can point into.
    Free = 0,
    /// The first slice of a slab.
    Slab = 1,
    /// The first slice of a large block.
    Large = 2,
    /// A later slice of a slab or of a large block: `back` slices before it is the first.
    Later = 3,
}

/// Where a slab stands with its heap. What the countdown means in each says `Slab::stand`.
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

/// While a slab is current nobody needs to know when it is empty: the countdown starts here, less what is on the list, and
/// is set anew whenever the list is taken.
const UNCOUNTED: u32 = u32::MAX;

/// Bytes of blocks that a slab is extended by at most.
const EXTENSION: usize = 16 << 10;

/// The part of a record that other threads read. While the slab is open only its owner writes here.
#[cfg_attr(not(any(loom, shuttle)), repr(align(64)))]
struct Shared {
    owner: AtomicPtr<Heap>,
    /// Address of the slab's first slice.
    start: AtomicUsize,
    reciprocal: AtomicU64,
    /// The class's limit for the blocks handed out so far: see [`ClassInfo::limit`].
    limit: AtomicU64,
    usage: AtomicU32,
    /// Where in a heap the bin of the slab's class lies, in words: see [`Heap::bin_at`].
    bin: AtomicU32,
    /// Slices in the run; in a `Later` record: slices back to the first.
    slices: AtomicU32,
    /// Bytes at the end of this slice that are known not to be resident, though others of it are.
    spared: AtomicU32,
    /// Bytes that the program asked for: a large block's figure for statistics.
    requested: AtomicUsize,
}

/// The part that only the owner touches.
#[cfg_attr(not(any(loom, shuttle)), repr(align(64)))]
struct Owned {
    free: Cell<*mut Block>,
    countdown: AtomicU32,
    /// Blocks handed out at least once.
    handed_out: AtomicU32,
    standing: AtomicU32,
    previous: Cell<*const Slab>,
    next: Cell<*const Slab>,
}

/// The record of one slice: two cache lines in the header of its arena.
pub struct Slab {
    shared: Shared,
    owned: Owned,
}

// SAFETY: rules 1 to 3 above: shared fields are atomics, the others are touched by the possessor of the owning heap.
unsafe impl Sync for Slab {}

/// What a local free brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Freed {
    /// Nothing that needs attention.
    Quietly,
    /// The countdown arrived at zero: the heap looks at the slab's standing.
    Event,
}

impl Slab {
    /// Writes an unused record in place.
    ///
    /// # Safety
    /// `at` is memory for one record that nobody reads yet.
    pub unsafe fn construct(at: *mut Slab) {
        let shared = Shared {
            owner: AtomicPtr::new(ptr::null_mut()),
            start: AtomicUsize::new(0),
            reciprocal: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            usage: AtomicU32::new(Usage::Free as u32),
            bin: AtomicU32::new(0),
            slices: AtomicU32::new(0),
            spared: AtomicU32::new(0),
            requested: AtomicUsize::new(0),
        };
        let owned = Owned {
            free: Cell::new(ptr::null_mut()),
            countdown: AtomicU32::new(0),
            handed_out: AtomicU32::new(0),
            standing: AtomicU32::new(Standing::Current as u32),
            previous: Cell::new(ptr::null()),
            next: Cell::new(ptr::null()),
        };
        // SAFETY: the caller's.
        unsafe { at.write(Slab { shared, owned }) };
    }

    /// The record of the slice that `address` lies in, for an address in an arena.
    #[inline(always)]
    pub fn of(address: usize) -> *mut Slab {
        let base = align_down(address, GRANULE);
        let slice = (address % GRANULE) / SLICE;
        ptr::with_exposed_provenance_mut::<Slab>(base + slice * size_of::<Slab>())
    }

    /// Address of the slice that this is the record of.
    #[inline(always)]
    pub fn base(&self) -> usize {
        let at = ptr::from_ref(self).expose_provenance();
        align_down(at, GRANULE) + at % GRANULE / size_of::<Slab>() * SLICE
    }

    /// Makes the record that of a fresh slab of `class`, owned by `owner` and current there.
    pub fn open(&self, class: usize, owner: *mut Heap) {
        let info = class_info(class);
        self.mark_later(info.slices);
        self.soil(info.slices);
        self.owned.free.set(ptr::null_mut());
        self.owned.previous.set(ptr::null());
        self.owned.next.set(ptr::null());
        // Relaxed (all): whoever reads these holds a block, which reached it from this thread after the writes.
        self.shared.start.store(self.base(), Ordering::Relaxed);
        self.shared.reciprocal.store(info.reciprocal, Ordering::Relaxed);
        self.shared.limit.store(0, Ordering::Relaxed);
        self.owned.handed_out.store(0, Ordering::Relaxed);
        self.shared.bin.store((class * Bin::WORDS) as u32, Ordering::Relaxed);
        self.shared.slices.store(info.slices, Ordering::Relaxed);
        self.shared.usage.store(Usage::Slab as u32, Ordering::Relaxed);
        self.shared.owner.store(owner, Ordering::Relaxed);
        self.make_current(0);
    }

    /// Makes the record that of a large block of `slices` slices.
    pub fn open_large(&self, slices: u32, requested: usize) {
        self.mark_later(slices);
        self.soil(slices - 1);
        // Relaxed (all): as in `open`.
        self.shared.owner.store(ptr::null_mut(), Ordering::Relaxed);
        self.shared.slices.store(slices, Ordering::Relaxed);
        self.shared.requested.store(requested, Ordering::Relaxed);
        // One block, at the start: so that it is known when it is freed again after the run was closed.
        self.shared.reciprocal.store(1, Ordering::Relaxed);
        self.shared.limit.store(1, Ordering::Relaxed);
        self.shared.usage.store(Usage::Large as u32, Ordering::Relaxed);
    }

    /// Makes the records of the run unused again. The caller then gives the slices back.
    pub fn close(&self) {
        for slice in 0..self.slices() as usize {
            // SAFETY: the run's records lie behind one another in the header, and the run is the caller's.
            let record = unsafe { &*ptr::from_ref(self).add(slice) };
            // Relaxed: the release of the slices' bits orders these before the next claim.
            record.shared.owner.store(ptr::null_mut(), Ordering::Relaxed);
            record.shared.usage.store(Usage::Free as u32, Ordering::Relaxed);
        }
    }

    /// Makes this one record unused: its slice was cut off the end of a large block.
    pub fn forget(&self) {
        // Relaxed: as in `close`.
        self.shared.usage.store(Usage::Free as u32, Ordering::Relaxed);
    }

    fn mark_later(&self, slices: u32) {
        for back in 1..slices {
            // SAFETY: as in `close`.
            let record = unsafe { &*ptr::from_ref(self).add(back as usize) };
            // Relaxed: as in `open`.
            record.shared.slices.store(back, Ordering::Relaxed);
            record.shared.usage.store(Usage::Later as u32, Ordering::Relaxed);
            record.shared.owner.store(ptr::null_mut(), Ordering::Relaxed);
        }
    }

    /// Notes that the first `slices` slices of the run may become resident as a whole.
    fn soil(&self, slices: u32) {
        for slice in 0..slices as usize {
            // SAFETY: as in `close`.
            unsafe { &*ptr::from_ref(self).add(slice) }.spare(0);
        }
    }

    /// Notes how many bytes at the end of this slice are not resident.
    pub fn spare(&self, bytes: usize) {
        // Relaxed: only the slice's holder reads it; the slices' bits hand it over.
        self.shared.spared.store(bytes as u32, Ordering::Relaxed);
    }

    /// Bytes at the end of this slice that are known not to be resident.
    pub fn spared(&self) -> usize {
        // Relaxed: as above.
        self.shared.spared.load(Ordering::Relaxed) as usize
    }

    /// The heap that blocks of this slab go home to; null for anything that is not the first slice of a slab.
    #[inline(always)]
    pub fn owner(&self) -> *mut Heap {
        // Relaxed: the caller compares it with its own heap (its own store), or sends a block there: an inbox lives
        // forever, and an owner that has changed since forwards what it gets.
        self.shared.owner.load(Ordering::Relaxed)
    }

    /// Gives the slab to another heap. The caller possesses both.
    pub fn set_owner(&self, owner: *mut Heap) {
        // Relaxed: see `owner`.
        self.shared.owner.store(owner, Ordering::Relaxed);
    }

    /// What the slice is used for.
    #[inline(always)]
    pub fn usage(&self) -> Usage {
        // Relaxed: see rule 1; for a pointer that the program made up, any answer leads to a message or a miss.
        match self.shared.usage.load(Ordering::Relaxed) {
            1 => Usage::Slab,
            2 => Usage::Large,
            3 => Usage::Later,
            _ => Usage::Free,
        }
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

    /// Slices in the run; in a later slice's record, slices back to the first.
    pub fn slices(&self) -> u32 {
        // Relaxed: see rule 1.
        self.shared.slices.load(Ordering::Relaxed)
    }

    /// Bytes that the program asked for (large blocks).
    pub fn requested(&self) -> usize {
        // Relaxed: a figure.
        self.shared.requested.load(Ordering::Relaxed)
    }

    /// Notes a large block's new extent after it grew or shrank in place.
    pub fn resize_large(&self, slices: u32, requested: usize) {
        self.mark_later(slices);
        self.soil(slices - 1);
        // Relaxed (both): only the block's holder reads them.
        self.shared.slices.store(slices, Ordering::Relaxed);
        self.shared.requested.store(requested, Ordering::Relaxed);
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

    /// Whether a block of this slab that has been handed out starts at `address`, any address below 2^47.
    #[inline(always)]
    pub fn starts_block(&self, address: usize) -> bool {
        // Relaxed: see rule 1.
        self.is_block(address.wrapping_sub(self.shared.start.load(Ordering::Relaxed)))
    }

    /// Whether `offset` bytes into the slab a block starts that has been handed out at some time.
    #[inline(always)]
    pub fn is_block(&self, offset: usize) -> bool {
        // Relaxed (both): see rule 1. A made-up pointer into a slab that another thread extends may be judged by the
        // limit before or after: it was not handed out by then either way.
        (offset as u64).wrapping_mul(self.shared.reciprocal.load(Ordering::Relaxed))
            < self.shared.limit.load(Ordering::Relaxed)
    }

    /// Puts a block of this slab on its free list. `key` is the block's, by [`Block::key`].
    ///
    /// The list is a list after every single store, in the order in which they are written here: a thread that vanishes in
    /// between (fork) loses this block at most.
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

    /// Empties the free list: its blocks are on another list.
    pub fn forget_free(&self) {
        self.owned.free.set(ptr::null_mut());
    }

    /// The head of the free list.
    pub fn free(&self) -> *mut Block {
        self.owned.free.get()
    }

    /// Blocks handed out so far at least once.
    pub fn handed_out(&self) -> u32 {
        // Relaxed: the owner's own store; a figure for statistics.
        self.owned.handed_out.load(Ordering::Relaxed)
    }

    /// Whether `block` is one of this slab's that has never been handed out.
    pub fn is_unborn(&self, block: *mut Block) -> bool {
        let offset = block.addr().wrapping_sub(self.base());
        offset < self.bytes() && offset >= self.handed_out() as usize * self.info().size as usize
    }

    /// Links never used blocks into a list, which it puts into `list`, and answers how many: none when the slab has none
    /// left. As many as a `page` holds, one at least; and more in a slab that has been used for some time: a third of what it has handed out,
    /// so that not every fourth block is a slow event, and most pages are touched when they are needed and not before.
    /// A thread that vanishes in between leaves a list that begins with a block that was never handed out: see
    /// [`Slab::is_unborn`].
    ///
    /// # Safety
    /// The caller possesses the owning heap, of which `list` is an empty list; `base` is the address of the slab's first slice.
    pub unsafe fn extend<C: Checks>(
        &self,
        base: usize,
        page: usize,
        secret: usize,
        list: &Cell<*mut Block>,
    ) -> u32 {
        let info = self.info();
        let (size, from) = (info.size as usize, self.handed_out() as usize);
        let most = (EXTENSION / size).max(1);
        let count = (page / size).max(1).max((from / 3).min(most)).min(info.capacity as usize - from);
        if count == 0 {
            return 0;
        }
        let first = base + from * size;
        let mut next: *mut Block = ptr::null_mut();
        for index in (0..count).rev() {
            let block = ptr::with_exposed_provenance_mut::<Block>(first + index * size);
            // SAFETY: below the slab's capacity and above its limit: nobody has been handed this block.
            unsafe { Block::link::<C>(block, next, Block::key(block, secret)) };
            next = block;
        }
        list.set(next);
        signal_fence();
        let handed_out = (from + count) as u32;
        // Relaxed (both): see rule 1: whoever is handed one of these blocks got it from this thread.
        self.shared.limit.store(info.limit(handed_out), Ordering::Relaxed);
        self.owned.handed_out.store(handed_out, Ordering::Relaxed);
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
    /// countdown is 1. An available slab is empty after as many frees as blocks are out. A current slab needs neither: the
    /// countdown never ends.
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

    /// Bytes in the run of slices.
    pub fn bytes(&self) -> usize {
        self.slices() as usize * SLICE
    }
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<Slab>() == 128);
/// The records of an arena fill its first slice at most.
const _: () = assert!(size_of::<Slab>() * crate::base::GRANULE_SLICES <= SLICE);
