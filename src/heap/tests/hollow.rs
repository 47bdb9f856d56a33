//! What free blocks hold inside slabs that are used in part: on the simulated system.

use super::*;
use crate::base::align_down;
use crate::pal::simulated::CallKind;
use crate::pal::{Errno, Folios};
use std::collections::BTreeMap;

pub(super) const MIB: usize = 1 << 20;
const SIZES: [usize; 5] = [8 << 10, 9_000, 14_000, 20_000, 30_000];

fn word(block: usize, at: usize) -> *mut usize {
    ptr::with_exposed_provenance_mut(block + at)
}

/// Blocks of several sizes, each of which is written to its end.
fn build(from: &Allocator<Os>, heap: &Heap, count: usize) -> BTreeMap<usize, usize> {
    let made =
        (0..count).map(|index| (get(from, heap, SIZES[index % SIZES.len()]), SIZES[index % SIZES.len()]));
    let blocks: BTreeMap<usize, usize> = made.collect();
    blocks.iter().for_each(|(&block, &size)| write_all(block, size));
    blocks
}

pub(super) fn write_all(block: usize, size: usize) {
    // SAFETY: the block is the test's, and holds that much.
    unsafe { (0..size / 8).for_each(|at| word(block, 8 * at).write(block + at)) };
}

/// Demands that nothing has touched what is in the blocks.
pub(super) fn look(blocks: &BTreeMap<usize, usize>) {
    for (&block, &size) in blocks {
        // SAFETY: as above.
        assert!(unsafe { (0..size / 8).all(|at| word(block, 8 * at).read() == block + at) }, "{block:#x}");
    }
}

/// Frees all but one in eight of the blocks.
fn thin(from: &Allocator<Os>, heap: &Heap, blocks: &mut BTreeMap<usize, usize>) {
    let mut state = 1_u64;
    blocks.retain(|&block, _| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let stays = state >> 61 == 0;
        if !stays {
            free(from, heap, block);
        }
        stays
    });
}

/// Blocks that are left of so many, and all that others held is hollow.
fn hollowed(from: &Allocator<Os>, heap: &Heap, count: usize) -> BTreeMap<usize, usize> {
    let mut blocks = build(from, heap, count);
    thin(from, heap, &mut blocks);
    heap.collect::<Checked, _>(from);
    assert!(heap.hollow_slabs::<Checked, _>(from, usize::MAX, usize::MAX), "all of them");
    blocks
}

/// Bytes inside of slabs that are free, and resident as far as the figures go.
pub(super) fn cached(from: &Allocator<Os>, heap: &Heap) -> usize {
    from.audit::<Checked>();
    from.census::<Checked>(heap).free_bytes as usize
}

pub(super) fn purges(from: &Allocator<Os>) -> u64 {
    from.os().calls().purge
}

#[test]
fn what_the_system_refuses_of_free_blocks_is_not_asked_again_in_a_look() {
    let from = allocator(GRANULE);
    let (heap, os) = (possess(from, 1), from.os());
    let mut blocks = build(from, heap, 1_000);
    thin(from, heap, &mut blocks);
    heap.collect::<Checked, _>(from);
    let (before, failed) = (cached(from, heap), os.calls().failed);
    os.fail_kind(CallKind::Purge, Errno(22));
    heap.hollow_slabs::<Checked, _>(from, usize::MAX, usize::MAX);
    assert_eq!((os.calls().failed, cached(from, heap)), (failed + 1, before), "one call is enough");
    os.heal();
    heap.hollow_slabs::<Checked, _>(from, usize::MAX, usize::MAX);
    assert!(cached(from, heap) < before / 2);
    look(&blocks);
}

#[test]
fn a_trim_gives_back_what_free_blocks_of_several_pages_hold() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let mut blocks = build(from, heap, 4_000);
    thin(from, heap, &mut blocks);
    heap.collect::<Checked, _>(from);
    let (before, in_use, purged) = (cached(from, heap), from.live_bytes(), from.purged_bytes());
    assert!(before > 20 * MIB, "{before}");
    from.trim::<Checked>(heap);
    look(&blocks);
    let after = cached(from, heap);
    let mut of_heaps = 0;
    from.each_share(heap, |_, _, free| of_heaps += free as usize);
    assert_eq!(of_heaps, after, "of all heaps, and of each");
    // A free block keeps its first page, and one that does not begin with a page up to two more.
    assert!(after < before * 2 / 5, "{after} of {before}");
    let given_back = before - after;
    assert_eq!(in_use - from.live_bytes(), given_back, "which is in use no longer");
    assert!((from.purged_bytes() - purged) as usize >= given_back);
    // None of it is given back twice.
    let calls = purges(from);
    from.trim::<Checked>(heap);
    assert_eq!((purges(from), cached(from, heap)), (calls, after));
    // A heap that frees one more gives back that one.
    let (&block, _) = blocks.pop_first().as_ref().map(|(block, size)| (block, size)).unwrap();
    free(from, heap, block);
    from.trim::<Checked>(heap);
    assert!(purges(from) <= calls + 2);
    // And all of it serves again.
    let more = build(from, heap, 3_000);
    assert!(more.keys().all(|block| !blocks.contains_key(block)));
    look(&blocks);
    look(&more);
    blocks.keys().chain(more.keys()).for_each(|&block| free(from, heap, block));
    from.trim::<Checked>(heap);
    assert_eq!((from.claimed_slices(), from.live_bytes(), cached(from, heap)), (0, 0, 0));
}

/// Of folios that go in part the system frees nothing before it has split them.
#[test]
fn what_goes_is_split_off_first() {
    for folio in [0, SLICE, Folios::HUGE] {
        let folios = Folios { unasked: folio, least: folio.max(SLICE) };
        let from = allocator(GRANULE);
        from.os().reconfigure(|config| config.folios = folios);
        from.learn_limits();
        let heap = possess(from, 1);
        let mut blocks = build(from, heap, 1_500);
        let began = from.os().record().len();
        thin(from, heap, &mut blocks);
        from.trim::<Checked>(heap);
        look(&blocks);
        let calls = &from.os().record()[began..];
        let of = |kind| calls.iter().filter(move |call| call.kind == kind);
        assert!(of(CallKind::Purge).count() > 100, "much goes in parts");
        if folio == 0 {
            assert_eq!(of(CallKind::Split).count(), 0, "single pages are let alone");
            continue;
        }
        for (index, purge) in calls.iter().enumerate().filter(|(_, call)| call.kind == CallKind::Purge) {
            let before: Vec<usize> = calls[..index]
                .iter()
                .rev()
                .take_while(|call| call.kind == CallKind::Split)
                .map(|call| call.addr)
                .collect();
            let goes = purge.addr..purge.addr + purge.len;
            for edge in [goes.start, goes.end].into_iter().filter(|edge| !edge.is_multiple_of(folio)) {
                let parted = align_down(edge, folio)..align_down(edge, folio) + folio;
                let is_split = |page: &usize| goes.contains(page) && parted.contains(page);
                assert!(before.iter().any(is_split), "{parted:x?} of {goes:x?}: {before:x?}");
            }
        }
    }
}

#[test]
fn where_pages_are_larger_what_goes_is_whole_pages_of_those() {
    for page_size in [8 << 10, 16 << 10] {
        let from = allocator_on(Config { page_size, ..Config::default() }, GRANULE);
        let heap = possess(from, 1);
        let made = (0..200).map(|_| get(from, heap, SMALL_MAX));
        let mut blocks: BTreeMap<usize, usize> = made.map(|block| (block, SMALL_MAX)).collect();
        blocks.keys().for_each(|&block| write_all(block, SMALL_MAX));
        thin(from, heap, &mut blocks);
        from.trim::<Checked>(heap);
        assert!(from.hollow().get() > 0, "nothing went where pages are {page_size}");
        look(&blocks);
        from.audit::<Checked>();
    }
}

#[test]
fn an_idle_heap_keeps_little_and_a_used_one_is_let_alone() {
    let from = allocator(GRANULE);
    from.settings().set_helper(true);
    let (heap, helper) = (possess(from, 1), possess(from, 2));
    let mut blocks = build(from, heap, 4_000);
    thin(from, heap, &mut blocks);
    let before = cached(from, heap);
    from.abandon::<Checked>(heap, ThreadId::new(1));
    assert_eq!(purges(from), 0, "the next thread is to find it as it is");
    from.tick::<Checked>(helper);
    let after = cached(from, helper);
    assert!(after < before * 2 / 5, "{after} of {before}");
    look(&blocks);
}

#[test]
fn a_few_free_blocks_are_not_worth_a_call() {
    let from = allocator(GRANULE);
    from.settings().set_helper(true);
    let (heap, helper) = (possess(from, 1), possess(from, 2));
    let blocks = build(from, heap, 2 * SIZES.len());
    let (stay, go): (Vec<_>, Vec<_>) = blocks.into_iter().partition(|(block, size)| (block / size) % 2 == 0);
    assert!(!stay.is_empty() && !go.is_empty());
    go.iter().for_each(|&(block, _)| free(from, heap, block));
    from.abandon::<Checked>(heap, ThreadId::new(1));
    from.tick::<Checked>(helper);
    assert!(from.hollow().get() == 0 && cached(from, helper) > 0);
    look(&stay.into_iter().collect());
}

/// What some sizes needed at the peak, and what others need after it, are not both resident.
#[test]
fn a_heap_that_grows_gives_back_first_what_it_has_in_free_blocks() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let mut blocks = build(from, heap, 8_000);
    let highest = from.live_bytes();
    thin(from, heap, &mut blocks);
    from.trim::<Checked>(possess(from, 2));
    let (before, calls, room) = (cached(from, heap), purges(from), highest - from.live_bytes());
    assert!(before > 40 * MIB && room > 20 * MIB, "{before} {room}");
    // No request waits for more than some hundred calls.
    let small_one = |_| {
        let calls = purges(from);
        let block = get(from, heap, 4_000);
        assert!(purges(from) - calls <= 500, "{} calls in one request", purges(from) - calls);
        block
    };
    let small = |bytes: usize| (0..bytes / 4_000).map(small_one).collect::<Vec<_>>();
    let mut others = small(room * 3 / 4);
    assert_eq!(purges(from), calls, "use is not higher than ever");
    others.extend(small(room * 3 / 4));
    let after = cached(from, heap);
    assert!(after < before / 2, "{after} of {before}");
    look(&blocks);
    // Use that stays where it is asks for nothing.
    let (more, hollow) = (build(from, heap, 1_000), from.hollow().get());
    more.keys().for_each(|&block| free(from, heap, block));
    for _ in 0..4 {
        others.drain(..).for_each(|block| free(from, heap, block));
        others = small(room * 5 / 4);
    }
    assert!(from.hollow().get() <= hollow);
}

/// Use is measured by what it was when all that is free was given back last, not by what it has ever been.
#[test]
fn a_heap_that_was_tidied_grows_from_there() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let mut blocks = build(from, heap, 8_000);
    let peak = from.live_bytes();
    thin(from, heap, &mut blocks);
    from.trim::<Checked>(heap);
    let least = from.live_bytes();
    let more = build(from, heap, 1_500);
    more.keys().for_each(|&block| free(from, heap, block));
    heap.settle_all::<Checked, _>(from);
    let calls = purges(from);
    let _others: Vec<usize> = (0..12 * MIB / 4_000).map(|_| get(from, heap, 4_000)).collect();
    assert!((least..peak).contains(&from.live_bytes()), "the peak is not reached again");
    assert!(purges(from) > calls, "use is higher than at the last look");
    look(&blocks);
}

/// Large blocks are what grows, too; and between two looks there is room for some.
#[test]
fn a_heap_that_grows_by_large_blocks_gives_back_first_what_it_has_in_free_blocks() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let mut blocks = build(from, heap, 8_000);
    thin(from, heap, &mut blocks);
    let before = cached(from, heap);
    let calls = purges(from);
    let others: Vec<usize> = (0..before / 60_000).map(|_| get(from, heap, 60_000)).collect();
    assert!(purges(from) > calls);
    let after = cached(from, heap);
    assert!(after < before / 2, "{after} of {before}");
    look(&blocks);
    others.iter().chain(blocks.keys()).for_each(|&block| free(from, heap, block));
    from.trim::<Checked>(heap);
    assert_eq!((from.claimed_slices(), from.live_bytes()), (0, 0));
}

/// In whatever way a heap is tidied: by its thread, by another one's trim or the helper while that lives, or idle.
#[test]
fn what_is_at_hand_goes_home_before_free_blocks_are_given_back() {
    type Way = fn(&Allocator<Os>, &Heap, &Heap);
    let ways: [Way; 4] = [
        |from, owner, _| from.trim::<Checked>(owner),
        |from, owner, other| {
            from.open_gate(owner);
            from.trim::<Checked>(other);
        },
        |from, owner, other| {
            from.open_gate(owner);
            (0..2).for_each(|_| from.watch_heaps::<Checked>(other));
        },
        |from, owner, _| {
            from.give_up(owner);
            from.collect_idle::<Checked>(ThreadId::new(2));
        },
    ];
    for (way, tidy) in ways.iter().enumerate() {
        let from = allocator(GRANULE);
        let (owner, other) = (possess(from, 1), possess(from, 2));
        let mut blocks = build(from, owner, 4_000);
        thin(from, owner, &mut blocks);
        // In one slab all blocks but one are free, and some of them at hand.
        let last = fill(from, owner, 12_288);
        last[1..].iter().for_each(|&block| free(from, owner, block));
        let before = from.live_bytes();
        tidy(from, owner, other);
        let (hollow, slab) = (from.hollow().get() * from.page_size(), slab_of(from, last[0]));
        assert!(hollow > 20 * MIB && before - from.live_bytes() >= hollow, "{way}: {hollow}");
        // Those between the block that stays and the end of the last.
        let end = last[last.len() - 1] + slab.info().size as usize;
        let between = end / from.page_size() - last[1].div_ceil(from.page_size());
        assert_eq!(slab.hollow_pages(), between, "{way}: all but its own");
        assert!(!owner.needs_collecting(), "{way}");
        from.audit::<Checked>();
        look(&blocks);
    }
}

/// Slices that a heap takes before it gives anything back, where all that it holds came by growing, and most of it has
/// been freed since the last look.
fn taken_before_a_purge(count: usize) -> usize {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let blocks = (0..count).map(|_| get(from, heap, 8 << 10)).collect::<Vec<_>>();
    let claimed = from.claimed_slices();
    let mut slabs = std::collections::BTreeSet::new();
    for block in blocks {
        if !slabs.insert(slab_of(from, block).base()) {
            free(from, heap, block);
        }
    }
    heap.collect::<Checked, _>(from);
    assert_eq!((from.claimed_slices(), purges(from)), (claimed, 0), "a block of each slab stays");
    while purges(from) == 0 {
        get(from, heap, 4_000);
    }
    from.claimed_slices() - claimed
}

#[test]
fn a_heap_that_grows_looks_once_in_a_while() {
    // How far it is to the next look depends on the last, which nobody knows: a thirty-second of what is live, at most.
    let taken: Vec<usize> = (0..5).map(|step| taken_before_a_purge(12_000 + 100 * step)).collect();
    assert!(taken.iter().any(|&slices| slices * SLICE >= MIB), "{taken:?}");
}

#[test]
fn near_a_limit_nothing_waits_for_a_peak() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let mut blocks = build(from, heap, 8_000);
    thin(from, heap, &mut blocks);
    let before = cached(from, heap);
    from.settings().set_memory(from.live_bytes() + from.live_bytes() / 8);
    let _others: Vec<usize> = (0..before / 4_000).map(|_| get(from, heap, 1_000)).collect();
    let after = cached(from, heap);
    assert!(after < before / 2, "{after} of {before}");
    look(&blocks);
}

#[test]
fn what_the_system_does_not_take_stays_as_it_is() {
    let from = allocator(GRANULE);
    let (heap, os) = (possess(from, 1), from.space().os());
    let mut blocks = build(from, heap, 4_000);
    thin(from, heap, &mut blocks);
    heap.collect::<Checked, _>(from);
    let before = cached(from, heap);
    os.fail_kind(CallKind::Purge, Errno(22));
    let calls = os.calls().failed;
    heap.give_back_pages::<Checked, _>(from, 1);
    assert_eq!((os.calls().failed, cached(from, heap)), (calls + 1, before), "one call is enough");
    os.heal();
    heap.give_back_pages::<Checked, _>(from, 1);
    assert!(cached(from, heap) < before * 2 / 5);
    look(&blocks);
}

/// Frees come in front of what is hollow, a heap that counts takes some of the list, and slabs change hands.
#[test]
fn what_is_hollow_is_known_through_all_that_a_slab_may_meet() {
    let from = allocator(GRANULE);
    let (one, two) = (possess(from, 1), possess(from, 2));
    let mut blocks = hollowed(from, one, 4_000);
    let hollow = cached(from, one);
    let count_at = |rate| {
        from.settings().set_sample_rate(rate);
        from.follow_sample_rate::<Checked>(one);
    };
    count_at(1 << 20);
    for size in (0..200).map(|at| SIZES[at % SIZES.len()]) {
        if !one.counts_as_sample(Some(class_of(size)), size) {
            let block = get(from, one, size);
            write_all(block, size);
            blocks.insert(block, size);
            from.audit::<Checked>();
        }
    }
    count_at(0);
    // Another heap frees what the first one has, and takes its slabs over.
    from.give_up(one);
    let (gone, mut left) = blocks.into_iter().partition::<BTreeMap<_, _>, _>(|&(block, _)| block % 3 == 0);
    gone.keys().for_each(|&block| free(from, two, block));
    two.settle_all::<Checked, _>(from);
    from.audit::<Checked>();
    let more = build(from, two, 500);
    from.audit::<Checked>();
    look(&left);
    // A child goes on with it.
    // SAFETY: this thread is the only one.
    unsafe { from.child_after_fork(ThreadId::new(2), 0) };
    from.audit::<Checked>();
    left.extend(more);
    look(&left);
    left.keys().for_each(|&block| free(from, two, block));
    from.trim::<Checked>(two);
    assert!(hollow > 0);
    assert_eq!((from.claimed_slices(), from.live_bytes()), (0, 0));
}

#[test]
fn a_child_knows_what_is_hollow_of_a_list_that_was_being_taken_over() {
    let from = allocator(GRANULE);
    let (_mine, theirs) = (possess(from, 1), possess(from, 2));
    let blocks = hollowed(from, theirs, 1_000);
    let slab = blocks.keys().map(|&block| slab_of(from, block)).find(|slab| slab.hollow_pages() > 0).unwrap();
    // SAFETY: what the slab says of its bin.
    unsafe { theirs.bin_at(slab.bin()) }.list().set(slab.free_list());
    // SAFETY: this thread is the only one.
    unsafe { from.child_after_fork(ThreadId::new(1), 0) };
    assert_eq!(slab.hollow_pages(), 0);
    from.audit_child::<Checked>();
    look(&blocks);
}

/// Blocks that were hollow are in use again: all heaps know when theirs is collected, or looks before it grows.
#[test]
fn what_is_filled_again_is_known_before_long() {
    let ways: [fn(&Allocator<Os>, &Heap); 2] =
        [|from, heap| heap.collect::<Checked, _>(from), |from, heap| drop(build_up(from, heap, 4_000, 2))];
    for tell in ways {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        let _blocks = hollowed(from, heap, 2_000);
        let told = from.hollow().get();
        let claimed = from.claimed_slices();
        build_up(from, heap, 30_000, 3);
        assert_eq!((from.claimed_slices(), from.hollow().get()), (claimed, told), "what is there does");
        tell(from, heap);
        assert!(from.hollow().get() < told - MIB / from.page_size());
    }
}

/// A slab that is freed while blocks of it are hollow is not resident as a whole.
#[test]
fn what_was_hollow_is_not_told_as_resident_when_its_slab_is_free() {
    let from = allocator(GRANULE);
    from.settings().set_dirty(Some(64 << 20), None);
    let heap = possess(from, 1);
    let blocks = hollowed(from, heap, 512);
    blocks.into_keys().for_each(|block| free(from, heap, block));
    heap.collect::<Checked, _>(from);
    let census = from.census::<Checked>(heap);
    let resident = census.arena_bytes() - census.record_bytes;
    // What is left are slabs of which no block was free by then.
    assert!(resident < census.dirty_bytes / 3, "{resident} of {}", census.dirty_bytes);
}

/// A slab of which more comes free when a part of it is hollow already.
#[test]
fn what_is_hollow_is_given_back_once() {
    for size in SIZES {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        let (blocks, page) = (fill(from, heap, size), from.page_size());
        let size = class_info(class_of(size)).size as usize;
        let inside = |block: usize| (block + size) / page - (block + size_of::<usize>() * 2).div_ceil(page);
        let mut pages = 0;
        for &block in &blocks[1..3.min(blocks.len())] {
            free_home(from, heap, block);
            assert!(heap.hollow_slabs::<Checked, _>(from, usize::MAX, usize::MAX));
            pages += inside(block);
            assert_eq!(from.hollow().get(), pages, "blocks of {size} bytes");
            assert_eq!(from.purged_bytes(), (pages * page) as u64);
            from.audit::<Checked>();
        }
    }
}
