//! A heap: what one thread allocates from. The fast paths are [`Heap::pop`] and [`Slab::push`].
//!
//! Allocation pops from the heap's private list of the class. Frees go to the slab's own list. When the private list
//! is empty, [`Heap::refill`] takes the current slab's list whole, or extends the slab by at most a page of blocks that
//! were never used, or makes another slab current.
//!
//! Rules:
//! 1. A heap is *possessed* by one thread at a time (see `pool`); only the possessor touches it, but for `inbox`,
//!    `shared` and `slot`, and only inside its gate, if it uses that: while it is outside another may visit (see `gate`).
//! 2. Heaps live forever in metadata memory, so an owner pointer can always be followed to its inbox.
//! 3. Every step leaves each list a list: a thread that vanishes between two instructions (fork) takes with it what it
//!    had in its hands, and nothing else.

mod exchange;

use crate::base::{CLASSES, SLICE, class_of};
use crate::heap::Allocator;
use crate::heap::block::{Block, Checks};
use crate::heap::gate::{Gate, Visit};
use crate::heap::large::Tails;
use crate::heap::pool::{Holder, Possession};
use crate::heap::remote::{Inbox, Outbox};
use crate::heap::slab::{Freed, Slab, Standing};
use crate::pal::{Call, Misuse, Platform, broken_contract};
use crate::rcu::{ReaderSlot, Section};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{CachePadded, Cell, ZERO_IS_VALID, signal_fence};
use core::ptr;

/// Largest request in bytes that finds its class in the heap's own table.
pub const TABLE_MAX: usize = 1024;

/// By size in bytes: one load instead of rounding first.
static CLASS_TABLE: [u8; TABLE_MAX + 1] = {
    let mut table = [0; TABLE_MAX + 1];
    let mut size = 0;
    while size <= TABLE_MAX {
        table[size] = class_of(size) as u8;
        size += 1;
    }
    table
};

/// Slabs that a heap finds by one load: this many slices, 64 MiB in a row. Beyond that it finds some of them so, and the
/// others by arithmetic on the address.
const OWN: usize = if cfg!(any(loom, shuttle)) { 8 } else { 1024 };

/// What any thread reads of a heap, on a line that its possessor seldom writes.
struct Shared {
    index: u32,
    possession: Possession,
    visit: Visit,
}

impl Shared {
    crate::const_unless_model! {
        fn new(index: u32) -> Shared {
            Shared { index, possession: Possession::new(), visit: Visit::new() }
        }
    }
}

/// What one thread allocates from. In the order of declaration: the gate comes first, so that its address is the heap's.
#[repr(C)]
pub struct Heap {
    gate: Gate,
    lists: [Cell<*mut Block>; CLASSES],
    secret: Cell<usize>,
    current: [Cell<*const Slab>; CLASSES],
    available: [Cell<*const Slab>; CLASSES],
    outbox: Outbox,
    /// What was taken from the inbox and is still to be freed.
    received: Cell<*mut Block>,
    /// Position of the arena that served this heap last: where the next claim starts.
    home: Cell<usize>,
    /// Slices given back, or taken although they were not resident, since the last look at how much is dirty.
    changed: Cell<usize>,
    tails: Tails,
    /// Arenas asked for slices, ever: those that had them, and those that had not. Figures.
    lookups: [AtomicU64; 2],
    /// Blocks freed for other heaps, ever: a figure.
    remote_frees: AtomicU64,
    shared: CachePadded<Shared>,
    inbox: CachePadded<Inbox>,
    slot: ReaderSlot,
    /// By slice number modulo the length: a slab of this heap, or null. So a free that cannot trust its pointer learns
    /// with one load which slab to ask, and that the slab is this heap's.
    own: [Cell<*const Slab>; OWN],
}

// SAFETY: rule 1: the fields that are not atomics are touched by the possessor only, and possession is handed on with
// release and acquire (`pool`).
unsafe impl Sync for Heap {}
// SAFETY: as above; a heap is not tied to the thread that made it.
unsafe impl Send for Heap {}

impl Heap {
    crate::const_unless_model! {
        /// A heap without slabs. `index` is its position in the pool, `secret` the process's.
        pub fn new(index: u32, secret: usize) -> Heap {
            Heap {
                gate: Gate::new(),
                lists: [const { Cell::new(ptr::null_mut()) }; CLASSES],
                secret: Cell::new(secret),
                current: [const { Cell::new(ptr::null()) }; CLASSES],
                available: [const { Cell::new(ptr::null()) }; CLASSES],
                outbox: Outbox::new(),
                received: Cell::new(ptr::null_mut()),
                home: Cell::new(0),
                changed: Cell::new(0),
                tails: Tails::new(),
                lookups: [AtomicU64::new(0), AtomicU64::new(0)],
                remote_frees: AtomicU64::new(0),
                shared: CachePadded::new(Shared::new(index)),
                inbox: CachePadded::new(Inbox::new()),
                slot: ReaderSlot::new(),
                own: [const { Cell::new(ptr::null()) }; OWN],
            }
        }
    }

    /// Writes a heap without slabs in place. In fresh zero memory only what is not zero is written, so that the rest of
    /// the heap is not resident before it is used.
    ///
    /// # Safety
    /// `at` is zero memory for a heap that nobody else knows yet.
    pub unsafe fn construct(at: *mut Heap, index: u32, secret: usize) {
        // SAFETY: the caller's. Zero is a valid value of every field, and the one that `new` gives it.
        unsafe {
            if ZERO_IS_VALID {
                (&raw mut (*at).secret).write(Cell::new(secret));
                (&raw mut (*at).shared).write(CachePadded::new(Shared::new(index)));
                (&raw mut (*at).slot).write(ReaderSlot::new());
            } else {
                at.write(Heap::new(index, secret));
            }
        }
    }

    /// The slab of this heap that `address` may lie in; null if the heap does not know one at once.
    #[inline(always)]
    pub fn own_slab(&self, address: usize) -> *const Slab {
        self.own[address / SLICE % OWN].get()
    }

    /// Enters a slab that has become this heap's, or current, under each of its slices.
    fn enter_own(&self, slab: &Slab) {
        for slice in 0..slab.slices() as usize {
            self.own[(slab.base() / SLICE + slice) % OWN].set(slab);
        }
    }

    /// Forgets a slab before it stops being this heap's.
    fn leave_own(&self, slab: &Slab) {
        for slice in 0..slab.slices() as usize {
            let entry = &self.own[(slab.base() / SLICE + slice) % OWN];
            if ptr::eq(entry.get(), slab) {
                entry.set(ptr::null());
            }
        }
    }

    /// The class of a request of at most [`TABLE_MAX`] bytes, by table: for sizes known at run time only.
    #[inline(always)]
    pub fn table_class(size: usize) -> usize {
        debug_assert!(size <= TABLE_MAX);
        // SAFETY: the table has an entry for every size up to TABLE_MAX.
        usize::from(unsafe { *CLASS_TABLE.get_unchecked(size) })
    }

    /// A block of `class` from the private list, or null if that is empty.
    ///
    /// # Safety
    /// The caller possesses the heap; `class` is below [`CLASSES`].
    #[inline(always)]
    pub unsafe fn pop<C: Checks>(&self, class: usize) -> *mut Block {
        // SAFETY: the caller's.
        let block = unsafe { self.try_pop::<C>(class) };
        // SAFETY: as above.
        let head = unsafe { self.lists.get_unchecked(class) }.get();
        if C::ON && block.is_null() && !head.is_null() {
            broken_contract(Misuse::WriteAfterFree, Call::Free, head.addr());
        }
        block
    }

    /// The same, or null if the block was written while it was free: what calls nothing needs no stack. A `pop` that follows
    /// tells.
    ///
    /// # Safety
    /// As for [`Heap::pop`].
    #[inline(always)]
    pub unsafe fn try_pop<C: Checks>(&self, class: usize) -> *mut Block {
        // SAFETY: the caller's.
        let list = unsafe { self.lists.get_unchecked(class) };
        let block = list.get();
        if block.is_null() {
            return block;
        }
        // SAFETY: blocks of a private list are free and this heap's.
        let Some(next) = (unsafe { Block::next::<C>(block, self.secret.get()) }) else {
            return ptr::null_mut();
        };
        list.set(next);
        // SAFETY: the block has just left the list and is the caller's.
        unsafe { Block::clear::<C>(block) };
        block
    }

    /// A block of `class` when the private list is empty and the current slab has free blocks; else null.
    ///
    /// # Safety
    /// The caller possesses the heap.
    #[inline(always)]
    pub unsafe fn take_over<C: Checks>(&self, class: usize) -> *mut Block {
        // SAFETY: current slabs belong to this heap, which holds their arenas.
        if let Some(slab) = unsafe { self.current[class].get().as_ref() }
            && !slab.free().is_null()
        {
            // In this order: a thread that vanishes in between leaves the list in two places, which `forget_slabs` sees,
            // and not in none.
            self.lists[class].set(slab.free());
            signal_fence();
            slab.forget_free();
        }
        // SAFETY: the caller's.
        unsafe { self.pop::<C>(class) }
    }

    /// A block of `class` when the private list is empty; null when there is no memory.
    ///
    /// # Safety
    /// The caller possesses the heap.
    #[cold]
    #[inline(never)]
    pub unsafe fn refill<C: Checks, P: Platform>(&self, from: &Allocator<P>, class: usize) -> *mut Block {
        loop {
            // SAFETY: the caller's.
            let block = unsafe { self.take_over::<C>(class) };
            if !block.is_null() {
                return block;
            }
            // SAFETY: current slabs belong to this heap, which holds their arenas.
            if let Some(slab) = unsafe { self.current[class].get().as_ref() } {
                if self.receive::<C, P>(from) && !slab.free().is_null() {
                    continue;
                }
                // SAFETY: possessed by the caller; the base is computed from the record.
                let extended = unsafe {
                    slab.extend::<C>(slab.base(), from.page_size(), self.secret.get(), &self.lists[class])
                };
                if extended {
                    continue;
                }
                // Nothing on any list and nothing left to hand out: every block is out.
                self.current[class].set(ptr::null());
                let _full = slab.retire_from_current(slab.info().capacity);
            }
            if self.available[class].get().is_null() && !self.receive::<C, P>(from) {
                self.send_all::<C, P>(from);
            }
            // SAFETY: slabs in a list belong to this heap, which holds their arenas.
            let slab = match unsafe { self.available[class].get().as_ref() } {
                Some(slab) => {
                    slab.unlink(&self.available[class]);
                    slab.make_current();
                    slab
                }
                None => match from.new_slab::<C>(self, class) {
                    Some(slab) => slab,
                    None => return ptr::null_mut(),
                },
            };
            self.enter_own(slab);
            self.current[class].set(slab);
        }
    }

    /// Frees a block of a slab that this heap owns.
    ///
    /// # Safety
    /// The caller possesses the heap and the block, which lies in `slab`.
    #[inline(always)]
    pub unsafe fn free_local<C: Checks, P: Platform>(
        &self,
        from: &Allocator<P>,
        slab: &Slab,
        block: *mut Block,
    ) {
        #[cfg(any(loom, shuttle))]
        assert!(ptr::eq(slab.owner(), self), "freed into a slab of another heap");
        // SAFETY: the caller's.
        if unsafe { slab.push::<C>(block, Block::key(block, self.secret.get())) } == Freed::Event {
            self.countdown_ended(from, slab);
        }
    }

    /// A slab's countdown arrived at zero: it was full, or it is empty.
    #[cold]
    #[inline(never)]
    pub fn countdown_ended<P: Platform>(&self, from: &Allocator<P>, slab: &Slab) {
        let list = &self.available[slab.class()];
        match slab.standing() {
            Standing::Current => slab.make_current(),
            Standing::Full => {
                let _available = slab.retire_from_current(slab.info().capacity - 1);
                slab.link_before(list);
            }
            Standing::Available => {
                slab.unlink(list);
                self.close(from, slab);
            }
        }
    }

    fn close<P: Platform>(&self, from: &Allocator<P>, slab: &Slab) {
        self.leave_own(slab);
        from.close_slab(self, slab);
    }

    /// Gives back what is free: private lists go to their slabs, and slabs without live blocks to their arenas.
    /// Walks every free block of the current slabs.
    pub fn collect<C: Checks, P: Platform>(&self, from: &Allocator<P>) {
        self.settle::<C, P>(from);
        for class in 0..CLASSES {
            // SAFETY: a current slab is this heap's.
            let Some(slab) = (unsafe { self.current[class].get().as_ref() }) else { continue };
            // One at a time, so that no more is lost with a thread that vanishes. The slab is current: its countdown does not
            // end.
            loop {
                // SAFETY: this heap is the caller's, and a class is below `CLASSES`.
                let block = unsafe { self.pop::<C>(class) };
                if block.is_null() {
                    break;
                }
                // SAFETY: the possessor's own block.
                let _uncounted = unsafe { slab.push::<C>(block, Block::key(block, self.secret.get())) };
            }
            self.current[class].set(ptr::null());
            let free = self.length::<C>(slab.free());
            let live = slab.handed_out() - free;
            if live == 0 {
                self.close(from, slab);
            } else if slab.retire_from_current(live) == Standing::Available {
                slab.link_before(&self.available[class]);
            }
        }
    }

    fn follow<C: Checks>(&self, block: *mut Block) -> *mut Block {
        // SAFETY: a free block of this heap.
        unsafe { Block::follow::<C>(block, self.secret.get()) }
    }

    /// Whether [`Heap::collect`] has anything to do: asked of an idle heap.
    pub fn needs_collecting(&self) -> bool {
        // A thread that exits sends what it held back; one that a fork left behind did not.
        !self.inbox.is_empty()
            || !self.received.get().is_null()
            || !self.outbox.is_empty()
            || self.current.iter().any(|slab| !slab.get().is_null())
    }

    /// Free blocks of `class` that no record counts, in the private list and on the current slab: walks them.
    pub fn uncounted<C: Checks>(&self, class: usize) -> u32 {
        // SAFETY: a current slab is this heap's.
        let slab = unsafe { self.current[class].get().as_ref() };
        self.length::<C>(self.lists[class].get()) + slab.map_or(0, |slab| self.length::<C>(slab.free()))
    }

    fn length<C: Checks>(&self, mut block: *mut Block) -> u32 {
        let mut count = 0;
        while !block.is_null() {
            count += 1;
            #[cfg(any(loom, shuttle))]
            assert!(count < 1 << 12, "a list without an end");
            block = self.follow::<C>(block);
        }
        count
    }

    /// Where other threads send blocks.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Position in the pool.
    pub fn index(&self) -> u32 {
        self.shared.index
    }

    /// Who possesses the heap.
    pub fn possession(&self) -> &Possession {
        &self.shared.possession
    }

    /// Where its owner comes in.
    #[inline(always)]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Who visits it.
    pub fn visit(&self) -> &Visit {
        &self.shared.visit
    }

    /// The thread that is inside, which is the caller.
    pub fn holder(&self) -> Holder {
        self.visit().inside().or(self.possession().holder()).unwrap_or(Holder::new(usize::MAX >> 2))
    }

    /// A reader section of the possessor.
    pub fn section<'a, P: Platform>(&'a self, from: &'a Allocator<P>) -> Section<'a> {
        // SAFETY: the slot was attached when the heap was made, and belongs to its possessor, who is the caller.
        unsafe { from.space().rcu().enter(&self.slot) }
    }

    /// The heap that a slot belongs to.
    ///
    /// # Safety
    /// The slot is that of a heap.
    pub unsafe fn of_slot(slot: &ReaderSlot) -> &'static Heap {
        let at = ptr::from_ref(slot).addr() - core::mem::offset_of!(Heap, slot);
        // SAFETY: by the caller's promise a heap lies there, whose memory is metadata, which is exposed and immortal.
        unsafe { &*ptr::with_exposed_provenance(at) }
    }

    /// The reader slot of whoever possesses the heap.
    pub fn slot(&self) -> &ReaderSlot {
        &self.slot
    }

    /// The process's secret, for the tags of free blocks.
    #[inline(always)]
    pub fn secret(&self) -> usize {
        self.secret.get()
    }

    /// Blocks freed for other heaps, ever.
    pub fn remote_frees(&self) -> u64 {
        // Relaxed: a figure.
        self.remote_frees.load(Ordering::Relaxed)
    }

    /// Counts an arena that was asked for slices, and whether it had them.
    pub fn count_lookup(&self, won: bool) {
        let count = &self.lookups[usize::from(!won)];
        // Relaxed (both): a figure, written by the possessor only.
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Arenas asked for slices, ever: those that had them, and those that had not.
    pub fn lookups(&self) -> [u64; 2] {
        // Relaxed: figures.
        [&self.lookups[0], &self.lookups[1]].map(|count| count.load(Ordering::Relaxed))
    }

    /// Notes that `slices` were given back, or taken although they were not resident; `true` once in `every` slices.
    pub fn has_changed(&self, slices: usize, every: usize) -> bool {
        let changed = self.changed.get() + slices;
        self.changed.set(if changed < every { changed } else { 0 });
        changed >= every
    }

    /// What the heap may spend on tails of large blocks.
    pub fn tails(&self) -> &Tails {
        &self.tails
    }

    /// Where the last claim of slices succeeded.
    pub fn home(&self) -> &Cell<usize> {
        &self.home
    }
}
