//! Heaps that are swept because others grow while their threads pause.

use super::*;
use crate::heap::small::AT_ONCE;

/// An owner comes in, and leaves.
fn step(from: &Allocator<Os>, heap: &Heap, body: impl FnOnce()) {
    assert!(heap.gate().enter() || from.readmit(heap, heap.caller()));
    body();
    heap.gate().leave();
}

/// An owner builds up 2 MiB of blocks of 500 to 1,500 bytes, and tears them down.
fn task(from: &Allocator<Os>, heap: &Heap) {
    step(from, heap, || {
        let blocks: Vec<usize> = (0..2_100).map(|block| get(from, heap, 500 + block * 377 % 1_000)).collect();
        blocks.into_iter().for_each(|block| free(from, heap, block));
    });
}

/// Bytes that are claimed when so many owners have had a task each by turns, so many times.
fn claimed_after(owners: usize, rounds: usize) -> usize {
    let from = allocator(GRANULE);
    let heaps: Vec<&Heap> = (1..=owners).map(|owner| possess(from, owner)).collect();
    heaps.iter().for_each(|heap| from.open_gate(heap));
    (0..rounds).for_each(|_| heaps.iter().for_each(|heap| task(from, heap)));
    from.audit::<Checked>();
    from.claimed_slices() * SLICE
}

#[test]
fn what_pausing_threads_have_free_is_taken_before_what_is_new() {
    for rounds in [1, 3] {
        let claimed = claimed_after(40, rounds);
        assert!(claimed <= 16 << 20, "{} MiB", claimed >> 20);
    }
}

#[test]
fn a_few_threads_keep_what_they_have() {
    let (one, claimed) = (claimed_after(1, 3), claimed_after(7, 3));
    assert!(claimed >= 6 * one, "{} of {} KiB", claimed >> 10, one >> 10);
}

#[test]
fn who_was_there_between_two_rounds_is_passed_over() {
    let from = allocator(GRANULE);
    let heaps = crowd(from);
    let (last, grower) = (heaps[7], heaps[8]);
    let grows = || step(from, grower, || from.sweep::<Checked>(grower));
    let left = || heaps[..8].iter().filter(|heap| heap.needs_collecting()).count();
    // All are probed, and then two are swept at a time, while there are eight.
    grows();
    assert_eq!(left(), 8);
    step(from, last, || {});
    grows();
    assert_eq!(left(), 6);
    step(from, last, || {});
    grows();
    assert_eq!(left(), 6, "no more than a few are left");
    assert!(last.needs_collecting());
}

/// Eight heaps that have something at hand, and one for whoever grows.
fn crowd(from: &Allocator<Os>) -> Vec<&'static Heap> {
    let heaps: Vec<&Heap> = (1..=9).map(|owner| possess(from, owner)).collect();
    for heap in &heaps {
        from.open_gate(heap);
        let sizes = || (1..=4).map(|size| size * 200);
        step(from, heap, || sizes().for_each(|size| free(from, heap, get(from, heap, size))));
    }
    heaps
}

#[test]
fn what_gives_little_is_let_alone_for_a_while() {
    let from = allocator(GRANULE);
    let heaps = crowd(from);
    heaps.iter().for_each(|heap| step(from, heap, || _ = build_up(from, heap, 1_000, 1)));
    let grows = || step(from, heaps[8], || from.sweep::<Checked>(heaps[8]));
    (0..2).for_each(|_| grows());
    let rests = || !from.watch().hand.is_due();
    assert!((0..4).all(|_| rests()) && !rests(), "what was swept was live");
}

#[test]
fn the_next_thread_of_a_swept_heap_has_one_that_can_be_swept() {
    let from = allocator(GRANULE);
    let heaps = crowd(from);
    (0..2).for_each(|_| step(from, heaps[8], || from.sweep::<Checked>(heaps[8])));
    let is_swept = |heap: &&&Heap| !from.watch().is_unswept(heap.index() as usize);
    let swept = heaps.iter().find(is_swept).expect("two of them");
    from.abandon::<Checked>(swept, swept.caller());
    let next = from.pool().possess_to_keep(from, ThreadId::new(20), Some(swept)).unwrap();
    from.open_gate(next);
    assert!(ptr::eq(next, *swept) && !is_swept(&&next));
}

/// Who has slabs, too.
#[test]
fn whoever_grows_by_large_blocks_sweeps_others() {
    let from = allocator(GRANULE);
    let heaps = crowd(from);
    let left = || heaps[..8].iter().filter(|heap| heap.needs_collecting()).count();
    let small = build_up(from, heaps[8], 1_000, 2);
    heaps[..8].iter().for_each(|heap| step(from, heap, || free(from, heap, get(from, heap, 1_000))));
    let before = left();
    let large: Vec<usize> = (0..40).map(|_| get(from, heaps[8], 1 << 20)).collect();
    let swept = heaps[..8].iter().filter(|heap| !from.watch().is_unswept(heap.index() as usize)).count();
    assert!(before == 8 && swept > 0, "{swept} of {before}");
    small.into_iter().chain(large).for_each(|block| free(from, heaps[8], block));
    from.audit::<Checked>();
}

/// Millions of blocks may have been sent to a heap: a sweep receives as many as a call may, and lets the rest be.
#[test]
fn a_sweep_receives_no_more_than_a_call_may() {
    let from = allocator(GRANULE);
    let heaps: Vec<&Heap> = (1..=9).map(|owner| possess(from, owner)).collect();
    heaps.iter().for_each(|heap| from.open_gate(heap));
    let (owner, grower) = (heaps[0], heaps[8]);
    let blocks: Vec<usize> = (0..20_000).map(|_| get(from, owner, 16)).collect();
    // Blocks so small come one by one.
    blocks.into_iter().for_each(|block| free(from, grower, block));
    grower.send_all::<Checked, _>(from);
    let sent = owner.mail::<Checked>();
    assert!(sent > 10 * AT_ONCE, "{sent} blocks are on their way");
    (0..2).for_each(|_| step(from, grower, || from.sweep::<Checked>(grower)));
    assert_eq!(owner.mail::<Checked>(), sent - AT_ONCE);
    assert!(!from.watch().is_unswept(owner.index() as usize) && owner.needs_collecting());
}

#[test]
fn the_hand_rests_after_sweeps_in_vain_for_longer_each_time() {
    let from = allocator(GRANULE);
    let hand = &from.watch().hand;
    let rests = || (0..).take_while(|_| !hand.is_due()).count();
    assert_eq!(rests(), 0);
    for left_out in [4, 8, 16, 32, 64, 64] {
        hand.note(false);
        assert_eq!(rests(), left_out);
    }
    hand.note(true);
    assert_eq!(rests(), 0);
    hand.note(false);
    assert_eq!(rests(), 4);
}

/// What lies in the bins of one that has very much is brought home block by block, for which others would wait.
#[test]
fn who_has_very_much_is_not_swept() {
    for (mib, swept) in [(24, true), (40, false)] {
        let from = allocator(GRANULE);
        let heaps: Vec<&Heap> = (1..=9).map(|owner| possess(from, owner)).collect();
        let owner = heaps[0];
        let blocks = build_up(from, owner, 1_000, mib);
        blocks.iter().step_by(2).for_each(|&block| free(from, owner, block));
        heaps.iter().for_each(|heap| from.open_gate(heap));
        assert!(owner.needs_collecting());
        (0..2).for_each(|_| step(from, heaps[8], || from.sweep::<Checked>(heaps[8])));
        assert!(!from.watch().is_unswept(owner.index() as usize));
        assert_eq!(owner.needs_collecting(), !swept, "with {mib} MiB");
    }
}
