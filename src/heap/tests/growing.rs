//! Large blocks that grow, on the simulated system: how often they move, and what is known of them.

use super::*;
use crate::heap::ground::Count;

/// A block of `size` bytes for the one at `block`: where it is, or elsewhere, as the interfaces do it.
fn grow(from: &Allocator<Os>, heap: &Heap, block: usize, size: usize) -> usize {
    let place = from.place(block).unwrap();
    let was_large = matches!(place, Place::Large(_));
    // SAFETY: the block is live, and large before and after.
    if was_large && let Some(stays) = unsafe { from.resize(heap, place, size, 1) } {
        return stays.addr();
    }
    let moved = from.allocate_to_grow(heap.claimant(), size, was_large).expose_provenance();
    let moved = if moved == 0 { get(from, heap, size) } else { moved };
    free(from, heap, block);
    moved
}

/// Grows as many blocks as there are `from_size` in `blocks` to `to`, by doubling, one after the other at each length;
/// returns how many moves that took, and frees them.
fn grow_together(from: &Allocator<Os>, heap: &Heap, blocks: usize, [size, to]: [usize; 2]) -> usize {
    let mut all: Vec<usize> = (0..blocks).map(|_| get(from, heap, size)).collect();
    let (mut size, mut moves) = (size, 0);
    while size < to {
        size *= 2;
        for block in &mut all {
            let grown = grow(from, heap, *block, size);
            moves += usize::from(grown != *block);
            *block = grown;
        }
    }
    all.iter().for_each(|&block| free(from, heap, block));
    from.audit::<Checked>();
    moves
}

#[test]
fn blocks_that_grow_beside_each_other_move_once() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let moves: Vec<usize> = (0..6).map(|_| grow_together(from, heap, 3, [32 << 10, 512 << 10])).collect();
    assert!(moves[0] > 3, "nothing is known yet: {moves:?}");
    assert_eq!(moves[3..], [3; 3], "each leaves its slab, and no more: {moves:?}");
}

#[test]
fn a_block_that_will_be_large_is_one_early() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let moves: Vec<usize> = (0..4).map(|_| grow_together(from, heap, 1, [16 << 10, 512 << 10])).collect();
    assert_eq!(moves, [2, 1, 1, 1]);
    // It was worth it each time, so the next is one, too; but one that stays small proves that no more.
    let early = |size| from.allocate_to_grow(heap.claimant(), size, false).expose_provenance();
    let proven = (0..100).map_while(|_| Some(early(20_000)).filter(|&block| block != 0)).collect::<Vec<_>>();
    assert!((1..20).contains(&proven.len()), "{} blocks", proven.len());
    for &block in &proven {
        let place = from.place(block).unwrap();
        assert_eq!((place.usable(), place.requested()), (SLICE, 20_000));
        free(from, heap, block);
    }
    from.audit::<Checked>();
}

#[test]
fn what_is_not_proven_to_grow_gets_no_room() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let to_grow = |size, was_large| from.allocate_to_grow(heap.claimant(), size, was_large);
    assert!(to_grow(SMALL_MAX, false).is_null() && to_grow(2 * SLICE, false).is_null());
    // A large block that could not grow where it was. (There is an arena.)
    let first = get(from, heap, SLICE);
    let grown = to_grow(2 * SLICE, true).expose_provenance();
    let place = from.place(grown).unwrap();
    // SAFETY: the block is live, and large before and after.
    let extended = unsafe { from.resize(heap, place, 10 * SLICE, 1) };
    assert_eq!(extended.map(|block| block.addr()), Some(grown));
    [first, grown].iter().for_each(|&block| free(from, heap, block));
    from.audit::<Checked>();
}

#[test]
fn while_what_is_purged_is_faulted_in_again_a_block_that_grows_gets_no_room() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let first = get(from, heap, SLICE);
    let regret = from.retention().regret();
    regret.faulted(from.live_bytes());
    regret.turned(3 * from.live_bytes());
    regret.purging(from.live_bytes(), from.live_bytes());
    let to_grow = || from.allocate_to_grow(heap.claimant(), 2 * SLICE, true).expose_provenance();
    let claimed = from.claimed_slices();
    assert_eq!((to_grow(), from.claimed_slices()), (0, claimed));
    // A spare run faults nothing in.
    let long = get(from, heap, 6 * SLICE);
    free(from, heap, long);
    assert_eq!(to_grow(), long);
    free(from, heap, long);
    heap.collect::<Checked, _>(from);
    regret.turned(from.live_bytes());
    let grown = to_grow();
    assert_ne!(grown, 0);
    [first, grown].iter().for_each(|&block| free(from, heap, block));
}

/// Slabs and large blocks alike.
#[test]
fn what_is_claimed_where_nothing_is_resident_is_noted() {
    for size in [1_000, 60_000] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        let _held = build_up(from, heap, size, 16);
        let regret = from.retention().regret();
        assert!(regret.is_calm());
        regret.purging(12 << 20, from.live_bytes());
        assert!(!regret.is_calm(), "blocks of {size}");
    }
}

/// What is resident behind a block counts from its first moment on.
#[test]
fn a_run_that_was_longer_than_its_block_is_soiled() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let page = from.page_size();
    let whole = get_whole(from, heap, 3 * SLICE);
    free(from, heap, whole);
    let block = get(from, heap, 3 * SLICE - 3 * page);
    let colour = block - whole;
    assert!(colour < page, "nothing before it is known not to be resident");
    assert_eq!(from.tally().sum(Count::Soiled), 3 * page - colour.next_multiple_of(page));
    from.audit::<Checked>();
    free(from, heap, block);
    assert_eq!(from.tally().sum(Count::Soiled), 0);
    from.audit::<Checked>();
}

#[test]
fn a_spare_run_is_cut_for_a_block_that_grows() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let long = get_whole(from, heap, 6 * SLICE);
    free(from, heap, long);
    assert_eq!(heap.spare_slices(), 6);
    let block = from.allocate_to_grow(heap.claimant(), 2 * SLICE, true).expose_provenance();
    assert_eq!((block, heap.spare_slices(), from.dirty_slices()), (long, 0, 4));
    let usage = |slice: usize| from.place(block + slice * SLICE).err();
    let (interior, nothing) = (Some(Misuse::Interior), Some(Misuse::Nothing));
    assert_eq!([0, 1, 2, 3, 5].map(usage), [None, interior, nothing, nothing, nothing]);
    from.audit::<Checked>();
    let place = from.place(block).unwrap();
    // SAFETY: the block is live, and large before and after.
    let extended = unsafe { from.resize(heap, place, 6 * SLICE, 1) };
    assert_eq!((extended.map(|block| block.addr()), from.dirty_slices()), (Some(block), 0));
    assert_eq!([0, 1, 2, 3, 5].map(usage), [None, interior, interior, interior, interior]);
    free(from, heap, block);
    from.audit::<Checked>();
}

#[test]
fn a_block_that_keeps_its_slices_is_told_its_size() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let block = get_whole(from, heap, 3 * SLICE);
    let slab = match from.place(block).unwrap() {
        Place::Large(slab) => slab,
        _ => unreachable!(),
    };
    let in_run = |size| from.resize_in_run(heap.claimant(), slab, size);
    assert!(in_run(3 * SLICE) && in_run(2 * SLICE + 1) && !in_run(2 * SLICE) && !in_run(3 * SLICE + 1));
    assert_eq!(
        (slab.requested(), from.census::<Checked>(heap).large.bytes),
        (2 * SLICE + 1, 2 * SLICE as u64 + 1)
    );
    from.audit::<Checked>();
    // Its end is resident: it was the block's.
    assert!(from.tally().sum(Count::Soiled) > 0 || from.purged_bytes() > 0);
    assert!(in_run(3 * SLICE) && from.tally().sum(Count::Soiled) == 0);
    // Little may stay there.
    let few = 3 * from.page_size();
    assert!(in_run(3 * SLICE - few) && from.tally().sum(Count::Soiled) == few);
    from.audit::<Checked>();
    assert!(in_run(3 * SLICE) && from.tally().sum(Count::Soiled) == 0);
    free(from, heap, block);
    let census = from.census::<Checked>(heap);
    assert_eq!((census.large.blocks, census.large.bytes), (0, 0));
    from.audit::<Checked>();
}
