//! Spare slices: what a heap keeps of the slabs that have become empty and the large blocks that were freed, for the
//! next that it needs. Otherwise a program at the edge of a slab would go to the arenas with every few blocks, and one
//! that replaces large blocks with each: that costs ten times what taking a spare run does.
//!
//! A large block is given a run that one of about its size has left ([`step_of`](crate::base::step_of)): as much of it
//! is resident as the block needs, but for an eighth. So there is a list of runs for each step, or rather for each of a
//! few numbers that steps lead to. The links lie in the records of the runs' first slices: see [`Kept`].
//!
//! How much may be kept is [`MOST_SPARE`] slices, and more by proof, as with bins: what had to go for lack of room, and
//! was wanted again afterwards, might as well have stayed. That more is *lent* to the heap: the ground counts it
//! with what is free and resident, and says how much there is to lend.

use crate::base::SLICE;
use crate::const_unless_model;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Cell, signal_fence};
use core::ptr;

/// Slices in all the runs that a heap keeps without being lent more: when a large block is freed, and when a slab becomes
/// empty. (The largest slab has five.)
pub const MOST_SPARE: usize = 8;
pub const MOST_SPARE_OF_SLABS: usize = 5;

/// Lists. Steps go on by eights for each doubling, so those of two doublings in a row have a list each.
const LISTS: usize = 16;
/// Runs of a list that are looked at for one that is wanted.
const DEPTH: usize = 4;
/// Runs that one call gives back at most to make room for another.
const AT_ONCE: usize = 8;

/// A spare run: where it begins, its slices, and the step of the length that was used last. Lies in the record of its
/// first slice, and is touched by the possessor of the heap that keeps it only.
pub struct Kept {
    /// The address, and in the low bits the rest.
    what: Cell<usize>,
    next: Cell<*const Kept>,
}

/// Bits for the number of slices: a large block has 65 at most.
const SLICES_BITS: u32 = 8;

impl Kept {
    const_unless_model! {
        /// None.
        pub fn new() -> Kept {
            Kept { what: Cell::new(0), next: Cell::new(ptr::null()) }
        }
    }

    fn base(&self) -> usize {
        self.what.get() / SLICE * SLICE
    }

    fn slices(&self) -> usize {
        key_of(self.what.get()).0
    }

    /// Whether it is a run of so many slices and that step.
    #[inline(always)]
    fn is(&self, slices: usize, step: usize) -> bool {
        self.what.get() % SLICE == key(slices, step)
    }
}

#[inline(always)]
fn key(slices: usize, step: usize) -> usize {
    step << SLICES_BITS | slices
}

fn key_of(what: usize) -> (usize, usize) {
    let key = what % SLICE;
    (key % (1 << SLICES_BITS), key >> SLICES_BITS)
}

/// Claimed runs of slices that hold nothing at the moment.
pub struct Spares {
    lists: [Cell<*const Kept>; LISTS],
    /// Slices in all of them: a figure for any thread.
    slices: AtomicUsize,
    /// Slices that may be kept beyond [`MOST_SPARE`].
    lent: AtomicUsize,
    /// Slices that had to go for lack of room, and have not been wanted again yet.
    missed: Cell<usize>,
    /// The list that gives the next run that has to go.
    turn: Cell<usize>,
}

impl Spares {
    const_unless_model! {
        /// None.
        pub fn new() -> Spares {
            Spares {
                lists: [const { Cell::new(ptr::null()) }; LISTS],
                slices: AtomicUsize::new(0),
                lent: AtomicUsize::new(0),
                missed: Cell::new(0),
                turn: Cell::new(0),
            }
        }
    }

    /// Whether there is room for `slices` slices more.
    #[inline(always)]
    pub fn has_room(&self, slices: usize) -> bool {
        self.slices() + slices <= MOST_SPARE + self.lent()
    }

    /// Keeps the run of `slices` slices at `base`, whose first `step` says how long what it held was.
    ///
    /// The list is a list after every single store, in the order in which they are written here: a thread that vanishes
    /// in between (fork) loses this run at most.
    #[inline(always)]
    pub fn keep(&self, run: &Kept, base: usize, slices: usize, step: usize) {
        debug_assert!(base.is_multiple_of(SLICE) && key(slices, step) < SLICE && slices < 1 << SLICES_BITS);
        let list = &self.lists[step % LISTS];
        run.what.set(base | key(slices, step));
        run.next.set(list.get());
        signal_fence();
        list.set(run);
        self.set_slices(self.slices() + slices);
    }

    /// Makes room for `slices` slices more, where `most` may be kept besides what is lent: gives others to `release`.
    /// `false` if there is not so much room.
    pub fn make_room(&self, slices: usize, most: usize, release: impl Fn(usize, usize)) -> bool {
        let most = most + self.lent();
        let fits = slices <= most;
        let mut left = AT_ONCE;
        while self.slices() + if fits { slices } else { 0 } > most && left > 0 {
            let Some((base, slices)) = self.take_any() else { break };
            release(base, slices);
            left -= 1;
        }
        self.slices() + slices <= most
    }

    /// Notes that `slices` slices had to go for lack of room.
    pub fn miss(&self, slices: usize) {
        self.missed.set(self.missed.get() + slices);
    }

    /// A run of `slices` slices was wanted, and there was none: how many slices more would have helped, as far as is
    /// known. They count as wanted again from then on.
    pub fn wanted(&self, slices: usize) -> usize {
        let missed = self.missed.get();
        let proven = missed.min(slices);
        self.missed.set(missed - proven);
        proven
    }

    /// There is nothing to lend: what had to go until now is no reason to ask again.
    pub fn give_up(&self) {
        self.missed.set(0);
    }

    /// More may be kept by `slices` slices.
    pub fn lend(&self, slices: usize) {
        self.set_lent(self.lent() + slices);
    }

    /// Takes back of what was lent `slices` slices at most; returns how many.
    pub fn take_back(&self, slices: usize) -> usize {
        let less = self.lent().min(slices);
        self.set_lent(self.lent() - less);
        less
    }

    /// Slices that are lent.
    #[inline(always)]
    pub fn lent(&self) -> usize {
        // Relaxed (here and below): the possessor alone writes it; for others it is a figure.
        self.lent.load(Ordering::Relaxed)
    }

    fn set_lent(&self, slices: usize) {
        self.lent.store(slices, Ordering::Relaxed);
    }

    /// Slices in all runs. Any thread may ask: a figure.
    #[inline(always)]
    pub fn slices(&self) -> usize {
        self.slices.load(Ordering::Relaxed)
    }

    fn set_slices(&self, slices: usize) {
        self.slices.store(slices, Ordering::Relaxed);
    }

    /// The run that `link` leads to, if there is one.
    #[inline(always)]
    fn at(link: &Cell<*const Kept>) -> Option<&Kept> {
        // SAFETY: a run of a list is claimed by the heap, which the caller possesses: its arena stays mapped, and with it
        // the record of its first slice.
        unsafe { link.get().as_ref() }
    }

    /// The links of one list that are looked at: each leads to a run.
    #[inline(always)]
    fn links(list: &Cell<*const Kept>) -> impl Iterator<Item = (&Cell<*const Kept>, &Kept)> {
        let mut link = list;
        core::iter::from_fn(move || {
            let this = (link, Spares::at(link)?);
            link = &this.1.next;
            Some(this)
        })
    }

    /// Takes a run out that `link` leads to: its address.
    #[inline(always)]
    fn take_out(&self, link: &Cell<*const Kept>, run: &Kept) -> usize {
        link.set(run.next.get());
        self.set_slices(self.slices() - run.slices());
        run.base()
    }

    /// Takes out a run of `slices` slices that something of that `step` has left, the one that was kept last: its
    /// address.
    #[inline(always)]
    pub fn take(&self, slices: usize, step: usize) -> Option<usize> {
        let mut links = Spares::links(&self.lists[step % LISTS]).take(DEPTH);
        let (link, run) = links.find(|(_, run)| run.is(slices, step))?;
        Some(self.take_out(link, run))
    }

    /// Takes out a run of `slices` slices that something a step longer has left, or else a step shorter, if it fits
    /// nevertheless, which is told the address: its address.
    #[inline(never)]
    pub fn take_near(&self, slices: usize, step: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
        [step + 1, step.wrapping_sub(1)].into_iter().find_map(|step| {
            let mut links = Spares::links(&self.lists[step % LISTS]).take(DEPTH);
            let (link, run) = links.find(|(_, run)| run.is(slices, step) && fits(run.base()))?;
            Some(self.take_out(link, run))
        })
    }

    /// Takes out a run of `slices` slices, whatever it held: its address.
    #[inline(never)]
    pub fn take_of(&self, slices: usize) -> Option<usize> {
        let mut links = self.lists.iter().flat_map(|list| Spares::links(list).take(DEPTH));
        let (link, run) = links.find(|(_, run)| run.slices() == slices)?;
        Some(self.take_out(link, run))
    }

    /// Takes out a run of at least `slices` slices, whatever it held: its address and its slices.
    #[inline(never)]
    pub fn take_longer(&self, slices: usize) -> Option<(usize, usize)> {
        let mut links = self.lists.iter().flat_map(|list| Spares::links(list).take(DEPTH));
        let (link, run) = links.find(|(_, run)| run.slices() >= slices)?;
        Some((self.take_out(link, run), run.slices()))
    }

    /// Takes out a run whichever, of one list after the other: its address and its slices. Of the first few in a list the
    /// oldest: otherwise a program that frees all it has would keep a run in each of its first arenas.
    pub fn take_any(&self) -> Option<(usize, usize)> {
        let last = |list| Spares::links(list).take(MOST_SPARE).last();
        let mut turns = (0..LISTS).map(|more| (self.turn.get() + more) % LISTS);
        let (turn, (link, run)) = turns.find_map(|turn| Some((turn, last(&self.lists[turn])?)))?;
        self.turn.set((turn + 1) % LISTS);
        Some((self.take_out(link, run), run.slices()))
    }

    /// The runs: where each begins, and its slices.
    fn each(&self) -> impl Iterator<Item = (usize, usize)> {
        self.lists.iter().flat_map(Spares::links).map(|(_, run)| (run.base(), run.slices()))
    }

    /// In the child of a fork: the thread that possessed the heap may have been between a change of a list and that of
    /// the figure.
    pub(in crate::heap) fn recount(&self) {
        self.set_slices(self.each().map(|(_, slices)| slices).sum());
    }

    /// The runs: where each begins, and its slices. Demands that their number is right.
    #[cfg(any(test, feature = "simulated"))]
    pub(in crate::heap) fn audit(&self) -> impl Iterator<Item = (usize, usize)> {
        assert_eq!(self.each().map(|(_, slices)| slices).sum::<usize>(), self.slices(), "slices kept");
        self.each()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::cell::RefCell;
    use std::vec::Vec;

    /// Keeps a run at a slice, or gives up others, and it, for more than `most`; returns what was given up.
    fn keep(spares: &Spares, slice: usize, slices: usize, step: usize, most: usize) -> Vec<(usize, usize)> {
        let released = RefCell::new(Vec::new());
        let run: &'static Kept = Box::leak(Box::new(Kept::new()));
        let release = |base: usize, slices| released.borrow_mut().push((base / SLICE, slices));
        match spares.make_room(slices, most, release) {
            true => spares.keep(run, slice * SLICE, slices, step),
            false => release(slice * SLICE, slices),
        }
        assert!(spares.audit().count() <= MOST_SPARE + spares.lent());
        released.into_inner()
    }

    /// Who vanished between a change of a list and that of the figure.
    #[test]
    fn what_is_kept_is_counted_again() {
        let spares = Spares::new();
        assert!(keep(&spares, 1, 3, 0, 8).is_empty() && keep(&spares, 5, 2, 1, 8).is_empty());
        spares.set_slices(9);
        spares.recount();
        assert_eq!(spares.slices(), 5);
    }

    #[test]
    fn of_one_step_the_run_that_was_kept_last_is_taken_first() {
        let spares = Spares::new();
        for slice in 1..=4 {
            assert!(keep(&spares, slice, 1, 70 + slice % 2, MOST_SPARE).is_empty());
        }
        assert_eq!((spares.take(2, 70), spares.take(1, 72), spares.take(1, 70 + LISTS)), (None, None, None));
        let taken = [70, 70, 71, 71, 71].map(|step| spares.take(1, step));
        assert_eq!(taken, [Some(4 * SLICE), Some(2 * SLICE), Some(3 * SLICE), Some(SLICE), None]);
        assert_eq!(spares.slices(), 0);
    }

    #[test]
    fn of_runs_in_one_list_only_those_that_are_alike_are_taken() {
        let spares = Spares::new();
        for (slice, slices, step) in [(1, 1, 72), (2, 3, 72 + LISTS), (5, 1, 72), (6, 2, 72)] {
            keep(&spares, slice, slices, step, MOST_SPARE);
        }
        assert_eq!(spares.take(3, 72 + LISTS), Some(2 * SLICE));
        assert_eq!(
            (spares.take(1, 72), spares.take(1, 72), spares.take(1, 72)),
            (Some(5 * SLICE), Some(SLICE), None)
        );
        assert_eq!(spares.take_any(), Some((6 * SLICE, 2)));
        assert_eq!((spares.slices(), spares.take_any()), (0, None));
    }

    #[test]
    fn what_is_too_much_goes_by_turns_and_a_run_may_be_all_of_it() {
        let spares = Spares::new();
        for slice in 1..=8 {
            assert!(keep(&spares, slice, 1, slice % 2, MOST_SPARE).is_empty());
        }
        assert_eq!(
            keep(&spares, 20, 2, 3, MOST_SPARE),
            Vec::from([(2, 1), (1, 1)]),
            "the oldest of one list and the next"
        );
        assert_eq!(keep(&spares, 30, MOST_SPARE + 1, 3, MOST_SPARE), Vec::from([(30, MOST_SPARE + 1)]));
        assert_eq!(spares.slices(), MOST_SPARE);
        assert_eq!(keep(&spares, 40, MOST_SPARE, 5, MOST_SPARE).len(), 7);
        assert_eq!((spares.slices(), spares.take(MOST_SPARE, 5)), (MOST_SPARE, Some(40 * SLICE)));
    }

    #[test]
    fn what_is_a_little_longer_or_shorter_is_taken_if_it_fits() {
        let spares = Spares::new();
        for (slice, slices, step) in [(1, 1, 71), (2, 1, 73), (3, 1, 74), (4, 2, 71)] {
            assert!(keep(&spares, slice, slices, step, MOST_SPARE).is_empty());
        }
        let take = |slices, step, best| spares.take_near(slices, step, |base| base != best * SLICE);
        assert_eq!((take(1, 72, 2), take(1, 72, 0)), (Some(SLICE), Some(2 * SLICE)), "the longer one first");
        assert_eq!(
            (take(1, 72, 0), take(3, 72, 0), take(1, 0, 0), take(2, 72, 0)),
            (None, None, None, Some(4 * SLICE))
        );
        assert_eq!((spares.take_longer(2), spares.take_of(2)), (None, None));
        assert!(keep(&spares, 5, 3, 80, MOST_SPARE).is_empty());
        assert_eq!((spares.take_longer(4), spares.take_longer(2)), (None, Some((5 * SLICE, 3))));
        assert_eq!((spares.take_of(1), spares.slices()), (Some(3 * SLICE), 0));
    }

    #[test]
    fn room_is_lent_for_what_had_to_go_and_was_wanted_again() {
        let spares = Spares::new();
        assert_eq!(spares.wanted(1), 0);
        (1..=MOST_SPARE).for_each(|slice| assert!(keep(&spares, slice, 1, 0, MOST_SPARE).is_empty()));
        spares.miss(3);
        assert_eq!((spares.wanted(2), spares.wanted(2), spares.wanted(2)), (2, 1, 0));
        spares.lend(3);
        (20..23).for_each(|slice| assert!(keep(&spares, slice, 1, 0, MOST_SPARE).is_empty()));
        assert!(!spares.has_room(1) && spares.slices() == MOST_SPARE + 3);
        assert_eq!((spares.take_back(2), spares.take_back(2), spares.lent()), (2, 1, 0));
        assert_eq!(keep(&spares, 30, 1, 0, MOST_SPARE).len(), 4, "what was lent goes with the next");
        spares.miss(3);
        spares.give_up();
        assert_eq!(spares.wanted(1), 0, "a new reason is asked for");
    }
}
