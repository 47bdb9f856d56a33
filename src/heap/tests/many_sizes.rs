//! Large blocks of many sizes: where they are put, and how much of what they leave is purged.

use super::*;

/// Replaces blocks of 1 to 32 slices at random, of which 128 MiB are live, and calls `look` with each turn. Of the second
/// half of the turns: how much was purged for each byte that was allocated.
fn replace(from: &Allocator<Os>, turns: usize, look: impl Fn()) -> f64 {
    let heap = possess(from, 64);
    let (mut held, mut state, mut live, mut allocated, mut before) = (Vec::new(), 7, 0, 0, 0);
    for turn in 0..turns {
        if turn == turns / 2 {
            (before, allocated) = (from.purged_bytes(), 0);
        }
        let size = SLICE << random(&mut state, 5);
        let size = size + random(&mut state, size);
        held.push((get(from, heap, size), size));
        (live, allocated) = (live + size, allocated + size);
        while live > 128 << 20 {
            let (block, size) = held.swap_remove(random(&mut state, held.len()));
            free(from, heap, block);
            live -= size;
        }
        look();
    }
    held.into_iter().for_each(|(block, _)| free(from, heap, block));
    (from.purged_bytes() - before) as f64 / allocated as f64
}

#[test]
fn what_goes_is_not_faulted_in_again_for_the_next() {
    let from = allocator(GRANULE);
    let purged = replace(from, 20_000, || {
        let most = from.settings().dirty_limit(from.live_bytes());
        assert!(from.dirty_bytes() <= most + most / 2 + (1 << 20), "{} MiB", from.dirty_bytes() >> 20);
    });
    assert!(purged < 0.1, "{purged}");
}

#[test]
fn a_long_block_takes_the_arena_where_it_lies_best_and_a_short_one_the_lowest() {
    for (slices, best) in [(13, true), (3, false)] {
        let from = allocator(GRANULE);
        let heap = possess(from, 64);
        let size = slices * SLICE;
        let full = from.settings().arena_bytes() / size;
        let mut blocks: Vec<usize> = (0..full + full / 2).map(|_| get_whole(from, heap, size)).collect();
        let low = blocks[1];
        blocks[1..3].iter().for_each(|&block| free(from, heap, block));
        from.give_back_kept_slices(heap.claimant());
        from.purge(heap.claimant(), usize::MAX);
        assert_eq!(from.dirty_slices(), 0);
        // Behind the last one is room that was never used: nowhere is a run of so many dirty slices.
        let last = blocks.pop().unwrap();
        free(from, heap, last);
        from.give_back_kept_slices(heap.claimant());
        assert_eq!(from.dirty_slices(), slices);
        assert_eq!(get_whole(from, heap, size + SLICE), if best { last } else { low });
    }
}

/// What a heap may spend on tails comes to an end, sooner where others are interrupted, and what it allocates earns more.
#[test]
fn a_tail_that_goes_is_paid_for() {
    let from = allocator(GRANULE);
    let tails = possess(from, 1).claimant().tails();
    let times = |interrupted| (0..1_000).take_while(|_| tails.take(interrupted)).count();
    let [first, then] = [times(false), times(true)];
    assert!(first > 10 && first < 1_000 && then == 0, "{first}, {then}");
    for (interrupted, most) in [(false, first), (true, first / 2)] {
        tails.allocated(64 * GRANULE);
        assert!((1..=most).contains(&times(interrupted)));
    }
}
