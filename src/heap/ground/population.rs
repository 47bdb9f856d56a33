//! The population bet: where use grows steadily, a new region is to be populated 2 MiB at a fault instead of a page.
//!
//! That saves nine tenths of what faulting costs, and misses of the translation cache later; it costs memory wherever
//! less than all of a region is touched, and time where the system has no 2 MiB in one piece: it looks for them each
//! time, and finds none. So the bet is taken late and on proof, and looked at at once:
//! - *An arena*: when [`ENOUGH`] bytes are live, hardly anything was purged lately, or nothing since that much less was
//!   live, and nearly all of the arena that was mapped last was handed out.
//! - *A huge block*: when of those that were freed lately nearly all was touched, as a few pages of each show; and when it
//!   grows, and something is written in nearly all of what it was.
//! - *Won or lost*: some of the region is touched, and a clock tells whether huge pages came, and sooner than as many
//!   single ones would have. If not, the region goes back to single pages, and the bet is not taken for a while, each
//!   time for twice as long.
//!
//! Nothing is read from the system's settings, and no system call is made that is not made anyway: where huge pages are
//! forbidden or rare, or (in a virtual machine) the host has to find the memory first, the bet is lost, and seldom taken
//! again.

use super::bets::{Bet, BetCount};
use super::folios::FolioSizes;
use super::touches::{
    MIXER, SAMPLES, comes_at_once, is_written, look_ahead, sampled_page, time, touch, touch_piece,
};
use crate::base::{SLICE, align_up};
use crate::const_unless_model;
use crate::pal::{Errno, Folios, Platform};
use crate::region::{Kind, Region};
use crate::sync::Counter;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::ops::Range;

/// Bytes that are live before an arena is bet on: when the second one is mapped.
const ENOUGH: usize = 24 << 20;
/// Bytes of a huge page. Where they are larger, several pieces of this size come at once, or none.
pub const HUGE_PAGE: usize = Folios::HUGE;
/// A region is judged by a piece at its start and one every so many bytes, a few at most.
const STEP: usize = 32 << 20;
const MOST_LOOKED_AT: usize = 16;
/// Pages that are touched to find out what a fault takes.
const MEASURED: usize = 8;
/// Regions that are passed over after the bet was lost again and again, at most.
const LONGEST_PAUSE: usize = 64;
/// Runs of slices that are given back for each one that is looked at.
pub const UNSEEN: usize = 16;
/// Bytes of huge blocks for each one that is looked at, where none of the last was touched anywhere.
const UNSEEN_BYTES: usize = 256 << 20;
/// What [`Population::touched`] can be at most.
const ALL: usize = 256;
/// How much a new sample counts for: a quarter where one block gives many, so that one block may do.
const WEIGHT: [usize; 2] = [4, 16];

/// Whether so little of `all` is not among the `part` that nobody would miss it: one in sixteen.
fn is_nearly_all(part: usize, all: usize) -> bool {
    part >= all - all / 16
}

/// How the bet stands.
pub struct Population {
    bet: BetCount,
    /// How much of the huge blocks, and of the runs of slices, was touched when they were freed, out of [`ALL`].
    touched: [AtomicUsize; 2],
    /// Bytes of huge blocks that are passed by before one is looked at, where none of the last was touched anywhere.
    passed_by: Counter,
    /// Nanoseconds that the fault of a single page takes; zero before that is known.
    fault: AtomicU64,
    /// Regions to be passed over before the bet is taken again, and how many after it is lost again.
    pause: Counter,
    next_pause: Counter,
    /// Bytes purged when the last arena was mapped, and bytes purged lately by then: since the arena before, half of
    /// those before that, and so on.
    purged: Counter,
    lately: Counter,
    /// Bytes that were live when as much as a slice was purged last.
    live_then: Counter,
    /// Whether an arena is populated by huge pages.
    in_arenas: AtomicBool,
    folios: FolioSizes,
    /// By an option.
    forbidden: AtomicBool,
}

/// What is looked at when it is freed.
#[derive(Clone, Copy)]
pub enum Sampled {
    /// A block with a region of its own.
    Huge,
    /// A run of slices.
    Run,
}

impl Population {
    const_unless_model! {
        /// Never taken.
        pub(in crate::heap) fn new() -> Population {
            Population {
                bet: BetCount::new(),
                touched: [AtomicUsize::new(0), AtomicUsize::new(0)],
                passed_by: Counter::new(),
                fault: AtomicU64::new(0),
                pause: Counter::new(),
                next_pause: Counter::new(),
                purged: Counter::new(),
                lately: Counter::new(),
                live_then: Counter::new(),
                in_arenas: AtomicBool::new(false),
                folios: FolioSizes::new(),
                forbidden: AtomicBool::new(false),
            }
        }
    }

    /// Sets whether the bet may be taken.
    pub fn allow(&self, allowed: bool) {
        // Relaxed: read by slow paths, in no order with anything.
        self.forbidden.store(!allowed, Ordering::Relaxed);
    }

    /// Whether it may be taken.
    pub fn is_allowed(&self) -> bool {
        // Relaxed: as above.
        !self.forbidden.load(Ordering::Relaxed)
    }

    /// Bytes of arenas that may be resident though no slice of them was ever claimed: what is left of the huge page in
    /// which the last claim of clean slices ended. Claims go upwards, so it is that one, as a rule.
    pub(in crate::heap) fn ahead_of_claims(&self) -> usize {
        // Relaxed: a figure.
        if self.in_arenas.load(Ordering::Relaxed) { HUGE_PAGE } else { 0 }
    }

    /// How it has gone.
    pub fn get(&self) -> Bet {
        self.bet.get()
    }

    /// An arena is about to be mapped beside `live` bytes in use, while `purged` bytes have been given back ever:
    /// whether use grows steadily. So it does in a program, too, that has torn down what it had, and builds up again:
    /// what was purged on the way down is nothing against that.
    pub(in crate::heap) fn is_steady(&self, live: usize, purged: usize) -> bool {
        let lately = self.lately.get() / 2 + purged.wrapping_sub(self.purged.get());
        self.purged.set(purged);
        self.lately.set(lately);
        live >= ENOUGH && (lately <= live / 32 || live.saturating_sub(self.live_then.get()) >= ENOUGH)
    }

    /// So many `bytes` were purged while `live` ones are in use, which is asked if it matters.
    pub(in crate::heap) fn note_purge(&self, bytes: usize, live: impl FnOnce() -> usize) {
        if bytes >= SLICE {
            self.live_then.set(live());
        }
    }

    /// Whether nearly all of what was freed of a kind lately had been touched.
    pub(in crate::heap) fn touches_all(&self, kind: Sampled) -> bool {
        // Relaxed: a guess.
        is_nearly_all(self.touched[kind as usize].load(Ordering::Relaxed), ALL)
    }

    /// Looks at a page of each part of a huge block that is freed, `len` bytes at `at`, that began `colour` bytes behind
    /// that: says whether all, or all but one, were touched. Each that was not costs two faults, and a call of `purge`,
    /// which gives it back; so the second is the last. Where none of the last blocks was touched anywhere it is the first, and one block in
    /// [`UNSEEN_BYTES`] is looked at.
    ///
    /// # Safety
    /// The caller holds the block.
    pub(in crate::heap) unsafe fn sample_huge<P: Platform>(
        &self,
        os: &P,
        purge: &impl Fn(usize),
        [at, colour]: [usize; 2],
        len: usize,
    ) -> bool {
        // Relaxed: a guess.
        let none = self.touched[Sampled::Huge as usize].load(Ordering::Relaxed) == 0;
        if !self.is_allowed() || none && self.passes_by(len) {
            return true;
        }
        let pages = len.checked_div(os.page_size()).unwrap_or(0);
        let untouched = (0..SAMPLES).filter(|sample| {
            let number = sampled_page(at, *sample, pages);
            // SAFETY: the caller's promise.
            let touched = unsafe { self.is_touched(os, purge, [at + number * os.page_size(), colour]) };
            self.note(Sampled::Huge, touched);
            !touched
        });
        let enough = if none { 1 } else { 2 };
        untouched.take(enough).count() < enough
    }

    /// Looks at one page of a run of slices that is given back, `len` bytes at `at`, whose block began `colour` bytes
    /// behind that. For one in [`UNSEEN`].
    ///
    /// # Safety
    /// The caller holds the run.
    pub(in crate::heap) unsafe fn sample_run<P: Platform>(
        &self,
        os: &P,
        purge: &impl Fn(usize),
        [at, colour]: [usize; 2],
        len: usize,
    ) {
        // Another one for another block.
        let pages = len.checked_div(os.page_size());
        let number = pages.and_then(|pages| (at / SLICE).wrapping_mul(MIXER).checked_rem(pages));
        if let Some(number) = number
            && self.is_allowed()
        {
            let page = at + number * os.page_size();
            // SAFETY: the caller's promise.
            self.note(Sampled::Run, unsafe {
                self.is_touched(os, purge, [page, colour & (os.page_size() - 1)])
            });
        }
    }

    /// Whether the `page` was touched before: something is written `colour` bytes behind its start, where a program that
    /// writes to each page of a block would have written that begins so, or half a page from there, or writing to it now
    /// takes less than half of a fault; if not, it is given back.
    ///
    /// The first look would not tell. It is a fault of another kind, which maps a page of zeros that all share, takes less
    /// than half of the one that is measured, and not even that when somebody has looked before; and a look at a page that
    /// is there, but whose translation no cache has, takes nearly as long.
    ///
    /// # Safety
    /// It is a page of memory that the caller holds, and whose contents nobody needs; `colour` is a multiple of a line.
    unsafe fn is_touched<P: Platform>(
        &self,
        os: &P,
        purge: &impl Fn(usize),
        [page, colour]: [usize; 2],
    ) -> bool {
        let at = page + colour;
        if is_written(at) || is_written(at ^ (os.page_size() / 2)) {
            return true;
        }
        // Relaxed: a guess.
        let fault = self.fault.load(Ordering::Relaxed);
        let touched = fault > 0 && time(os, || touch(at)) < fault / 2;
        if fault > 0 && !touched {
            // If the system refuses, the page is resident: nothing worse.
            purge(page);
        }
        touched
    }

    /// Whether a huge block of `len` bytes, of many that are not touched, is not looked at.
    fn passes_by(&self, len: usize) -> bool {
        let left = self.passed_by.get();
        self.passed_by.set(if left > len { left - len } else { UNSEEN_BYTES });
        left > len
    }

    fn note(&self, kind: Sampled, touched_now: bool) {
        let touched = &self.touched[kind as usize];
        // Relaxed (both): a guess; two threads at a time lose one of the two samples.
        let before = touched.load(Ordering::Relaxed);
        let weight = WEIGHT[kind as usize];
        let after = if touched_now {
            before + (ALL - before).div_ceil(weight)
        } else {
            before - before.div_ceil(weight)
        };
        if after != before {
            touched.store(after, Ordering::Relaxed);
        }
    }

    /// Whether the bet may be taken on the next region, or that is one of those to be passed over.
    fn passes_over(&self) -> bool {
        let pause = self.pause.get();
        if pause > 0 {
            self.pause.set(pause - 1);
        }
        pause > 0
    }

    /// Takes the bet, if it may be taken now, on the `fresh` bytes of a region, by their offsets: they are the caller's, and
    /// not resident. What lies behind them is not touched. Says whether the region is populated by huge pages from now on.
    pub(in crate::heap) fn take<P: Platform>(&self, os: &P, region: &Region, fresh: Range<usize>) -> bool {
        let (at, len) = (region.base(), fresh.end);
        let fresh = align_up(fresh.start, HUGE_PAGE).unwrap_or(len);
        if fresh + 3 * HUGE_PAGE > len || !self.is_allowed() || self.passes_over() {
            return false;
        }
        // A piece with single pages in it is not populated otherwise.
        let first = at + fresh;
        let first = if self.measure_fault(os, first) { first + HUGE_PAGE } else { first };
        if advise(os, region, true).is_err() {
            return false;
        }
        let mut pieces = (first..=at + len - HUGE_PAGE).step_by(STEP).take(MOST_LOOKED_AT);
        // Relaxed: a guess.
        let pages = HUGE_PAGE.checked_div(os.page_size()).unwrap_or(0);
        let fault = self.fault.load(Ordering::Relaxed);
        let end = at + len;
        let comes = |piece| comes_at_once(touch_piece(os, piece), fault, pages);
        // SAFETY: the piece is the caller's, and not resident.
        let look = |piece| unsafe { look_ahead(os, piece, comes) };
        // A second look behind the first: that one may have been held up by something else.
        let won = pieces.all(|piece| comes(piece) || piece + 2 * HUGE_PAGE <= end && look(piece + HUGE_PAGE));
        self.settle(won);
        self.folios.asked();
        if won && region.kind() == Kind::Arena {
            region.arena().begin_huge_pages();
            // Relaxed: a figure.
            self.in_arenas.store(true, Ordering::Relaxed);
        }
        if !won {
            // Single pages again. If the system refuses, it looks for large ones at each fault: nothing worse.
            let _refused = advise(os, region, false);
        }
        won
    }

    /// What the system populates unasked.
    pub(in crate::heap) fn learn_folios(&self, folios: Folios) {
        self.folios.learn(folios);
    }

    /// A part of an arena, of which the caller holds something, is about to be given back: the arena is populated by
    /// single pages from now on. Else the system would fill the hole when it next looks for huge pages that lack some
    /// (khugepaged), with memory that nobody uses or counts. Not where the bet is forbidden: a filter of system calls may
    /// not know this advice.
    pub(in crate::heap) fn end<P: Platform>(&self, os: &P, arena: &Region) {
        if self.is_allowed() && arena.arena().end_huge_pages() {
            // If the system refuses, the hole is filled: nothing worse.
            let _refused = advise(os, arena, false);
        }
    }

    /// Splits `len` bytes at `at`, which are about to be given back, off from what stays of the folios at their ends. Not
    /// where the bet is forbidden, as above.
    ///
    /// # Safety
    /// They are whole pages of one mapping, and nobody needs their contents.
    pub(in crate::heap) unsafe fn split<P: Platform>(&self, os: &P, at: usize, len: usize) {
        if self.is_allowed() {
            // SAFETY: passed on.
            unsafe { self.folios.split(os, at, len) };
        }
    }

    /// Counts how a bet went, and how long it is not taken after one that was lost.
    fn settle(&self, won: bool) {
        self.bet.count(won);
        if won {
            self.next_pause.set(0);
        } else {
            let pause = (self.next_pause.get() * 2).clamp(1, LONGEST_PAUSE);
            self.next_pause.set(pause);
            self.pause.set(pause);
            // Relaxed: a guess. It may be faults that have become slower.
            self.fault.store(0, Ordering::Relaxed);
        }
    }

    /// Finds out what a fault takes, if that is not known and may become of use, by the first pages of a fresh region at
    /// `at`: says whether they were touched for that.
    pub(in crate::heap) fn measure_fault<P: Platform>(&self, os: &P, at: usize) -> bool {
        // Relaxed (both): a guess.
        let unknown = self.fault.load(Ordering::Relaxed) == 0 && self.is_allowed();
        if unknown {
            let pages = (0..MEASURED).map(|number| at + number * os.page_size());
            // The quickest: what held up the others is no part of a fault.
            let fault = pages.map(|page| time(os, || touch(page))).min();
            self.fault.store(fault.unwrap_or(0).max(1), Ordering::Relaxed);
        }
        unknown
    }
}

/// Whether a region is to be populated by huge pages. All of the mapping: to the system a part with other advice is a
/// mapping of its own.
fn advise<P: Platform>(os: &P, region: &Region, preferred: bool) -> Result<(), Errno> {
    let mapping = if region.mappings() > 1 { region.len() } else { region.mapped() };
    os.prefer_huge_pages(region.base(), mapping, preferred)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::pal::Access;
    use crate::pal::simulated::{CallKind, Simulated};
    use core::ops::Range;
    use core::ptr;

    #[test]
    fn blocks_that_are_touched_as_a_whole_are_told_from_others() {
        const PAGE: usize = 4096;
        let os = Simulated::new();
        let len = 64 * PAGE;
        let at = os.map(None, len, Access::ReadWrite).unwrap();
        let block = ptr::with_exposed_provenance_mut::<u8>(at);
        // SAFETY: the mapping is this test's.
        let purge = |page| unsafe { os.purge(page, PAGE).unwrap() };
        let sample = |population: &Population| {
            // SAFETY: the mapping is this test's.
            unsafe { population.sample_huge(&os, &purge, [at, 0], len) };
            population.touches_all(Sampled::Huge)
        };
        let fill = |pages: Range<usize>, byte| {
            // SAFETY: as above.
            unsafe { block.add(pages.start * PAGE).write_bytes(byte, pages.len() * PAGE) };
        };
        let purged = || os.record().iter().filter(|call| call.kind == CallKind::Purge).count();
        let population = Population::new();
        assert!(!population.touches_all(Sampled::Huge));
        fill(0..64, 1);
        assert!(sample(&population) && !population.touches_all(Sampled::Run));
        fill(32..64, 0);
        assert!(!sample(&population), "half of it was, and nobody knows what a fault takes");
        assert_eq!(purged(), 0);

        // By this clock, which stands, nothing takes time: less than half of a fault of two nanoseconds, ...
        population.fault.store(2, Ordering::Relaxed);
        assert!(sample(&population), "zeros, but no faults");
        // ... and not less than half of one of one.
        population.fault.store(1, Ordering::Relaxed);
        assert!(!sample(&population), "faults");
        assert_eq!(purged(), 2, "pages that were touched to find that out");

        population.allow(false);
        fill(0..64, 1);
        assert!(!sample(&population), "nothing is looked at for a bet that is forbidden");
        // SAFETY: as above.
        unsafe { population.sample_run(&os, &purge, [at, 0], len) };
        assert!(!population.touches_all(Sampled::Run), "nor here");
    }

    #[test]
    fn where_no_block_is_touched_few_are_looked_at() {
        const LEN: usize = UNSEEN_BYTES / 16;
        let os = Simulated::new();
        let at = os.map(None, LEN, Access::ReadWrite).unwrap();
        let population = Population::new();
        // By this clock, which stands, all writes are faults.
        population.fault.store(1, Ordering::Relaxed);
        let looks = Counter::new();
        let purge = |_page| looks.add(1);
        let free = |blocks: usize| {
            let before = looks.get();
            for _ in 0..blocks {
                // SAFETY: the mapping is this test's.
                unsafe { population.sample_huge(&os, &purge, [at, 0], LEN) };
            }
            looks.get() - before
        };
        assert_eq!([free(1), free(15), free(1), free(16)], [1, 0, 1, 1]);
        population.touched[Sampled::Huge as usize].store(1, Ordering::Relaxed);
        assert_eq!([free(1), free(1)], [2, 0], "one was touched lately: the next is looked at");
    }

    #[test]
    fn what_is_lost_again_and_again_is_seldom_tried() {
        let population = Population::new();
        let mut taken = 0;
        for _ in 0..1_000 {
            if !population.passes_over() {
                population.settle(false);
                taken += 1;
            }
        }
        assert_eq!(taken, 21, "after 1, 2, 4, ... 64, 64, ...");
        assert!((0..=LONGEST_PAUSE).any(|_| !population.passes_over()));
        population.settle(true);
        assert!(!population.passes_over(), "and at once again when it was won");
        // What a fault takes stays known until a bet is lost.
        population.fault.store(7, Ordering::Relaxed);
        population.settle(true);
        assert_eq!(population.fault.load(Ordering::Relaxed), 7);
        population.settle(false);
        assert_eq!(population.fault.load(Ordering::Relaxed), 0, "faults may have become slower");
        assert!(population.passes_over() && !population.passes_over(), "all begins anew");
    }

    #[test]
    fn growth_is_steady_while_hardly_anything_goes_back() {
        let population = Population::new();
        population.note_purge(SLICE, || ENOUGH);
        assert!(!population.is_steady(ENOUGH - 1, 0) && population.is_steady(ENOUGH, 0));
        assert!(!population.is_steady(ENOUGH, ENOUGH / 10), "something was purged since");
        assert!(!population.is_steady(ENOUGH, ENOUGH / 10), "and not long ago");
        assert!(population.is_steady(ENOUGH, ENOUGH / 10));
    }

    #[test]
    fn growth_from_a_low_is_steady_whatever_went_back_before() {
        let population = Population::new();
        population.note_purge(SLICE, || ENOUGH);
        assert!(!population.is_steady(2 * ENOUGH - 1, 100 * ENOUGH));
        assert!(population.is_steady(2 * ENOUGH, 100 * ENOUGH));
        population.note_purge(SLICE - 1, || 2 * ENOUGH);
        assert!(population.is_steady(2 * ENOUGH, 101 * ENOUGH), "a page or two");
        population.note_purge(SLICE, || 2 * ENOUGH);
        assert!(!population.is_steady(2 * ENOUGH, 102 * ENOUGH));
    }
}
