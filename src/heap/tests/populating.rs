//! When the population bet is taken, on the simulated system, which has huge pages and whose clock stands still: the bet
//! is always won.

use super::*;
use crate::heap::huge_tests::resize;
use crate::pal::Access;
use crate::pal::simulated::CallKind;
use crate::sync::Counter;

const MIB: usize = 1 << 20;

fn taken(from: &Allocator<Os>) -> u64 {
    let bet = from.bets().population;
    assert_eq!((bet.won, bet.lost), (bet.taken, 0));
    bet.taken
}

fn touch(block: usize, len: usize) {
    for page in (block..block + len).step_by(4096) {
        // SAFETY: inside the block.
        unsafe { ptr::with_exposed_provenance_mut::<u8>(page).write(1) };
    }
}

#[test]
fn a_heap_that_grows_steadily_is_populated_from_its_second_arena_on() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let _held = build_up(from, heap, 960, 30);
    assert_eq!(taken(from), 0, "a small one");
    let _more = build_up(from, heap, 960, 130);
    assert_eq!(taken(from), 5);
}

#[test]
fn a_heap_that_gives_back_on_its_way_is_not() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let mut held = build_up(from, heap, 1_000, 20);
    for _ in 0..5 {
        held.extend(build_up(from, heap, 1_000, 10));
        build_up(from, heap, 3_000_000, 20).iter().for_each(|&block| free(from, heap, block));
        assert!(taken(from) <= 1, "before anything was given back");
        from.give_back_all(heap.claimant());
    }
    // Nor of small blocks, however much is live.
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let mut held = build_up(from, heap, 1_000, 20);
    for _ in 0..8 {
        let more = build_up(from, heap, 3_000, 8);
        held.extend(build_up(from, heap, 1_000, 10));
        more.iter().for_each(|&block| free(from, heap, block));
        heap.collect::<Checked, _>(from);
        from.give_back_all(heap.claimant());
    }
    assert!(taken(from) <= 1, "{}", taken(from));
}

#[test]
fn a_heap_that_gave_back_all_is_populated_again() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    // (From the third cycle on the memory stays.)
    for (huge, bets) in [(4, 4), (4, 8), (4, 8)] {
        let held = build_up(from, heap, 1_000, 130);
        assert_eq!((huge_arenas(from, &held), taken(from)), (huge, bets));
        held.into_iter().for_each(|block| free(from, heap, block));
    }
}

/// How many of the arenas in which these blocks lie are populated by huge pages.
fn huge_arenas(from: &Allocator<Os>, blocks: &[usize]) -> usize {
    let arenas: BTreeSet<usize> = blocks.iter().map(|block| block / GRANULE * GRANULE).collect();
    arenas.into_iter().filter(|&arena| from.os().prefers_huge_pages(arena)).count()
}

#[test]
fn what_an_arena_gives_back_stays_given_back() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let mut held = build_up(from, heap, 1_000, 130);
    assert_eq!((taken(from), huge_arenas(from, &held)), (4, 4));
    // One block in each ten slabs stays.
    let kept: Vec<usize> = held.iter().copied().step_by(650).collect();
    held.retain(|block| kept.binary_search(block).is_err());
    let splits = || from.os().record().iter().filter(|call| call.kind == CallKind::Split).count();
    assert_eq!(splits(), 0);
    held.iter().for_each(|&block| free(from, heap, block));
    from.give_back_all(heap.claimant());
    assert_eq!(huge_arenas(from, &kept), 0);
    assert_eq!(taken(from), 4);
    // What goes of a huge page that stays in part is split off first.
    assert!(splits() > 0);
}

#[test]
fn so_does_what_is_behind_a_large_block() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    from.settings().set_dirty(Some(1000), Some(1 << 30));
    let held = build_up(from, heap, 1_000, 130);
    assert_eq!(huge_arenas(from, &held), 4);
    held.iter().for_each(|&block| free(from, heap, block));
    let purged = from.purged_bytes();
    let block = get(from, heap, 34_000);
    assert!(from.purged_bytes() > purged, "a tail");
    assert_eq!(huge_arenas(from, &[block]), 0);
}

#[test]
fn large_blocks_count_if_those_that_were_freed_were_touched() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let _held = build_up(from, heap, MIB - 4096, 90);
    assert_eq!(taken(from), 0, "nobody knows");
    from.settings().set_dirty(Some(1000), Some(1 << 30));
    for _ in 0..80 {
        let blocks = build_up(from, heap, MIB - 4096, 20);
        blocks.iter().for_each(|&block| touch(block, MIB - 4096));
        blocks.iter().for_each(|&block| free(from, heap, block));
    }
    let _more = build_up(from, heap, MIB - 4096, 150);
    assert!(taken(from) >= 3, "{}", taken(from));
}

#[test]
fn a_huge_block_is_populated_after_one_that_was_touched() {
    let from = allocator(GRANULE);
    from.settings().set_dirty(Some(0), Some(0));
    let heap = possess(from, 1);
    for round in 0..3 {
        let block = get(from, heap, 20 * MIB);
        assert_eq!(taken(from), u64::from(round > 0), "once for a region");
        touch(block, 20 * MIB);
        free(from, heap, block);
    }
    from.settings().set_dirty(Some(1000), Some(1 << 30));
    let block = get(from, heap, 20 * MIB - 5_000);
    // What comes at once may be resident: up to the next huge page.
    let Ok(Place::Huge(region)) = from.place(block) else { panic!("not huge") };
    assert_eq!(region.huge().dirty(), 20 * MIB);
}

#[test]
fn a_block_that_grows_is_populated_if_it_was_filled() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    // By so little that it is not worth it; in its region, which is twice as long; beyond it; and once more.
    for (from_mib, to_mib, bets) in [(20, 22, 0), (20, 36, 1), (20, 90, 1), (36, 90, 1), (6, 40, 0)] {
        for filled in [true, false] {
            let before = taken(from);
            let block = get(from, heap, from_mib * MIB);
            if filled {
                touch(block, from_mib * MIB);
            }
            let block = resize(from, heap, block, to_mib * MIB).unwrap();
            let bets = if filled { bets } else { 0 };
            assert_eq!(taken(from) - before, bets, "{from_mib} to {to_mib} MiB, filled: {filled}");
            assert_eq!(from.os().prefers_huge_pages(block), bets > 0);
            for page in (block..block + from_mib * MIB).step_by(4096) {
                // SAFETY: inside the block.
                let byte = unsafe { ptr::with_exposed_provenance::<u8>(page).read() };
                assert_eq!(byte, u8::from(filled), "what it holds is as it was");
            }
            from.settings().set_keep_huge(false);
            free(from, heap, block);
        }
    }
}

/// What comes resident goes as a whole, and what the block still has stays.
#[test]
fn a_populated_block_gives_back_whole_huge_pages() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let block = get(from, heap, 20 * MIB);
    let Ok(Place::Huge(region)) = from.place(block) else { panic!("not huge") };
    touch(block, 20 * MIB);
    assert_eq!((resize(from, heap, block, 35 * MIB).unwrap(), taken(from)), (block, 1));
    assert_eq!(region.huge().dirty(), 36 * MIB, "what comes with the last page");
    touch(block, 35 * MIB);
    assert_eq!((resize(from, heap, block, 21 * MIB).unwrap(), region.huge().dirty()), (block, 22 * MIB));
    let record = from.os().record();
    let last = record.iter().rfind(|call| call.kind == CallKind::Purge).expect("what was given back");
    assert_eq!((last.addr, last.len), (block + 22 * MIB, 14 * MIB));
    for page in (block..block + 21 * MIB).step_by(4096) {
        // SAFETY: inside the block.
        assert_eq!(unsafe { ptr::with_exposed_provenance::<u8>(page).read() }, 1);
    }
}

/// What comes at once with a block that has grown beyond its region may be resident, too.
#[test]
fn a_block_that_moved_is_dirty_in_whole_huge_pages() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let block = get(from, heap, 20 * MIB);
    touch(block, 20 * MIB);
    let moved = resize(from, heap, block, 91 * MIB).unwrap();
    let Ok(Place::Huge(region)) = from.place(moved) else { panic!("not huge") };
    assert!(moved != block);
    assert_eq!((taken(from), region.huge().dirty()), (1, 92 * MIB));
}

#[test]
fn what_lies_behind_a_block_is_not_touched_for_a_bet() {
    let from = allocator(GRANULE);
    from.settings().set_keep_huge(false);
    let heap = possess(from, 1);
    let block = get(from, heap, 20 * MIB);
    touch(block, 20 * MIB);
    free(from, heap, block);
    let block = get(from, heap, 70 * MIB);
    assert_eq!(taken(from), 1);
    let Ok(Place::Huge(region)) = from.place(block) else { panic!("not huge") };
    let behind = region.len() - region.huge().used();
    assert!(behind >= 70 * MIB, "the reserve");
    // The simulated system's memory is the real one's.
    let mut resident = std::vec![0_u8; behind / 4096];
    let at = ptr::with_exposed_provenance_mut(region.base() + region.huge().used());
    // SAFETY: the range is mapped, and the vector has a byte for each of its pages.
    assert_eq!(unsafe { libc::mincore(at, behind, resident.as_mut_ptr()) }, 0);
    assert_eq!(resident.iter().filter(|&&page| page & 1 != 0).count(), 0, "pages that nobody has asked for");
}

#[test]
fn nobody_bets_where_it_is_switched_off() {
    let from = allocator(GRANULE);
    from.population().allow(false);
    let heap = possess(from, 1);
    let _held = build_up(from, heap, 1_000, 100);
    assert_eq!(taken(from), 0);
}

/// A program writes to each page of a block where that has it, not where the page begins.
#[test]
fn a_block_that_was_touched_is_known_to_be_wherever_it_begins() {
    let from = allocator(GRANULE);
    from.settings().set_dirty(Some(0), Some(0));
    let heap = possess(from, 1);
    let _first = get(from, heap, 20 * MIB);
    let block = get(from, heap, 20 * MIB);
    assert!(!block.is_multiple_of(2048));
    touch(block, 20 * MIB);
    free(from, heap, block);
    assert_eq!(taken(from), 0);
    let _next = get(from, heap, 20 * MIB);
    assert_eq!(taken(from), 1);
}

/// Of a run of one page, behind which nothing is mapped.
#[test]
fn a_look_is_at_the_page_and_at_nothing_else() {
    let from = allocator(GRANULE);
    let (os, looks) = (from.os(), Counter::new());
    let at = os.map(None, os.page_size(), Access::ReadWrite).unwrap();
    // By this clock, which stands, all writes are faults.
    from.population().measure_fault(os, get(from, possess(from, 1), 60_000));
    for colour in (0..24 << 10).step_by(64) {
        for (written, given_back) in [(1, 0), (0, at)] {
            looks.set(0);
            // SAFETY: the mapping is this test's.
            unsafe {
                ptr::with_exposed_provenance_mut::<u8>(at + (colour ^ 2048) % 4096).write(written);
                from.population().sample_run(os, &|page| looks.add(page), [at, colour], os.page_size());
            }
            assert_eq!(looks.get(), given_back, "{colour}");
        }
    }
}
