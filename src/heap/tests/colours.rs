//! Where in their runs and regions long blocks begin.

use super::*;
use crate::pal::Misuse;
use std::collections::BTreeSet;

const PAGE: usize = 4096;

/// Arrays that are walked side by side do not lie in the same sets of a cache, nor of translations; and they touch a page
/// more at most.
#[test]
fn long_blocks_begin_at_different_lines_and_in_different_pages() {
    for (size, lines, pages) in
        [(33_000, 33, 8), (40_000, 40, 7), (100_000, 64, 8), (1_000_000, 64, 12), (LARGE_MAX + 1, 64, 1)]
    {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        let blocks: Vec<usize> = (0..128).map(|_| get(from, heap, size)).collect();
        let kinds = |of: fn(usize) -> usize| blocks.iter().copied().map(of).collect::<BTreeSet<_>>().len();
        assert_eq!(kinds(|block| block % PAGE), lines, "lines for {size} bytes");
        assert_eq!(kinds(|block| block % SLICE / PAGE), pages, "pages for {size} bytes");
        assert!(blocks.iter().all(|block| block.is_multiple_of(64)));
        // One that is to be aligned is, and others are where they fill their run.
        for align in [128, PAGE, SLICE] {
            for _ in 0..8 {
                // SAFETY: the test possesses its heap.
                let block = unsafe { from.allocate::<Checked>(heap, size, align, false) }.addr();
                assert!(block.is_multiple_of(align) && from.place(block).is_ok());
                free(from, heap, block);
            }
        }
        blocks.iter().for_each(|&block| free(from, heap, block));
        from.audit::<Checked>();
    }
}

/// An array that is whole slices has one more for its colour: but not where slices are dear, or blocks grow.
#[test]
fn what_fills_its_slices_has_one_more() {
    let lines = |from: &Allocator<Os>, heap: &Heap, size: usize| {
        let blocks: BTreeSet<usize> = (0..16).map(|_| get(from, heap, size) % PAGE).collect();
        (blocks.len(), from.claimed_slices() * SLICE / size)
    };
    for size in [SLICE, 2 * SLICE, 16 * SLICE] {
        let from = allocator(GRANULE);
        assert_eq!(lines(from, possess(from, 1), size).0, 16);
        let limited = allocator(GRANULE);
        limited.settings().set_limits(Some(1 << 30), None);
        assert_eq!(lines(limited, possess(limited, 1), size), (1, 16));
        let growing = allocator(GRANULE);
        let heap = possess(growing, 1);
        heap.claimant().colours().grown();
        assert_eq!(lines(growing, heap, size).0, 8 + 1, "the next eight do not");
    }
}

/// Only its start is a block, before and after it was freed.
#[test]
fn what_is_before_a_block_is_none() {
    for size in [40_000, LARGE_MAX + 1] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        let _first = get(from, heap, size);
        let block = get(from, heap, size);
        let unit = if size > LARGE_MAX { GRANULE } else { SLICE };
        let wrong = [block / unit * unit, block - 64, block + 64];
        assert!(!block.is_multiple_of(unit) && from.place(block).is_ok());
        assert!(wrong.iter().all(|&at| from.place(at).err() == Some(Misuse::Interior)), "{size} bytes");
        free(from, heap, block);
        assert_eq!(from.place(block).err(), Some(Misuse::DoubleFree));
        assert!(wrong.iter().all(|&at| from.place(at).err() == Some(Misuse::Nothing)), "{size} bytes");
    }
}

/// What was never touched before a block stays so: in the run that the heap keeps, and in one that went to the arenas
/// and came back.
#[test]
fn the_pages_before_a_block_are_not_touched_by_the_next() {
    for size in [40_000, 80_000, 200_000] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        // Nothing is purged, after which it could lie anywhere.
        from.settings().set_dirty(None, Some(GRANULE));
        let gap = |block: usize| (block / SLICE, block % SLICE / PAGE);
        let some = || (0..64).map(|_| get(from, heap, size)).collect::<Vec<_>>();
        let mut blocks = some();
        let gaps = |blocks: &[usize]| blocks.iter().copied().map(gap).collect::<BTreeSet<_>>();
        let before = gaps(&blocks);
        assert!(before.iter().any(|&(_, pages)| pages > 1));
        for round in 0..3 {
            blocks.iter().for_each(|&block| free(from, heap, block));
            blocks = some();
            assert_eq!(gaps(&blocks), before, "{size} bytes, round {round}");
            free(from, heap, blocks[round]);
            let again = get(from, heap, size);
            assert_eq!(gap(again), gap(blocks[round]));
            blocks[round] = again;
            from.audit::<Checked>();
        }
    }
}

/// Where runs come together only the first slice has a gap, and one that was in the middle of a block has none.
#[test]
fn a_slice_in_the_middle_has_no_gap() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    from.settings().set_dirty(None, Some(GRANULE));
    let blocks: Vec<usize> = (0..32).map(|_| get(from, heap, 33_000)).collect();
    assert!(blocks.iter().any(|block| block % SLICE > PAGE));
    let release = |blocks: &[usize]| {
        blocks.iter().for_each(|&block| free(from, heap, block));
        heap.collect::<Checked, _>(from);
    };
    release(&blocks);
    // All that is dirty, in one piece.
    let long = get_whole(from, heap, 32 * SLICE);
    assert_eq!((long % SLICE, from.dirty_slices()), (0, 0));
    release(&[long]);
    let blocks: Vec<usize> = (0..32).map(|_| get(from, heap, 33_000)).collect();
    assert!(blocks.iter().all(|block| block % SLICE < PAGE), "all of it was the long block's");
    from.audit::<Checked>();
}

/// A sample that stands for a slab's block can hold as much as that, whatever was asked for.
#[test]
fn a_sample_in_a_run_of_its_own_holds_what_its_class_does() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    for size in (0..CLASSES).map(class_size) {
        // Where a block with a gap was before, and where nothing was.
        let before: Vec<usize> = (0..4).map(|_| get(from, heap, 33_000)).collect();
        before.iter().for_each(|&block| free(from, heap, block));
        let blocks: Vec<usize> = (0..32)
            .map(|part| from.allocate_apart(heap, size - size * part / 300, 1, false).addr())
            .collect();
        assert!(blocks.iter().all(|block| block % SLICE + size <= SLICE), "{size} bytes");
        blocks.iter().for_each(|&block| free(from, heap, block));
    }
}
