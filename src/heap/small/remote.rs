//! Remote frees: blocks on their way home to the heap that owns their slab.
//!
//! A thread collects the blocks that it frees for others in its [`Outbox`], in one piece per slice, and sends what one
//! owner is to get with one compare-and-swap to the owner's [`Inbox`]. What waits in an outbox is bounded in the slabs
//! that it pins, and each piece in bytes. Heaps live forever, and so do inboxes: the push is the last touch of the
//! block, and touches nothing that anybody could unmap.
//!
//! Inboxes are never closed. A heap whose thread has exited keeps its slabs and its inbox, and is possessed again
//! later: by the next new thread, or for a moment by whoever tidies up (see `pool`). So a sender never has to re-sort,
//! and an owner that no longer has the slab of a block it received sends the block on.

use super::Heap;
use super::run::Run;
use crate::base::SLICE;
use crate::const_unless_model;
use crate::heap::block::{Block, Checks, Trusting};
use crate::heap::mend::Mend;
use crate::heap::record::Slab;
use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::sync::{Cell, Exchange, acquire, release, seeded, signal_fence};
use core::ptr;

/// Pieces of an outbox: a slice has the one at its number modulo this, so that slabs that were made one after the other
/// have different ones.
const PIECES: usize = match () {
    () if cfg!(loom) => 1,
    () if cfg!(shuttle) => 2,
    () => 64,
};
/// Slices that all pieces pin at most: 1 MiB; and of a thread that is visited once it idles, and pins nothing then.
const PINNED: u32 = 16;
const PINNED_WHILE_ACTIVE: u32 = 64;
/// Bytes of blocks with which a piece is sent.
const PIECE_BYTES: usize = if cfg!(any(loom, shuttle)) { 64 } else { 16 << 10 };
/// Pieces that are looked at when one is sent, for they go along if they are for the same owner; and how many of those
/// that are not end the search. (In models a parcel is one piece, so that two that are in a thread's hands are seen.)
const ALONG: usize = if cfg!(any(loom, shuttle)) { 0 } else { 16 };
const OTHERS: usize = 2;
/// A block that finds no room is sent alone, so that those that wait go on collecting; but every `TURNS`th time some of
/// those go instead.
const TURNS: u32 = if cfg!(any(loom, shuttle)) { 2 } else { 16 };

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
    /// The caller holds every block of the chain, whose slabs this inbox's heap owns or owned; and `last` is marked, if it
    /// was in a list.
    pub unsafe fn push<C: Checks>(&self, first: *mut Block, last: *mut Block, secret: usize) {
        // Relaxed: only the value is needed; the exchange below confirms it.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the caller holds `last` until the exchange succeeds.
            unsafe { Block::link::<C>(last, head, Block::key(last, secret)) };
            // Release: pairs with the Acquire in `take`, so that the owner sees the chain's links and the program's
            // last accesses to the blocks. Relaxed on failure: as above.
            let order = release("heap.inbox_push");
            match self.head.exchange(head, first, order, Ordering::Relaxed, "heap.inbox_push_two_steps") {
                Ok(_) => return,
                Err(now) => head = now,
            }
            // SAFETY: as above.
            unsafe { Block::move_on::<C>(last, secret) };
        }
    }

    /// Whether nothing is there to take, as far as this thread knows.
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Relaxed: a hint; `take` orders.
        self.head.load(Ordering::Relaxed).is_null()
    }

    /// What was sent last.
    #[cfg(any(test, feature = "simulated"))]
    pub fn first(&self) -> *mut Block {
        self.head.load(Ordering::Relaxed)
    }

    /// Takes everything that was sent, into `received`, which is empty. It is there before it is gone from here: a
    /// thread that vanishes in between leaves it in both places, which [`Inbox::holds`] tells, and never in neither.
    pub fn take(&self, received: &AtomicPtr<Block>) {
        // Relaxed: only the value is needed; the exchange below confirms it. (`received` is the caller's own.)
        let mut head = self.head.load(Ordering::Relaxed);
        while !head.is_null() {
            if !seeded("heap.inbox_take_in_hand") {
                received.store(head, Ordering::Relaxed);
                signal_fence();
            }
            // Acquire: pairs with the Release in `push`. Relaxed on failure: as above.
            let (none, order) = (ptr::null_mut(), acquire("heap.inbox_take"));
            match self.head.exchange(head, none, order, Ordering::Relaxed, "heap.inbox_take_two_steps") {
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

/// Blocks that wait to be sent home: of one slice, so that the owner, who reads one after the other from another
/// processor's cache, stays within a slab for a while.
pub struct Piece {
    /// Number of the slice plus one; zero when there is no block.
    slice: Cell<u32>,
    /// Blocks that it still takes before it is sent. (In the child of a fork it may be found full, and take one more.)
    left: Cell<i16>,
    /// Slices that it pins: those of its slab.
    slices: Cell<u8>,
    /// The slab, which is open, and whose arena is mapped, as long as blocks of it are here.
    slab: Cell<*const Slab>,
    first: Cell<*mut Block>,
    last: Cell<*mut Block>,
}

impl Piece {
    const fn new() -> Piece {
        Piece {
            slice: Cell::new(0),
            left: Cell::new(0),
            slices: Cell::new(0),
            slab: Cell::new(ptr::null()),
            first: Cell::new(ptr::null_mut()),
            last: Cell::new(ptr::null_mut()),
        }
    }

    /// Whether it holds blocks of the slice that `address` lies in.
    #[inline(always)]
    pub fn is_of(&self, address: usize) -> bool {
        self.slice.get() as usize == address / SLICE + 1
    }

    /// Whether there is no block.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.slice.get() == 0
    }

    /// The slab that its blocks lie in.
    ///
    /// # Safety
    /// It holds some, or did until now and the caller holds them.
    #[inline(always)]
    pub unsafe fn slab(&self) -> &'static Slab {
        // SAFETY: as the field says.
        unsafe { &*self.slab.get() }
    }

    /// Adds a block of the same slice in front. Returns whether the piece is to be sent.
    ///
    /// # Safety
    /// The caller holds the block, whose key is `key`; the piece is not empty.
    #[inline(always)]
    #[must_use]
    pub unsafe fn add<C: Checks>(&self, block: *mut Block, key: usize) -> bool {
        let first = self.first.get();
        // SAFETY: the caller's.
        unsafe { Block::link::<C>(block, first, key) };
        signal_fence();
        self.first.set(block);
        let left = self.left.get() - 1;
        self.left.set(left);
        left <= 0
    }

    /// Blocks with which a piece of `slab` is sent: as many as have [`PIECE_BYTES`] bytes, the last one in part.
    fn most(slab: &Slab) -> i16 {
        // (By the class's reciprocal, as `ClassInfo` has it, for a division takes longer than all else here.)
        let whole = ((PIECE_BYTES as u128 - 1) * u128::from(slab.info().reciprocal)) >> u64::BITS;
        whole as i16 + 1
    }

    /// In the child of a fork: says anew how many blocks it still takes.
    fn recount(&self) {
        let (mut count, mut at) = (0, self.first.get());
        while !at.is_null() {
            // SAFETY: a chain of free blocks that nobody else holds.
            (count, at) = (count + 1, unsafe { Block::follow::<Trusting>(at, 0) });
        }
        // SAFETY: it is not empty.
        self.left.set(Piece::most(unsafe { self.slab() }) - count);
    }

    /// Takes one block out.
    pub fn pop<C: Checks>(&self, secret: usize) -> Option<*mut Block> {
        let block = self.first.get();
        if block.is_null() {
            return None;
        }
        // SAFETY: the piece's blocks are ours.
        self.first.set(unsafe { Block::follow::<C>(block, secret) });
        Some(block)
    }

    /// Takes all of it out, and tells in it of the run that it is, which the caller holds from here on.
    ///
    /// # Safety
    /// It is not empty.
    unsafe fn take(&self, secret: usize) -> Run {
        // SAFETY: the caller's.
        let slab = unsafe { self.slab() };
        let count = (Piece::most(slab) - self.left.get()) as u32;
        let run = Run { first: self.first.replace(ptr::null_mut()), last: self.last.get(), count };
        // SAFETY: the piece's blocks are ours.
        unsafe { run.tell(slab, secret) };
        run
    }
}

/// Runs that are ready to be sent: in nobody's hands but the holder's.
#[must_use]
pub struct Parcel {
    /// The heap that owned the blocks' slabs when they were taken out.
    pub owner: *const Heap,
    /// The first block of the first run; each leads to the next.
    first: *mut Block,
    last: *mut Block,
}

impl Parcel {
    /// A parcel of one run, which the caller holds and has told of, and whose last block is marked, if it was in a list.
    pub fn of(owner: *const Heap, run: Run) -> Parcel {
        Parcel { owner, first: run.first, last: run.last }
    }

    /// A parcel of one block of `slab`, which the caller holds, and which is marked, if it was in a list.
    pub fn of_one(owner: *const Heap, slab: &Slab, block: *mut Block, secret: usize) -> Parcel {
        let run = Run::of_one(block);
        // SAFETY: the caller holds it.
        unsafe { run.tell(slab, secret) };
        Parcel::of(owner, run)
    }

    /// Sends the blocks to their owner's inbox.
    pub fn send<C: Checks>(self, secret: usize) {
        // SAFETY: heaps live forever; the parcel's blocks are ours until they are sent.
        unsafe { (*self.owner).inbox().push::<C>(self.first, self.last, secret) };
    }
}

/// Which piece holds the blocks of a slice. Slices that follow each other have different ones; and so have those that do
/// at a distance of a power of two, as the slabs of one class have of threads that opened the same few each.
#[inline(always)]
fn place_of(slice: usize) -> usize {
    (slice + slice / PIECES) % PIECES
}

/// The blocks that one heap collects for others. Touched by the heap's possessor only. Zero is one with nothing in it.
pub struct Outbox {
    /// Which pieces hold blocks: a bit each.
    used: Cell<u64>,
    /// Slices of the slabs that all pieces hold blocks of; a slab counts as often as it has pieces.
    pinned: Cell<u32>,
    /// How often a block found no room.
    turns: Cell<u32>,
    /// The piece at which the next that goes for others is looked for.
    hand: Cell<u32>,
    pieces: [Piece; PIECES],
}

impl Outbox {
    /// An outbox with nothing in it.
    pub const fn new() -> Outbox {
        Outbox {
            used: Cell::new(0),
            pinned: Cell::new(0),
            turns: Cell::new(0),
            hand: Cell::new(0),
            pieces: [const { Piece::new() }; PIECES],
        }
    }

    /// The piece for blocks of the slice that `address` lies in, which may hold another's: then it is to be emptied
    /// before [`Outbox::begin`].
    #[inline(always)]
    pub fn piece(&self, address: usize) -> &Piece {
        &self.pieces[place_of(address / SLICE)]
    }

    /// Puts the first block into its piece. Returns whether that is to be sent at once.
    ///
    /// # Safety
    /// The caller possesses the heap of this outbox and holds the block, whose key is `key` and which lies in `slab`;
    /// its piece is empty.
    #[must_use]
    pub unsafe fn begin<C: Checks>(&self, slab: &Slab, block: *mut Block, key: usize) -> bool {
        let slice = block.addr() / SLICE;
        let piece = &self.pieces[place_of(slice)];
        self.pinned.set(self.pinned.get() + slab.slices());
        self.used.set(self.used.get() | 1 << place_of(slice));
        piece.slab.set(slab);
        piece.last.set(block);
        piece.left.set(Piece::most(slab) - 1);
        piece.slices.set(slab.slices() as u8);
        // SAFETY: the caller's.
        unsafe { Block::link::<C>(block, ptr::null_mut(), key) };
        piece.first.set(block);
        // The block is the piece's once `slice` says so.
        signal_fence();
        piece.slice.set(slice as u32 + 1);
        piece.left.get() == 0
    }

    /// Whether `piece` may begin to hold blocks of `slab`. `is_visited`: whether others tidy the heap when it idles.
    pub fn has_room(&self, slab: &Slab, piece: &Piece, is_visited: impl Fn() -> bool) -> bool {
        let pinned = self.pinned.get() + slab.slices();
        piece.is_empty() && (pinned <= PINNED || pinned <= PINNED_WHILE_ACTIVE && is_visited())
    }

    /// Whether `block` is to be sent alone, for its piece has blocks of another slice, which are to stay: these go on
    /// collecting. Once in a while they are not, for they may get no more.
    #[inline(always)]
    pub fn is_full_for(&self, block: *mut Block) -> bool {
        let piece = self.piece(block.addr());
        !piece.is_empty() && !piece.is_of(block.addr()) && !self.is_a_turn()
    }

    /// A block has found no room: whether room is to be made for it.
    #[inline(always)]
    pub fn is_a_turn(&self) -> bool {
        let turn = self.turns.get().wrapping_add(1);
        self.turns.set(turn);
        turn.is_multiple_of(TURNS)
    }

    /// The piece that is to go for others, each in its turn.
    pub fn next_to_go(&self) -> Option<&Piece> {
        let next = self.following(self.hand.get()).next()?;
        self.hand.set(self.place(next) + 1);
        Some(next)
    }

    /// The pieces that are not empty, from number `from` on.
    fn following(&self, from: u32) -> impl Iterator<Item = &Piece> {
        let from = from % u64::BITS;
        let mut used = self.used.get().rotate_right(from);
        core::iter::from_fn(move || {
            let next = (used != 0).then(|| used.trailing_zeros())?;
            used &= used - 1;
            Some(&self.pieces[(from + next) as usize % PIECES])
        })
    }

    fn place(&self, piece: &Piece) -> u32 {
        ((ptr::from_ref(piece).addr() - self.pieces.as_ptr().addr()) / size_of::<Piece>()) as u32
    }

    /// The piece is empty: its blocks have been taken out.
    pub fn forget(&self, piece: &Piece) {
        piece.slice.set(0);
        self.used.set(self.used.get() & !(1 << self.place(piece)));
        self.pinned.set(self.pinned.get() - u32::from(piece.slices.get()));
    }

    /// Takes out all of `piece`, which is for `owner`, and what some others have for the same owner.
    ///
    /// # Safety
    /// `piece` is one of these, and not empty.
    pub unsafe fn take<C: Checks>(&self, piece: &Piece, owner: *const Heap, secret: usize) -> Parcel {
        // SAFETY: the caller's.
        let run = unsafe { piece.take(secret) };
        self.forget(piece);
        // SAFETY: the run is ours.
        unsafe { Block::move_on::<C>(run.last, secret) };
        let mut parcel = Parcel::of(owner, run);
        let mut others = 0;
        let along = if seeded("heap.parcel_of_all") { PIECES } else { ALONG };
        for other in self.following(self.place(piece)).take(along) {
            // SAFETY: the piece is not empty.
            if !ptr::eq(unsafe { other.slab() }.owner(), owner) {
                others += 1;
                if others == OTHERS {
                    break;
                }
                continue;
            }
            // SAFETY: as above; the blocks are ours then.
            unsafe {
                let run = other.take(secret);
                self.forget(other);
                Block::move_on::<C>(run.last, secret);
                Block::link::<C>(run.last, parcel.first, Block::key(run.last, secret));
                parcel.first = run.first;
            }
        }
        parcel
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.used.get() == 0
    }

    /// A piece that is not empty.
    pub fn waiting(&self) -> Option<&Piece> {
        self.following(0).next()
    }

    /// Demands that what is said of the pieces is so, and calls `visit` with each block that waits.
    #[cfg(any(test, feature = "simulated"))]
    pub fn audit<C: Checks>(&self, secret: usize, mut visit: impl FnMut(*mut Block)) {
        let mut pinned = 0;
        for (place, piece) in self.pieces.iter().enumerate() {
            let is_used = self.used.get() & 1 << place != 0;
            assert!(is_used != piece.is_empty(), "which pieces are used");
            if piece.is_empty() {
                continue;
            }
            // SAFETY: the piece is not empty.
            let slab = unsafe { piece.slab() };
            let (mut count, mut last, mut at) = (0, ptr::null_mut(), piece.first.get());
            while !at.is_null() {
                assert!(piece.is_of(at.addr()), "a block of another slice");
                visit(at);
                // SAFETY: a chain of free blocks, and nobody is in the middle of anything.
                (count, last, at) = (count + 1, at, unsafe { Block::follow::<C>(at, secret) });
            }
            let is_whole = last == piece.last.get() && u32::from(piece.slices.get()) == slab.slices();
            assert!(is_whole, "where a piece begins and ends");
            assert_eq!(count + piece.left.get(), Piece::most(slab), "blocks until a piece is sent");
            pinned += slab.slices();
        }
        assert_eq!(self.pinned.get(), pinned, "slices that are pinned");
    }

    /// Slices that are pinned.
    #[cfg(all(test, not(loom)))]
    pub fn pinned(&self) -> u32 {
        self.pinned.get()
    }
}

impl Mend for Outbox {
    /// A thread vanished as it began a piece, or had taken all blocks of one and not forgotten it: the next block of the
    /// slice would be taken for one more of those. What holds no blocks is forgotten, and the rest is counted anew, the
    /// blocks of each piece, too: it was in the middle of putting one in, or of taking some out.
    fn mend(&self) {
        self.used.set(0);
        self.pinned.set(0);
        for (place, piece) in self.pieces.iter().enumerate() {
            if piece.first.get().is_null() && !seeded("heap.child_keeps_pieces") {
                piece.slice.set(0);
            }
            if !piece.is_empty() {
                if !seeded("heap.child_keeps_left") {
                    piece.recount();
                }
                self.used.set(self.used.get() | 1 << place);
                self.pinned.set(self.pinned.get() + u32::from(piece.slices.get()));
            }
        }
    }
}

const _: () = assert!(PIECES <= u64::BITS as usize);
