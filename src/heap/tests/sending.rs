//! What one call may do for others, and what waits on its way between heaps.

use super::*;
use crate::heap::local::AT_ONCE;

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
    let slices = from.arenas().claimed_slices();
    while waiting > 0 {
        // Of another size: none of what comes is of use.
        get(from, owner, 30_000);
        let left = owner.mail::<Checked>();
        assert!(waiting - left <= AT_ONCE, "{} blocks in one call", waiting - left);
        waiting = left;
    }
    assert!(from.arenas().claimed_slices() < slices + 40);
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
    let slices = from.arenas().claimed_slices();
    (0..40).for_each(|_| round());
    assert!(from.arenas().claimed_slices() <= slices + slices / 4, "{slices} slices at first");
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
    from.collect_idle::<Checked>(Holder::new(3));
    assert!(!from.pool().has_unread_inbox() && !owner.has_mail());
    assert_eq!(from.arenas().claimed_slices(), 0);
}
