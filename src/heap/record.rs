//! The record that every slice of an arena has in the arena's first slice, which tells what the slice is: free, or part
//! of a slab (see `small::slab`) or of a large block.
//!
//! Who may touch which field:
//! 1. The *shared* line is written by whoever has claimed the slices, before it hands out the first block, and then
//!    only `owner` changes (a slab moves to another heap), and `limit` grows, or is none while the slab lies fallow.
//!    Whoever holds a block of the slab may read it: the block came to them after those writes. A large block's line is
//!    written by the block's holder.
//! 2. The *owner's* line is touched only by the thread that possesses the owning heap.
//! 3. `countdown`, `handed_out` and `standing` are the exception: statistics read them from any thread, and believe
//!    them only roughly. Who holds a block may go by `handed_out`, though: the block is among those.
//! 4. `life` tells a walk, which holds nothing, whether what it has seen of a slab was of one slab.
//! 5. The record of a slice that is not the first of its run says only how far back the first is, and what of the slice
//!    itself is known not to be resident (`spared`, and that there is no `gap`).
//! 6. Which pages lie `fallow` any thread may ask of a live block, which holds its pages.

use super::block::Block;
use super::ground::Kept;
use crate::base::{GRANULE, GRANULE_SLICES, SLICE, align_down, align_up};
use crate::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Cell, acquire, acquire_fence, release, release_fence, seeded};
use core::ops::Range;
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

/// Whoever owns a slab: a heap, of which nothing is known here but the address.
pub enum Owner {}

/// The part of a record that other threads read. While the slab is open only its owner writes here.
#[cfg_attr(not(any(loom, shuttle)), repr(align(64)))]
pub(super) struct Shared {
    /// The heap that owns the slab; null for anything that is not the first slice of one.
    pub(super) owner: AtomicPtr<Owner>,
    /// Address of the first block: the slab's, or the large block's.
    pub(super) start: AtomicUsize,
    pub(super) reciprocal: AtomicU64,
    /// The class's limit for the blocks handed out so far: see [`ClassInfo::limit`](crate::base::ClassInfo::limit).
    pub(super) limit: AtomicU64,
    pub(super) usage: AtomicU32,
    /// Where in a heap the bin of the slab's class lies, in words. Of a large block: which sample it is, or zero.
    pub(super) bin: AtomicU32,
    /// Slices in the run; in a `Later` record: slices back to the first.
    pub(super) slices: AtomicU32,
    /// Bytes at the end of this slice that are known not to be resident, though the rest of it may be.
    pub(super) spared: AtomicU32,
    /// A figure for statistics: bytes of a large block that the program asked for, or of a slab's run that may have been
    /// resident when it was opened.
    pub(super) requested: AtomicUsize,
    /// Which slab's this is, among those whose record it was: odd while that is open.
    life: AtomicU32,
    /// Bytes at its start that the slab which has the slice, or had it last, has found resident or touched; zero where a
    /// large block had it. See [`Slab::note_resident`].
    pub(super) touched: AtomicU32,
}

/// The part that only the owner touches.
#[cfg_attr(not(any(loom, shuttle)), repr(align(64)))]
pub(super) struct Owned {
    pub(super) free: Cell<*mut Block>,
    pub(super) countdown: AtomicU32,
    /// Blocks handed out at least once. Of a large block that is a sample: see `Place::stands_for`.
    pub(super) handed_out: AtomicU32,
    pub(super) standing: AtomicU32,
    /// Blocks at the end of the free list whose inner pages were given back; and in the upper half, those pages. See
    /// `small::hollow`.
    pub(super) hollow: AtomicU32,
    /// Marks of what lies fallow in a slab, a bit each; and in the upper half, how often these have changed.
    /// See `small::fallow`.
    pub(super) fallow: AtomicU32,
    /// Frees that went the long way since the slab was laid fallow.
    pub(super) long_frees: Cell<u32>,
    pub(super) previous: Cell<*const Slab>,
    pub(super) next: Cell<*const Slab>,
    /// While a heap keeps the run: see `ground::spare`. Written by that heap's possessor.
    kept: Kept,
}

/// The record of one slice: two cache lines in the header of its arena.
pub struct Slab {
    pub(super) shared: Shared,
    pub(super) owned: Owned,
}

// SAFETY: rules 1 to 3 above: shared fields are atomics, the others are touched by the possessor of the owning heap.
unsafe impl Sync for Slab {}

impl Slab {
    crate::const_unless_model! {
        /// An unused record.
        pub fn unused() -> Slab {
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
                life: AtomicU32::new(0),
                touched: AtomicU32::new(0),
            };
            let owned = Owned {
                free: Cell::new(ptr::null_mut()),
                countdown: AtomicU32::new(0),
                handed_out: AtomicU32::new(0),
                standing: AtomicU32::new(0),
                hollow: AtomicU32::new(0),
                fallow: AtomicU32::new(0),
                long_frees: Cell::new(0),
                previous: Cell::new(ptr::null()),
                next: Cell::new(ptr::null()),
                kept: Kept::new(),
            };
            Slab { shared, owned }
        }
    }

    /// The record of the slice that `address` lies in, for an address in an arena.
    #[inline(always)]
    pub fn of(address: usize) -> *mut Slab {
        let base = align_down(address, GRANULE);
        let slice = (address % GRANULE) / SLICE;
        ptr::with_exposed_provenance_mut::<Slab>(base + slice * size_of::<Slab>())
    }

    /// The record of the first slice of the run that `record`'s slice belongs to; `record` itself if what it says leads
    /// out of its arena's header: a record changes under a pointer that is not the caller's.
    ///
    /// # Safety
    /// `record` lies in the header of a mapped arena.
    #[inline(always)]
    pub unsafe fn first_of(record: *mut Slab) -> &'static Slab {
        // SAFETY: the caller's.
        let slab = unsafe { &*record };
        let back = slab.slices() as usize;
        if slab.usage() == Usage::Later && back <= record.addr() % GRANULE / size_of::<Slab>() {
            // SAFETY: a record of the same header.
            return unsafe { &*record.sub(back) };
        }
        slab
    }

    /// The same of a record that is held.
    #[inline(always)]
    pub fn first(&self) -> &Slab {
        // SAFETY: a record lies in the header of its arena, which is mapped while anything holds the record.
        unsafe { Slab::first_of(ptr::from_ref(self).cast_mut()) }
    }

    /// The record of a block that the caller has, beyond the section that has held it so far.
    ///
    /// # Safety
    /// A block of the run is live, and the caller's until it frees it: that holds the arena.
    #[inline(always)]
    pub unsafe fn held_by_block(&self) -> &'static Slab {
        // SAFETY: the caller's.
        unsafe { &*ptr::from_ref(self) }
    }

    /// Address of the slice that this is the record of.
    #[inline(always)]
    pub fn base(&self) -> usize {
        let at = ptr::from_ref(self).expose_provenance();
        align_down(at, GRANULE) + at % GRANULE / size_of::<Slab>() * SLICE
    }

    /// Begins the life of a slab, all of which but its usage is written.
    pub(super) fn begin_life(&self) {
        // Relaxed: only the slices' holder writes it.
        let life = self.shared.life.load(Ordering::Relaxed);
        // Release: pairs with the Acquire in `life`: who finds the slab open finds all of it.
        self.shared.life.store(life.wrapping_add(1) | 1, release("heap.life_begun"));
    }

    /// Before anything changes that a walk goes by.
    fn end_life(&self) {
        // Relaxed (both): as above, and the fence orders the store.
        let life = self.shared.life.load(Ordering::Relaxed);
        self.shared.life.store((life | 1).wrapping_add(1), Ordering::Relaxed);
        // Partner: the fence in `is_in`: who has seen anything of what comes after this life sees that it has ended.
        release_fence("heap.life_ended");
    }

    /// The life of the slab, if it is open; for whoever does not hold it, and asks [`Slab::is_in`] after the look.
    pub fn life(&self) -> Option<u32> {
        // Acquire: pairs with the Release in `begin_life`.
        let life = self.shared.life.load(acquire("heap.life_read"));
        (life % 2 == 1 && self.usage() == Usage::Slab).then_some(life)
    }

    /// Whether the slab has been in this life until now: what was seen of it since [`Slab::life`] was told is of one slab.
    pub fn is_in(&self, life: u32) -> bool {
        // Partner: the fence in `end_life`.
        acquire_fence("heap.life_read_again");
        // Relaxed: ordered by the fence.
        self.shared.life.load(Ordering::Relaxed) == life || seeded("heap.life_forgotten")
    }

    /// Ends the life of a slab without blocks, and makes the records of the run unused again. The caller then gives the
    /// slices back.
    pub fn close(&self) {
        self.end_life();
        for slice in 0..self.slices() as usize {
            // SAFETY: the run's records lie behind one another in the header, and the run is the caller's.
            let record = unsafe { &*ptr::from_ref(self).add(slice) };
            // Relaxed: the release of the slices' bits orders these before the next claim.
            record.shared.owner.store(ptr::null_mut(), Ordering::Relaxed);
            record.shared.usage.store(Usage::Free as u32, Ordering::Relaxed);
        }
    }

    /// Whether the run, which was one of so many slices before, says so. (All of its later records do, or none.)
    #[inline(always)]
    pub(super) fn is_marked(&self, slices: u32) -> bool {
        // SAFETY: as in `close`.
        let last = unsafe { &*ptr::from_ref(self).add(slices as usize - 1) };
        slices == 1 || last.usage() == Usage::Later && last.slices() == slices - 1
    }

    /// Where a heap that keeps the run links it.
    pub fn kept(&self) -> &Kept {
        &self.owned.kept
    }

    /// Makes the records of this run, which is one of so many `slices`, unused from the one of the slice `from` on: those
    /// slices are about to be given back.
    pub fn forget(&self, from: usize, slices: usize) {
        for slice in from..slices {
            // SAFETY: as in `close`.
            let record = unsafe { &*ptr::from_ref(self).add(slice) };
            // Relaxed: as in `close`.
            record.shared.usage.store(Usage::Free as u32, Ordering::Relaxed);
        }
    }

    pub(super) fn mark_later(&self, slices: u32) {
        self.mark_from(1, slices);
    }

    /// The same for a run whose first `from` slices say so already.
    pub(super) fn mark_from(&self, from: u32, slices: u32) {
        for back in from..slices {
            // SAFETY: as in `close`.
            let record = unsafe { &*ptr::from_ref(self).add(back as usize) };
            // Relaxed: as in `Slab::open`.
            record.shared.slices.store(back, Ordering::Relaxed);
            record.shared.usage.store(Usage::Later as u32, Ordering::Relaxed);
            record.shared.owner.store(ptr::null_mut(), Ordering::Relaxed);
            record.shared.touched.store(0, Ordering::Relaxed);
            record.shared.start.store(0, Ordering::Relaxed);
            // The slice before it is used to its end.
            // SAFETY: as above.
            unsafe { &*ptr::from_ref(record).sub(1) }.spare(0);
        }
    }

    /// Notes how many bytes at the end of this slice are not resident.
    pub fn spare(&self, bytes: usize) {
        // Relaxed: the slice's holder reads it, to whom the slices' bits hand it over; and statistics.
        self.shared.spared.store(bytes as u32, Ordering::Relaxed);
    }

    /// Bytes at the end of this slice that are known not to be resident.
    pub fn spared(&self) -> usize {
        // Relaxed: as above.
        self.shared.spared.load(Ordering::Relaxed) as usize
    }

    /// Notes how much of `slices` slices, of which so many are `dirty`, is resident before a slab is opened there: what
    /// may be, and what is, because slabs had all of them last, and none was purged since. (Programs do not touch all of
    /// their large blocks.)
    pub(super) fn note_resident(&self, slices: usize, dirty: usize) {
        // SAFETY: as in `close`.
        let record = |slice| unsafe { &*ptr::from_ref(self).add(slice) };
        let resident = (dirty * SLICE).saturating_sub(record(slices - 1).spared());
        let mut touched = 0;
        // Relaxed (all): figures; what is touched was noted by who held the slice before.
        if dirty == slices {
            for slice in 0..slices {
                touched += record(slice).shared.touched.load(Ordering::Relaxed);
                if touched as usize != (slice + 1) * SLICE {
                    break;
                }
            }
        }
        self.shared.touched.store(touched, Ordering::Relaxed);
        self.shared.requested.store(resident, Ordering::Relaxed);
    }

    /// Bytes at the start of a slab's run that were resident when it was opened.
    pub(super) fn found_resident(&self) -> usize {
        // Relaxed: its own.
        self.shared.touched.load(Ordering::Relaxed) as usize
    }

    /// Bytes of a slab's run up to where what has been handed out ends.
    fn end_of_use(&self) -> usize {
        self.colour() + self.bytes_in_use()
    }

    /// Bytes of a slab's run that may be resident: what has been handed out, in whole pages, or what was when it was
    /// opened. Roughly, if it is not the caller's.
    fn bytes_touched(&self, page: usize) -> usize {
        align_up(self.end_of_use(), page).unwrap_or(0).max(self.requested()).min(self.bytes())
    }

    /// Where in a slab's run pages may be resident that no block has that was ever handed out: in bytes from its start.
    pub(super) fn unborn_pages(&self, page: usize) -> Range<usize> {
        let end = align_down(self.bytes_touched(page), page);
        align_up(self.end_of_use(), page).map_or(end, |start| start.min(end))..end
    }

    /// Notes that these are not resident any more.
    pub(super) fn forget_unborn_pages(&self) {
        let end = self.end_of_use();
        // Relaxed (all): the owner's own stores; figures for others.
        self.shared.requested.store(self.requested().min(end), Ordering::Relaxed);
        self.shared.touched.store(self.found_resident().min(end) as u32, Ordering::Relaxed);
    }

    /// Notes what of a slab that is about to be closed was never touched, and what was.
    pub(super) fn spare_unborn(&self, page: usize) {
        let touched = self.bytes_touched(page);
        // What was handed out, but for what was given back inside of free blocks: whoever knows where that is.
        let surely = self.end_of_use().max(self.found_resident());
        let surely = if self.hollow_pages() == 0 { surely } else { 0 };
        self.spare_behind(touched, surely);
    }

    /// Notes that nothing of a slab that is about to be closed is resident.
    pub(super) fn spare_all(&self) {
        self.spare_behind(0, 0);
    }

    /// Notes how many bytes at the start of a slab may be resident, and how many surely are.
    fn spare_behind(&self, touched: usize, surely: usize) {
        for slice in 0..self.slices() as usize {
            // SAFETY: as in `close`.
            let record = unsafe { &*ptr::from_ref(self).add(slice) };
            let part = |bytes: usize| bytes.saturating_sub(slice * SLICE).min(SLICE);
            record.spare(SLICE - part(touched));
            // Relaxed: as in `spare`.
            record.shared.touched.store(part(surely) as u32, Ordering::Relaxed);
        }
    }

    /// A slab that was about to be closed stays open: it will be used to its end.
    pub(super) fn forget_spared(&self) {
        for slice in 0..self.slices() as usize {
            // SAFETY: as in `close`.
            unsafe { &*ptr::from_ref(self).add(slice) }.spare(0);
        }
    }

    /// Bytes that are resident with a run's blocks, and are none of them: what is behind the last block of a slab that
    /// was ever handed out, and behind a large block. Roughly, if the run is not the caller's.
    pub(super) fn bytes_beside(&self, page: usize) -> usize {
        let used = self.bytes_in_use();
        // What is read of another thread's run may be of two, and lead out of the header.
        let last =
            ptr::from_ref(self).addr() % GRANULE / size_of::<Slab>() + self.slices().max(1) as usize - 1;
        let resident = match self.usage() {
            Usage::Slab => self.bytes_touched(page),
            Usage::Large if last < GRANULE_SLICES => {
                let soiled = self.tail(page).soiled(self.last().spared());
                align_up(self.colour() - self.gap(page) + used, page).unwrap_or(0) + soiled
            }
            Usage::Large | Usage::Free | Usage::Later => 0,
        };
        resident.saturating_sub(used)
    }

    /// The record of the last slice of the run.
    pub fn last(&self) -> &Slab {
        // SAFETY: as in `close`.
        unsafe { &*ptr::from_ref(self).add(self.slices().max(1) as usize - 1) }
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

    /// Slices in the run; in a later slice's record, slices back to the first.
    pub fn slices(&self) -> u32 {
        // Relaxed: see rule 1.
        self.shared.slices.load(Ordering::Relaxed)
    }

    /// Bytes of the run that the program has been given at some time; roughly, if it is not the caller's.
    pub(super) fn bytes_in_use(&self) -> usize {
        // Relaxed: a figure, as `handed_out` always is for others; see rule 3.
        match self.usage() {
            Usage::Slab => self.owned.handed_out.load(Ordering::Relaxed) as usize * self.block_size(),
            Usage::Large => self.requested(),
            Usage::Free | Usage::Later => 0,
        }
    }

    /// Bytes behind the start of its run at which this slab's first block begins, or this large block. (Fewer than a
    /// slice, whatever the record is.)
    #[inline(always)]
    pub(super) fn colour(&self) -> usize {
        // Relaxed: see rule 1.
        self.shared.start.load(Ordering::Relaxed) % SLICE
    }

    /// Where that is.
    #[inline(always)]
    pub fn start(&self) -> usize {
        self.base() + self.colour()
    }

    /// Bytes from there to `address`, any address.
    #[inline(always)]
    pub(super) fn offset_of(&self, address: usize) -> usize {
        // Relaxed: see rule 1.
        address.wrapping_sub(self.shared.start.load(Ordering::Relaxed))
    }

    /// Whether a block of this slab that has been handed out starts at `address`, any address below 2^47.
    #[inline(always)]
    pub fn starts_block(&self, address: usize) -> bool {
        self.is_block(self.offset_of(address))
    }

    /// Whether `offset` bytes behind the first block one starts that has been handed out at some time.
    #[inline(always)]
    pub fn is_block(&self, offset: usize) -> bool {
        // Relaxed (both): see rule 1. A made-up pointer into a slab that another thread extends may be judged by the
        // limit before or after: it was not handed out by then either way.
        (offset as u64).wrapping_mul(self.shared.reciprocal.load(Ordering::Relaxed))
            < self.shared.limit.load(Ordering::Relaxed)
    }

    /// The same by the count of those blocks, which says so in a slab that lies fallow, too. (Its class is not asked: the
    /// record may be changing.)
    pub fn was_handed_out(&self, offset: usize) -> bool {
        // Relaxed (both): see rules 1 and 3.
        let reciprocal = self.shared.reciprocal.load(Ordering::Relaxed);
        let handed_out = u64::from(self.owned.handed_out.load(Ordering::Relaxed));
        // As `ClassInfo::limit`.
        let limit = handed_out.wrapping_mul(reciprocal.wrapping_mul(self.block_size() as u64));
        (offset as u64).wrapping_mul(reciprocal) < limit
    }

    /// Bytes of the blocks of this slab.
    pub(super) fn block_size(&self) -> usize {
        // Relaxed: see rule 1. The inverse of the reciprocal, which is 2^64 / size, rounded up.
        (u64::MAX / self.shared.reciprocal.load(Ordering::Relaxed).max(2) + 1) as usize
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
