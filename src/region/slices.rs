//! Who holds which slice of an arena: two bitmaps, changed only by read-modify-writes of single words.
//!
//! Rules, by which thread may touch what:
//! 1. A `claimed` bit is set by the thread that takes the slice and cleared by the one that gives it back; clearing is
//!    that thread's last touch of the arena, for the arena may be frozen and unmapped right after it.
//! 2. A `dirty` bit says that the slice's memory may be other than zero. Only the holder of the slice writes it, before
//!    it clears `claimed`.
//! 3. The arena is frozen word by word in ascending order, each from "nothing claimed" to all bits set ("closed"). Only
//!    the freezer changes a closed word: to everybody else it is full. The first word serves as the freezers' lock.
//! 4. A claimant of several words takes them in ascending order too. If it meets a word that is closed or in which one
//!    of its bits is taken, it gives back what it took.
//!
//! So a freeze and a claim exclude each other: both need the lowest word of the claim. Slices outside the range given
//! to [`SliceMap::open`] (the header, the guard) are set all along and count as "not claimed".

use super::claims::{clear, read, try_claim};
use super::runs::{
    BITS, Bitmap, FULL, Run, WORDS, beside, cheapest_free, first_free, first_run, first_with_room, longest,
    span, words,
};
use super::zeros64;
use crate::base::{GRANULE_SLICES, SLICE};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicU64, AtomicUsize};
use crate::sync::{Exchange, acquire, in_order, release, seeded};
use core::ops::Range;

/// Runs that a claim looks at which chooses among those that fit, for each so many slices that it wants.
const TRIES: usize = 16;
const LONG: usize = 4;
/// What it may cost in bytes to leave a longer run whole: two pages.
const CUT: usize = 8 << 10;

/// Which free slices a claim takes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// Slices whose memory is resident already, or none.
    Dirty,
    /// The lowest that fit.
    Any,
}

/// Which free slices count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Among {
    /// All of them.
    Free,
    /// Those whose memory may be resident.
    Dirty,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Attempt {
    /// The run that the caller holds now.
    pub run: Option<Run>,
    /// Whether slices were held for a moment and given back: whoever looked meanwhile did not find them.
    pub took_back: bool,
}

/// The bitmaps of one arena. See the rules at the head of this file.
pub struct SliceMap {
    claimed: [AtomicU64; WORDS],
    dirty: [AtomicU64; WORDS],
    /// The range that can be claimed; constant while the region is attached.
    first: AtomicUsize,
    end: AtomicUsize,
}

impl SliceMap {
    crate::const_unless_model! {
        /// A map of no slices.
        pub fn new() -> SliceMap {
            SliceMap {
                claimed: zeros64(),
                dirty: zeros64(),
                first: AtomicUsize::new(0),
                end: AtomicUsize::new(0),
            }
        }
    }

    /// Starts a new life: `usable` slices are unclaimed and clean, all others are out of reach. The map is closed, as
    /// after [`SliceMap::freeze`], until [`SliceMap::reopen`]: whoever maps an arena writes its header in between. By
    /// the owner of a detached region; `attach` publishes it.
    pub fn open(&self, usable: Range<usize>) {
        debug_assert!(usable.start < BITS && usable.end <= GRANULE_SLICES);
        // Relaxed, here and below: nobody else knows the region yet; the Release of `State::attach` publishes it.
        self.first.store(usable.start, Relaxed);
        self.end.store(usable.end, Relaxed);
        for word in 0..WORDS {
            self.claimed[word].store(FULL, Relaxed);
            self.dirty[word].store(0, Relaxed);
        }
        debug_assert!(self.is_valid());
    }

    /// The slices that can be claimed.
    pub fn usable(&self) -> Range<usize> {
        // Relaxed: constant while the region is attached, and seen by whoever came to know of the region.
        self.first.load(Relaxed)..self.end.load(Relaxed)
    }

    /// The bits of `word` that are set all along.
    fn fixed(&self, word: usize) -> u64 {
        let usable = self.usable();
        FULL & !span(word, usable.start, usable.end)
    }

    /// The slices of a word that are not free, or not counted.
    #[inline]
    fn others(&self, among: Among, word: usize) -> u64 {
        // Relaxed (both): as in `read`.
        let claimed = self.claimed[word].load(Relaxed);
        if among == Among::Free { claimed } else { claimed | self.dirty[word].load(Relaxed) ^ FULL }
    }

    /// Length of the longest free run, or `most` if there is one of that length.
    pub fn longest(&self, among: Among, most: usize) -> usize {
        longest(&core::array::from_fn(|word| self.others(among, word)), most)
    }

    /// Length of the free run that the `len` slices from `start` are a part of, which the caller has just given back.
    pub fn around(&self, among: Among, start: usize, len: usize) -> usize {
        let (before, behind) = beside(|word| self.others(among, word), start, start + len);
        before + len + behind
    }

    /// Whether the caller's claim of `len` slices from `start` may have left no free run of `longest` slices where
    /// there was one.
    pub fn may_have_cut(&self, start: usize, len: usize, longest: usize) -> bool {
        let (before, behind) = beside(|word| self.others(Among::Free, word), start, start + len);
        before < longest && behind < longest && before + len + behind >= longest
    }

    /// The first slice at or behind `from` that is claimed at this moment, among those that can be.
    pub fn first_claimed(&self, from: usize) -> Option<usize> {
        let usable = self.usable();
        let mut at = from.max(usable.start);
        while at < usable.end {
            // Relaxed: a look that is old when it is used.
            let rest = self.claimed[at / BITS].load(Relaxed) >> (at % BITS);
            if rest != 0 {
                return Some(at + rest.trailing_zeros() as usize).filter(|&slice| slice < usable.end);
            }
            at = (at / BITS + 1) * BITS;
        }
        None
    }

    /// The end of the last slice that is claimed at this moment, among those that can be; that of the first that can be if
    /// none is.
    pub fn end_of_claims(&self) -> usize {
        let end_in = |word: usize| {
            // Relaxed: a look that is old when it is used.
            let claimed = self.claimed[word].load(Relaxed) & !self.fixed(word);
            (claimed != 0).then(|| (word + 1) * BITS - claimed.leading_zeros() as usize)
        };
        (0..WORDS).rev().find_map(end_in).unwrap_or(self.usable().start)
    }

    /// Claims the lowest run of `len` slices that starts at a multiple of `align` slices (a power of two). The caller
    /// is in a reader section or otherwise knows that the region stays.
    pub fn claim(&self, len: usize, prefer: Prefer, align: usize) -> Attempt {
        self.claim_found(len, prefer, |taken| first_free(taken, len, align))
    }

    /// Claims, of the first few runs of `len` slices, the one whose pages are most nearly those that are wanted:
    /// `misfit` says of the last slice, and of whether it may be resident, how many bytes of it are to be faulted in,
    /// or are resident for nothing. The caller is in a reader section or otherwise knows that the region stays.
    pub fn claim_fitting(
        &self,
        len: usize,
        prefer: Prefer,
        misfit: impl Fn(usize, bool) -> usize,
    ) -> Attempt {
        self.claim_found(len, prefer, |taken| Some(self.fitting(taken, len, prefer, &misfit)?.1))
    }

    /// How many bytes would be faulted in, or stay for nothing, in the place that [`SliceMap::claim_fitting`] would choose
    /// now among all that are free; `None` if there is no place.
    pub fn least_misfit(&self, len: usize, misfit: impl Fn(usize, bool) -> usize) -> Option<usize> {
        Some(self.fitting(&read(&self.claimed), len, Prefer::Any, &misfit)?.0)
    }

    /// The place for a run of `len` slices that fits best, where what is `taken` is not to be had: what it costs, and where
    /// it begins.
    fn fitting(
        &self,
        taken: &Bitmap,
        len: usize,
        prefer: Prefer,
        misfit: &impl Fn(usize, bool) -> usize,
    ) -> Option<(usize, usize)> {
        let cut = |cuts| if cuts { CUT } else { 0 };
        let tries = TRIES * len.div_ceil(LONG);
        if prefer == Prefer::Dirty {
            return cheapest_free(taken, len, [tries, CUT], |start, cuts| {
                misfit(start + len - 1, true) + cut(cuts)
            });
        }
        let dirty = read(&self.dirty);
        cheapest_free(taken, len, [tries, CUT], |start, cuts| {
            let last = start + len - 1;
            let dirty_of = |word: usize| (dirty[word] & span(word, start, last)).count_ones() as usize;
            let clean = len - 1 - if len > 1 { words(start, last).map(dirty_of).sum::<usize>() } else { 0 };
            let last_is_dirty = dirty[last / BITS] >> (last % BITS) & 1 == 1;
            clean * SLICE + misfit(last, last_is_dirty) + cut(cuts)
        })
    }

    /// Claims the lowest run of `len` slices behind which `room` more are free, and before which as many are where there
    /// is so much. The caller is in a reader section or otherwise knows that the region stays.
    pub fn claim_with_room(&self, len: usize, prefer: Prefer, room: usize) -> Attempt {
        self.claim_found(len, prefer, |taken| first_with_room(taken, &read(&self.claimed), len, room))
    }

    /// Claims the `len` slices from where `find` says, which is told which slices are taken or not to be had.
    fn claim_found(&self, len: usize, prefer: Prefer, find: impl Fn(&Bitmap) -> Option<usize>) -> Attempt {
        let mut took_back = false;
        loop {
            let claimed = read(&self.claimed);
            let found = match prefer {
                Prefer::Any => find(&claimed),
                Prefer::Dirty => {
                    let dirty = read(&self.dirty);
                    find(&core::array::from_fn(|word| claimed[word] | dirty[word] ^ FULL))
                }
            };
            let Some(start) = found else { return Attempt { run: None, took_back } };
            if try_claim(&self.claimed, start, start + len, &mut took_back) {
                let run = Run { start, len, all_clean: self.is_clean(start, start + len) };
                return Attempt { run: Some(run), took_back };
            }
        }
    }

    /// Claims the `extra` slices (one at least) behind the run of `len` at `start`, which the caller holds, if all of
    /// them are free.
    pub fn extend_claim(&self, start: usize, len: usize, extra: usize) -> Attempt {
        debug_assert!(self.holds(start, start + len));
        let (end, mut took_back) = (start + len, false);
        let claimed =
            end + extra <= GRANULE_SLICES && try_claim(&self.claimed, end, end + extra, &mut took_back);
        let run = claimed.then(|| Run { start: end, len: extra, all_clean: self.is_clean(end, end + extra) });
        Attempt { run, took_back }
    }

    /// Claims the first run of free dirty slices, at most `most` of them, so that its memory can be purged and nobody
    /// allocates it meanwhile. The caller ends with [`SliceMap::release_clean`], or with [`SliceMap::release`] if the
    /// purge failed.
    pub fn claim_dirty_run(&self, most: usize) -> Attempt {
        let mut took_back = false;
        loop {
            let Some((start, len)) =
                first_run(&core::array::from_fn(|word| self.others(Among::Dirty, word)), most)
            else {
                return Attempt { run: None, took_back };
            };
            if try_claim(&self.claimed, start, start + len, &mut took_back)
                || seeded("region.purge_without_claim")
            {
                return Attempt { run: Some(Run { start, len, all_clean: false }), took_back };
            }
        }
    }

    /// How many of the `len` slices from `start`, which the caller holds, have been written to since they were mapped
    /// or purged.
    #[must_use]
    pub fn dirty_within(&self, start: usize, len: usize) -> usize {
        debug_assert!(self.holds(start, start + len));
        // Relaxed: only the holder writes these bits; `try_claim` handed them over.
        let dirty = |word: usize| self.dirty[word].load(Relaxed) & span(word, start, start + len);
        words(start, start + len).map(|word| dirty(word).count_ones() as usize).sum()
    }

    /// Gives back slices that have been written to. The last touch: the arena may be gone when this returns.
    pub fn release(&self, start: usize, len: usize) {
        let end = start + len;
        debug_assert!(self.holds(start, end) && self.is_valid());
        let mark = || {
            for word in words(start, end) {
                let mask = span(word, start, end);
                // Relaxed: only the holder writes these bits, and the Release of `clear` hands them over.
                if self.dirty[word].load(Relaxed) & mask != mask {
                    self.dirty[word].fetch_or(mask, Relaxed);
                }
            }
        };
        in_order(mark, || clear(&self.claimed, start, end), "region.clear_before_dirty");
    }

    /// Gives back slices whose memory is zero: purged, or never touched. The last touch, as with [`SliceMap::release`].
    pub fn release_clean(&self, start: usize, len: usize) {
        debug_assert!(
            self.holds(start, start + len) && self.is_valid() || seeded("region.purge_without_claim")
        );
        for word in words(start, start + len) {
            let mask = span(word, start, start + len);
            // Relaxed: as in `release`.
            if self.dirty[word].load(Relaxed) & mask != 0 {
                self.dirty[word].fetch_and(!mask, Relaxed);
            }
        }
        clear(&self.claimed, start, start + len);
    }

    /// Closes the map if no slice is claimed: afterwards no claim succeeds. Returns `false`, with everything as it was,
    /// if a slice is claimed or another thread freezes.
    #[must_use]
    pub fn freeze(&self) -> bool {
        for word in (0..WORDS).filter(|&word| word != 1 || !seeded("region.freeze_skips_word")) {
            let free = self.fixed(word);
            // Acquire: partner is the Release of `clear`: the last touches come before the unmap. Relaxed on failure:
            // nothing is read but the word.
            let order = acquire("region.freeze_relaxed");
            if self.claimed[word].exchange(free, FULL, order, Relaxed, "region.freeze_two_steps").is_err() {
                if !seeded("region.freeze_not_reopened") {
                    self.reopen_below(word);
                }
                return false;
            }
        }
        true
    }

    /// Lets claims in: ends the closed state of a new map, or calls a successful [`SliceMap::freeze`] off. Only by the
    /// thread that opened or froze the map, before it has excluded the region.
    pub fn reopen(&self) {
        self.reopen_below(WORDS);
    }

    fn reopen_below(&self, end: usize) {
        for word in (0..end).rev() {
            // Release: partner is the Acquire of `try_claim`: the header that was written while the map was closed. As
            // a read-modify-write it also keeps the release sequence of those who cleared the bits before.
            self.claimed[word].fetch_and(self.fixed(word), release("region.reopen_relaxed"));
        }
    }

    /// Whether no slice is claimed right now: whether it is worth trying to freeze.
    pub fn is_empty(&self) -> bool {
        // Relaxed: a hint; `freeze` decides.
        (0..WORDS).all(|word| self.claimed[word].load(Relaxed) == self.fixed(word))
    }

    /// Number of slices that somebody holds right now; all of them while the map is closed.
    pub fn claimed_count(&self) -> usize {
        // Whoever asks without a section may look at two lives of the descriptor at once.
        self.usable().len().saturating_sub(self.free_count())
    }

    /// Number of slices that nobody holds right now.
    pub fn free_count(&self) -> usize {
        // Relaxed: a figure that is old when it is read.
        self.claimed.iter().map(|word| (!word.load(Relaxed) & FULL).count_ones() as usize).sum()
    }

    /// The end of the slices that somebody holds or whose memory may be resident; zero if there are none.
    pub fn used_end(&self) -> usize {
        let (claimed, dirty) = (read(&self.claimed), read(&self.dirty));
        let used = |word: usize| claimed[word] & !self.fixed(word) | dirty[word];
        let last = (0..WORDS).rev().find(|&word| used(word) != 0);
        last.map_or(0, |word| (word + 1) * BITS - (used(word) << (64 - BITS)).leading_zeros() as usize)
    }

    /// Calls `visit` with each slice that nobody holds and whose memory may be resident.
    pub fn each_dirty(&self, mut visit: impl FnMut(usize)) {
        for word in 0..WORDS {
            let mut rest = FULL & !self.others(Among::Dirty, word);
            while rest != 0 {
                visit(word * BITS + rest.trailing_zeros() as usize);
                rest &= rest - 1;
            }
        }
    }

    /// Number of slices that nobody holds and whose memory may be resident.
    // As a call: it is a few hundred bytes of text, in a dozen slow paths, and a small program pays for their pages.
    #[inline(never)]
    pub fn dirty_count(&self) -> usize {
        let (claimed, dirty) = (read(&self.claimed), read(&self.dirty));
        (0..WORDS).map(|word| (dirty[word] & !claimed[word]).count_ones() as usize).sum()
    }

    /// Whether no slice of a run held by the caller is dirty.
    fn is_clean(&self, start: usize, end: usize) -> bool {
        // Relaxed: only the holder writes these bits; the Acquire of `try_claim` has brought the last holder's.
        words(start, end).all(|word| self.dirty[word].load(Relaxed) & span(word, start, end) == 0)
    }

    /// Whether every slice of `start..end` is claimed, as it is for its holder.
    fn holds(&self, start: usize, end: usize) -> bool {
        // Relaxed: a check by the holder, who set the bits.
        let held = |word: usize| {
            let mask = span(word, start, end);
            self.claimed[word].load(Relaxed) & mask == mask
        };
        let usable = self.usable();
        start < end && start >= usable.start && end <= usable.end && words(start, end).all(held)
    }

    /// The invariants that hold at every moment: the slices out of reach are set, and none of them is dirty. For a
    /// thread that knows that the region stays.
    pub fn is_valid(&self) -> bool {
        (0..WORDS).all(|word| {
            let fixed = self.fixed(word);
            // Relaxed: each invariant concerns one word at a time.
            let claimed = self.claimed[word].load(Relaxed);
            let dirty = self.dirty[word].load(Relaxed);
            claimed & fixed == fixed && dirty & fixed == 0
        })
    }
}

impl Default for SliceMap {
    fn default() -> SliceMap {
        SliceMap::new()
    }
}
