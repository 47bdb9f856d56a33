//! What one call may do for others, and what waits on its way between heaps.

use super::*;
use crate::heap::small::AT_ONCE;

/// Frees `blocks` in the heap of another thread, which then sends them all.
fn send(from: &Allocator<Os>, sender: &Heap, blocks: &[usize]) {
    blocks.iter().for_each(|&block| free(from, sender, block));
    sender.collect::<Checked, _>(from);
}

#[test]
fn no_call_takes_a_whole_inbox() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    let blocks: Vec<usize> = (0..20 * AT_ONCE).map(|_| get(from, owner, 48)).collect();
    send(from, sender, &blocks);
    let mut waiting = owner.mail::<Checked>();
    assert_eq!(waiting, blocks.len());
    let slices = from.claimed_slices();
    while waiting > 0 {
        // Of another size: none of what comes is of use.
        get(from, owner, 30_000);
        let left = owner.mail::<Checked>();
        assert!(waiting - left <= AT_ONCE, "{} blocks in one call", waiting - left);
        waiting = left;
    }
    assert!(from.claimed_slices() < slices + 40);
}

/// What waits does not become more, though each call receives but a part: a thread that makes what another frees.
#[test]
fn what_waits_does_not_become_more_while_its_heap_grows() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    let sizes = [16, 48, 1000, 30_000];
    let round = || {
        let blocks: Vec<usize> = (0..2000).map(|index| get(from, owner, sizes[index % 4])).collect();
        send(from, sender, &blocks);
    };
    (0..4).for_each(|_| round());
    let slices = from.claimed_slices();
    (0..40).for_each(|_| round());
    assert!(from.claimed_slices() <= slices + slices / 4, "{slices} slices at first");
}

/// A heap that was borrowed for one operation is given up with what it has not received yet, and the helper is told.
#[test]
fn what_a_borrowed_heap_has_left_is_seen() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    let blocks: Vec<usize> = (0..3 * AT_ONCE).map(|_| get(from, owner, 48)).collect();
    send(from, sender, &blocks);
    owner.settle::<Checked, _>(from);
    assert!(owner.inbox().is_empty() && owner.has_mail());
    from.give_up(owner);
    assert!(from.pool().has_unread_inbox());
    from.collect_idle::<Checked>(ThreadId::new(3));
    assert!(!from.pool().has_unread_inbox() && !owner.has_mail());
    assert_eq!(from.claimed_slices(), 0);
}

/// A thread that frees blocks of very many slabs pins a mebibyte of them at most, also if nobody tidies its heap.
#[test]
fn what_waits_to_be_sent_pins_few_slabs() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    // One block of each slab: of one slice, and of several.
    let blocks: Vec<usize> = [1 << 10, 20 << 10]
        .into_iter()
        .flat_map(|size| (0..60).map(move |_| fill(from, owner, size)[0]))
        .collect();
    for &block in blocks.iter().rev() {
        free(from, sender, block);
        assert!(sender.pinned() <= 16, "{} slices", sender.pinned());
    }
    assert!(owner.mail::<Checked>() >= blocks.len() - 16);
    sender.settle::<Checked, _>(from);
    assert_eq!((sender.pinned(), owner.mail::<Checked>()), (0, blocks.len()));
}

/// Blocks of more owners than an outbox has room for, by turns: most of those that have a place keep it.
#[test]
fn many_owners_by_turns_are_collected_for_all_the_same() {
    let from = allocator(GRANULE);
    let sender = possess(from, 100);
    let owners: Vec<_> = (1..=20).map(|number| possess(from, number)).collect();
    let blocks: Vec<Vec<usize>> =
        owners.iter().map(|owner| (0..64).map(|_| get(from, owner, 256)).collect()).collect();
    for index in 0..64 {
        blocks.iter().for_each(|blocks| free(from, sender, blocks[index]));
    }
    let waiting: usize = owners.iter().map(|owner| 64 - owner.mail::<Checked>()).sum();
    assert!(waiting > 0 && sender.pinned() <= 16);
    sender.settle::<Checked, _>(from);
    assert!(owners.iter().all(|owner| owner.mail::<Checked>() == 64));
}

/// Blocks that wait to be sent to a heap whose slab has become the sender's own meanwhile go where they belong.
#[test]
fn what_waits_for_a_slab_that_is_ones_own_by_now_goes_home() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    let blocks = fill(from, owner, 1 << 10);
    let rest = fill(from, owner, 1 << 10);
    // Available, so that it can be had from an idle heap.
    free_home(from, owner, blocks[0]);
    free(from, sender, blocks[1]);
    rest.iter().for_each(|&block| free_home(from, owner, block));
    from.give_up(owner);
    let own: Vec<usize> = (0..2).map(|_| get(from, sender, 1 << 10)).collect();
    assert!(own.contains(&blocks[0]) && ptr::eq(slab_of(from, blocks[0]).owner(), sender));
    sender.settle::<Checked, _>(from);
    assert_eq!((sender.pinned(), sender.mail::<Checked>()), (0, 0));
    blocks[2..].iter().chain(&own).for_each(|&block| free(from, sender, block));
    sender.collect::<Checked, _>(from);
    from.collect_idle::<Checked>(ThreadId::new(3));
    assert_eq!(from.claimed_slices(), 0);
}
