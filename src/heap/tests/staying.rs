//! What stays resident though free, on the simulated system: counted in pages purged and in calls.

use super::*;
use crate::pal::Errno;
use crate::pal::simulated::CallKind;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Builds up 64 MiB in blocks of `size` bytes and tears them down.
fn cycle(from: &Allocator<Os>, heap: &Heap, size: usize) {
    let blocks: Vec<usize> = (0..(64 << 20) / size).map(|_| get(from, heap, size)).collect();
    blocks.iter().for_each(|&block| free(from, heap, block));
}

#[test]
fn a_cycle_makes_no_system_call_from_the_third_on() {
    for size in [512, 60_000, 1_000_000, 6_000_000, 30_000_000] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        (0..3).for_each(|_| cycle(from, heap, size));
        let before = from.space().os().calls();
        (0..3).for_each(|_| cycle(from, heap, size));
        assert_eq!(from.space().os().calls(), before, "blocks of {size}");
    }
}

#[test]
fn what_the_options_let_be_dirty_stays_in_arenas_that_are_empty() {
    let from = allocator(16 << 20);
    from.settings().set_dirty(None, Some(80 << 20));
    let heap = possess(from, 1);
    (0..2).for_each(|_| cycle(from, heap, 60_000));
    let before = from.space().os().calls();
    cycle(from, heap, 60_000);
    assert_eq!((from.space().os().calls(), purged(from)), (before, 0));
    assert!(from.dirty_slices() * SLICE > 16 << 20, "not all of it is the heap's");
    // And they go with the last of it.
    from.trim::<Checked>(heap);
    assert_eq!((from.dirty_slices(), leaving::arenas(from)), (0, 0));
}

/// How many blocks of its slab have been linked.
fn linked(block: usize) -> u32 {
    // SAFETY: the block is live, and its record with it.
    unsafe { Slab::first_of(Slab::of(block)) }.handed_out()
}

#[test]
fn blocks_are_linked_page_by_page_unless_the_pages_are_there() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let blocks: Vec<usize> = (0..401).map(|_| get(from, heap, 3_000)).collect();
    assert_eq!((linked(blocks[400]), from.dirty_slices()), (1, 0), "one to a page");
    blocks.iter().for_each(|&block| free(from, heap, block));
    assert!(from.dirty_slices() > 0);
    for (size, all) in [(960, 64), (2_000, 30), (100, 64)] {
        assert_eq!(linked(get(from, heap, size)), all);
    }
    // What a program has of a large block it need not have touched.
    let other = allocator(GRANULE);
    let heap = possess(other, 1);
    let large: Vec<usize> = (0..64).map(|_| get(other, heap, 100_000)).collect();
    large.iter().for_each(|&block| free(other, heap, block));
    for (size, some) in [(960, 4), (2_000, 1), (100, 36)] {
        let block = get(other, heap, size);
        assert!(large.iter().any(|&large| (large..large + 2 * SLICE).contains(&block)));
        assert_eq!(linked(block), some);
    }
    // Nor is what slabs had touched there before known to be left.
    let other = allocator(GRANULE);
    let heap = possess(other, 1);
    let small: Vec<usize> = (0..4_000).map(|_| get(other, heap, 3_000)).collect();
    small.iter().for_each(|&block| free(other, heap, block));
    heap.collect::<Checked, _>(other);
    let large: Vec<usize> = (0..16).map(|_| get(other, heap, 100_000)).collect();
    assert!(large.iter().all(|block| small.iter().any(|small| small / SLICE == block / SLICE)));
    large.iter().for_each(|&block| free(other, heap, block));
    heap.collect::<Checked, _>(other);
    for turn in 0..8 {
        let block = get(other, heap, 100);
        let is_in = |large: &usize| large / SLICE == block / SLICE - turn % 2;
        assert!(large.iter().any(is_in), "the slices of one after those of another");
        assert_eq!(linked(block), 36);
        (1..class_info(class_of(100)).capacity).for_each(|_| _ = get(other, heap, 100));
    }
}

#[test]
fn what_cannot_be_purged_is_not_tried_again_and_again() {
    let from = allocator(GRANULE);
    let (heap, os) = (possess(from, 1), from.space().os());
    os.fail_kind(CallKind::Purge, Errno(22));
    // Something stays, so that the arenas do.
    let _held: Vec<usize> = (0..1_000).map(|_| get(from, heap, 60_000)).collect();
    (0..20).for_each(|_| cycle(from, heap, 60_000));
    let refused = || os.record().iter().filter(|call| call.kind == CallKind::Purge).count();
    let once = refused();
    assert!((1..10).contains(&once), "{once} calls failed");
    assert_eq!(purged(from), 0, "bytes that are there still");
    from.audit::<Checked>();
    for _ in 0..1_000 {
        os.advance_ms(u64::from(from.tick_ms()));
        from.tick::<Checked>(heap);
    }
    // An hour and a half.
    assert!(refused() - once < 100, "{} calls failed", refused());
    os.heal();
    os.advance_ms(7_200_000);
    for _ in 0..100 {
        os.advance_ms(u64::from(from.tick_ms()));
        from.tick::<Checked>(heap);
    }
    assert_eq!(from.dirty_slices(), 0);
}

#[test]
fn what_cannot_be_purged_goes_with_its_arena() {
    let from = allocator(1 << 20);
    let (heap, os) = (possess(from, 1), from.space().os());
    from.settings().set_dirty(Some(0), Some(0));
    os.fail_kind(CallKind::Purge, Errno(22));
    let blocks: Vec<usize> = (0..64).map(|_| get(from, heap, 60_000)).collect();
    assert!(leaving::arenas(from) >= 4);
    blocks.into_iter().for_each(|block| free(from, heap, block));
    heap.collect::<Checked, _>(from);
    assert!(leaving::arenas(from) <= 2, "{} arenas", leaving::arenas(from));
    from.audit::<Checked>();
}

/// Bytes purged so far.
fn purged(from: &Allocator<Os>) -> u64 {
    from.purged_bytes()
}

#[test]
fn the_tail_of_a_large_block_in_used_slices_is_given_back_once() {
    for size in [33_792_usize, 66_560, 131_073, 200_000] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        // Slices that were used to their end, and stay dirty.
        let small: Vec<usize> = (0..40_000).map(|_| get(from, heap, 512)).collect();
        small.iter().for_each(|&block| free(from, heap, block));
        heap.collect::<Checked, _>(from);
        let due = |block: usize| {
            let used = block % SLICE + size;
            let tail = used.next_multiple_of(SLICE) - used.next_multiple_of(4096);
            if tail * 8 > used { tail as u64 } else { 0 }
        };
        let before = purged(from);
        let block = get(from, heap, size);
        assert_eq!(purged(from) - before, due(block), "{size} in slices that were used");
        let calls = from.space().os().calls();
        free(from, heap, block);
        for _ in 0..100 {
            let block = get(from, heap, size);
            free(from, heap, block);
        }
        assert_eq!(from.space().os().calls(), calls, "{size} again");
        // A slab takes the slices, and soils them again.
        let small: Vec<usize> = (0..40_000).map(|_| get(from, heap, 512)).collect();
        small.iter().for_each(|&block| free(from, heap, block));
        heap.collect::<Checked, _>(from);
        from.space().os().advance_ms(500);
        let before = purged(from);
        let block = get(from, heap, size);
        assert_eq!(purged(from) - before, due(block), "{size} in slices that were used again");
        free(from, heap, block);
    }
}

#[test]
fn a_block_that_shrinks_gives_its_tail_back() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let block = get(from, heap, 2 * SLICE);
    let resize = |size| {
        let place = from.place(block).unwrap();
        // SAFETY: the block is live, and large before and after.
        assert!(unsafe { from.resize(heap, place, size, 1) }.is_some());
    };
    let before = purged(from);
    resize(SLICE + 4096);
    assert_eq!(purged(from) - before, (SLICE - 4096) as u64);
    resize(SLICE + 8192);
    from.space().os().advance_ms(1_000);
    let before = purged(from);
    resize(SLICE + 4096);
    assert_eq!(purged(from), before, "a page is too little");
    resize(2 * SLICE);
    resize(SLICE + 4096);
    assert_eq!(purged(from) - before, (SLICE - 4096) as u64);
    free(from, heap, block);
}

fn resize(from: &Allocator<Os>, heap: &Heap, block: usize, size: usize) {
    let place = from.place(block).unwrap();
    // SAFETY: the block is live, and large before and after.
    assert!(unsafe { from.resize(heap, place, size, 1) }.is_some());
}

/// Many at a time, beside a helper, too; and one that shrinks and grows, or comes and goes, does so without the system.
#[test]
fn blocks_that_shrink_together_give_their_tails_back() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    from.settings().set_helper(true);
    let blocks: Vec<usize> = (0..300).map(|_| get(from, heap, 200_000)).collect();
    blocks.iter().for_each(|&block| resize(from, heap, block, 35_000));
    let soiled = from.tally().sum(crate::heap::ground::Count::Soiled);
    assert!(soiled <= blocks.len() * 35_000 / 8, "{soiled} bytes behind {} blocks", blocks.len());
    blocks.iter().for_each(|&block| resize(from, heap, block, 65_000));
    blocks.iter().for_each(|&block| free(from, heap, block));
    let turns = |turn: &dyn Fn()| {
        let before = from.space().os().calls().purge;
        (0..3_000).for_each(|_| turn());
        from.space().os().calls().purge - before
    };
    let block = get(from, heap, 60_000);
    let calls = turns(&|| [34_000, 60_000].into_iter().for_each(|size| resize(from, heap, block, size)));
    assert!(calls < 300, "{calls} calls for one that shrinks and grows");
    let calls = turns(&|| {
        let block = get(from, heap, 60_000);
        resize(from, heap, block, 34_000);
        free(from, heap, block);
    });
    assert!(calls < 600, "{calls} calls for one that comes, shrinks and goes");
}

/// What a block that shrinks pays for, the heap owes once that grows again or goes: where nothing was owed before.
#[test]
fn a_block_that_shrinks_again_and_again_is_purged_few_times() {
    let calls = |turn: &dyn Fn(&Allocator<Os>, &Heap, usize)| {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        let block = get(from, heap, 60_000);
        (0..3_000).for_each(|_| turn(from, heap, block));
        from.space().os().calls().purge
    };
    let grows = calls(&|from, heap, block| {
        [34_000, 60_000].into_iter().for_each(|size| resize(from, heap, block, size));
    });
    assert!((1..300).contains(&grows), "{grows} calls for one that grows again");
    let goes = calls(&|from, heap, _| {
        let block = get(from, heap, 60_000);
        resize(from, heap, block, 34_000);
        free(from, heap, block);
    });
    assert!((1..300).contains(&goes), "{goes} calls for one that goes");
}

/// One purge is owed once, however often blocks grow after it.
#[test]
fn blocks_that_only_grow_owe_nothing() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let blocks: Vec<usize> = (0..300).map(|_| get(from, heap, 200_000)).collect();
    let block = get(from, heap, 60_000);
    resize(from, heap, block, 34_000);
    (0..1_000).for_each(|_| [60_000, 61_000].into_iter().for_each(|size| resize(from, heap, block, size)));
    blocks.iter().for_each(|&block| resize(from, heap, block, 35_000));
    let soiled = from.tally().sum(crate::heap::ground::Count::Soiled);
    assert!(soiled <= blocks.len() * 35_000 / 8, "{soiled} bytes behind {} blocks", blocks.len());
}

#[test]
fn large_blocks_by_turns_purge_few_tails() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    for turn in 0..10_000 {
        let block = get(from, heap, if turn % 2 == 0 { SLICE } else { 33_792 });
        free(from, heap, block);
    }
    assert!(from.space().os().calls().purge < 100, "{}", from.space().os().calls().purge);
}

#[test]
fn large_blocks_that_take_the_place_of_slabs_soil_hardly_anything() {
    for size in [33_792, 37_000, 66_560, 100_000_usize] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        let small: Vec<usize> = (0..(64 << 20) / 112).map(|_| get(from, heap, 112)).collect();
        let (mut freed, mut blocks) = (0, Vec::new());
        for block in small {
            free(from, heap, block);
            freed += 112;
            if freed >= (blocks.len() + 4) * size.next_multiple_of(SLICE) {
                blocks.push(get(from, heap, size));
            }
        }
        let soiled = from.tally().sum(Count::Soiled);
        assert!(soiled * 100 <= blocks.len() * size, "{size}: {} KiB", soiled >> 10);
        blocks.iter().for_each(|&block| free(from, heap, block));
    }
}

/// Blocks of 32 to 100 KiB, in another order each time.
fn mixed(from: &Allocator<Os>, heap: &Heap, state: &mut u64, total: usize) -> Vec<usize> {
    let (mut blocks, mut bytes) = (Vec::new(), 0);
    while bytes < total {
        let size = (33 << 10) + random(state, 67 << 10);
        blocks.push(get(from, heap, size));
        bytes += size;
    }
    blocks
}

#[test]
fn blocks_of_many_sizes_are_put_where_as_much_is_resident_as_they_need() {
    const TOTAL: usize = 64 << 20;
    let from = allocator(GRANULE);
    let (heap, mut state) = (possess(from, 1), 1);
    let mut calls = 0;
    for cycle in 0..10 {
        let before = from.space().os().calls().purge;
        let blocks = mixed(from, heap, &mut state, TOTAL);
        let soiled = from.tally().sum(Count::Soiled);
        // A third of what the runs are longer than the blocks would be soiled if they were put anywhere.
        assert!(soiled <= from.settings().dirty_limit(TOTAL) / 3, "{} KiB", soiled >> 10);
        blocks.iter().for_each(|&block| free(from, heap, block));
        assert_eq!(from.tally().sum(Count::Soiled), 0);
        if cycle >= 3 {
            calls += from.space().os().calls().purge - before;
        }
    }
    assert!(calls < 7 * 200, "{calls} calls for some 7,000 blocks");
}

/// What is lent for spare runs counts with what is free, and not as a reason for more of both.
#[test]
fn what_is_lent_is_no_reason_to_lend_more() {
    const TOTAL: usize = 16 << 20;
    let from = allocator(GRANULE);
    let (heap, mut state) = (possess(from, 1), 1u64);
    from.settings().set_dirty(Some(400), Some(0));
    let mut held: Vec<(usize, usize)> = Vec::new();
    let mut live = 0;
    for _ in 0..20_000 {
        let size = (33 << 10) + random(&mut state, 2 << 20);
        held.push((get(from, heap, size), size));
        live += size;
        while live > TOTAL {
            let (block, size) = held.swap_remove(random(&mut state, held.len()));
            free(from, heap, block);
            live -= size;
        }
    }
    // Some of each run's last slice, and what lies behind it, is nobody's.
    let most = from.settings().dirty_limit(TOTAL / 4 * 5);
    let (lent, dirty) = (from.lent().get() * SLICE, from.dirty_bytes());
    assert!(lent > 0 && lent <= most / 2 && lent + dirty <= most, "{} and {} KiB", lent >> 10, dirty >> 10);
}

#[test]
fn near_the_end_of_what_the_process_may_have_less_stays() {
    const MIB: usize = 1 << 20;
    let from = allocator(GRANULE);
    from.space().os().reconfigure(|config| config.memory_left = 100 * MIB);
    from.learn_limits();
    let heap = possess(from, 1);
    for _ in 0..4 {
        cycle(from, heap, 60_000);
        let stays = from.dirty_slices() * SLICE;
        assert!(stays <= 50 * MIB, "{} MiB of 100", stays / MIB);
    }
    // What the allocator has by then comes to what the system leaves.
    let _held: Vec<usize> = (0..500).map(|_| get(from, heap, 60_000)).collect();
    let dirty = from.dirty_slices() * SLICE;
    from.space().os().reconfigure(|config| config.memory_left = 20 * MIB);
    from.learn_limits();
    cycle(from, heap, 60_000);
    let stays = from.dirty_slices() * SLICE;
    assert!((1..=(20 * MIB + dirty) / 2).contains(&stays), "{} MiB of {}", stays / MIB, dirty / MIB);
}

#[test]
fn where_memory_is_scarce_outside_what_is_free_goes() {
    const MIB: usize = 1 << 20;
    let from = allocator(GRANULE);
    let (heap, os) = (possess(from, 1), from.space().os());
    // Something stays, so that the arenas do.
    let _held = get(from, heap, 60_000);
    let stays_after = |stalled_us: usize, left: usize| {
        os.reconfigure(|config| (config.stalled_us, config.memory_left) = (stalled_us, left));
        (0..3).for_each(|_| cycle(from, heap, 60_000));
        os.advance_ms(1_000);
        from.heed::<Checked>(heap, from.look_outside());
        from.audit::<Checked>();
        from.dirty_slices() * SLICE
    };
    assert!(stays_after(usize::MAX, usize::MAX) > 60 * MIB, "nothing is known");
    assert!(stays_after(7_000_000, usize::MAX) > 60 * MIB, "since when is not known");
    assert!(stays_after(7_010_000, usize::MAX) > 60 * MIB, "for a hundredth of a second");
    let idle = possess(from, 2);
    cycle(from, idle, 100);
    from.give_up(idle);
    assert_eq!(stays_after(7_030_000, usize::MAX), 0);
    assert!(!idle.needs_collecting());
    assert!(stays_after(7_030_000, usize::MAX) > 60 * MIB, "and not since");
    let least = (0..8).map(|_| stays_after(7_030_000, 20 * MIB)).min();
    assert!(least.is_some_and(|least| least < 60 * MIB), "others in the group have used much: {least:?}");
    let most = (0..8).map(|_| stays_after(7_030_000, usize::MAX)).max();
    assert!(most.is_some_and(|most| most > 60 * MIB), "and have given it back: {most:?}");
}

#[test]
fn the_tail_of_a_large_block_that_nobody_has_touched_stays() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let block = get(from, heap, SLICE + 1_000);
    let place = from.place(block).unwrap();
    // SAFETY: the block is live, and there is room behind it.
    assert!(unsafe { from.resize(heap, place, 2 * SLICE + 1_000, 1) }.is_some());
    assert_eq!(purged(from), 0);
}

#[test]
fn a_large_block_that_has_no_room_to_grow_is_as_before() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    from.settings().set_limits(Some(1 << 40), None);
    let [block, _behind] = [(); 2].map(|()| get(from, heap, 2 * SLICE));
    let place = from.place(block).unwrap();
    // SAFETY: the block is live, and large before and after.
    assert!(unsafe { from.resize(heap, place, 3 * SLICE, 1) }.is_none());
    from.audit::<Checked>();
}

#[test]
fn a_huge_block_that_may_not_stay_leaves_its_addresses() {
    let from = allocator(GRANULE);
    from.settings().set_dirty(Some(0), Some(0));
    let heap = possess(from, 1);
    let long = get(from, heap, 20 << 20);
    from.settings().set_reserve(false);
    let blocks: Vec<usize> = (0..20).map(|_| get(from, heap, 5 << 20)).collect();
    let left = || (from.huge().each_kept().count(), from.huge_figures().kept_bytes().get());
    free(from, heap, blocks[0]);
    assert_eq!(left(), (1, 0));
    free(from, heap, long);
    assert_eq!(left(), (1, 0), "but not those behind it, where they are short");
    blocks[1..].iter().for_each(|&block| free(from, heap, block));
    assert_eq!(left(), (16, 0), "nor of very many");
}

/// Room for more spare slices is lent to a heap that could have used it, and ends when less may stay, or nothing is
/// kept.
#[test]
fn what_is_lent_to_a_heap_is_taken_back() {
    for is_collected in [false, true] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        let held: Vec<usize> = (0..2_000).map(|_| get(from, heap, 60_000)).collect();
        for _ in 0..10 {
            let blocks: Vec<usize> = (0..40).map(|_| get(from, heap, 200_000)).collect();
            blocks.into_iter().for_each(|block| free(from, heap, block));
        }
        let lent = || (from.lent().get(), heap.claimant().spares().lent());
        assert!(lent().0 > 0 && lent().0 == lent().1, "{:?}", lent());
        if is_collected {
            heap.collect::<Checked, _>(from);
        } else {
            from.settings().set_dirty(Some(0), Some(0));
            from.backend().bound_dirty(heap.claimant());
        }
        assert_eq!(lent(), (0, 0));
        held.into_iter().for_each(|block| free(from, heap, block));
        from.audit::<Checked>();
    }
}

/// Whoever asks for the time may vanish in a fork: the child asks itself.
#[test]
fn a_child_goes_on_giving_back() {
    let from = allocator(GRANULE);
    let excess =
        |now: &dyn Fn() -> u64| from.retention().excess(from.settings(), 100 << 20, 30 << 20, 0, now);
    let vanishes = || excess(&|| resume_unwind(Box::new("vanished")));
    assert!(catch_unwind(AssertUnwindSafe(vanishes)).is_err());
    assert_eq!(excess(&|| unreachable!()), 0, "somebody else asks");
    // SAFETY: there is no other thread.
    unsafe { from.child_after_fork(ThreadId::new(1), 0) };
    assert!(excess(&|| 5_000) > 0);
}
