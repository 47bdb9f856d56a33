//! Arithmetic on bitmaps of slices: masks of a run, and the first run of zero bits. Pure; nothing is shared.

use crate::base::GRANULE_SLICES;

/// Bits used in one word of a bitmap. Four under a checker, so that a granule of eight slices has two words.
pub(crate) const BITS: usize = if cfg!(any(loom, shuttle)) { 4 } else { 64 };

/// Words in the bitmap of one granule.
pub(super) const WORDS: usize = GRANULE_SLICES / BITS;

/// A word with all its bits set.
pub(crate) const FULL: u64 = u64::MAX >> (64 - BITS);

const _: () = assert!(WORDS * BITS == GRANULE_SLICES && BITS <= 64 && WORDS >= 2);

/// The bitmap of one granule, read at some moment: bit `i % BITS` of word `i / BITS` is slice `i`.
pub(super) type Bitmap = [u64; WORDS];

/// A run of slices that the caller has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Run {
    /// The first slice, counted from the base of the arena.
    pub start: usize,
    /// Number of slices.
    pub len: usize,
    /// Whether no slice of the run has been written to since it was mapped or purged: the memory is zero.
    pub all_clean: bool,
}

/// The bits of the slices `start..end` that lie in `word`.
#[inline]
pub(crate) const fn span(word: usize, start: usize, end: usize) -> u64 {
    let low = word * BITS;
    let from = if start > low { start } else { low };
    let to = if end < low + BITS { end } else { low + BITS };
    if from >= to { 0 } else { (FULL >> (BITS - (to - from))) << (from - low) }
}

/// The words that the slices `start..end` lie in; `end` is above `start`.
#[inline]
pub(super) const fn words(start: usize, end: usize) -> core::ops::Range<usize> {
    start / BITS..(end - 1) / BITS + 1
}

/// The first bit at or after `from` that is set in `map ^ flip`, or the number of bits.
#[inline]
fn next_bit<const N: usize>(map: &[u64; N], flip: u64, from: usize) -> usize {
    let mut at = from;
    while at < N * BITS {
        let word = at / BITS;
        let rest = ((map[word] ^ flip) & FULL) >> (at % BITS);
        if rest != 0 {
            return at + rest.trailing_zeros() as usize;
        }
        at = (word + 1) * BITS;
    }
    N * BITS
}

/// The lowest multiple of `align` (a power of two) from which `len` bits of `used` are zero.
pub(crate) fn first_free<const N: usize>(used: &[u64; N], len: usize, align: usize) -> Option<usize> {
    debug_assert!(len > 0 && align.is_power_of_two());
    let mut start = 0;
    loop {
        start = next_bit(used, FULL, start).next_multiple_of(align);
        if start + len > N * BITS {
            return None;
        }
        let end = next_bit(used, 0, start);
        if end >= start + len {
            return Some(start);
        }
        start = end;
    }
}

/// The lowest place where `len` bits of `used` are zero, and `room` bits of `held` behind those. What lies before may be
/// about to grow as well: a long run of zero bits of `held` leaves it as much.
pub(super) fn first_with_room(used: &Bitmap, held: &Bitmap, len: usize, room: usize) -> Option<usize> {
    let mut end = 0;
    loop {
        let start = next_bit(held, FULL, end);
        if start == GRANULE_SLICES {
            return None;
        }
        end = next_bit(held, 0, start);
        let longest = end - start;
        let mut place = if longest >= room + len + room { start + room } else { start };
        while longest >= len + room && place + len + room <= end {
            place = next_bit(used, FULL, place);
            let used_from = next_bit(used, 0, place);
            if used_from >= place + len && place + len + room <= end {
                return Some(place);
            }
            place = used_from;
        }
    }
}

/// Of the first `tries` places where `len` zero bits of `used` begin, the one with the least `cost`, the lowest of
/// several: its cost, and the place. The cost is told the place, and whether the bits are a part of a longer run: then it is `least` or more, and
/// one place that costs no more is enough of that run.
pub(super) fn cheapest_free(
    used: &Bitmap,
    len: usize,
    [tries, least]: [usize; 2],
    cost: impl Fn(usize, bool) -> usize,
) -> Option<(usize, usize)> {
    let (mut best, mut end, mut left) = (None, 0, tries);
    while left > 0 {
        let start = next_bit(used, FULL, end);
        if start == GRANULE_SLICES {
            break;
        }
        end = next_bit(used, 0, start);
        for place in (start..(end + 1).saturating_sub(len)).take(left) {
            left -= 1;
            let cuts = end - start > len;
            let cost = cost(place, cuts);
            if best.is_none_or(|(lowest, _)| cost < lowest) {
                best = Some((cost, place));
            }
            if cost == 0 {
                return best;
            }
            if cuts && cost <= least {
                break;
            }
        }
    }
    best
}

/// How many slices are free before `start`, and how many behind `end`, in one run with those between. Asks for the
/// words that it needs, which are few.
#[inline]
pub(super) fn beside(used: impl Fn(usize) -> u64, start: usize, end: usize) -> (usize, usize) {
    let (mut first, mut last) = (start, end);
    while first > 0 {
        let word = (first - 1) / BITS;
        let below = used(word) & (FULL >> (BITS - 1 - (first - 1) % BITS));
        if below != 0 {
            first = word * BITS + (u64::BITS - below.leading_zeros()) as usize;
            break;
        }
        first = word * BITS;
    }
    while last < GRANULE_SLICES {
        let above = used(last / BITS) >> (last % BITS);
        if above != 0 {
            last += above.trailing_zeros() as usize;
            break;
        }
        last = (last / BITS + 1) * BITS;
    }
    (start - first, last - end)
}

/// Length of the longest run of zero bits of `used`, or `most` if there is one of that length.
pub(super) fn longest(used: &Bitmap, most: usize) -> usize {
    let (mut longest, mut end) = (0, 0);
    while longest < most {
        let start = next_bit(used, FULL, end);
        if start == GRANULE_SLICES {
            break;
        }
        end = next_bit(used, 0, start);
        longest = longest.max(end - start);
    }
    longest.min(most)
}

/// The first run of zero bits of `used` as it is, cut at `most` slices, as (start, length).
pub(super) fn first_run(used: &Bitmap, most: usize) -> Option<(usize, usize)> {
    let start = next_bit(used, FULL, 0);
    if start == GRANULE_SLICES {
        return None;
    }
    Some((start, (next_bit(used, 0, start) - start).min(most)))
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn bit(map: &Bitmap, slice: usize) -> bool {
        map[slice / BITS] >> (slice % BITS) & 1 == 1
    }

    /// All ways to fill a window of 14 slices that lies across the edge of two words; everything else is used.
    fn every_window(mut check: impl FnMut(&Bitmap, core::ops::Range<usize>)) {
        for edge in [BITS, 3 * BITS, (WORDS - 1) * BITS] {
            let window = edge - 7..edge + 7;
            for pattern in 0..1u64 << window.len() {
                let mut map = [FULL; WORDS];
                map[edge / BITS - 1] =
                    span(edge / BITS - 1, 0, window.start) | (pattern << (BITS - 7)) & FULL;
                map[edge / BITS] = !span(edge / BITS, edge, window.end) & FULL | (pattern >> 7);
                check(&map, window.clone());
            }
        }
    }

    #[test]
    fn a_mask_has_exactly_the_bits_of_its_run() {
        for start in 0..GRANULE_SLICES {
            for end in start..=GRANULE_SLICES {
                for word in [0, start / BITS, end / BITS, WORDS - 1] {
                    let word = word.min(WORDS - 1);
                    let low = word * BITS;
                    let mask = span(word, start, end);
                    let (from, to) = (start.clamp(low, low + BITS), end.clamp(low, low + BITS));
                    assert_eq!(mask.count_ones() as usize, to - from);
                    if to > from {
                        assert_eq!(mask.trailing_zeros() as usize, from - low);
                        assert_eq!(63 - mask.leading_zeros() as usize, to - low - 1);
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_run_is_found_wherever_it_lies() {
        every_window(|map, window| {
            for len in 1..=window.len() {
                for align in [1, 2, 4, 8] {
                    let free = |start: &usize| {
                        start.is_multiple_of(align) && (*start..start + len).all(|slice| !bit(map, slice))
                    };
                    let expected = (window.start..=window.end - len).find(free);
                    assert_eq!(first_free(map, len, align), expected, "{map:x?} {len} {align}");
                }
            }
        });
    }

    #[test]
    fn the_cheapest_place_of_the_first_few_is_found() {
        every_window(|map, window| {
            for (len, tries) in [(1, 3), (2, 100), (3, 4), (5, 100)] {
                let fits = |start: usize| {
                    start + len <= window.end && (start..start + len).all(|slice| !bit(map, slice))
                };
                let cuts = |start: usize| fits(start) && !bit(map, start - 1) || fits(start + 1);
                let cost = |start: usize, cuts: bool| start * 5 % 7 + usize::from(cuts);
                let places = window.clone().filter(|&start| fits(start)).take(tries);
                let expected = places.map(|start| (cost(start, cuts(start)), start)).min();
                assert_eq!(cheapest_free(map, len, [tries, 0], cost), expected, "{map:x?} {len} {tries}");
            }
        });
        assert_eq!(
            cheapest_free(&[0; WORDS], GRANULE_SLICES, [2, 0], |_, cuts| usize::from(cuts)),
            Some((0, 0))
        );
        // Of a run that is cut at the least cost one place is looked at, and those of others, too.
        let mut map = [0; WORDS];
        map[1] = 1;
        let looks = core::cell::Cell::new(0);
        let found = cheapest_free(&map, 2, [16, 5], |_, cuts| {
            looks.set(looks.get() + 1);
            if cuts { 5 } else { 0 }
        });
        assert_eq!((found, looks.get()), (Some((5, 0)), 2));
    }

    #[test]
    fn the_first_place_with_room_behind_is_found() {
        every_window(|held, window| {
            let dirty = |slice: usize| !slice.is_multiple_of(3);
            let used = core::array::from_fn(|word| {
                let is_used = |index: &usize| bit(held, word * BITS + index) || !dirty(word * BITS + index);
                (0..BITS).filter(is_used).fold(0, |bits, index| bits | 1 << index)
            });
            for (len, room) in [(1, 1), (2, 2), (2, 1), (1, 3)] {
                let free = |range: core::ops::Range<usize>| range.clone().all(|slice| !bit(held, slice));
                let place_of = |used: &Bitmap| {
                    (window.start..window.end).find(|&start| {
                        let before = (0..start).rev().take_while(|&slice| !bit(held, slice)).count();
                        let behind = (start..window.end).take_while(|&slice| !bit(held, slice)).count();
                        let is_long = before + behind >= room + len + room;
                        start + len + room <= window.end
                            && free(start..start + len + room)
                            && (start..start + len).all(|slice| !bit(used, slice))
                            && (before >= room || !is_long)
                    })
                };
                for used in [held, &used] {
                    let found = first_with_room(used, held, len, room);
                    assert_eq!(found, place_of(used), "{held:x?} {used:x?} {len} {room}");
                }
            }
        });
        assert_eq!(first_with_room(&[0; WORDS], &[0; WORDS], 4, GRANULE_SLICES - 4), Some(0));
        assert_eq!(first_with_room(&[0; WORDS], &[0; WORDS], 4, GRANULE_SLICES), None);
    }

    #[test]
    fn the_first_run_is_as_long_as_it_is() {
        every_window(|map, window| {
            let start = window.clone().find(|&slice| !bit(map, slice));
            let expected = start.map(|start| {
                let len = (start..window.end).take_while(|&slice| !bit(map, slice)).count();
                (start, len.min(5))
            });
            assert_eq!(first_run(map, 5), expected);
        });
    }

    #[test]
    fn the_longest_run_is_the_longest_of_all() {
        every_window(|map, window| {
            let (mut expected, mut run) = (0, 0);
            for slice in window {
                run = if bit(map, slice) { 0 } else { run + 1 };
                expected = expected.max(run);
            }
            for most in [1, 3, 14, GRANULE_SLICES] {
                assert_eq!(longest(map, most), expected.min(most), "{map:x?} {most}");
            }
        });
        assert_eq!(longest(&[0; WORDS], usize::MAX), GRANULE_SLICES);
    }

    #[test]
    fn what_is_free_beside_a_run_is_all_that_is() {
        every_window(|map, window| {
            for (start, end) in [(window.start + 7, window.start + 8), (window.start + 4, window.start + 9)] {
                let before = (0..start).rev().take_while(|&slice| !bit(map, slice)).count();
                let behind = (end..GRANULE_SLICES).take_while(|&slice| !bit(map, slice)).count();
                assert_eq!(beside(|word| map[word], start, end), (before, behind), "{map:x?} {start}..{end}");
            }
        });
        assert_eq!(beside(|_| 0, 0, 1), (0, GRANULE_SLICES - 1));
        assert_eq!(beside(|_| 0, GRANULE_SLICES - 1, GRANULE_SLICES), (GRANULE_SLICES - 1, 0));
    }

    #[test]
    fn long_runs_cross_many_words() {
        let mut map = [0; WORDS];
        map[0] = 1;
        for len in 1..GRANULE_SLICES {
            assert_eq!(first_free(&map, len, 1), Some(1));
        }
        assert_eq!(first_free(&map, GRANULE_SLICES, 1), None);
        assert_eq!(first_free(&map, GRANULE_SLICES / 2, GRANULE_SLICES / 2), Some(GRANULE_SLICES / 2));
        assert_eq!(first_free(&[FULL; WORDS], 1, 1), None);
    }
}
