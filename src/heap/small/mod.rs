//! A heap: what one thread allocates from. The fast paths are [`Bin::try_pop`] and [`Bin::push`].
//!
//! Allocation pops from the list of the class's bin, frees push onto it, or onto the slab's own list when the bin has
//! no room (`bin` says when). When the bin is empty, [`Heap::take_over`] takes the list of a slab whole; and
//! [`Heap::refill`] takes what other threads sent, extends the current slab by blocks that were never used, or makes
//! another slab current.
//!
//! Rules:
//! 1. A heap is *possessed* by one thread at a time (see `pool`); only the possessor touches it, but for its gate,
//!    `inbox`, `shared`, its reader slot and what others read as a figure, and only inside its gate, if it uses that:
//!    while it is outside another may visit (see `gate`).
//! 2. Heaps live forever in metadata memory, so an owner pointer can always be followed to its inbox.
//! 3. Every step leaves each list a list: a thread that vanishes between two instructions (fork) takes with it what it
//!    had in its hands, and nothing else.

#[cfg(any(test, feature = "simulated"))]
mod audit;
mod bin;
mod exchange;
mod fallow;
mod frees;
mod heaps;
pub(in crate::heap) mod hollow;
mod mending;
mod meter;
mod own;
pub(in crate::heap) mod pool;
mod receiving;
pub(in crate::heap) mod remote;
mod run;
mod slab;
mod slabs;
pub(in crate::heap) mod watch;

pub use bin::Bin;
pub(in crate::heap) use exchange::AT_ONCE;
pub use exchange::Along;
pub use heaps::Heaps;
pub use own::OwnSlab;
pub use pool::{MAX_HEAPS, Pool};
pub use remote::Piece;
pub use slab::{Freed, Standing};

use crate::base::CLASSES;
use crate::heap::block::{Block, Checks};
use crate::heap::gate::{Gate, Visit};
use crate::heap::ground::{Bet, Claimant, Ground};
use crate::heap::possession::{Possession, ThreadId};
use crate::heap::record::Slab;
use crate::pal::{Call, Misuse, Platform, broken_contract};
use crate::rcu::{ReaderSlot, Section};
use crate::sync::atomic::AtomicPtr;
use crate::sync::{CachePadded, Cell, Counter, ZERO_IS_VALID};
use bin::Growth;
use core::ptr;
use hollow::Heights;
use meter::Meter;
use own::OwnSlabs;
use remote::{Inbox, Outbox};

/// What a table by class has for one. (The only place that checks a class, not one for each caller.)
#[inline(always)]
fn of_class<T>(table: &[T; CLASSES], class: usize) -> &T {
    &table[class]
}

/// What any thread reads of a heap, on a line that its possessor seldom writes; and where it sends to. Side by side, for
/// who frees a heap's blocks looks at the one line and writes the other.
#[repr(C)]
struct Shared {
    possession: Possession,
    visit: Visit,
    inbox: Line<Inbox>,
}

/// Alone on a cache line.
#[cfg_attr(not(any(loom, shuttle)), repr(align(64)))]
struct Line<T>(T);

impl Shared {
    crate::const_unless_model! {
        fn new() -> Shared {
            Shared { possession: Possession::new(), visit: Visit::new(), inbox: Line(Inbox::new()) }
        }
    }
}

/// What one thread allocates from. In the order of declaration: the gate comes first, so that its address is the
/// heap's; then what every free reads, on the same line. All of it is less than a page, and heaps lie side by side.
#[repr(C)]
pub struct Heap {
    gate: Gate,
    secret: Cell<usize>,
    own: OwnSlabs,
    bins: [Bin; CLASSES],
    growth: Growth,
    heights: Heights,
    current: [Cell<*const Slab>; CLASSES],
    available: [Cell<*const Slab>; CLASSES],
    /// Null until the heap is sampled for the first time.
    meter: Cell<*const Meter>,
    /// Null until it is needed: most threads free what they have allocated.
    outbox: Cell<*const Outbox>,
    /// Whether it is only ever lent: see `pool`. Never changes.
    is_lent: bool,
    /// What was taken from the inbox and is still to be freed. Written by the possessor only.
    received: AtomicPtr<Block>,
    /// What is behind the first of these while that is on its way to its slab's list; else null.
    behind: Cell<*mut Block>,
    /// Blocks freed for other heaps, ever: a figure.
    remote_frees: Counter,
    own_first: [OwnSlab; own::FIRST],
    claimant: Claimant,
    shared: CachePadded<Shared>,
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<Heap>() <= 15 << 8);

// SAFETY: rule 1: the fields that are not atomics are touched by the possessor or a visitor only, one at a time, and
// handed on with release and acquire (`possession`, `gate`).
unsafe impl Sync for Heap {}
// SAFETY: as above; a heap is not tied to the thread that made it.
unsafe impl Send for Heap {}

impl Heap {
    crate::const_unless_model! {
        /// A heap without slabs. `index` is its position in the pool, `secret` the process's.
        pub fn new(index: u32, secret: usize) -> Heap {
            Heap {
                gate: Gate::new(),
                secret: Cell::new(secret),
                own: OwnSlabs::new(),
                bins: [const { Bin::new() }; CLASSES],
                growth: Growth::new(),
                heights: Heights::new(),
                current: [const { Cell::new(ptr::null()) }; CLASSES],
                available: [const { Cell::new(ptr::null()) }; CLASSES],
                meter: Cell::new(ptr::null()),
                outbox: Cell::new(ptr::null()),
                is_lent: false,
                received: AtomicPtr::new(ptr::null_mut()),
                behind: Cell::new(ptr::null_mut()),
                remote_frees: Counter::new(),
                own_first: [const { OwnSlab::unused() }; own::FIRST],
                claimant: Claimant::new(index),
                shared: CachePadded::new(Shared::new()),
            }
        }
    }

    /// Writes a heap without slabs in place. (On a thread's stack there may be no room for one.)
    ///
    /// # Safety
    /// `at` is zero memory for a heap that nobody else knows yet.
    pub unsafe fn construct(at: *mut Heap, index: u32, secret: usize, is_lent: bool) {
        // SAFETY: the caller's. Zero is a valid value of every other field, and the one that `new` gives it. The first
        // entries lie in the heap itself, and heaps are not moved.
        unsafe {
            if ZERO_IS_VALID {
                (&raw mut (*at).secret).write(Cell::new(secret));
                Claimant::construct(&raw mut (*at).claimant, index);
            } else {
                at.write(Heap::new(index, secret));
            }
            (&raw mut (*at).is_lent).write(is_lent);
            (*at).own.begin((&raw mut (*at).own_first).cast());
        }
    }

    /// The slab of this heap that `address` may lie in, or one without blocks if the heap does not know one at once; and
    /// its bin.
    #[inline(always)]
    pub fn own_slab(&self, address: usize) -> &OwnSlab {
        self.own.of(address)
    }

    /// Notes where a slab of this heap is that was found another way.
    pub fn learn_own(&self, slab: &Slab) {
        self.own.enter(slab);
    }

    /// Whether the heap knows a slab under `address` at once.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub fn knows(&self, address: usize) -> bool {
        self.own.knows(address)
    }

    /// Entries in the heap's table of slabs.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub fn entries(&self) -> usize {
        self.own.entries()
    }

    /// The bin of a class.
    #[inline(always)]
    fn bin(&self, class: usize) -> &Bin {
        of_class(&self.bins, class)
    }

    /// The slab of a class that is extended; or null.
    fn current(&self, class: usize) -> &Cell<*const Slab> {
        of_class(&self.current, class)
    }

    /// The first slab of a class that is available; or null.
    fn available(&self, class: usize) -> &Cell<*const Slab> {
        of_class(&self.available, class)
    }

    /// The bin that lies `at` words from the first.
    ///
    /// # Safety
    /// `at` is what [`Bin::of_size`], [`Bin::of_granules`] or [`Slab::bin`] said.
    #[inline(always)]
    pub unsafe fn bin_at(&self, at: usize) -> &Bin {
        // SAFETY: by the caller's promise a class times the words of a bin.
        unsafe { &*ptr::from_ref(&self.bins).cast::<usize>().add(at).cast::<Bin>() }
    }

    /// A block of `class` from its bin, or null if that is empty.
    ///
    /// # Safety
    /// The caller possesses the heap; `class` is below [`CLASSES`].
    #[inline(always)]
    pub unsafe fn pop<C: Checks>(&self, class: usize) -> *mut Block {
        // SAFETY: the caller's.
        let bin = unsafe { self.bins.get_unchecked(class) };
        // SAFETY: as above.
        let block = unsafe { bin.try_pop::<C, true>(self.secret.get()) };
        if C::ON && block.is_null() && !bin.list().get().is_null() {
            broken_contract(Misuse::WriteAfterFree, Call::Free, bin.list().get().addr());
        }
        block
    }

    /// Whether the bin of `class` is empty.
    #[inline(always)]
    pub fn has_none(&self, class: usize) -> bool {
        self.bin(class).list().get().is_null()
    }

    fn follow<C: Checks>(&self, block: *mut Block) -> *mut Block {
        // SAFETY: a free block of this heap.
        unsafe { Block::follow::<C>(block, self.secret.get()) }
    }

    /// Whether [`Heap::collect`] has anything to do: asked of an idle heap.
    pub fn needs_collecting(&self) -> bool {
        // A thread that exits sends what it held back; one that a fork left behind did not.
        self.has_mail()
            || self.outbox().is_some_and(|outbox| !outbox.is_empty())
            || self.claimant.spares().slices() > 0
            || self.bins.iter().any(|bin| !bin.list().get().is_null())
            || self.current.iter().any(|slab| !slab.get().is_null())
    }

    /// Free blocks of `class` that slabs count as live: those in its bin. Walks them.
    pub fn uncounted<C: Checks>(&self, class: usize) -> u32 {
        self.length::<C>(self.bin(class).list().get())
    }

    #[cfg(any(loom, shuttle))]
    fn is_on<C: Checks>(&self, mut list: *mut Block, block: *mut Block) -> bool {
        while !list.is_null() && list != block {
            list = self.follow::<C>(list);
        }
        !list.is_null()
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
        &self.shared.inbox.0
    }

    /// What waits to be sent; `None` if nothing ever did.
    #[inline(always)]
    fn outbox(&self) -> Option<&'static Outbox> {
        // SAFETY: metadata memory, which lives forever.
        unsafe { self.outbox.get().as_ref() }
    }

    /// Position in the pool.
    pub fn index(&self) -> u32 {
        self.claimant.number()
    }

    /// Whether it is only ever lent.
    pub fn is_lent(&self) -> bool {
        self.is_lent
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
    pub fn caller(&self) -> ThreadId {
        self.visit().inside().or(self.possession().possessor()).unwrap_or(ThreadId::new(usize::MAX >> 2))
    }

    /// A reader section of the possessor.
    pub fn section<'a, P: Platform>(&'a self, ground: &'a Ground<P>) -> Section<'a> {
        self.claimant.section(ground)
    }

    /// The heap that a slot belongs to.
    ///
    /// # Safety
    /// The slot is that of a heap.
    pub unsafe fn of_slot(slot: &ReaderSlot) -> &'static Heap {
        let at = ptr::from_ref(slot).addr() - core::mem::offset_of!(Heap, claimant);
        // SAFETY: by the caller's promise a heap lies there, whose memory is metadata, which is exposed and immortal.
        unsafe { &*ptr::with_exposed_provenance(at) }
    }

    /// The heap as the backend knows it.
    pub fn claimant(&self) -> &Claimant {
        &self.claimant
    }

    /// The reader slot of whoever possesses the heap.
    pub fn slot(&self) -> &ReaderSlot {
        self.claimant.slot()
    }

    /// The process's secret, for the tags of free blocks. Zero in the heap that stands for none.
    #[inline(always)]
    pub fn secret(&self) -> usize {
        self.secret.get()
    }

    /// Blocks freed for other heaps, ever.
    pub fn remote_frees(&self) -> u64 {
        self.remote_frees.get() as u64
    }

    /// How often arenas were asked for slices, ever: won where they had them.
    pub fn lookups(&self) -> Bet {
        self.claimant.lookups()
    }

    /// Bytes in the heap's slabs.
    pub(in crate::heap) fn held(&self) -> usize {
        self.growth.held()
    }

    /// Slices that the heap keeps: a figure for any thread.
    pub fn spare_slices(&self) -> usize {
        self.claimant.spares().slices()
    }
}
