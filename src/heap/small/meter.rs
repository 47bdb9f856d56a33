//! Sampling: which of a heap's allocations are samples, one for so many bytes on average.
//!
//! Each allocation is a trial of its own: it is a sample with the probability `1 - exp(-size / rate)`, as if each byte
//! was one with the probability `1 / rate`. So a class needs one number, the allocations *left* before the next sample
//! ([`Meter`] draws it), and all classes count on their own: independent rare events add up to rare events.
//!
//! # How allocations are counted that nobody counts
//!
//! The fast paths keep a bin's list and its room, and no count. But an allocation takes one block off the list and adds
//! 20 to the room, a free adds a block and takes 21: so the *reach* of a bin, its room and 21 for each block of its list,
//! becomes one less with each allocation, and a free leaves it as it is. What is left is the reach, and a *slack* that
//! the meter keeps and the slow paths change where they change the reach. Where the list is empty, which is when an
//! allocation comes by the slow path, the reach is the room: nothing is walked.
//!
//! And the slow path comes in time. A free needs room, so a bin that is left alone has given out all of its blocks after
//! as many allocations as its reach says, at most, whatever is freed in between. So the slack is never below zero: a bin
//! is filled with a part of what is left only, and has its room *clipped* where the reach would be longer. That comes
//! with the last few hundred allocations before a sample; before those nothing is different from a heap that is not
//! sampled. For the last ones the bin is filled with a few at a time, and frees find no room while it has them: a free
//! that goes home costs a quarter of an allocation by the slow path.
//!
//! Of a class of which nothing was freed since its bin was filled last, something is built: such a bin is filled with much
//! more, for its blocks are gone before the next free, as a rule. If they are not, frees find no room until they are.

use super::bin::Bin;
use super::{Heap, Heaps, of_class};
use crate::base::{CLASSES, class_size};
use crate::heap::block::Checks;
use crate::pal::Platform;
use crate::sync::{Cell, ZERO_IS_VALID};
use core::ptr;

/// Of the allocations that are left a bin is filled with one part of so many: half of its reach is that of its blocks.
const PARTS: i64 = 2 * Bin::BLOCK as i64;
/// And with so many at least, if so many are left.
const FEW: i64 = 8;
/// The same where nothing is freed; and blocks of a slab's list that is taken over then, at most.
const BUILT: i64 = 128;
const LISTED: i64 = 1024;

/// Allocations that are left where there are no samples; and bytes at most before the next one.
const NEVER: i64 = i64::MAX / 4;

/// Room that no bin has.
const NOT_SO: i32 = i32::MIN;

/// What is kept of a class.
struct Count {
    /// What is left beyond the reach of the bin. Below zero nothing is, and the bin has so much less room than it would have
    /// without samples.
    slack: Cell<i64>,
    /// Its room when all blocks that it was filled with have been handed out, and none was freed.
    unfreed: Cell<i32>,
}

impl Count {
    const fn new() -> Count {
        Count { slack: Cell::new(0), unfreed: Cell::new(0) }
    }

    /// How much less room the bin has than it would have without samples.
    fn clip(&self) -> i32 {
        -self.slack.get().min(0) as i32
    }

    /// The bin, which has the room that it would have without samples and `blocks` blocks, is to reach no further than
    /// `left`.
    fn fit(&self, bin: &Bin, left: i64, blocks: u32) {
        self.slack.set((left - bin.reach(blocks)).max(i64::from(i32::MIN / 2)));
        bin.add_room(-self.clip());
    }

    /// Whether the bin, in which a free has found no room, would have had some without samples.
    #[inline(always)]
    fn is_clipped(&self, bin: &Bin) -> bool {
        let slack = self.slack.get();
        slack < 0 && i64::from(bin.room()) >= slack
    }

    /// The slack behind a miss that leaves the bin the room that it has after one: `None` if the next sample is too near.
    #[inline(always)]
    fn after_miss(&self, bin: &Bin) -> Option<i64> {
        let slack = self.slack.get();
        let after = slack + i64::from(bin.room() + Bin::BLOCK - Bin::AFTER_MISS);
        (slack >= 0 && after >= 0).then_some(after)
    }

    /// A block that finds no room in the bin only because of the next sample goes home.
    #[inline(always)]
    fn leave_clipped(&self, bin: &Bin) {
        bin.add_room(Bin::BLOCK);
        self.unfreed.set(NOT_SO);
    }

    /// Allocations that are left before the next sample; there are so many blocks in the bin.
    fn left(&self, bin: &Bin, blocks: u32) -> i64 {
        self.slack.get().max(0) + bin.reach(blocks)
    }
}

/// What a heap that is sampled has beside. In metadata memory, which lives forever; zero is a valid one.
pub(super) struct Meter {
    /// Bytes for a sample on average; zero for no samples.
    rate: Cell<usize>,
    counts: [Count; CLASSES],
    /// Bytes of larger blocks before the next sample.
    left_bytes: Cell<i64>,
    random: Cell<u64>,
}

const _: () = assert!(cfg!(any(loom, shuttle)) || size_of::<Count>() == size_of::<Bin>());

/// What becomes of a freed block for which a bin had no room, where it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// There is no room only because of the next sample.
    Clipped,
    /// There would have been none without samples, either.
    Missed,
}

impl Meter {
    fn count(&self, class: usize) -> &Count {
        of_class(&self.counts, class)
    }

    /// The same by where the bin of the class lies: counts are as long as bins.
    ///
    /// # Safety
    /// As for [`Heap::bin_at`].
    #[inline(always)]
    unsafe fn count_at(&self, at: usize) -> &Count {
        // SAFETY: by the caller's promise a class times the words of a bin.
        unsafe { &*ptr::from_ref(&self.counts).cast::<usize>().add(at).cast::<Count>() }
    }

    /// Bytes before the next sample: exponentially distributed.
    #[inline(never)]
    fn bytes(&self) -> i64 {
        if self.rate.get() == 0 {
            return NEVER;
        }
        // xorshift64*.
        let mut random = self.random.get();
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        self.random.set(random);
        exponential(self.rate.get(), random.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// Draws how many allocations come before the next sample. The bin is empty.
    #[inline(never)]
    fn draw(&self, bin: &Bin, class: usize) {
        let count = self.count(class);
        bin.add_room(count.clip());
        count.fit(bin, self.bytes() / class_size(class) as i64, 0);
    }

    /// One allocation of `size` bytes that is not of a class: whether it is a sample.
    fn counts_bytes(&self, size: usize) -> bool {
        let left = self.left_bytes.get();
        if left < size as i64 {
            self.left_bytes.set(self.bytes());
            return self.rate.get() != 0;
        }
        self.left_bytes.set(left - size as i64);
        false
    }
}

/// `-mean * ln(u)` for the `u` between 0 and 1 that `random` is 2^64 times of.
fn exponential(mean: usize, random: u64) -> i64 {
    /// ln 2, times 2^24.
    const LN_2: u128 = 11_629_080;
    let random = random | 1;
    let zeros = random.leading_zeros();
    // Between 1 and 2, times 2^31. Its logarithm to the base 2, bit for bit: squaring it doubles that.
    let (mut mantissa, mut logarithm) = (random << zeros >> 32, 0u64);
    for _ in 0..24 {
        mantissa = (mantissa * mantissa) >> 31;
        let is_two = mantissa >> 32;
        mantissa >>= is_two;
        logarithm = logarithm << 1 | is_two;
    }
    let halvings = (u64::from(zeros + 1) << 24) - logarithm;
    ((mean as u128 * u128::from(halvings) * LN_2) >> 48).min(NEVER as u128) as i64
}

impl Heap {
    fn meter(&self) -> Option<&'static Meter> {
        // SAFETY: null, or metadata memory, which lives forever.
        unsafe { self.meter.get().as_ref() }
    }

    /// Bytes for a sample on average, as far as the heap knows; zero for no samples.
    #[inline]
    pub fn sample_rate(&self) -> usize {
        self.meter().map_or(0, |meter| meter.rate.get())
    }

    /// Whether the heap counts its allocations: from the first time on that it is sampled.
    #[inline(always)]
    pub fn has_meter(&self) -> bool {
        !self.meter.get().is_null()
    }

    /// Bytes of blocks of no class before the next sample; if nobody counts, none.
    pub fn bytes_before_sample(&self) -> usize {
        self.meter().map_or(0, |meter| meter.left_bytes.get() as usize)
    }

    /// One allocation, of `class` or, if that is `None`, of `size` bytes: whether it is a sample. (What comes from a bin
    /// that is not empty is none, and counts itself.)
    #[inline(never)]
    pub fn counts_as_sample(&self, class: Option<usize>, size: usize) -> bool {
        let Some(meter) = self.meter() else { return false };
        let Some(class) = class else { return meter.counts_bytes(size) };
        if !self.has_none(class) || self.left(meter, class) > 0 {
            return false;
        }
        meter.draw(self.bin(class), class);
        true
    }

    /// Allocations of `class`, whose bin is empty, before the next sample.
    fn left(&self, meter: &Meter, class: usize) -> i64 {
        meter.count(class).left(self.bin(class), 0)
    }

    /// How many blocks the bin of `class`, which is empty, may be filled with; and of how many a list may be that is taken
    /// over as it is.
    pub(super) fn most(&self, class: usize) -> (u32, u32) {
        let Some(meter) = self.meter() else { return (u32::MAX, u32::MAX) };
        let left = self.left(meter, class);
        // Where that is more, as many as leave it the room that it has without samples.
        let beside = (left - i64::from(self.bin(class).room_when_filled())) / i64::from(Bin::BLOCK);
        let most = (left / PARTS).max(beside).max(left.min(FEW));
        let is_built = self.bin(class).room() == meter.count(class).unfreed.get();
        let number = |most: i64| u32::try_from(most).unwrap_or(u32::MAX).max(1);
        if !is_built {
            return (number(most), number(most));
        }
        let most = most.max(left.min(BUILT));
        (number(most), number(most.max((left / 2).min(LISTED))))
    }

    /// The bin of `class`, which was empty and had `room`, has been filled with `blocks` blocks.
    pub(super) fn was_filled(&self, class: usize, room: i32, blocks: u32) {
        if let Some(meter) = self.meter() {
            let count = meter.count(class);
            let bin = self.bin(class);
            count.fit(bin, count.slack.get().max(0) + i64::from(room), blocks);
            count.unfreed.set(bin.room().saturating_add((Bin::BLOCK - 1).saturating_mul(blocks as i32)));
        }
    }

    /// A block of `class` is freed for the first time, and has found no room. Whether there is room after all.
    pub(super) fn begins_to_miss(&self, class: usize) -> bool {
        let bin = self.bin(class);
        if let Some((meter, first)) = self.meter().zip(bin.begin(class)) {
            let slack = &meter.count(class).slack;
            let more = i64::from(first - bin.room() - Bin::BLOCK);
            bin.add_room(slack.get().max(0).min(more) as i32);
            slack.set(slack.get().max(0) - more);
        }
        bin.room() >= 0
    }

    /// A free has found no room in the bin of `class`. What is clipped is left as it was.
    #[inline(always)]
    pub(super) fn counts_miss(&self, class: usize) -> Counted {
        let Some(meter) = self.meter() else { return Counted::Missed };
        let (bin, count) = (self.bin(class), meter.count(class));
        if !count.is_clipped(bin) {
            return Counted::Missed;
        }
        count.leave_clipped(bin);
        Counted::Clipped
    }

    /// The same where there would have been no room without samples, either: if the next sample is so far away that the bin
    /// may have as much room as after a miss, that is counted, and `None` returned. Otherwise the bin has the room that it
    /// would have had without samples, and that which it had is returned.
    #[inline(always)]
    pub(super) fn counts_as_missed(&self, class: usize) -> Option<i32> {
        let meter = self.meter()?;
        let (bin, count) = (self.bin(class), meter.count(class));
        if let Some(after) = count.after_miss(bin) {
            count.slack.set(after);
            return None;
        }
        let room = bin.room() + Bin::BLOCK;
        bin.add_room(count.clip());
        Some(room)
    }

    /// Both of these, if nothing is to be done beside: what [`Bin::misses_quietly`] is without samples. If not, nothing has
    /// happened.
    ///
    /// # Safety
    /// As for [`Heap::bin_at`].
    #[inline(always)]
    pub(super) unsafe fn counts_quiet_miss(&self, at: usize) -> bool {
        let Some(meter) = self.meter() else { return false };
        // SAFETY: the caller's.
        let (bin, count) = unsafe { (self.bin_at(at), meter.count_at(at)) };
        if count.is_clipped(bin) {
            let goes = !self.has_mail();
            if goes {
                count.leave_clipped(bin);
            }
            return goes;
        }
        let Some(after) = count.after_miss(bin).filter(|_| bin.misses_quietly()) else { return false };
        count.slack.set(after);
        true
    }

    /// After a miss: the bin of `class` had `room`, and has as much as without samples now. And so many of its blocks
    /// went home.
    #[inline(always)]
    pub(super) fn was_changed(&self, class: usize, room: i32, blocks: u32) {
        if let Some(meter) = self.meter() {
            let (bin, count) = (self.bin(class), meter.count(class));
            let left = count.slack.get().max(0) + i64::from(room) + i64::from(blocks) * i64::from(Bin::BLOCK);
            count.fit(bin, left, 0);
        }
    }

    /// All blocks of the bin of `class`, which had `room`, went home.
    pub(super) fn was_emptied(&self, class: usize, room: i32, blocks: u32) {
        if let Some(meter) = self.meter() {
            self.bin(class).add_room(meter.count(class).clip());
            self.was_changed(class, room, blocks);
        }
    }
}

#[cfg(any(test, feature = "simulated"))]
impl Heap {
    /// Allocations of `class`, in whose bin are so many blocks, before the next sample; `None` if nobody counts.
    pub(in crate::heap) fn left_with(&self, class: usize, blocks: u32) -> Option<i64> {
        Some(self.meter()?.count(class).left(self.bin(class), blocks))
    }

    /// Room that the bin of `class` would have without samples.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(in crate::heap) fn room_unsampled(&self, class: usize) -> i32 {
        self.bin(class).room() + self.meter().map_or(0, |meter| meter.count(class).clip())
    }

    /// Demands that the slow path comes in time.
    pub(super) fn audit_meter(&self, class: usize, blocks: u32) {
        let Some(left) = self.left_with(class, blocks) else { return };
        assert!(left >= i64::from(blocks), "{blocks} blocks at hand, and {left} left");
    }
}

impl<P: Platform> Heaps<P> {
    /// Has `heap` sampled as the settings say.
    #[inline(never)]
    pub fn follow_sample_rate<C: Checks>(&self, heap: &Heap) {
        let rate = self.settings().sample_rate();
        if heap.sample_rate() != rate {
            self.change_sample_rate::<C>(heap, rate);
        }
    }

    #[cold]
    fn change_sample_rate<C: Checks>(&self, heap: &Heap, rate: usize) {
        let Some(meter) = heap.meter().or_else(|| self.make_meter()) else { return };
        heap.empty_bins::<C, P>(self);
        if meter.random.get() == 0 {
            // Of each heap another: its samples are not to be those of all.
            meter.random.set(self.os().entropy() | 1);
        }
        meter.rate.set(rate);
        meter.left_bytes.set(meter.bytes());
        (0..CLASSES).for_each(|class| meter.draw(heap.bin(class), class));
        heap.meter.set(meter);
    }

    fn make_meter(&self) -> Option<&'static Meter> {
        let (os, metadata) = (self.os(), self.space().metadata());
        let memory = metadata.allocate(os, size_of::<Meter>(), align_of::<Meter>()).ok()?.cast::<Meter>();
        if !ZERO_IS_VALID {
            let meter = Meter {
                rate: Cell::new(0),
                counts: [const { Count::new() }; CLASSES],
                left_bytes: Cell::new(0),
                random: Cell::new(0),
            };
            // SAFETY: fresh memory for one.
            unsafe { memory.write(meter) };
        }
        // SAFETY: metadata memory, which lives forever.
        Some(unsafe { memory.as_ref() })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// Blocks that are not of a class are samples as often as their bytes say.
    #[test]
    fn larger_blocks_are_counted_by_their_bytes() {
        const BLOCKS: usize = 10_000;
        let meter = Meter {
            rate: Cell::new(1 << 20),
            counts: [const { Count::new() }; CLASSES],
            left_bytes: Cell::new(0),
            random: Cell::new(7),
        };
        meter.left_bytes.set(meter.bytes());
        for size in [70_000, 300_000, 3 << 20] {
            let samples = (0..BLOCKS).filter(|_| meter.counts_bytes(size)).count() as f64;
            let wanted = BLOCKS as f64 * (1.0 - (-(size as f64) / f64::from(1 << 20)).exp());
            assert!((samples / wanted - 1.0).abs() < 0.15, "{samples} samples of {size}, not {wanted}");
        }
    }

    /// Against what is known of the distribution: its mean, and how many draws lie below some parts of it.
    #[test]
    fn draws_are_exponentially_distributed() {
        const DRAWS: usize = 200_000;
        const MEAN: usize = 512 << 10;
        let mut random = 0x5eed_u64;
        let draw = |_| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            exponential(MEAN, random ^ random >> 29)
        };
        let mut draws: std::vec::Vec<i64> = (0..DRAWS).map(draw).collect();
        let mean = draws.iter().sum::<i64>() as f64 / DRAWS as f64;
        assert!((mean / MEAN as f64 - 1.0).abs() < 0.01, "a mean of {mean}");
        draws.sort_unstable();
        for (part, below) in [(0.01, 0.00995), (0.1, 0.09516), (0.5, 0.39347), (1.0, 0.63212), (3.0, 0.95021)]
        {
            let count = draws.partition_point(|&draw| (draw as f64) < part * MEAN as f64) as f64;
            assert!((count / DRAWS as f64 - below).abs() < 0.005, "{count} below {part} of the mean");
        }
        assert_eq!((exponential(1, u64::MAX), exponential(1 << 40, 0) > 40 << 40), (0, true));
    }
}
