//! What goes back to the system in ticks, when it is asked for, and when the helper ends: on the simulated system.

use super::*;
use crate::pal::Errno;
use crate::pal::simulated::CallKind;
use crate::region::{Attempt, Prefer};

pub(super) fn arenas(from: &Allocator<Os>) -> usize {
    from.space().counts().regions[Kind::Arena as usize]
}

fn tick(from: &Allocator<Os>, heap: &Heap) -> bool {
    from.space().os().advance_ms(100);
    from.tick::<Checked>(heap)
}

#[test]
fn an_arena_that_stays_empty_goes_after_ten_ticks_and_a_use_begins_them_anew() {
    let from = allocator(1 << 20);
    from.settings().set_helper(true);
    let heap = possess(from, 1);
    let use_arenas = |count: usize| {
        let blocks: Vec<usize> = (0..count).map(|_| get(from, heap, 10 * SLICE)).collect();
        blocks.into_iter().for_each(|block| free(from, heap, block));
        heap.collect::<Checked, _>(from);
    };
    use_arenas(2);
    (0..5).for_each(|_| assert!(tick(from, heap) && arenas(from) == 2));
    use_arenas(1);
    (0..5).for_each(|_| assert!(tick(from, heap) && arenas(from) == 2));
    // The other's eleventh.
    assert!(tick(from, heap) && (arenas(from), from.space().counts().retired) == (1, 0));
    (0..4).for_each(|_| assert!(tick(from, heap) && arenas(from) == 1));
    assert!(
        !tick(from, heap) && (arenas(from), from.space().counts().retired) == (0, 0),
        "nothing is left to do"
    );
}

#[test]
fn what_cannot_be_unmapped_is_not_tried_again_and_again() {
    let from = allocator(1 << 20);
    from.settings().set_helper(true);
    let (heap, os) = (possess(from, 1), from.space().os());
    let block = get(from, heap, 10 * SLICE);
    free(from, heap, block);
    heap.collect::<Checked, _>(from);
    os.fail_kind(CallKind::Unmap, Errno(12));
    let before = os.now_ms();
    for _ in 0..1_000 {
        os.advance_ms(u64::from(from.tick_ms()));
        from.tick::<Checked>(heap);
    }
    let refused = os.record().iter().filter(|call| call.result.is_err()).count();
    let seconds = (os.now_ms() - before) / 1_000;
    assert!(refused > 0 && seconds > 4_000, "{refused} calls failed in {seconds} seconds");
    os.heal();
    os.advance_ms(7_200_000);
    (0..100).for_each(|_| _ = tick(from, heap));
    assert!(!from.has_idle_memory());
}

/// A thread that is outside its heap, one that has exited, and the caller: each has slabs with free blocks, more of them
/// at hand, some sent and some on their way. The caller's heap comes last.
fn three_heaps(from: &Allocator<Os>) -> [&'static Heap; 3] {
    let [outside, gone, caller] = [1, 2, 3].map(|number| possess(from, number));
    from.open_gate(outside);
    for heap in [outside, gone, caller] {
        let blocks: Vec<usize> = (0..2_000).map(|_| get(from, heap, 3_000)).collect();
        blocks[1..].iter().for_each(|&block| free(from, heap, block));
        let large = get(from, heap, 20 * SLICE);
        free(from, heap, large);
        let huge = get(from, heap, LARGE_MAX + 1);
        free(from, heap, huge);
    }
    // Sent to one that is gone, by then another's: whoever reads it sends it on.
    let blocks = fill(from, gone, 8 << 10);
    // It is full, and current no more.
    get(from, gone, 8 << 10);
    free(from, caller, blocks[0]);
    caller.settle::<Checked, _>(from);
    from.give_up(gone);
    free(from, outside, blocks[1]);
    assert!(gone.has_mail() && ptr::eq(slab_of(from, blocks[2]).owner(), outside));
    // Sent to the caller, and held back by it.
    let own = get(from, caller, 100);
    free(from, outside, own);
    outside.settle::<Checked, _>(from);
    free(from, caller, blocks[2]);
    assert!(caller.has_mail() && outside.needs_collecting());
    [outside, gone, caller]
}

#[track_caller]
fn demand_collected(heaps: [&Heap; 3]) {
    let left = heaps.map(Heap::needs_collecting);
    assert_eq!(left, [false; 3], "outside, gone, caller");
}

#[test]
fn a_trim_gives_back_what_is_free_wherever_it_lies() {
    let from = allocator(GRANULE);
    from.settings().set_helper(true);
    let heaps = three_heaps(from);
    from.trim::<Checked>(heaps[2]);
    // What was sent on by the one that is gone arrived behind the visit.
    from.trim::<Checked>(heaps[2]);
    demand_collected(heaps);
    assert_eq!((from.dirty_slices(), from.has_idle_memory()), (0, false));
    from.audit::<Checked>();
}

#[test]
fn a_trim_looks_where_its_caller_sends() {
    let from = allocator(GRANULE);
    let [outside, caller] = [1, 2].map(|number| possess(from, number));
    from.open_gate(outside);
    let blocks: Vec<usize> = (0..2).map(|_| get(from, outside, 3_000)).collect();
    free(from, caller, blocks[0]);
    for slices in [4, 20] {
        let large = get(from, caller, slices * SLICE);
        free(from, caller, large);
    }
    from.trim::<Checked>(caller);
    assert!(!outside.needs_collecting() && !caller.needs_collecting() && from.dirty_slices() == 0);
}

#[test]
fn the_helper_leaves_little_behind() {
    let from = allocator(4 << 20);
    from.settings().set_helper(true);
    let heaps = three_heaps(from);
    from.leave_alone::<Checked>(heaps[2]);
    demand_collected(heaps);
    let limit = from.settings().dirty_limit(from.claimed_slices() * SLICE);
    assert!(from.dirty_slices() * SLICE <= limit / 4, "{} dirty slices", from.dirty_slices());
    assert!(!from.arenas().has_empty() && from.space().counts().retired == 0);
    from.audit::<Checked>();
}

#[test]
fn the_helper_leaves_no_empty_arena_behind() {
    let from = allocator(1 << 20);
    from.settings().set_helper(true);
    let heap = possess(from, 1);
    let blocks: Vec<usize> = (0..2).map(|_| get(from, heap, 10 * SLICE)).collect();
    blocks.into_iter().for_each(|block| free(from, heap, block));
    heap.collect::<Checked, _>(from);
    assert_eq!(arenas(from), 2);
    from.leave_alone::<Checked>(heap);
    assert_eq!((arenas(from), from.space().counts().retired), (0, 0));
}

/// A claim that failed has held slices for a moment, all that its arena had: who freed the others saw it in use.
#[test]
fn an_arena_that_a_failed_claim_left_empty_goes() {
    let from = allocator(1 << 20);
    let heap = possess(from, 1);
    // The other has room enough.
    let [block, _other] = [10, 6].map(|slices| get(from, heap, slices * SLICE));
    let region = from.arena_of(block);
    let held = region.slices().claim(1, Prefer::Any, 1).run.unwrap();
    free(from, heap, block);
    heap.collect::<Checked, _>(from);
    // (An empty arena goes when its last page has gone.)
    from.purge(heap.claimant(), usize::MAX);
    region.slices().release_clean(held.start, held.len);
    from.unmap_empty(heap.claimant());
    assert_eq!(arenas(from), 2, "nobody knows that it is empty");
    let lost = Attempt { run: None, took_back: true };
    let section = heap.section(from);
    let position = region.arena().position().unwrap();
    assert!(from.arenas().settled(from, heap.claimant(), position, region, lost, &section).is_none());
    assert_eq!(arenas(from), 1);
}

#[test]
fn a_tick_reads_what_was_sent_to_who_is_gone() {
    let from = allocator(GRANULE);
    let [_, gone, caller] = three_heaps(from);
    tick(from, caller);
    assert!(!from.pool().has_unread_inbox() && !gone.needs_collecting());
}

/// A thread with a heap that it keeps, and blocks of several classes, all of which it frees before it exits.
fn short_thread(from: &Allocator<Os>, number: usize) -> &'static Heap {
    let thread = ThreadId::new(number);
    let heap = from.pool().possess_to_keep(from, thread, None).expect("memory");
    from.open_gate(heap);
    let blocks = [16, 100, 1_000, 1_000, 1_000, 8_000].map(|size| get(from, heap, size));
    blocks.into_iter().for_each(|block| free(from, heap, block));
    from.leave_heap::<Checked>(heap, thread);
    heap
}

#[test]
fn a_heap_stays_warm_for_the_next_thread_and_a_tick_tidies_it_if_none_comes() {
    let from = allocator(GRANULE);
    let helper = possess(from, 1);
    let first = short_thread(from, 2);
    assert!(!first.needs_collecting() && !from.has_warm(), "without a helper nothing stays");
    from.settings().set_helper(true);
    let before = from.claimed_slices();
    short_thread(from, 2);
    let warm = from.claimed_slices();
    assert!(warm > before && first.needs_collecting() && from.has_warm() && from.has_idle_memory());
    let lookups = first.lookups().taken;
    for number in 3..20 {
        assert!(ptr::eq(short_thread(from, number), first) && from.has_warm());
    }
    assert_eq!((from.claimed_slices(), first.lookups().taken), (warm, lookups), "the next begins anew");
    tick(from, helper);
    assert!(!first.needs_collecting() && !from.has_warm());
    assert_eq!(from.claimed_slices(), before);
    // The helper may borrow that very heap, each time.
    short_thread(from, 2);
    assert!(ptr::eq(from.pool().possess(first.index() as usize, ThreadId::new(1)).expect("idle"), first));
    tick(from, first);
    assert!(!first.needs_collecting() && !from.has_warm());
    from.give_up(first);
    short_thread(from, 2);
    let census = from.census::<Checked>(helper);
    assert_eq!(census.live_blocks(), 0, "what is free in a warm heap is not live");
    from.audit::<Checked>();
}

#[test]
fn few_heaps_stay_warm_and_none_that_holds_much() {
    let from = allocator(GRANULE);
    from.settings().set_helper(true);
    let heaps: Vec<_> = (0..40)
        .map(|number| from.pool().possess_to_keep(from, ThreadId::new(10 + number), None).expect("memory"))
        .collect();
    // Before there are others, which would be swept for it.
    let much: Vec<_> = (0..300).map(|_| get(from, heaps[0], 32 << 10)).collect();
    for heap in &heaps {
        from.open_gate(heap);
        let block = get(from, heap, 100);
        free(from, heap, block);
    }
    for (number, heap) in heaps.iter().enumerate() {
        from.leave_heap::<Checked>(heap, ThreadId::new(10 + number));
    }
    let warm: Vec<_> = heaps.iter().map(|heap| heap.needs_collecting()).collect();
    assert_eq!(warm.iter().filter(|&&warm| warm).count(), 16);
    assert!(!warm[0] && warm[1]);
    let last = from.pool().possess_to_keep(from, ThreadId::new(1), None).expect("an idle one");
    much.into_iter().for_each(|block| free(from, last, block));
    from.trim::<Checked>(last);
    assert!(!from.has_warm() && from.claimed_slices() == 0 && !from.has_idle_memory());
}

#[test]
fn the_figures_of_heaps_and_arenas_add_up_to_the_census() {
    let from = allocator(GRANULE);
    let heaps = three_heaps(from);
    let census = from.census::<Checked>(heaps[2]);
    assert!(!heaps[2].has_mail(), "what was sent to the caller is no longer live");
    let (mut live, mut free, mut owners) = (0, 0, BTreeSet::new());
    from.each_share(heaps[2], |owner, live_here, free_here| {
        (live, free) = (live + live_here, free + free_here);
        owners.insert(owner);
    });
    let (mut bins, mut spare, mut heaps_found) = (0, 0, 0);
    from.each_heap::<Checked>(heaps[2], |_, heap| {
        (bins, spare, heaps_found) = (bins + heap.bin_bytes, spare + heap.spare_bytes, heaps_found + 1);
    });
    assert_eq!((live - bins, free + bins), (census.small.bytes, census.free_bytes));
    assert_eq!((heaps_found, owners.len()), (3, 3));
    let (mut claimed, mut dirty, mut arenas) = (0, 0, 0);
    from.each_arena(|arena| {
        (claimed, dirty, arenas) = (claimed + arena.claimed_bytes, dirty + arena.dirty_bytes, arenas + 1);
    });
    assert_eq!((claimed - spare) as u64, census.claimed_bytes);
    assert_eq!(((dirty + spare) as u64, arenas), (census.dirty_bytes, census.regions[Kind::Arena as usize]));
}

/// An allocator in so much address space.
fn narrow(bytes: usize) -> &'static Allocator<Os> {
    on(Config { reserve: bytes, ..Config::default() })
}

fn on(config: Config) -> &'static Allocator<Os> {
    let make = move || &*Box::leak(Box::new(Allocator::new(Simulated::with(config))));
    let allocator = std::thread::Builder::new().stack_size(32 << 20).spawn(make).unwrap().join().unwrap();
    allocator.start();
    allocator
}

#[test]
fn what_is_free_makes_room_for_another_kind() {
    for limit in [usize::MAX, 1 << 40] {
        free_makes_room(limit);
    }
}

fn free_makes_room(limit: usize) {
    let from = narrow(8 * GRANULE);
    from.settings().set_limits(Some(limit), None);
    from.settings().set_helper(true);
    let heap = possess(from, 1);
    for (size, kind) in [(40 << 20, "huge"), (20_000, "small"), (1 << 20, "large"), (40 << 20, "huge")] {
        let mut blocks = Vec::new();
        // SAFETY: the test possesses its heap.
        while let Some(block) = ptr::NonNull::new(unsafe { from.allocate::<Checked>(heap, size, 1, false) }) {
            blocks.push(block.as_ptr().expose_provenance());
        }
        assert!(blocks.len() * size > 2 * GRANULE, "{} {kind} blocks", blocks.len());
        blocks.into_iter().for_each(|block| free(from, heap, block));
    }
    from.audit::<Checked>();
}

/// Memory is out, and all of it is on its way between heaps: of one whose thread is outside, of one that has exited, and
/// held back by the caller.
#[test]
fn what_is_on_its_way_makes_room() {
    for gone in [false, true] {
        let from = narrow(8 * GRANULE);
        // So nothing of it goes before it has to.
        from.settings().set_dirty(Some(1000), Some(1 << 30));
        let (owner, caller) = (possess(from, 1), possess(from, 2));
        let mut blocks = Vec::new();
        // SAFETY: the test possesses its heaps.
        while let Some(block) =
            // SAFETY: as above.
            ptr::NonNull::new(unsafe { from.allocate::<Checked>(owner, 30_000, 1, false) })
        {
            blocks.push(block.as_ptr().expose_provenance());
        }
        blocks.into_iter().for_each(|block| free(from, caller, block));
        match gone {
            true => from.give_up(owner),
            false => from.open_gate(owner),
        }
        get(from, caller, 3 * GRANULE);
    }
}

#[test]
fn where_address_space_is_short_none_is_reserved() {
    let from = on(Config { address_space_limit: 256 << 20, ..Config::default() });
    assert!(from.settings().reserves_space());
    from.adapt();
    assert!(!from.settings().reserves_space() && from.settings().arena_bytes() < GRANULE);
}

#[test]
fn a_block_grows_to_where_a_kept_one_was() {
    let from = narrow(8 * GRANULE);
    let heap = possess(from, 1);
    let kept = get(from, heap, 100 << 20);
    let block = get(from, heap, 5 << 20);
    free(from, heap, kept);
    let place = from.place(block).unwrap();
    // SAFETY: the block is live, and huge before and after.
    let grown = unsafe { from.resize(heap, place, 110 << 20, 1) };
    assert!(grown.is_some_and(|grown| grown.addr() != block));
}

/// The last blocks that come back are not kept at hand, for they lie in as many slabs; of large ones two are.
#[test]
fn what_is_torn_down_in_any_order_leaves_no_slabs() {
    for (size, most) in [(64, 1), (120, 1), (1_000, 3), (20_000, 3)] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        for round in 0..3 {
            let mut state = round;
            let mut blocks: Vec<usize> = (0..(4 << 20) / size).map(|_| get(from, heap, size)).collect();
            while !blocks.is_empty() {
                let drawn = random(&mut state, blocks.len());
                free(from, heap, blocks.swap_remove(drawn));
            }
            from.give_back_kept_slices(heap.claimant());
            let of_a_slab = class_info(class_of(size)).slices as usize;
            let slabs = from.claimed_slices() / of_a_slab;
            assert!(slabs <= most, "{slabs} slabs with blocks of {size} bytes");
        }
        from.audit::<Checked>();
    }
}

/// Memory is out but for what waits for another thread, which is in the middle of a section.
#[test]
fn what_waits_for_another_thread_makes_room() {
    let from = narrow(8 * GRANULE);
    let (heap, other) = (possess(from, 1), possess(from, 2));
    let mut blocks = Vec::new();
    // SAFETY: the test possesses its heaps.
    while let Some(block) = ptr::NonNull::new(unsafe { from.allocate::<Checked>(heap, 1 << 20, 1, false) }) {
        blocks.push(block.as_ptr().expose_provenance());
    }
    std::thread::scope(|scope| {
        let section = other.section(from);
        blocks.into_iter().for_each(|block| free(from, heap, block));
        let taker = scope.spawn(move || get(from, heap, 3 * GRANULE));
        while from.space().counts().retired == 0 {
            std::thread::yield_now();
        }
        drop(section);
        taker.join().unwrap();
    });
}
