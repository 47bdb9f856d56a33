//! Remote frees: blocks on their way home to the heap that owns their slab.
//!
//! A thread collects the blocks that it frees for others in its [`Outbox`], one chain per owner and bounded in bytes,
//! and sends a whole chain with one compare-and-swap to the owner's [`Inbox`]. Heaps live forever, and so do inboxes:
//! the push is the last touch of the block, and touches nothing that anybody could unmap.
//!
//! Inboxes are never closed. A heap whose thread has exited keeps its slabs and its inbox, and is possessed again
//! later: by the next new thread, or for a moment by whoever tidies up (see `pool`). So a sender never has to re-sort,
//! and an owner that no longer has the slab of a block it received sends the block on.

use super::block::{Block, Checks, Trusting};
use super::local::Heap;
use crate::base::SLICE;
use crate::const_unless_model;
use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::sync::{Cell, acquire, release, seeded, signal_fence};
use core::ptr;

/// Owners that a thread can collect for at a time.
const CHAINS: usize = if cfg!(any(loom, shuttle)) { 1 } else { 8 };
/// A chain is sent when it holds so many bytes: what one thread may hold back is at most `CHAINS` times this.
const CHAIN_BYTES: usize = if cfg!(any(loom, shuttle)) { 64 } else { 16 << 10 };
/// Pieces of a chain.
const PIECES: usize = if cfg!(any(loom, shuttle)) { 2 } else { 8 };

/// Blocks that other threads have freed for a heap.
pub struct Inbox {
    head: AtomicPtr<Block>,
}

impl Inbox {
    const_unless_model! {
        /// An empty inbox.
        pub fn new() -> Inbox {
            Inbox { head: AtomicPtr::new(ptr::null_mut()) }
        }
    }

    /// Sends the chain of free blocks from `first` to `last`.
    ///
    /// # Safety
    /// The caller holds every block of the chain, whose slabs this inbox's heap owns or owned.
    pub unsafe fn push<C: Checks>(&self, first: *mut Block, last: *mut Block, secret: usize) {
        // Relaxed: only the value is needed; the exchange below confirms it.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the caller holds `last` until the exchange succeeds.
            unsafe { Block::link::<C>(last, head, Block::key(last, secret)) };
            if seeded("heap.inbox_blind") {
                // Relaxed: a seeded bug.
                self.head.store(first, Ordering::Relaxed);
                return;
            }
            // Release: pairs with the Acquire in `take`, so that the owner sees the chain's links and the program's
            // last accesses to the blocks. Relaxed on failure: as above.
            match self.head.compare_exchange_weak(head, first, release("heap.inbox_push"), Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Whether nothing is there to take, as far as this thread knows.
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Relaxed: a hint; `take` orders.
        self.head.load(Ordering::Relaxed).is_null()
    }

    /// What was sent last.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub fn first(&self) -> *mut Block {
        self.head.load(Ordering::Relaxed)
    }

    /// Takes everything that was sent, into `received`, which is empty. It is there before it is gone from here: a thread
    /// that vanishes in between leaves it in both places, which [`Inbox::holds`] tells, and not in none.
    pub fn take(&self, received: &AtomicPtr<Block>) {
        if seeded("heap.inbox_take_two_steps") {
            received.store(self.head.load(Ordering::Acquire), Ordering::Relaxed);
            // Relaxed (both): a seeded bug.
            return self.head.store(ptr::null_mut(), Ordering::Relaxed);
        }
        // Relaxed: only the value is needed; the exchange below confirms it. (`received` is the caller's own.)
        let mut head = self.head.load(Ordering::Relaxed);
        while !head.is_null() {
            if !seeded("heap.inbox_take_in_hand") {
                received.store(head, Ordering::Relaxed);
                signal_fence();
            }
            // Acquire: pairs with the Release in `push`. Relaxed on failure: as above.
            match self.head.compare_exchange_weak(
                head,
                ptr::null_mut(),
                acquire("heap.inbox_take"),
                Ordering::Relaxed,
            ) {
                Ok(_) => return received.store(head, Ordering::Relaxed),
                Err(now) => head = now,
            }
        }
    }

    /// Whether `block` is among what was sent and not taken. In the child of a fork, where nobody sends.
    pub fn holds(&self, block: *mut Block) -> bool {
        // Relaxed: the child has one thread.
        let mut at = self.head.load(Ordering::Relaxed);
        while !at.is_null() && at != block {
            // SAFETY: a chain of free blocks that nobody else holds.
            at = unsafe { Block::follow::<Trusting>(at, 0) };
        }
        !at.is_null()
    }
}

/// A piece of a chain: blocks of a few slabs.
struct Piece {
    first: Cell<*mut Block>,
    last: Cell<*mut Block>,
}

/// Blocks that wait to be sent to one owner, sorted a little: the pieces of a chain hold the blocks of different slices, so
/// that the owner, who reads one block after the other from another processor's cache, stays within a slab for a while.
pub struct Chain {
    owner: Cell<*const Heap>,
    pieces: [Piece; PIECES],
    bytes: Cell<usize>,
}

impl Chain {
    const fn new() -> Chain {
        Chain {
            owner: Cell::new(ptr::null()),
            pieces: [const { Piece { first: Cell::new(ptr::null_mut()), last: Cell::new(ptr::null_mut()) } };
                PIECES],
            bytes: Cell::new(0),
        }
    }

    /// Adds a block in front of its piece.
    ///
    /// # Safety
    /// The caller holds the block.
    unsafe fn add<C: Checks>(&self, block: *mut Block, size: usize, secret: usize) {
        let piece = &self.pieces[block.addr() / SLICE % PIECES];
        let first = piece.first.get();
        // SAFETY: the caller's.
        unsafe { Block::link::<C>(block, first, Block::key(block, secret)) };
        if first.is_null() {
            piece.last.set(block);
        }
        signal_fence();
        piece.first.set(block);
        self.bytes.set(self.bytes.get() + size);
    }

    /// The heap that owned the blocks' slabs when they were collected.
    pub fn owner(&self) -> *const Heap {
        self.owner.get()
    }

    /// Whether it is worth sending.
    pub fn is_long(&self) -> bool {
        self.bytes.get() >= CHAIN_BYTES
    }

    /// Takes one block out.
    pub fn pop<C: Checks>(&self, secret: usize) -> Option<*mut Block> {
        let Some(piece) = self.pieces.iter().find(|piece| !piece.first.get().is_null()) else {
            self.bytes.set(0);
            return None;
        };
        let block = piece.first.get();
        // SAFETY: the chain's blocks are ours.
        piece.first.set(unsafe { Block::follow::<C>(block, secret) });
        Some(block)
    }

    /// Takes all of it out, its pieces joined. `None` when it is empty.
    pub fn take<C: Checks>(&self, secret: usize) -> Option<Parcel> {
        let mut parcel: Option<Parcel> = None;
        for piece in &self.pieces {
            let first = piece.first.replace(ptr::null_mut());
            if first.is_null() {
                continue;
            }
            let last = piece.last.get();
            parcel = Some(match parcel {
                None => Parcel { owner: self.owner.get(), first, last },
                Some(behind) => {
                    // SAFETY: the chain's blocks are ours.
                    unsafe { Block::link::<C>(last, behind.first, Block::key(last, secret)) };
                    Parcel { first, ..behind }
                }
            });
        }
        self.bytes.set(0);
        parcel
    }
}

/// A chain that is ready to be sent: its blocks are in nobody's hands but the holder's.
#[must_use]
pub struct Parcel {
    /// The heap that owned the blocks' slabs when they were collected.
    pub owner: *const Heap,
    /// The first block; each leads to the next.
    pub first: *mut Block,
    last: *mut Block,
}

impl Parcel {
    /// A parcel of one free block, which the caller holds.
    pub fn of_one(owner: *const Heap, block: *mut Block) -> Parcel {
        Parcel { owner, first: block, last: block }
    }

    /// Sends the blocks to their owner's inbox.
    pub fn send<C: Checks>(self, secret: usize) {
        // SAFETY: heaps live forever; the parcel's blocks are ours until they are sent.
        unsafe { (*self.owner).inbox().push::<C>(self.first, self.last, secret) };
    }
}

/// The chains that one heap collects for others. Touched by the heap's possessor only.
pub struct Outbox {
    chains: [Chain; CHAINS],
}

impl Outbox {
    /// An outbox with nothing in it.
    pub const fn new() -> Outbox {
        Outbox { chains: [const { Chain::new() }; CHAINS] }
    }

    /// The chain for blocks of `owner`, which may hold another's: then it is to be emptied before [`Outbox::add`].
    pub fn chain(&self, owner: *const Heap) -> &Chain {
        // SAFETY: heaps live forever.
        &self.chains[unsafe { (*owner).index() } as usize % CHAINS]
    }

    /// Adds `block` of `size` bytes to `chain`.
    ///
    /// # Safety
    /// The caller possesses the heap of this outbox and holds the block, which lies in a slab of `owner`; the chain is that
    /// of `owner`, and holds blocks of no other.
    pub unsafe fn add<C: Checks>(
        chain: &Chain,
        owner: *const Heap,
        block: *mut Block,
        size: usize,
        secret: usize,
    ) {
        chain.owner.set(owner);
        // SAFETY: the caller's.
        unsafe { chain.add::<C>(block, size, secret) };
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.chains.iter().all(|chain| chain.bytes.get() == 0)
    }

    /// A chain that is not empty.
    pub fn waiting(&self) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.bytes.get() != 0)
    }
}
