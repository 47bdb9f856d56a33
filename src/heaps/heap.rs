//! A heap, and how it goes about a request.

use super::backing::Backing;
use super::large::{Fresh, block};
use super::memory::{DIRTY_MAX, Memory, Refusal};
use super::record::{Record, Usage};
use crate::base::SLICE;
use crate::files::Result;
use crate::heap::BlockKind;
use crate::pal::{Call, Misuse, broken_contract};
use crate::region::Region;
use core::alloc::Layout;
use core::ptr::NonNull;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::abort;

/// A heap of its own: memory that is apart from all other, and goes as a whole.
///
/// Any thread may allocate from it and free into it, through `&Heap`, which is an
/// [`Allocator`](allocator_api2::alloc::Allocator). Dropping it unmaps everything at once, whatever was allocated and not
/// freed; the borrow checker sees to it that nothing is used after that.
///
/// ```
/// use allocator_api2::{boxed::Box, vec::Vec};
/// use specmalloc::heaps::Heap;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let heap = Heap::new()?;
/// let mut words = Vec::new_in(&heap);
/// words.extend(["build", "up", "and", "drop"]);
/// let number = Box::new_in(7, &heap);
/// assert_eq!(words.len() + *number, 11);
/// drop(number);
/// assert_eq!(heap.statistics().live_blocks, 1);
/// # Ok(()) }
/// ```
pub struct Heap {
    memory: Memory,
    on_limit: Option<OnLimit>,
}

/// What is called when a heap has reached its limit.
pub(super) type OnLimit = std::boxed::Box<dyn Fn(&Heap, &LimitReached) -> bool + Send + Sync>;

/// A heap's limit stands in the way of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitReached {
    /// Bytes that the heap would have to hold more.
    pub wanted: usize,
    /// Bytes that it holds.
    pub held: usize,
    /// Bytes that it may hold.
    pub limit: usize,
}

/// A heap's figures. Each is exact when nobody is allocating or freeing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapStatistics {
    /// Blocks that are allocated.
    pub live_blocks: usize,
    /// Their bytes: the sum of the lengths that `allocate` returned.
    pub live_bytes: usize,
    /// Bytes that the heap holds for them: whole slabs of 64 KiB or a few times that, runs of 64 KiB, and pages. This is
    /// what the limit is about.
    pub held_bytes: usize,
    /// Bytes that are free and may be resident, for the next blocks. What is more than
    /// [`HeapOptions::dirty_max`](super::HeapOptions::dirty_max) allows is given back when something is freed.
    pub dirty_bytes: usize,
    /// Bytes of address space.
    pub mapped_bytes: usize,
}

std::thread_local! {
    /// Whether the thread is in a callback. No destructor: it is there until the thread ends.
    static ASKS: Cell<bool> = const { Cell::new(false) };
}

/// Where a block lies.
enum Place {
    Small(&'static Record, usize),
    Large(&'static Record),
    Huge(&'static Region),
}

impl Heap {
    /// A heap in memory, without a limit. [`HeapOptions`](super::HeapOptions) knows of others.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> Result<Heap> {
        Ok(Heap::with(Memory::new(Backing::Anonymous, DIRTY_MAX)?, None))
    }

    pub(super) fn with(memory: Memory, on_limit: Option<OnLimit>) -> Heap {
        Heap { memory, on_limit }
    }

    /// The figures. Looks at every slab.
    pub fn statistics(&self) -> HeapStatistics {
        let (held_bytes, dirty_bytes) = (self.held_bytes(), self.memory.dirty());
        let mut figures =
            HeapStatistics { live_blocks: 0, live_bytes: 0, held_bytes, dirty_bytes, mapped_bytes: 0 };
        let mut add = |blocks, bytes| {
            figures.live_blocks += blocks;
            figures.live_bytes += bytes;
        };
        for area in self.memory.areas() {
            for record in area.slices().usable().map(|slice| Record::at(area, slice)) {
                match record.usage() {
                    Usage::Slab => {
                        let held = record.map.held();
                        add(held, held * self.memory.block_bytes(record));
                    }
                    Usage::Large => add(1, record.slices() * SLICE),
                    Usage::Free | Usage::Later => {}
                }
            }
        }
        for bytes in self.memory.huge().map(|region| self.memory.huge_bytes(region)) {
            add(usize::from(bytes > 0), bytes);
        }
        let regions = self.memory.areas().chain(self.memory.huge());
        figures.mapped_bytes = regions.map(Region::mapped).sum();
        figures
    }

    /// Bytes that the heap holds: see [`HeapStatistics::held_bytes`]. Costs nothing.
    pub fn held_bytes(&self) -> usize {
        self.memory.held()
    }

    /// How many bytes the heap may hold; `usize::MAX` is no limit.
    pub fn limit(&self) -> usize {
        self.memory.limit()
    }

    /// Changes how many bytes it may hold. If it holds more, it gets no more until it holds less.
    pub fn set_limit(&self, bytes: usize) {
        self.memory.set_limit(bytes);
    }

    /// Gives back all that is free in whole slabs and runs, at once. Returns how many bytes of memory went. (What is more
    /// than may stay goes by itself: [`HeapOptions::dirty_max`](super::HeapOptions::dirty_max).)
    ///
    /// ```
    /// # use specmalloc::heaps::Heap;
    /// # use allocator_api2::vec::Vec;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let heap = Heap::new()?;
    /// let mut bytes = Vec::new_in(&heap);
    /// bytes.resize(1 << 20, 1u8);
    /// drop(bytes);
    /// assert!(heap.trim() >= 1 << 20);
    /// assert_eq!(heap.held_bytes(), 0);
    /// # Ok(()) }
    /// ```
    pub fn trim(&self) -> usize {
        if !self.memory.backing.is_ours() {
            return 0;
        }
        self.close_all_unused();
        self.memory.purge(0)
    }

    fn close_all_unused(&self) -> usize {
        self.memory.retire_all();
        self.memory.close_unused()
    }

    /// Waits until the heap's file has what was written to the heap's memory. From then on those pages can be taken from
    /// the process when memory is short, and come back from the file when they are touched. Does nothing for a heap
    /// without a file.
    ///
    /// # Errors
    /// The system's.
    pub fn flush(&self) -> Result<()> {
        self.memory.flush()
    }

    /// Whether the address lies in the heap's memory. One look-up, whatever the heap's size.
    ///
    /// ```
    /// # use specmalloc::heaps::Heap;
    /// # use allocator_api2::boxed::Box;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (one, other) = (Heap::new()?, Heap::new()?);
    /// let number = Box::new_in(7, &one);
    /// assert!(one.contains(&*number) && !other.contains(&*number));
    /// # Ok(()) }
    /// ```
    pub fn contains<T: ?Sized>(&self, at: *const T) -> bool {
        self.memory.find(at.cast::<u8>().addr()).is_some()
    }

    /// A block for `layout`, whose size is not zero, and whether it is known to be zero.
    #[inline]
    pub(super) fn take(&self, layout: Layout) -> Option<Fresh> {
        match self.try_take(layout) {
            Ok(fresh) => Some(fresh),
            Err(refusal) => self.ask(layout, refusal),
        }
    }

    #[inline]
    fn try_take(&self, layout: Layout) -> std::result::Result<Fresh, Refusal> {
        if !self.memory.backing.is_ours() {
            return Err(Refusal::System);
        }
        match BlockKind::of(layout.size(), layout.align()) {
            BlockKind::Small(class) => self.memory.allocate_small(class).map(|block| (block, false)),
            BlockKind::Large => self.memory.allocate_large(layout.size(), layout.align()),
            BlockKind::Huge => self.memory.allocate_huge(layout.size(), layout.align()),
        }
    }

    /// A request was refused. Slabs without a block are held in places of other threads; and if it was by the limit,
    /// whoever made the heap may do something about it.
    #[cold]
    #[inline(never)]
    fn ask(&self, layout: Layout, mut refusal: Refusal) -> Option<Fresh> {
        if self.memory.backing.is_ours() && self.close_all_unused() > 0 {
            match self.try_take(layout) {
                Ok(fresh) => return Some(fresh),
                Err(again) => refusal = again,
            }
        }
        loop {
            let Refusal::Limit { wanted } = refusal else { return None };
            let on_limit = self.on_limit.as_ref().filter(|_| !ASKS.get())?;
            let reached = LimitReached { wanted, held: self.held_bytes(), limit: self.limit() };
            if !answer(|| on_limit(self, &reached)) {
                return None;
            }
            match self.try_take(layout) {
                Ok(fresh) => return Some(fresh),
                Err(again) => refusal = again,
            }
        }
    }

    /// Where the block at `address` lies. Ends the process if no block of this heap can be there.
    #[inline]
    fn place(&self, address: usize) -> Place {
        let region = self.memory.region_of(address);
        if !Memory::is_area(region) {
            return Place::Huge(region);
        }
        let record = Record::at(region, (address - region.base()) / SLICE).first();
        match record.usage() {
            Usage::Slab => Place::Small(record, self.memory.index_in(record, address)),
            Usage::Large => Place::Large(record),
            // The header's slices, too, are free to their records.
            Usage::Free | Usage::Later => broken_contract(Misuse::Nothing, Call::Free, address),
        }
    }

    /// Frees the block at `address`, which is the caller's to give.
    #[inline]
    pub(super) fn give(&self, address: usize) {
        if !self.memory.backing.is_ours() {
            return;
        }
        match self.place(address) {
            Place::Small(record, index) => self.memory.give(record, index),
            Place::Large(record) => self.memory.free_large(record, address),
            Place::Huge(region) => self.memory.free_huge(region, address),
        }
    }

    /// The block at `address` as one of `size` bytes, if it can be that where it is: and whether what lies behind its
    /// former end is zero; where that end was. A block that would waste half of itself is not one.
    pub(super) fn resize(&self, address: usize, size: usize) -> Option<(Fresh, usize)> {
        let is_ours = self.memory.backing.is_ours();
        match (self.place(address), BlockKind::of(size, 1)) {
            (Place::Small(record, _), _) => {
                let bytes = self.memory.block_bytes(record);
                let fits = size <= bytes && (size >= bytes / 2 || bytes <= 64);
                fits.then(|| ((block(address, bytes), true), bytes))
            }
            (Place::Large(record), BlockKind::Large) if is_ours => {
                let before = record.slices() * SLICE;
                self.memory.resize_large(record, size).map(|fresh| (fresh, before))
            }
            (Place::Huge(region), BlockKind::Huge) if is_ours => {
                let before = self.memory.huge_bytes(region);
                self.memory.resize_huge(region, size).map(|fresh| (fresh, before))
            }
            _ => None,
        }
    }

    /// The block at `address` as it is.
    pub(super) fn as_it_is(&self, address: usize) -> NonNull<[u8]> {
        let bytes = match self.place(address) {
            Place::Small(record, _) => self.memory.block_bytes(record),
            Place::Large(record) => record.slices() * SLICE,
            Place::Huge(region) => self.memory.huge_bytes(region),
        };
        block(address, bytes)
    }
}

/// Asks the callback. Who allocates inside of it from a heap that is at its limit is not asked again; and it does not
/// unwind: whoever allocates is not prepared for that.
fn answer(asks: impl FnOnce() -> bool) -> bool {
    ASKS.set(true);
    let says = catch_unwind(AssertUnwindSafe(asks)).unwrap_or_else(|_| abort());
    ASKS.set(false);
    says
}

impl fmt::Debug for Heap {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Heap")
            .field("held_bytes", &self.held_bytes())
            .field("limit", &self.limit())
            .finish_non_exhaustive()
    }
}
