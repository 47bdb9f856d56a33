//! Pages that only small free blocks touch: on the simulated system.

use super::hollow::{MIB, cached, purges, write_all};
use super::*;
use crate::heap::block::Block;
use crate::heap::record::Slab;
use crate::pal::Errno;
use crate::pal::simulated::CallKind;
use std::collections::BTreeMap;

/// Of which several touch a page, and some two; and one that touches up to three.
const SIZES: [usize; 6] = [16, 48, 112, 640, 1_536, 5_120];
/// Of which each has pages of its own.
const LONG_SIZES: [usize; 5] = [8 << 10, 9_000, 12_288, 20_000, 30_000];

/// What is live: address and size. All of it is written.
type Live = BTreeMap<usize, usize>;

fn take(from: &Allocator<Os>, heap: &Heap, live: &mut Live, size: usize) -> usize {
    let block = get(from, heap, size);
    write_all(block, size);
    let (below, above) = (live.range(..block).next_back(), live.range(block..).next());
    assert!(below.is_none_or(|(&at, &bytes)| at + bytes <= block), "handed out twice");
    assert!(above.is_none_or(|(&at, _)| block + size <= at), "handed out twice");
    live.insert(block, size);
    block
}

/// Demands that nothing has touched what is in the blocks, and that each is known to be live.
fn look(from: &Allocator<Os>, live: &Live) {
    super::hollow::look(live);
    assert!(live.keys().all(|&block| matches!(from.place(block), Ok(Place::Slab(_)))));
}

/// Frees those of the blocks that `goes` chooses by their size, which are returned.
fn free_some(
    from: &Allocator<Os>,
    heap: &Heap,
    live: &mut Live,
    mut goes: impl FnMut(usize) -> bool,
) -> Vec<usize> {
    let gone: Vec<usize> = live.iter().filter(|&(_, &size)| goes(size)).map(|(&block, _)| block).collect();
    for &block in &gone {
        live.remove(&block);
        free(from, heap, block);
    }
    gone
}

/// A heap of small blocks of which about two in each slab are left, and those that were freed.
fn thinned(from: &Allocator<Os>, heap: &Heap, mib: usize) -> (Live, Vec<usize>) {
    thinned_of(from, heap, mib, &SIZES)
}

/// The same of those `sizes`.
fn thinned_of(from: &Allocator<Os>, heap: &Heap, mib: usize, sizes: &[usize]) -> (Live, Vec<usize>) {
    let (mut live, mut state) = (Live::new(), 1);
    for &size in sizes {
        (0..(mib << 20) / sizes.len() / size).for_each(|_| _ = take(from, heap, &mut live, size));
    }
    let gone = free_some(from, heap, &mut live, |size| random(&mut state, (SLICE / 2 / size).max(6)) != 0);
    (live, gone)
}

/// Pages that hold a byte of what is live.
fn touched(live: &Live, page: usize) -> usize {
    let mut pages = BTreeSet::new();
    live.iter().for_each(|(&block, &size)| pages.extend(block / page..=(block + size - 1) / page));
    pages.len()
}

#[test]
fn a_trim_gives_back_the_pages_that_no_live_block_touches() {
    trim_thinned(12, &SIZES);
}

#[test]
fn and_all_that_only_free_blocks_of_several_pages_touch() {
    trim_thinned(40, &LONG_SIZES);
}

fn trim_thinned(mib: usize, sizes: &[usize]) {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let (mut live, gone) = thinned_of(from, heap, mib, sizes);
    heap.collect::<Checked, _>(from);
    let (before, in_use, purged) = (cached(from, heap), from.live_bytes(), from.purged_bytes());
    assert!(before > 8 * MIB, "{before}");
    from.trim::<Checked>(heap);
    look(from, &live);
    let after = cached(from, heap);
    let floor = touched(&live, from.page_size()) * from.page_size();
    let bytes: usize = live.values().sum();
    assert!(
        after < before / 2 && after + bytes < floor + floor / 8,
        "{after} of {before}, {floor} are touched"
    );
    let given_back = before - after;
    assert!(in_use - from.live_bytes() >= given_back, "which is in use no longer");
    assert!((from.purged_bytes() - purged) as usize >= given_back);
    // That a block is free is known though its words are gone; and nothing is given back twice.
    let (calls, misuse) = (purges(from), |block: &usize| from.place(*block).err());
    assert!(gone.iter().all(|block| matches!(misuse(block), Some(Misuse::DoubleFree | Misuse::Nothing))));
    assert!(gone.iter().filter(|&block| misuse(block) == Some(Misuse::DoubleFree)).count() > gone.len() / 2);
    from.trim::<Checked>(heap);
    assert_eq!((purges(from), cached(from, heap)), (calls, after));
    // All of it serves again, before anything else does.
    let claimed = from.claimed_slices();
    for &size in sizes {
        (0..before / sizes.len() / size / 2).for_each(|_| _ = take(from, heap, &mut live, size));
    }
    assert!(from.claimed_slices() <= claimed + sizes.len(), "{} for {claimed}", from.claimed_slices());
    look(from, &live);
    from.audit::<Checked>();
    live.keys().for_each(|&block| free(from, heap, block));
    from.trim::<Checked>(heap);
    assert_eq!((from.claimed_slices(), from.live_bytes(), cached(from, heap)), (0, 0, 0));
}

/// Whoever frees what is left, and in whatever way: the slabs go when they are empty, and a second free is told.
#[test]
fn what_is_left_of_a_fallow_slab_can_be_freed_by_anybody() {
    for (by_another, sizes) in [false, true].into_iter().flat_map(|by| [(by, &SIZES[..]), (by, &LONG_SIZES)])
    {
        let from = allocator(GRANULE);
        let (one, two) = (possess(from, 1), possess(from, 2));
        let (live, _) = thinned_of(from, one, 6, sizes);
        from.trim::<Checked>(one);
        let by = if by_another { two } else { one };
        for (at, &block) in live.keys().enumerate() {
            free(from, by, block);
            if at % 64 == 0 {
                [one, two].iter().for_each(|heap| heap.settle_all::<Checked, _>(from));
                let misuse = from.place(block).err();
                // Of one that was in a later slice of a slab nothing is known when that is closed.
                let is_later = sizes == LONG_SIZES && misuse == Some(Misuse::Nothing);
                assert!(is_later || misuse == Some(Misuse::DoubleFree), "{misuse:?}");
            }
        }
        [two, one].iter().for_each(|heap| heap.collect::<Checked, _>(from));
        from.trim::<Checked>(two);
        assert_eq!((from.claimed_slices(), from.live_bytes()), (0, 0), "{by_another}");
        from.audit::<Checked>();
    }
}

/// Two heaps, all that may happen to slabs by turns, and a ledger.
#[test]
fn what_lies_fallow_is_known_through_all_that_a_slab_may_meet() {
    // Where pages are larger some of these sizes have slabs of several slices.
    let all_sizes = [&SIZES[..], &[12_288, 20_000, 26_000]].concat();
    for (seed, page_shift) in [12, 12, 12, 14, 14, 16].into_iter().enumerate() {
        let from = allocator_on(Config { page_size: 1 << page_shift, ..Config::default() }, GRANULE);
        let heaps = [possess(from, 1), possess(from, 2)];
        let (mut live, mut state, mut laid) = (Live::new(), seed as u64, 0);
        for turn in 0..60 {
            let which = random(&mut state, 2);
            let heap = heaps[which];
            let size = all_sizes[random(&mut state, all_sizes.len())];
            match random(&mut state, 6) {
                0 | 1 => (0..(80_000 / size).max(30)).for_each(|_| _ = take(from, heap, &mut live, size)),
                2 | 3 => {
                    let most = [2, 10, 50][random(&mut state, 3)];
                    free_some(from, heap, &mut live, |_| random(&mut state, most) != 0);
                }
                4 => {
                    free_some(from, heap, &mut live, |_| random(&mut state, 10) != 0);
                    from.trim::<Checked>(heap);
                }
                _ => {
                    // Idle: the other one takes slabs of it, or frees its blocks.
                    from.give_up(heap);
                    (0..20_000 / size).for_each(|_| _ = take(from, heaps[1 - which], &mut live, size));
                    free_some(from, heaps[1 - which], &mut live, |_| random(&mut state, 8) == 0);
                    let index = heap.index() as usize;
                    assert!(from.pool().possess(index, ThreadId::new(1 + which)).is_some());
                }
            }
            heaps.iter().for_each(|heap| heap.settle_all::<Checked, _>(from));
            from.audit::<Checked>();
            laid += usize::from(from.hollow().get() > 0);
            if turn % 8 == 0 {
                look(from, &live);
            }
        }
        // A page of 64 KiB is a whole slab.
        assert!(laid > 5 || page_shift == 16, "{laid} with pages of {}", 1 << page_shift);
        look(from, &live);
        // A child goes on with it.
        // SAFETY: this thread is the only one.
        unsafe { from.child_after_fork(ThreadId::new(1), 0) };
        from.audit::<Checked>();
        look(from, &live);
        live.keys().for_each(|&block| free(from, heaps[0], block));
        // What idle heaps had of its blocks comes home with the first.
        (0..2).for_each(|_| from.trim::<Checked>(heaps[0]));
        assert_eq!((from.claimed_slices(), from.live_bytes()), (0, 0));
    }
}

#[test]
fn an_idle_heap_keeps_little_and_a_used_one_is_let_alone() {
    let from = allocator(GRANULE);
    from.settings().set_helper(true);
    let (heap, helper) = (possess(from, 1), possess(from, 2));
    let (live, _) = thinned(from, heap, 12);
    let before = cached(from, heap);
    from.abandon::<Checked>(heap, ThreadId::new(1));
    assert_eq!(purges(from), 0, "the next thread is to find it as it is");
    from.tick::<Checked>(helper);
    let after = cached(from, helper);
    assert!(after < before / 2, "{after} of {before}");
    look(from, &live);
}

#[test]
fn what_the_system_does_not_take_serves_as_before() {
    let from = allocator(GRANULE);
    let (heap, os) = (possess(from, 1), from.space().os());
    let (mut live, _) = thinned(from, heap, 6);
    heap.collect::<Checked, _>(from);
    let before = cached(from, heap);
    os.fail_kind(CallKind::Purge, Errno(22));
    let calls = os.calls().failed;
    heap.give_back_pages::<Checked, _>(from, 1);
    assert_eq!((os.calls().failed, cached(from, heap)), (calls + 1, before), "one call is enough");
    assert!(live.keys().all(|&block| !slab_of(from, block).is_fallow()), "and nothing lies fallow");
    os.heal();
    heap.give_back_pages::<Checked, _>(from, 1);
    assert!(cached(from, heap) < before / 2);
    let claimed = from.claimed_slices();
    (0..MIB / 2 / 48).for_each(|_| _ = take(from, heap, &mut live, 48));
    assert!(from.claimed_slices() <= claimed + 1);
    look(from, &live);
}

/// A walk tells what is live, and does not make what lies fallow resident.
#[test]
fn a_walk_passes_over_what_lies_fallow() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let (live, _) = thinned(from, heap, 6);
    from.trim::<Checked>(heap);
    let (mut walk, mut found) = (Walk::begin(0), Vec::new());
    loop {
        match from.walk_on::<Checked>(&mut walk) {
            [] => break,
            told => found.extend(told.iter().map(|block| block.address)),
        }
    }
    assert_eq!(found, live.keys().copied().collect::<Vec<_>>());
}

/// What the long way of a free asks first: it is no longer for a block beside a fallow page than it has to be.
#[test]
fn what_is_live_in_a_fallow_slab_is_told_without_looking_it_up() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let (live, gone) = thinned(from, heap, 6);
    from.trim::<Checked>(heap);
    let is_live = |address: usize| {
        // SAFETY: an address in an arena.
        let slab = unsafe { Slab::first_of(Slab::of(address)) };
        let block = ptr::with_exposed_provenance_mut(address);
        // SAFETY: asked in a slab.
        let is_live = || unsafe { slab.has_live_block::<Checked>(block, Block::key(block, from.secret())) };
        (!slab.owner().is_null() && is_live(), slab.starts_block(address))
    };
    assert!(live.keys().all(|&block| is_live(block).0 && !is_live(block + 8).0));
    let unasked = live.keys().filter(|&&block| !is_live(block).1).count();
    assert!(unasked > live.len() / 2, "{unasked} of {} lie in fallow slabs", live.len());
    assert!(!gone.iter().any(|&block| is_live(block).0));
}

/// A walk looks at a slab that may be closed at that moment, and a large block's record in its place.
#[test]
fn a_look_at_what_is_no_slab_any_more_ends() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let block = get(from, heap, SMALL_MAX + 1);
    let Ok(Place::Large(record)) = from.place(block) else { panic!("no large block") };
    // As the walk has seen of the slab that was there.
    record.set_fallow(1);
    assert!([0, 16, SMALL_MAX - 16].iter().all(|&offset| record.lies_fallow(offset)));
    assert!(![SMALL_MAX, SLICE - 16, GRANULE].iter().any(|&offset| record.lies_fallow(offset)));
    record.set_fallow(0);
}

/// A slab that is freed while it lies fallow is not resident as a whole.
#[test]
fn what_is_left_of_a_fallow_slab_goes_with_it() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let (live, _) = thinned(from, heap, 6);
    from.trim::<Checked>(heap);
    live.keys().for_each(|&block| free(from, heap, block));
    heap.empty_bins::<Checked, _>(from);
    let census = from.census::<Checked>(heap);
    let resident = census.arena_bytes() - census.record_bytes;
    assert!(census.dirty_bytes > 1 << 20 && resident < 1 << 18, "{resident} of {}", census.dirty_bytes);
    // Of where its blocks were the record tells still.
    let misuse = |&block: &usize| from.place(block).err();
    assert!(live.keys().all(|block| misuse(block) == Some(Misuse::DoubleFree)));
    from.audit::<Checked>();
}

/// A slab whose blocks are freed again and again is in use, and its frees are to be short again.
#[test]
fn a_fallow_slab_that_is_used_is_tilled() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let (live, _) = thinned(from, heap, 6);
    from.trim::<Checked>(heap);
    let is_long = |slab: &Slab, block| !slab.starts_block(block);
    let (&block, _) =
        live.iter().find(|&(&block, _)| is_long(slab_of(from, block), block)).expect("a fallow slab");
    let slab = slab_of(from, block);
    // And again when it has lain fallow again.
    for _ in 0..2 {
        assert!(is_long(slab, block));
        let frees =
            (0..1000).take_while(|_| is_long(slab, block)).map(|_| heap.use_fallow::<Checked>(slab)).count();
        assert!((20..200).contains(&frees), "{frees}");
        from.audit::<Checked>();
        look(from, &live);
        from.trim::<Checked>(heap);
    }
}

/// Which pages of a slab lie fallow after `heap` has given back what it can.
fn fallow_pages(from: &Allocator<Os>, heap: &Heap, slab: &Slab) -> u32 {
    heap.collect::<Checked, _>(from);
    heap.give_back_pages::<Checked, _>(from, 1);
    from.audit::<Checked>();
    slab.fallow() & 0xFFFF
}

/// Sixteen bits are enough for all blocks of a slab of long ones.
#[test]
fn there_is_a_mark_for_each_long_block() {
    let long = (0..CLASSES).map(class_info).filter(|info| info.size >= 8 << 10);
    let most = long.map(|info| info.capacity).max();
    assert_eq!(most, Some(14));
}

/// A page that is free is not worth that frees in its slab are long; two are.
#[test]
fn a_single_page_does_not_lie_fallow() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let blocks = fill(from, heap, 48);
    let (slab, purged) = (slab_of(from, blocks[0]), purges(from));
    let on = |pages: core::ops::Range<usize>| (pages.start * 4096 / 48)..(pages.end * 4096).div_ceil(48);
    // Those of the fourth page, and others here and there: so that the slab is looked at.
    let some = on(3..4).chain((500..700).step_by(2));
    some.for_each(|index| free(from, heap, blocks[index]));
    assert_eq!((fallow_pages(from, heap, slab), purges(from)), (0, purged));
    let next = (on(3..4).end..on(4..5).end).chain((501..511).step_by(2));
    next.for_each(|index| free(from, heap, blocks[index]));
    assert_eq!((fallow_pages(from, heap, slab), purges(from)), (0b11000, purged + 1));
}

/// A page whose blocks lie on fallow ones in part follows these when the others are free.
#[test]
fn what_lies_fallow_spreads() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let blocks = fill(from, heap, 5_120);
    let slab = slab_of(from, blocks[0]);
    let before = |block: usize| (1 << ((block - slab.base()) / 4096)) - 1;
    blocks[..6].iter().for_each(|&block| free(from, heap, block));
    assert_eq!(fallow_pages(from, heap, slab), before(blocks[6]));
    blocks[6..9].iter().for_each(|&block| free(from, heap, block));
    assert_eq!(fallow_pages(from, heap, slab), before(blocks[9]));
    // With the last block goes what is behind it in its page.
    let blocks = fill(from, heap, 6_656);
    let (slab, before) = (slab_of(from, blocks[0]), from.purged_bytes());
    blocks[3..].iter().for_each(|&block| free(from, heap, block));
    let pages_to = |block: usize| (block - slab.base()).div_ceil(4096);
    let (first, end) = (pages_to(blocks[3]), pages_to(blocks[8] + slab.info().size as usize));
    assert_eq!(fallow_pages(from, heap, slab), (1 << end) - (1 << first));
    let some = ((end - first) * 4096) as u64;
    assert_eq!((blocks.len(), from.purged_bytes() - before), (9, some));
    // And with the last that is live all of the slab.
    blocks[..3].iter().for_each(|&block| free_home(from, heap, block));
    assert_eq!(from.purged_bytes() - before, some + SLICE as u64);
}

/// A child has all that was free in the heap of another thread, beside fallow pages and on them.
#[test]
fn a_child_loses_nothing_of_slabs_that_lie_fallow() {
    let from = allocator(GRANULE);
    let (own, other) = (possess(from, 1), possess(from, 2));
    let (live, _) = thinned(from, other, 6);
    from.trim::<Checked>(other);
    let free_bytes = cached(from, own);
    // SAFETY: this thread is the only one.
    unsafe { from.child_after_fork(ThreadId::new(1), 0) };
    assert_eq!(cached(from, own), free_bytes);
    look(from, &live);
    live.keys().for_each(|&block| free(from, own, block));
    (0..2).for_each(|_| from.trim::<Checked>(own));
    assert_eq!((from.claimed_slices(), from.live_bytes()), (0, 0));
}

/// Blocks of `size` bytes in so many slabs, each of which keeps its first; these.
fn weeds(from: &Allocator<Os>, heap: &Heap, size: usize, slabs: usize) -> Vec<usize> {
    let capacity = class_info(class_of(size)).capacity as usize;
    let blocks: Vec<usize> = (0..slabs * capacity).map(|_| get(from, heap, size)).collect();
    for slab in blocks.chunks(capacity) {
        slab[1..].iter().for_each(|&block| free(from, heap, block));
    }
    blocks.into_iter().step_by(capacity).collect()
}

#[test]
fn what_one_thread_after_the_other_leaves_in_a_heap_goes() {
    type Way = fn(&Allocator<Os>, &Heap);
    let ways: [Way; 2] =
        [|from, _| from.collect_idle::<Checked>(ThreadId::new(9)), |from, other| from.trim::<Checked>(other)];
    for way in ways {
        let from = allocator(GRANULE);
        let other = possess(from, 3);
        // Many slabs, and then some of a class that comes behind them.
        for (thread, size, slabs) in [(1, 2_000, 1_100), (2, 4_000, 100)] {
            let heap = possess(from, thread);
            weeds(from, heap, size, slabs);
            let hollow = from.hollow().get();
            // As a thread does that exits and leaves much.
            heap.collect::<Checked, _>(from);
            from.give_up(heap);
            way(from, other);
            let pages = from.hollow().get() - hollow;
            assert!(pages > slabs * SLICE / from.page_size() / 4 * 3, "{pages} pages of {slabs} slabs");
        }
    }
}

#[test]
fn near_a_limit_pages_go_before_the_heap_grows() {
    for near in [true, false] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        weeds(from, heap, 2_000, 400);
        if near {
            from.settings().set_memory(from.live_bytes() + from.live_bytes() / 8);
        }
        let (hollow, before) = (from.hollow().get(), from.live_bytes());
        let blocks = build_up(from, heap, 4_000, 20);
        let pages = from.hollow().get() - hollow;
        assert_eq!(pages * from.page_size() > 15 * MIB, near, "{pages} pages");
        assert_eq!(from.live_bytes() < before + 8 * MIB, near);
        from.audit::<Checked>();
        blocks.iter().for_each(|&block| free(from, heap, block));
    }
}

/// Of what is inside of blocks already the ends of the ranges go again: as figures of the system's calls have it. But what
/// is gone is that only once.
#[test]
fn what_is_given_back_again_is_counted_again() {
    for size in LONG_SIZES {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        let firsts = weeds(from, heap, size, 20);
        heap.collect::<Checked, _>(from);
        assert!(heap.hollow_slabs::<Checked, _>(from, usize::MAX, usize::MAX));
        let inside = from.hollow().get();
        heap.give_back_pages::<Checked, _>(from, 0);
        // In each slab all blocks behind the first.
        let info = class_info(class_of(size));
        let (page, size) = (from.page_size(), info.size as usize);
        let behind =
            |first: usize| (first + info.capacity as usize * size) / page - (first + size).div_ceil(page);
        let pages = firsts.into_iter().map(behind).sum::<usize>();
        assert!(inside > 0 && inside < pages, "blocks of {size} bytes");
        assert_eq!(from.hollow().get(), pages, "blocks of {size} bytes");
        let record = from.os().record();
        let purges = record.iter().filter(|call| call.kind == CallKind::Purge && call.result.is_ok());
        assert_eq!(from.purged_bytes(), purges.map(|call| call.len as u64).sum::<u64>());
        from.audit::<Checked>();
    }
}
