//! Where in their runs and regions long blocks begin.

use super::*;
use crate::base::LINE;
use crate::heap::seat::Seat;
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
        // A line's alignment is no more than they have.
        // SAFETY: the test possesses its heap.
        let at_line = || unsafe { from.allocate::<Checked>(heap, size, LINE, false) }.addr();
        let aligned: Vec<usize> = (0..16).map(|_| at_line()).collect();
        assert!(aligned.iter().map(|block| block % PAGE).collect::<BTreeSet<_>>().len() > 8);
        aligned.iter().for_each(|&block| free(from, heap, block));
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
        let narrow = allocator(GRANULE);
        narrow.settings().set_reserve(false);
        assert_eq!(lines(narrow, possess(narrow, 1), size), (1, 16));
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

/// Whatever a run's last block left, the next one lies inside of it, at a line, and keeps of the colour what it may.
#[test]
fn a_seat_is_inside_of_its_run() {
    let last = SLICE - LINE;
    for size in [1, 4_000, SLICE - LINE - 1, SLICE - LINE, SLICE - LINE + 1, SLICE - 1, SLICE, 100_000] {
        let first = Seat::first(size, PAGE);
        for keeps in [0, PAGE - 1, SLICE - 1] {
            for colour in [0, LINE, PAGE - LINE, PAGE, PAGE + LINE, 5 * PAGE + 8 * LINE, last] {
                let seat = Seat { keeps, ..first }.as_before(colour);
                let most = (first.slices * SLICE - size) / LINE * LINE;
                assert_eq!(seat.colour, (colour & keeps).min(most), "{size} bytes, {colour} of {keeps:#x}");
                assert_eq!((seat.slices, seat.room()), (first.slices, first.room() - seat.colour));
                // Of a block that stays where it is all is in the run that it asks for, and no slice is behind that.
                let after = seat.resized(2 * size);
                let used = after.colour + 2 * size;
                assert_eq!((after.colour, after.slices), (seat.colour, used.div_ceil(SLICE)));
                assert_eq!(after.tail().bytes(), (after.slices * SLICE - used) / PAGE * PAGE);
            }
        }
    }
}

/// A run has a slice more where its block would leave less than 16 lines of it, but for blocks of less than a slice.
#[test]
fn a_run_has_room_for_colours() {
    let room = 16 * LINE as isize;
    for slices in 1..4 {
        for off in [-room - 1, -room, 1 - room, -64, -1, 0, 1, room - 1, room, room + 1] {
            let size = (slices * SLICE).wrapping_add_signed(off);
            let first = Seat::first(size, PAGE);
            for (keeps, may) in [(PAGE - 1, true), (SLICE - 1, true), (PAGE - 1, false)] {
                let seat = Seat::movable(size, PAGE, keeps, || may);
                let more = may && size >= SLICE && (first.room() as isize) < room;
                assert_eq!(seat.slices, first.slices + usize::from(more), "{size} bytes");
                assert_eq!((seat.colour, seat.size, seat.keeps), (0, size, keeps));
            }
        }
    }
}

/// Bytes of a block that says that it can hold `size`, and what is behind it to the end of its run or its last page.
fn demand_room(from: &Allocator<Os>, block: usize, size: usize) {
    let (usable, unit) = match from.place(block).expect("a live block") {
        Place::Large(slab) => (slab.usable_from(block), SLICE),
        place => (place.usable(), PAGE),
    };
    assert_eq!(usable, from.place(block).map_or(0, |place| place.usable()));
    assert!(usable >= size && usable - size < unit, "{usable} bytes for {size}");
    assert!((block + usable).is_multiple_of(unit), "its end is another's");
}

/// What is before a block counts with what it asks for, when it changes, too: at sizes where that takes a slice or a page
/// more.
#[test]
fn a_block_that_changes_holds_what_it_is_asked_for() {
    for (size, unit) in [(40_000, SLICE), (LARGE_MAX + 1, PAGE)] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        // The last one: there is room behind it.
        let begins_behind = |block: &usize| block % unit > LINE && (unit == PAGE || block % SLICE > PAGE);
        let block = (0..100).map(|_| get(from, heap, size)).find(begins_behind).expect("a colour");
        demand_room(from, block, size);
        let least = size.next_multiple_of(unit);
        let sizes = [1, 2, 3, 2, 1, 5].into_iter().flat_map(|more| [-65, -1, 0, 1].map(|off| (more, off)));
        for size in sizes.map(|(more, off)| (least + more * unit).wrapping_add_signed(off)) {
            let place = from.place(block).expect("a live block");
            // SAFETY: the block is live, and of one kind before and after.
            let stays = unsafe { from.resize(heap, place, size, 1) }.map(|block| block.addr());
            assert_eq!(stays, Some(block), "{size} bytes");
            demand_room(from, block, size);
            from.audit::<Checked>();
        }
        free(from, heap, block);
        from.audit::<Checked>();
    }
}

/// A huge block that moves begins in its page where it did, and holds what it did.
#[test]
fn a_huge_block_keeps_its_colour_where_it_moves() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let (_first, size) = (get(from, heap, LARGE_MAX + 1), LARGE_MAX + 1);
    let block = get(from, heap, size);
    let byte = |at: usize| ptr::with_exposed_provenance_mut::<u8>(at);
    // SAFETY: the block's bytes.
    unsafe { byte(block).write_bytes(7, size) };
    let place = from.place(block).expect("a live block");
    // SAFETY: the block is live, and huge before and after.
    let moved = unsafe { from.resize(heap, place, 64 * LARGE_MAX, 1) }.expect("memory").addr();
    assert!(moved != block && moved % PAGE == block % PAGE && !moved.is_multiple_of(PAGE));
    demand_room(from, moved, 64 * LARGE_MAX);
    // SAFETY: as above.
    assert!(unsafe { core::slice::from_raw_parts(byte(moved), size) }.iter().all(|&byte| byte == 7));
    free(from, heap, moved);
    from.audit::<Checked>();
}

/// All of a block that is to be zero is, wherever it begins and whatever was there: in a run that the heap kept, in one that
/// the arenas have, and in a region that was kept.
#[test]
fn what_is_to_be_zero_is_wherever_it_begins() {
    for size in [33_000, 40_000, 100_000, LARGE_MAX + 1] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        from.settings().set_dirty(None, Some(4 * GRANULE));
        for collected in [false, true] {
            let blocks: Vec<usize> = (0..24).map(|_| get(from, heap, size)).collect();
            for &block in &blocks {
                let usable = from.place(block).map_or(0, |place| place.usable());
                // SAFETY: the block's bytes.
                unsafe { ptr::with_exposed_provenance_mut::<u8>(block).write_bytes(0xAA, usable) };
            }
            blocks.iter().for_each(|&block| free(from, heap, block));
            if collected {
                heap.collect::<Checked, _>(from);
            }
            let zeroed = |_| {
                // SAFETY: the test possesses its heap.
                let block = unsafe { from.allocate::<Checked>(heap, size, 1, true) };
                // SAFETY: the block's bytes.
                let bytes = unsafe { core::slice::from_raw_parts(block, size) };
                assert!(bytes.iter().all(|&byte| byte == 0));
                block.addr()
            };
            let again: Vec<usize> = (0..24).map(zeroed).collect();
            let colours: BTreeSet<usize> = again.iter().map(|block| block % PAGE).collect();
            assert!(colours.len() > 8, "{colours:?}");
            assert!(again.iter().any(|&block| blocks.iter().any(|&before| block / SLICE == before / SLICE)));
            again.iter().for_each(|&block| free(from, heap, block));
        }
        from.audit::<Checked>();
    }
}

/// What is before a block is not there to grow into: nor do blocks get gaps, or keep those of their runs, while others grow,
/// where they are or elsewhere.
#[test]
fn while_blocks_grow_there_are_no_gaps() {
    for moves in [false, true] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        from.settings().set_dirty(None, Some(GRANULE));
        let some = |count: usize| (0..count).map(|_| get(from, heap, 33_000)).collect::<Vec<usize>>();
        let gaps = |blocks: &[usize]| blocks.iter().filter(|&block| block % SLICE >= PAGE).count();
        let before = some(64);
        assert!(gaps(&before) > 32);
        let grower = get(from, heap, SLICE);
        for size in (0..100).map(|more| SLICE / 2 + 8 * more) {
            if moves {
                let block = from.allocate_to_grow(heap.claimant(), size, true);
                if !block.is_null() {
                    free(from, heap, block.addr());
                }
                continue;
            }
            // SAFETY: the block is live, and large before and after.
            assert!(unsafe { from.resize(heap, from.place(grower).expect("live"), size, 1) }.is_some());
        }
        assert_eq!(gaps(&some(64)), 0, "in new runs");
        before.iter().for_each(|&block| free(from, heap, block));
        let again = some(64);
        assert!(again.iter().any(|block| before.iter().any(|other| other / SLICE == block / SLICE)));
        assert_eq!(gaps(&again), 0, "in runs that had one");
    }
}

/// The short way of a malloc, too, has a run as the last block left it.
#[test]
fn a_run_that_is_used_again_begins_where_it_did() {
    for size in [33_000, 100_000] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        let mut times = 0;
        for block in (0..40).map(|_| get(from, heap, size)) {
            free(from, heap, block);
            let again = from.reuse_large(heap.claimant(), size).expose_provenance();
            assert_eq!(again / SLICE, block / SLICE);
            assert!(again == block || block.is_multiple_of(PAGE));
            times += usize::from(again == block);
        }
        assert!(times > 30, "{times}");
    }
}

/// Live, kept by their heap and free, blocks are told as resident from their first page to their last.
#[test]
fn what_is_before_a_block_is_told_as_what_it_is() {
    for size in [33_000, 100_000] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        from.settings().set_dirty(None, Some(GRANULE));
        let blocks: Vec<usize> = (0..40).map(|_| get(from, heap, size)).collect();
        assert!(blocks.iter().any(|block| block % SLICE > PAGE));
        let pages = |&block: &usize| (block + size).div_ceil(PAGE) - block / PAGE;
        let bytes = blocks.iter().map(pages).sum::<usize>() * PAGE;
        let resident = || {
            let census = from.census::<Checked>(heap);
            (census.arena_bytes() - census.record_bytes) as usize
        };
        assert_eq!(resident(), bytes, "blocks of {size} bytes");
        assert_eq!(from.census::<Checked>(heap).behind_bytes as usize, bytes - blocks.len() * size);
        blocks.iter().for_each(|&block| free(from, heap, block));
        assert!(heap.spare_slices() > 0);
        assert_eq!(resident(), bytes, "some are kept");
        heap.collect::<Checked, _>(from);
        assert_eq!((heap.spare_slices(), resident()), (0, bytes), "all are free");
    }
}

/// Blocks of slabs that come after each other do not all begin at the same lines, as long as no more than a line's alignment
/// is asked for.
#[test]
fn slabs_begin_at_different_lines() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    for (size, align, lines) in
        [(4_600, 1, 3), (6_000, LINE, 11), (30_000, 1, 8), (32 << 10, 1, 16), (6_000, 128, 1)]
    {
        let class = class_of_aligned(size, align).expect("a class");
        let slabs = (0..16 * class_info(class).capacity).map(|_| {
            // SAFETY: the test possesses its heap.
            let block = unsafe { from.allocate::<Checked>(heap, size, align, false) }.addr();
            assert!(block.is_multiple_of(align));
            slab_of(from, block)
        });
        let begin: BTreeSet<usize> = slabs.map(|slab| slab.start() - slab.base()).collect();
        assert_eq!(begin.len(), lines, "{size} bytes at {align}: {begin:?}");
        assert!(begin.iter().all(|&at| at < PAGE && at.is_multiple_of(LINE)));
    }
    from.audit::<Checked>();
}
