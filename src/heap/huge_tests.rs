//! Tests of huge blocks on the simulated system, and of what that is asked about.

use super::tests::{allocator, build_up, free, get, possess};
use super::*;
use crate::base::{GRANULE, SLICE};
use crate::pal::simulated::{CallKind, Simulated};
use crate::pal::{Errno, Folios};
use crate::region::{Kind, Pinning};
use core::ptr;
use std::time::{Duration, Instant};
use std::vec::Vec;

pub(super) fn resize(from: &Allocator<Simulated>, heap: &Heap, block: usize, size: usize) -> Option<usize> {
    let place = from.place(block).unwrap();
    // SAFETY: the block is live, and huge before and after.
    unsafe { from.resize(heap, place, size, 1) }.map(|block| block.addr())
}

fn word(at: usize) -> *mut usize {
    ptr::with_exposed_provenance_mut(at)
}

/// Writes a word in each of the pages `from..to` of a block.
fn write(block: usize, from: usize, to: usize) {
    for offset in (from..to).step_by(4096) {
        // SAFETY: inside the block.
        unsafe { word(block + offset).write(offset | 1) };
    }
}

fn check(block: usize, size: usize) {
    // SAFETY: inside the block.
    assert!((0..size).step_by(4096).all(|offset| unsafe { word(block + offset).read() } == offset | 1));
}

fn calls(from: &Allocator<Simulated>, kind: CallKind) -> usize {
    from.space().os().record().iter().filter(|call| call.kind == kind).count()
}

#[test]
fn a_huge_block_moves_as_often_as_it_likes_and_stays_one_mapping() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let (mut block, mut size, mut moves) = (get(from, heap, 5 << 20), 5 << 20, 0);
    write(block, 0, size);
    while moves < 6 {
        let longer = size + (size / 8).next_multiple_of(3 << 20);
        // Somebody is always right behind it.
        let neighbour = get(from, heap, 5 << 20);
        let now = resize(from, heap, block, longer).unwrap();
        moves += usize::from(now != block);
        check(now, size);
        write(now, size, longer);
        (block, size) = (now, longer);
        assert_eq!(calls(from, CallKind::Move), moves, "moved, not copied");
        let Place::Huge(region) = from.place(block).unwrap() else { panic!("not huge") };
        let range = region.base()..region.base() + region.mapped();
        let mappings = from.space().os().mappings();
        let own = mappings.iter().filter(|mapping| range.contains(&mapping.range.start)).count();
        assert_eq!(own, 2, "the pages and the guard");
        assert!(mappings.len() <= from.space().counts().mappings);
        free(from, heap, neighbour);
    }
    free(from, heap, block);
}

/// What is unmapped for want of memory is waited for, with a limit of one's own and without.
#[test]
fn room_is_made_when_it_returns_or_somebody_is_in_the_way() {
    for limit in [None, Some(1 << 30)] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        from.settings().set_limits(limit, None);
        let block = get(from, heap, 5 << 20);
        free(from, heap, block);
        assert_eq!(from.space().counts().retired, 0, "it is kept");
        let section = from.space().rcu().enter_guest();
        let begun = Instant::now();
        from.make_all_room::<Checked>(heap);
        assert!(begun.elapsed() >= Duration::from_millis(90), "{limit:?}: nobody waits");
        assert_eq!(from.space().counts().retired, 1);
        drop(section);
        from.make_all_room::<Checked>(heap);
        let counts = from.space().counts();
        assert_eq!((counts.retired, counts.mapped), (0, 0), "{limit:?}");
    }
}

#[test]
fn what_no_address_space_holds_is_refused_and_changes_nothing() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let block = get(from, heap, 5 << 20);
    write(block, 0, 5 << 20);
    let before = (from.live_bytes(), from.space().counts().mapped);
    for less in [0, 1, 4095, 4096, SLICE, GRANULE, isize::MAX as usize] {
        let size = usize::MAX - less;
        for (align, zero) in [(1, false), (1, true), (SLICE, false)] {
            // SAFETY: the test's own heap.
            assert!(unsafe { from.allocate::<Checked>(heap, size, align, zero) }.is_null(), "{size:#x}");
        }
        assert_eq!(resize(from, heap, block, size), None);
    }
    check(block, 5 << 20);
    assert_eq!((from.live_bytes(), from.space().counts().mapped), before);
    free(from, heap, block);
    from.audit::<Checked>();
}

#[test]
fn a_block_that_somebody_has_pinned_is_copied_as_it_grows_and_stays_in_view() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let size = 5 << 20;
    let block = get(from, heap, size);
    write(block, 0, size);
    let Place::Huge(region) = from.place(block).unwrap() else { panic!("not huge") };
    assert_eq!(region.state().try_pin(), Pinning::Pinned);
    let now = resize(from, heap, block, 40 << 20).unwrap();
    check(now, size);
    check(block, size);
    assert!(now != block && calls(from, CallKind::Move) == 0 && from.space().counts().retired == 1);
    region.state().unpin(from.space().os());
    from.space().reap(None);
    assert_eq!(from.space().counts().retired, 0);
    free(from, heap, now);
    from.audit::<Checked>();
}

#[test]
fn a_move_that_the_system_refuses_half_way_leaves_the_block_as_it_was() {
    for kinds in [&[CallKind::Resize][..], &[CallKind::Resize, CallKind::Unmap]] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        let block = get(from, heap, 5 << 20);
        write(block, 0, 5 << 20);
        kinds.iter().for_each(|&kind| from.space().os().fail_kind(kind, Errno(libc::ENOMEM)));
        assert_eq!(resize(from, heap, block, 100 << 20), None);
        check(block, 5 << 20);
        from.space().os().heal();
        let moved = resize(from, heap, block, 100 << 20).unwrap();
        assert_ne!(moved, block);
        check(moved, 5 << 20);
        free(from, heap, moved);
    }
}

#[test]
fn where_pages_cannot_be_moved_a_block_is_copied_part_by_part() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let block = get(from, heap, 9 << 20);
    write(block, 0, 9 << 20);
    from.space().os().fail_kind(CallKind::Move, Errno(libc::EINVAL));
    let purges = calls(from, CallKind::Purge);
    let moved = resize(from, heap, block, 100 << 20).unwrap();
    check(moved, 9 << 20);
    assert_eq!(calls(from, CallKind::Purge) - purges, 5, "the old pages go as the new ones come");
    from.space().os().heal();
    free(from, heap, moved);
}

#[test]
fn what_no_address_space_can_hold_is_refused_at_once_and_costs_no_free_memory() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let kept = get(from, heap, 5 << 20);
    let blocks: Vec<usize> = (0..100).map(|_| get(from, heap, 4000)).collect();
    blocks.into_iter().chain([kept]).for_each(|block| free(from, heap, block));
    let (before, dirty) = (from.space().os().record().len(), from.dirty_slices());
    let kept = from.huge_figures().kept_bytes().get();
    for size in [1 << 46, 1 << 47, 1 << 50, isize::MAX as usize] {
        for align in [1, 1 << 21, 1 << 48] {
            // SAFETY: the heap is possessed here.
            let block = unsafe { from.allocate::<Checked>(heap, size, align, size % 2 == 0) };
            assert!(block.is_null());
        }
    }
    let record = from.space().os().record();
    assert!(record[before..].iter().all(|call| call.kind == CallKind::Map && call.result.is_err()));
    assert!(record.len() - before <= 12 * 5, "{}", record.len() - before);
    assert_eq!((from.dirty_slices(), from.huge_figures().kept_bytes().get()), (dirty, kept));
}

/// Where freed blocks share a grace period their pages go at once; or, where the system refuses that, count until so many
/// wait that they wait no longer.
#[test]
fn what_waits_for_others_has_no_pages_or_is_counted() {
    for refused in [false, true] {
        let from = allocator(GRANULE);
        let (heap, _other) = (possess(from, 1), possess(from, 2));
        from.settings().set_keep_huge(false);
        from.population().allow(false);
        let blocks = [(); 4].map(|()| get(from, heap, 9 << 20));
        if refused {
            from.space().os().fail_kind(CallKind::Purge, Errno(libc::EINVAL));
        }
        let purges = calls(from, CallKind::Purge);
        let waiting = blocks.map(|block| {
            free(from, heap, block);
            from.space().counts().retired
        });
        assert_eq!(waiting, if refused { [1, 2, 3, 0] } else { [1, 2, 3, 4] });
        assert!(refused || calls(from, CallKind::Purge) - purges == 4, "each gives its pages back");
    }
}

/// A huge block of which the machine populates no more than is touched: the pages `from..to`.
fn get_touched(
    from: &Allocator<Simulated>,
    heap: &Heap,
    size: usize,
    pages: core::ops::Range<usize>,
) -> usize {
    let block = get(from, heap, size);
    // SAFETY: the advice changes no contents.
    let answer = unsafe { libc::madvise(word(block).cast(), size, libc::MADV_NOHUGEPAGE) };
    assert!(answer == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL));
    // Pages of the region's, of which the first begins before the block.
    let base = block / 4096 * 4096;
    write(base, (pages.start * 4096).max(block - base), pages.end * 4096);
    block
}

#[test]
fn what_was_never_touched_of_huge_blocks_is_known() {
    const PAGE: usize = 4096;
    let (from, other) = (allocator(GRANULE), allocator(GRANULE));
    // It touches pages to see what comes.
    [from, other].iter().for_each(|from| from.population().allow(false));
    let heap = possess(from, 1);
    assert_eq!(from.untouched_bytes(heap), 0);
    // In parts of 1,024 pages, the last of them a short one.
    let (len, kept) = (5 << 20, get_touched(from, heap, 9 << 20, 0..3));
    let first = get_touched(from, heap, len, 7..300);
    let used = |block: usize, len: usize| (block % PAGE + len).next_multiple_of(PAGE);
    let (of_kept, of_first) = (used(kept, 9 << 20), used(first, len));
    assert_eq!(from.untouched_bytes(heap), of_kept - 3 * PAGE + of_first - 293 * PAGE);
    write(first / PAGE * PAGE, 4 << 20, of_first);
    assert_eq!(from.untouched_bytes(heap), of_kept - 3 * PAGE + (4 << 20) - 293 * PAGE);
    assert_eq!(calls(from, CallKind::Look), 2 * (3 + 2));
    free(from, heap, kept);
    let stays = from.census::<Checked>(heap).kept_bytes as usize;
    assert!(stays > 100 * PAGE, "{stays} bytes are kept");
    assert_eq!(from.untouched_bytes(heap), stays - 3 * PAGE + (4 << 20) - 293 * PAGE, "and of what is kept");

    // Of 2 GiB every second part is asked about, and stands for two.
    let (heap, part) = (possess(other, 1), 4 << 20);
    let block = get_touched(other, heap, 2 << 30, 0..1024);
    assert_eq!(other.untouched_bytes(heap), (2 << 30) - 2 * part);
    assert_eq!(calls(other, CallKind::Look), 256);
    write(block, part, 2 * part);
    assert_eq!(other.untouched_bytes(heap), (2 << 30) - 2 * part, "nobody asks about the second part");
    write(block, 510 * part, 511 * part);
    assert_eq!(
        other.untouched_bytes(heap),
        (2 << 30) - 4 * part,
        "nor is it the last but one that is left out"
    );
    // At most 1,024 calls for all blocks: the highest is not asked about, so it counts as touched.
    let more =
        [(); 4].map(|()| get_touched(other, heap, 1 << 30, 0..0)).map(|more| (more, used(more, 1 << 30)));
    let all = more.into_iter().chain([(block, (2 << 30) - 4 * part)]);
    let highest = all.clone().max().unwrap();
    let before = calls(other, CallKind::Look);
    assert_eq!(other.untouched_bytes(heap), all.map(|(_, untouched)| untouched).sum::<usize>() - highest.1);
    assert_eq!(calls(other, CallKind::Look) - before, 1024);

    // What the system does not tell was touched.
    other.space().os().fail_kind(CallKind::Look, Errno(libc::ENOSYS));
    assert_eq!(other.untouched_bytes(heap), 0);
}

#[test]
fn what_is_not_touched_in_arenas_is_asked_for() {
    const PAGE: usize = 4096;
    let from = allocator(GRANULE);
    from.population().allow(false);
    let heap = possess(from, 1);
    // SAFETY: the test possesses the heap.
    let get = |_| unsafe { from.allocate::<Checked>(heap, 100, 4 * PAGE, false) }.expose_provenance();
    let blocks: Vec<usize> = (0..1000).map(get).collect();
    let absent = || from.absent_bytes(&from.census::<Checked>(heap)) as usize;
    assert_eq!(calls(from, CallKind::Look), 0);
    let all = absent();
    assert!(all.abs_diff(3 * 1000 * PAGE) <= 4 * PAGE, "all but the first page of each: {all}");
    assert_eq!(calls(from, CallKind::Look), (GRANULE >> 20) / 4);
    write(blocks[7], 2 * PAGE, 3 * PAGE);
    assert_eq!(absent(), all - PAGE);
    blocks.into_iter().for_each(|block| free(from, heap, block));
    let told = from.census::<Checked>(heap).arena_bytes() as usize;
    assert!(absent() > told / 2, "of what is free, too: {} of {told}", absent());
    // What the system does not tell was touched.
    from.os().fail_kind(CallKind::Look, Errno(libc::ENOSYS));
    assert_eq!(absent(), 0);
}

/// Of more than 4 GiB every second part is asked about, and stands for two.
#[test]
fn a_part_that_is_asked_about_stands_for_those_that_are_not() {
    const PAGE: usize = 4096;
    const COUNT: usize = 1400;
    let from = allocator(GRANULE);
    from.population().allow(false);
    let heap = possess(from, 1);
    (0..COUNT).for_each(|_| write(get(from, heap, LARGE_MAX), 0, PAGE));
    let census = from.census::<Checked>(heap);
    let touched = census.arena_bytes() - from.absent_bytes(&census);
    assert!(calls(from, CallKind::Look) <= 1024);
    assert!((touched as usize).abs_diff(COUNT * PAGE) < COUNT * PAGE / 4, "{touched} bytes");
}

/// Where huge pages come unasked, a block that shrinks gives back a part of one.
#[test]
fn what_a_block_gives_back_is_split_off() {
    const SHORTER: usize = (13 << 20) + 4096;
    let from = allocator(GRANULE);
    from.os().reconfigure(|config| config.folios = Folios { unasked: Folios::HUGE, ..Folios::NONE });
    from.learn_limits();
    let heap = possess(from, 1);
    let block = get(from, heap, 20 << 20);
    assert_eq!(resize(from, heap, block, SHORTER), Some(block));
    let calls = from.os().record();
    let gone = calls.iter().position(|call| call.kind == CallKind::Purge).expect("it gives back");
    let split = &calls[gone - 1];
    assert_eq!((split.kind, split.addr), (CallKind::Split, calls[gone].addr));
    assert_eq!(calls[gone].addr, block + SHORTER);
}

/// In a process of one thread, in which nobody comes by for it.
#[test]
fn no_region_waits_with_its_pages_for_the_next_free() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let blocks: Vec<usize> = (0..24).map(|number| get(from, heap, (9 << 20) + number * (1 << 18))).collect();
    for block in blocks {
        free(from, heap, block);
        assert_eq!(from.space().counts().retired, 0, "what is kept no more");
    }
    let other = allocator(GRANULE);
    let heap = possess(other, 1);
    let block = get(other, heap, 8 << 20);
    let runs = build_up(other, heap, 1 << 20, 60);
    other.settings().set_dirty(None, Some(80 << 20));
    runs.into_iter().for_each(|run| free(other, heap, run));
    other.give_back_kept_slices(heap.claimant());
    assert!(other.dirty_slices() * SLICE >= 60 << 20);
    other.settings().set_dirty(None, Some(4 << 20));
    free(other, heap, block);
    let left = other.space().counts();
    assert_eq!((left.retired, left.regions[0]), (0, 1), "an arena that is empty once a part of it is purged");
}

/// What may not stay goes with its region where the system does not take the pages alone: when the block is freed, and later.
#[test]
fn a_region_whose_pages_cannot_be_given_back_goes_as_a_whole() {
    for stays in [false, true] {
        let from = allocator(GRANULE);
        let (heap, most) = (possess(from, 1), if stays { 1 << 30 } else { 1 << 20 });
        from.settings().set_dirty(Some(0), Some(most));
        let block = get(from, heap, 20 << 20);
        from.space().os().fail_kind(CallKind::Purge, Errno(libc::EINVAL));
        free(from, heap, block);
        let kept = || from.huge_figures().kept_bytes().get();
        assert_eq!(kept(), if stays { 20 << 20 } else { 0 });
        from.huge().shrink_kept(from, heap.claimant(), SLICE);
        from.space().reap(Some(heap.slot()));
        assert_eq!((kept(), from.space().counts().regions[Kind::Huge as usize]), (0, 0));
    }
}

#[test]
fn a_block_that_is_to_be_zero_is_given_back_where_hardly_anything_was_written() {
    for (every, purges) in [(64, true), (1, false)] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        from.settings().set_dirty(None, Some(64 << 20));
        let size = 16 << 20;
        let block = get(from, heap, size);
        (0..size).step_by(every * 4096).for_each(|at| write(block, at, at + 1));
        free(from, heap, block);
        let before = calls(from, CallKind::Purge);
        // SAFETY: the test possesses its heap.
        let again = unsafe { from.allocate::<Checked>(heap, size, 1, true) }.addr();
        assert_eq!(
            (again / 4096, calls(from, CallKind::Purge) > before),
            (block / 4096, purges),
            "one page in {every}"
        );
        // SAFETY: inside the block.
        assert!((0..size).step_by(8).all(|at| unsafe { word(again + at).read() } == 0));
        free(from, heap, again);
    }
}

/// What is retired counts no more under a limit, so its pages go at once; and where others wait.
#[test]
fn what_is_retired_keeps_its_pages_only_where_it_waits_alone() {
    for (limit, waiting) in [(None, 0), (Some(1 << 30), 0), (None, 1), (None, 2)] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        from.settings().set_keep_huge(false);
        from.settings().set_limits(limit, None);
        from.population().allow(false);
        let blocks: Vec<usize> = (0..=waiting).map(|_| get(from, heap, 5 << 20)).collect();
        let section = from.space().rcu().enter_guest();
        blocks.iter().for_each(|&block| free(from, heap, block));
        let gone = if limit.is_some() { 1 } else { waiting };
        assert_eq!(calls(from, CallKind::Purge), gone, "limit {limit:?}, {waiting} wait");
        drop(section);
    }
}

/// A region that was kept is no place for what is to be aligned to more than it is.
#[test]
fn what_is_kept_is_not_taken_for_another_alignment() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let align = 4 * GRANULE;
    let blocks: Vec<usize> = (0..8).map(|_| get(from, heap, 5 << 20)).collect();
    let [odd, even]: [Vec<usize>; 2] = [false, true]
        .map(|even| blocks.iter().copied().filter(|at| (at / GRANULE).is_multiple_of(4) == even).collect());
    odd.iter().for_each(|&block| free(from, heap, block));
    assert!(!odd.is_empty() && from.huge().each_kept().count() > 0);
    // SAFETY: the test's own heap.
    let block = unsafe { from.allocate::<Checked>(heap, 5 << 20, align, false) }.addr();
    assert!(block.is_multiple_of(align) && !even.contains(&block));
    even.into_iter().chain([block]).for_each(|block| free(from, heap, block));
    from.audit::<Checked>();
}

/// What lies behind a block, and was an earlier and longer one's, is resident, and not zero.
#[test]
fn what_a_shorter_block_left_behind_it_is_zero_again() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    from.settings().set_dirty(None, Some(1 << 30));
    let long = 16 << 20;
    for size in [long, long - (1 << 20)] {
        let block = get(from, heap, size);
        write(block, 0, size);
        free(from, heap, block);
    }
    // SAFETY: the test's own heap.
    let block = unsafe { from.allocate::<Checked>(heap, long, 1, true) }.addr();
    // SAFETY: inside the block.
    assert!((0..long).step_by(8).all(|offset| unsafe { word(block + offset).read() } == 0));
    assert_eq!(from.huge().each_kept().count(), 0, "it is the same region");
}
