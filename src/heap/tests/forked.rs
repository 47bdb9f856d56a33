//! What a fork leaves of threads in the middle of system calls: there most of them are, for the process's map is locked as
//! long as it is copied.

use super::*;
use crate::pal::Access;
use crate::pal::simulated::Mapping;
use std::vec;

/// What is smaller goes with its mapping, and is lost with it.
const MOST_LOST: usize = 1 << 20;

/// How much of the named regions is resident, in bytes.
pub(super) fn resident_bytes(from: &Allocator<Os>) -> usize {
    let os = from.os();
    let pages_of = |mapping: &Mapping| vec![0; mapping.range.len() / os.page_size()];
    let regions = os.mappings().into_iter().filter(|mapping| mapping.name.is_some());
    let accessible = regions.filter(|mapping| mapping.access == Access::ReadWrite);
    let resident = accessible.map(|mapping| {
        let mut pages = pages_of(&mapping);
        os.are_resident(mapping.range.start, &mut pages).unwrap();
        pages.iter().filter(|&&page| page & 1 == 1).count() * os.page_size()
    });
    resident.sum()
}

pub(super) fn write(block: usize, bytes: usize) {
    // SAFETY: a live block of the test's.
    unsafe { ptr::with_exposed_provenance_mut::<u8>(block).write_bytes(1, bytes) };
}

/// What a thread that vanishes at its call number `nth` of `give_back` had in hand, with a block of the child's: how much of
/// it stays resident in the child; `None` if it came to the end.
fn lost_at(nth: u64, give_back: fn(&Allocator<Os>, &Heap, usize)) -> Option<usize> {
    let from = allocator(GRANULE);
    let (heap, gone) = (possess(from, 1), possess(from, 2));
    from.settings().set_dirty(None, Some(1 << 30));
    let sizes = [12 << 20, 9 << 20, 2 << 20, 700 << 10, 600 << 10, 3 << 20, 7 << 20];
    let blocks = sizes.map(|bytes| get(from, heap, bytes));
    blocks.into_iter().zip(sizes).for_each(|(block, bytes)| write(block, bytes));
    let [freed @ .., last] = blocks;
    freed.into_iter().for_each(|block| free(from, heap, block));
    heap.collect::<Checked, _>(from);
    assert!(from.huge_figures().kept_bytes().get() > 0 && from.dirty_slices() > 0);
    from.os().vanish_at(from.os().record().len() as u64 + nth);
    let victim = std::thread::spawn(move || give_back(from, gone, last));
    while from.os().waits_for_vanishing() && !victim.is_finished() {
        std::thread::yield_now();
    }
    if from.os().waits_for_vanishing() {
        return None;
    }
    // SAFETY: the other thread does nothing any more. And what was found is not found again.
    (0..2).for_each(|_| unsafe { from.child_after_fork(heap.caller(), 0) });
    from.audit_child::<Checked>();
    if from.place(last).is_ok() {
        free(from, heap, last);
    }
    heap.collect::<Checked, _>(from);
    from.collect_idle::<Checked>(heap.caller());
    (0..3).for_each(|_| from.give_back_all(heap.claimant()));
    assert_eq!(from.claimed_slices(), 0, "at its call {nth}");
    Some(resident_bytes(from))
}

/// Demands that hardly anything is lost, at whichever call a thread vanishes; `calls` of them at least.
fn loses_nothing(calls: u64, give_back: fn(&Allocator<Os>, &Heap, usize)) {
    let mut nth = 0;
    while let Some(lost) = lost_at(nth, give_back) {
        assert!(lost <= MOST_LOST, "{lost} bytes are lost at call {nth}");
        nth += 1;
    }
    assert!(nth >= calls, "only {nth} calls");
}

#[test]
fn what_a_thread_was_giving_back_goes_back_in_the_child() {
    // Purges, and unmaps.
    loses_nothing(8, |from, gone, _| from.give_back_all(gone.claimant()));
    // One region that is kept, and a part of another.
    loses_nothing(2, |from, gone, _| {
        let left = from.huge().shrink_kept(from, gone.claimant(), 14 << 20);
        assert_eq!(left, 0);
    });
    // One that is retired with its pages.
    loses_nothing(3, |from, gone, _| {
        let kept = from.huge().take_kept(from, gone.claimant(), 12 << 20, 1);
        assert!(kept.is_some_and(|region| from.space().retire_region(region)));
        from.space().reap(Some(gone.slot()));
    });
}

#[test]
fn what_a_thread_was_freeing_goes_back_in_the_child() {
    // Kept without its pages; and unmapped.
    loses_nothing(1, |from, gone, block| {
        from.settings().set_dirty(Some(0), Some(1));
        free(from, gone, block);
    });
    loses_nothing(2, |from, gone, block| {
        from.settings().set_keep_huge(false);
        from.settings().set_reserve(false);
        free(from, gone, block);
    });
}

/// A heap that lays what is free in its slabs fallow: how much that is all know, also in the child.
#[test]
fn what_was_laid_fallow_is_known_in_the_child() {
    for nth in [0, 100] {
        let from = allocator(GRANULE);
        let (heap, gone) = (possess(from, 1), possess(from, 2));
        let blocks = build_up(from, gone, 5_000, 8);
        blocks.iter().skip(1).step_by(2).for_each(|&block| free(from, gone, block));
        gone.collect::<Checked, _>(from);
        from.os().vanish_at(from.os().record().len() as u64 + nth);
        let victim = std::thread::spawn(|| gone.give_back_pages::<Checked, _>(from, 1));
        while from.os().waits_for_vanishing() {
            assert!(!victim.is_finished(), "fewer than {nth} calls");
            std::thread::yield_now();
        }
        // SAFETY: the other thread does nothing any more.
        unsafe { from.child_after_fork(heap.caller(), 0) };
        from.audit_child::<Checked>();
        assert_eq!(from.hollow().get() > 0, nth > 0);
    }
}

/// Where there is a helper, it unmaps what is retired when it comes by. In the child there is none.
#[test]
fn what_waits_to_be_unmapped_does_not_wait_in_the_child() {
    let from = allocator(GRANULE);
    let (heap, gone) = (possess(from, 1), possess(from, 2));
    from.settings().set_keep_huge(false);
    from.settings().set_helper(true);
    free(from, gone, get(from, gone, 7 << 20));
    assert_eq!(from.space().counts().retired, 1);
    // SAFETY: this thread plays all of them.
    unsafe { from.child_after_fork(heap.caller(), 0) };
    assert_eq!(from.space().counts().retired, 0);
}
