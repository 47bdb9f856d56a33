//! Under a limit, on the simulated system.

use super::*;

const MIB: usize = 1 << 20;

fn limited(hard: usize, soft: usize) -> &'static Allocator<Os> {
    let from = allocator(GRANULE);
    from.settings().set_limits(Some(hard), Some(soft));
    from
}

fn try_get(from: &Allocator<Os>, heap: &Heap, size: usize) -> Option<usize> {
    // SAFETY: the test possesses its heaps.
    let block = unsafe { from.allocate::<Checked>(heap, size, 1, false) };
    (!block.is_null()).then(|| block.expose_provenance())
}

#[test]
fn nothing_is_held_beyond_the_limit_and_all_of_it_can_be_used() {
    const MOST: usize = 32 * MIB;
    for size in [64, 1_024, 32_768, 60_000, 1_000_000, 4_500_000, 12_000_000] {
        let from = limited(MOST, usize::MAX);
        let heap = possess(from, 1);
        for round in 0..2 {
            let mut blocks = Vec::new();
            while let Some(block) = try_get(from, heap, size) {
                assert!(from.held_bytes() <= MOST, "{} for blocks of {size}", from.held_bytes());
                blocks.push(block);
            }
            // What is lost is the end of the last slab, block or slice.
            let used = blocks.len() * size;
            let least = MOST - MOST / 12 - size.max(2 * SLICE);
            assert!(used >= least, "{used} bytes of 32 MiB in blocks of {size}, in round {round}");
            from.audit::<Checked>();
            blocks.iter().for_each(|&block| free(from, heap, block));
            assert!(from.held_bytes() <= MOST);
        }
        from.trim::<Checked>(heap);
        assert_eq!(from.held_bytes(), 0, "after blocks of {size}");
    }
}

#[test]
fn what_is_free_gives_way_to_what_is_wanted() {
    // Of each kind as much as there may be, after each other kind.
    let sizes = [1_000, 60_000, 1_000_000, 5_000_000, 48 * MIB];
    for before in sizes {
        for size in sizes {
            let from = limited(64 * MIB, usize::MAX);
            let heap = possess(from, 1);
            for size in [before, size] {
                let blocks: Vec<_> =
                    (0..(48 * MIB) / size).map(|_| try_get(from, heap, size).expect("room for it")).collect();
                blocks.iter().for_each(|&block| free(from, heap, block));
            }
        }
    }
}

#[test]
fn a_block_grows_up_to_the_limit() {
    for start in [100_000, 5 * MIB] {
        let from = limited(32 * MIB, usize::MAX);
        let heap = possess(from, 1);
        let other = get(from, heap, 8 * MIB);
        let block = get(from, heap, start);
        let grow = |size| {
            let place = from.place(block).unwrap();
            // SAFETY: the block is live, and of the kind that it was.
            unsafe { from.resize(heap, place, size, 4096) }
        };
        assert_eq!(grow(start + 28 * MIB), None, "beyond the limit");
        assert!(from.held_bytes() <= 32 * MIB);
        from.audit::<Checked>();
        if start > 4 * MIB {
            assert!(grow(20 * MIB).is_some());
            free(from, heap, other);
            assert!(from.held_bytes() <= 32 * MIB);
            from.audit::<Checked>();
        }
    }
}

#[test]
fn the_program_is_to_be_told_beyond_the_soft_limit_but_not_of_what_is_free() {
    let from = limited(usize::MAX, 64 * MIB);
    let heap = possess(from, 1);
    for _ in 0..10 {
        let blocks: Vec<_> = (0..60).map(|_| get(from, heap, 1_000_000)).collect();
        blocks.iter().for_each(|&block| free(from, heap, block));
        let huge = get(from, heap, 60 * MIB);
        free(from, heap, huge);
        assert!(!from.limit().is_due(), "{} held", from.held_bytes());
    }
    // Nor of what its heap keeps for its next ones.
    let run = 8 * SLICE;
    let blocks: Vec<_> = (0..64 * MIB / run).map(|_| get(from, heap, run)).collect();
    free(from, heap, blocks[0]);
    let others = [3, 4].map(|slices| get(from, heap, slices * SLICE));
    assert!(!from.limit().is_due(), "{} held", from.held_bytes());
    blocks[1..].iter().chain(&others).for_each(|&block| free(from, heap, block));
    let blocks: Vec<_> = (0..70).map(|_| get(from, heap, 1_000_000)).collect();
    assert!(from.limit().take_due() && !from.limit().is_due());
    let _more = get(from, heap, 1_000_000);
    assert!(!from.limit().is_due(), "told twice");
    blocks.iter().for_each(|&block| free(from, heap, block));
    let _more: Vec<_> = (0..70).map(|_| get(from, heap, 1_000_000)).collect();
    assert!(from.limit().is_due(), "beyond it once more");
}

#[test]
fn a_limit_that_is_lowered_takes_nothing_away() {
    let from = limited(64 * MIB, usize::MAX);
    let heap = possess(from, 1);
    let block = get(from, heap, 40 * MIB);
    from.settings().set_limits(Some(16 * MIB), None);
    assert_eq!(try_get(from, heap, 1_000_000), None);
    for size in [40 * MIB, 39 * MIB, 20 * MIB] {
        // SAFETY: the block is live, and stays huge.
        let resized = unsafe { from.resize(heap, from.place(block).expect("live"), size, 4096) };
        assert_eq!(resized.map(|at| at.addr()), Some(block), "{size} bytes are no more than before");
    }
    free(from, heap, block);
    assert!(try_get(from, heap, 15 * MIB).is_some());
    from.settings().set_limits(Some(usize::MAX), None);
    assert!(try_get(from, heap, 64 * MIB).is_some());
}

/// To the page: what is before a block in its first one counts with it.
#[test]
fn a_huge_block_grows_up_to_the_last_page_of_the_limit() {
    let from = limited(32 * MIB, usize::MAX);
    let heap = possess(from, 1);
    let page = from.page_size();
    for _ in 0..4 {
        let block = get(from, heap, 5 * MIB);
        let grow = |size| {
            let place = from.place(block).expect("a live block");
            // SAFETY: the block is live, and stays huge.
            unsafe { from.resize(heap, place, size, 1) }.map(|at| at.addr())
        };
        let limit = from.held_bytes() + 2 * page;
        from.settings().set_limits(Some(limit), None);
        // As many as it has, and two more.
        let most = (block % page + 5 * MIB).next_multiple_of(page) + 2 * page - block % page;
        assert_eq!(grow(most + 1), None);
        assert_eq!((grow(most), from.held_bytes()), (Some(block), limit));
        from.settings().set_limits(Some(32 * MIB), None);
    }
}

/// A sample has a slice to itself, and needs a page of it: that page is what is held.
#[test]
fn a_sample_counts_as_its_pages() {
    const MOST: usize = 4 * MIB;
    let from = limited(MOST, usize::MAX);
    let heap = possess(from, 1);
    let page = from.page_size();
    for (size, pages) in [(100, 1), (20_000, 5)] {
        let get_sample = || {
            let block = from.allocate_apart(heap, size, 1, false);
            (!block.is_null()).then(|| {
                let place = from.place(block.expose_provenance()).unwrap();
                place.set_stands_for(class_size(class_of(size)));
                from.set_sample(place, 1);
                block.expose_provenance()
            })
        };
        let mut blocks: Vec<_> = core::iter::from_fn(get_sample).collect();
        assert_eq!(from.held_bytes(), blocks.len() * pages * page);
        let least = (MOST - SLICE) / (pages * page);
        assert!(blocks.len() >= least, "{} samples of {size} bytes", blocks.len());
        from.audit::<Checked>();
        // What is no sample any more may use all of its slice.
        let first = from.place(blocks[0]).unwrap();
        for (sample, more) in [(0, SLICE - pages * page), (1, 0)] {
            from.set_sample(first, sample);
            assert_eq!(from.held_bytes(), blocks.len() * pages * page + more);
            from.audit::<Checked>();
        }
        while let Some(block) = blocks.pop() {
            free(from, heap, block);
            assert!(from.held_bytes() <= MOST, "{} after {} are left", from.held_bytes(), blocks.len());
            from.audit::<Checked>();
        }
        from.trim::<Checked>(heap);
        assert_eq!(from.held_bytes(), 0);
    }
}
