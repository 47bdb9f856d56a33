//! Who claims slices of arenas: what a heap has to do with whole slices.

use super::Ground;
use super::bets::{Bet, BetCount};
use super::colour::Colours;
use super::spare::Spares;
use crate::const_unless_model;
use crate::pal::Platform;
use crate::rcu::{ReaderSlot, Section};
use crate::sync::Cell;

/// Adds to a count that begins anew with each `every`: whether it does so now.
fn counts_up(count: &Cell<usize>, more: usize, every: usize) -> bool {
    let sum = count.get() + more;
    count.set(if sum < every { sum } else { 0 });
    sum >= every
}

/// A heap as the backend knows it. Touched by the heap's possessor only, but for the slot and the figures.
#[repr(C)]
pub struct Claimant {
    slot: ReaderSlot,
    number: u32,
    /// Position of the arena that served the last claim: where the next one starts.
    position: Cell<usize>,
    /// Slices given back, or taken although they were not resident, since the last look at how much is dirty.
    changed: Cell<usize>,
    spares: Spares,
    tails: Tails,
    colours: Colours,
    growers: Growers,
    /// Runs of slices given back since one was looked at.
    unseen: Cell<usize>,
    /// How often arenas were asked for slices, ever: won where they had them.
    lookups: BetCount,
}

impl Claimant {
    const_unless_model! {
        /// One that has claimed nothing yet. Each has a number of its own.
        pub(in crate::heap) fn new(number: u32) -> Claimant {
            Claimant {
                slot: ReaderSlot::new(),
                number,
                position: Cell::new(0),
                changed: Cell::new(0),
                spares: Spares::new(),
                tails: Tails::new(),
                colours: Colours::new(),
                growers: Growers::new(),
                unseen: Cell::new(0),
                lookups: BetCount::new(),
            }
        }
    }

    /// Makes zero memory one that has claimed nothing yet, where zero is valid.
    ///
    /// # Safety
    /// `at` is zero memory for a claimant that nobody else knows yet, and `ZERO_IS_VALID`.
    pub(in crate::heap) unsafe fn construct(at: *mut Claimant, number: u32) {
        // SAFETY: the caller's. Zero is a valid value of every other field, and the one that `new` gives it.
        unsafe {
            (&raw mut (*at).slot).write(ReaderSlot::new());
            (&raw mut (*at).number).write(number);
        }
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its reader slot.
    pub fn slot(&self) -> &ReaderSlot {
        &self.slot
    }

    /// A reader section of the possessor.
    pub fn section<'a, P: Platform>(&'a self, ground: &'a Ground<P>) -> Section<'a> {
        // SAFETY: the slot was attached when the heap was made, and belongs to its possessor, who is the caller.
        unsafe { ground.space().rcu().enter(&self.slot) }
    }

    /// Where the last claim of slices succeeded.
    pub(in crate::heap) fn position(&self) -> &Cell<usize> {
        &self.position
    }

    /// Counts an arena that was asked for slices, and whether it had them.
    pub(in crate::heap) fn count_lookup(&self, won: bool) {
        self.lookups.count_alone(won);
    }

    /// How often arenas were asked for slices, ever.
    pub fn lookups(&self) -> Bet {
        self.lookups.get()
    }

    /// Notes that `slices` were given back, or taken although they were not resident; `true` once in `every` slices.
    pub(in crate::heap) fn adds_up(&self, slices: usize, every: usize) -> bool {
        counts_up(&self.changed, slices, every)
    }

    /// Counts a run of slices that is given back; `true` once in `every`.
    pub(in crate::heap) fn is_turn(&self, every: usize) -> bool {
        counts_up(&self.unseen, 1, every)
    }

    /// What it may spend on tails of large blocks.
    pub(in crate::heap) fn tails(&self) -> &Tails {
        &self.tails
    }

    /// The colours of its large blocks.
    #[inline(always)]
    pub(in crate::heap) fn colours(&self) -> &Colours {
        &self.colours
    }

    /// What it knows of blocks that grow.
    #[inline(always)]
    pub(in crate::heap) fn growers(&self) -> &Growers {
        &self.growers
    }

    /// The runs of slices that it keeps.
    pub(in crate::heap) fn spares(&self) -> &Spares {
        &self.spares
    }
}

/// What it costs to purge a tail, in bytes of large blocks that a heap allocates.
const PRICE: usize = 4 << 20;
/// How many times that it is where there are other threads, which a purge interrupts.
const INTERRUPTS: usize = 16;
/// What may be spent in advance, and what is owed at most.
const MOST: usize = 128 * PRICE;
const MOST_OWED: usize = MOST + 256 * PRICE;

/// How many tails a heap may purge: what it has spent, in bytes. A large block that it allocates pays for its length,
/// and for a purge, which its free takes back. So a heap that builds up may purge a tail with each block; one that
/// replaces its blocks does one with some hundred of them, which is little work beside theirs. A block that shrinks pays
/// for a purge, too, which is taken back when a block grows again or is freed. Touched by its possessor only.
pub struct Tails {
    spent: Cell<usize>,
    /// Tails purged of blocks that shrank, for which nothing was taken back yet.
    shrunk: Cell<usize>,
}

impl Tails {
    const_unless_model! {
        /// Nothing was spent.
        fn new() -> Tails {
            Tails { spent: Cell::new(0), shrunk: Cell::new(0) }
        }
    }

    /// Notes that a large block of `bytes` was allocated.
    pub(in crate::heap) fn allocated(&self, bytes: usize) {
        self.spent.set(self.spent.get().saturating_sub(bytes + PRICE));
    }

    /// Notes that a large block was freed.
    pub(in crate::heap) fn freed(&self) {
        self.owe();
        self.grown();
    }

    /// Notes that a large block grew where it is.
    pub(in crate::heap) fn grown(&self) {
        if let Some(left) = self.shrunk.get().checked_sub(1) {
            self.shrunk.set(left);
            self.owe();
        }
    }

    fn owe(&self) {
        self.spent.set((self.spent.get() + PRICE).min(MOST_OWED));
    }

    /// Whether the tail of a block that shrank may be purged, which the block pays for.
    pub(in crate::heap) fn take_shrunk(&self) -> bool {
        let may = self.spent.get() < MOST;
        self.shrunk.set(self.shrunk.get() + usize::from(may));
        may
    }

    /// Whether one may be purged, which is spent then; less often where others are `interrupted`.
    pub(in crate::heap) fn take(&self, interrupted: bool) -> bool {
        let may = self.spent.get() < MOST;
        if may {
            let times = if interrupted { INTERRUPTS } else { 1 };
            self.spent.set(self.spent.get() + PRICE * times);
        }
        may
    }
}

/// Proofs that are remembered at most.
const MOST_PROVEN: usize = 16;

/// A bet that is taken as often as it has been proven to be worth it, lately. Touched by the heap's possessor only.
pub struct Proof(Cell<usize>);

impl Proof {
    const_unless_model! {
        /// None.
        fn new() -> Proof {
            Proof(Cell::new(0))
        }
    }

    /// It was worth it, or would have been, so many times.
    #[inline(always)]
    pub(in crate::heap) fn prove(&self, times: usize) {
        self.0.set((self.0.get() + times).min(MOST_PROVEN));
    }

    /// Whether it is to be taken, which has to be proven again afterwards.
    pub(in crate::heap) fn spend(&self) -> bool {
        let may = self.0.get() > 0;
        if may {
            self.0.set(self.0.get() - 1);
        }
        may
    }
}

/// What is bet on blocks that grow by realloc and have to move. Touched by the heap's possessor only.
pub struct Growers {
    room: Proof,
    early: Proof,
}

impl Growers {
    const_unless_model! {
        /// Nothing is known.
        fn new() -> Growers {
            Growers { room: Proof::new(), early: Proof::new() }
        }
    }

    /// Free slices behind a large block: proven by one that was extended in place, or could not be.
    #[inline(always)]
    pub(in crate::heap) fn room(&self) -> &Proof {
        &self.room
    }

    /// A large block for what would fit a slab's: proven by a block that grew to be a large one.
    #[inline(always)]
    pub(in crate::heap) fn early(&self) -> &Proof {
        &self.early
    }
}
