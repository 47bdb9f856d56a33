//! Heaps that are visited while their threads end, or whose visitor forks.

use super::*;
use crate::heap::gate::Gate;

#[test]
fn what_a_handler_left_in_the_middle_of_a_step_stays_so() {
    let from = allocator(GRANULE);
    let (heap, visitor) = (possess(from, 1), ThreadId::new(2));
    from.open_gate(heap);
    assert!(heap.gate().enter() && heap.visit().knock(visitor));
    from.leave_heap::<Checked>(heap, ThreadId::new(1));
    assert!(heap.visit().end(visitor), "a heap in the middle of a step is given to its visitor");
    assert_eq!(heap.possession().possessor(), Some(ThreadId::new(1)));
}

/// A handler that interrupts a visit forks: in the child the owner is gone, and the visitor goes on.
#[test]
fn a_visitor_that_forks_gives_the_heap_up() {
    let from = allocator(GRANULE);
    let (owner, visitor) = (possess(from, 1), ThreadId::new(2));
    from.open_gate(owner);
    let block = get(from, owner, 100);
    let fork = |_: &Heap| {
        // SAFETY: this thread plays all of them, and is the visitor from here on.
        unsafe { from.child_after_fork(visitor, 0) };
    };
    from.visit::<Checked>(visitor, Gate::mark, |_| true, fork);
    assert!(from.pool().is_idle(owner.index() as usize) && owner.visit().visitor().is_none());
    let next = possess(from, 3);
    assert!(ptr::eq(next, owner));
    free(from, next, block);
    next.collect::<Checked, _>(from);
    assert_eq!(from.claimed_slices(), 0);
}

#[test]
fn a_heap_that_is_not_used_after_a_look_is_tidied_at_the_next() {
    let from = allocator(GRANULE);
    let (owner, helpers) = (possess(from, 1), possess(from, 2));
    let block = get(from, owner, 100);
    free(from, owner, block);
    from.open_gate(owner);
    for left in [true, false] {
        from.watch_heaps::<Checked>(helpers);
        assert_eq!((owner.needs_collecting(), from.has_untidied()), (left, left));
    }
}

/// A handler that forks while its thread is about to take something under a limit.
#[test]
fn a_child_keeps_no_promise_of_its_parent() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    assert!(from.limit().promise(1_000, 1_000, || 0));
    // SAFETY: this thread is the only one, and possesses its heap.
    unsafe { from.child_after_fork(ThreadId::new(1), 0) };
    from.audit::<Checked>();
    from.give_up(heap);
}

/// The next thread of a heap uses it, whether it was tidied before or left warm.
#[test]
fn what_is_known_of_a_heap_ends_with_its_next_thread() {
    let from = allocator(GRANULE);
    let (owner, helpers, other) = (possess(from, 1), possess(from, 2), possess(from, 3));
    let block = get(from, owner, 100);
    from.open_gate(owner);
    (0..2).for_each(|_| from.watch_heaps::<Checked>(helpers));
    assert!(!from.has_untidied());
    from.settings().set_helper(true);
    free(from, owner, get(from, other, 100));
    assert!(!other.has_mail() && !from.has_warm());
    from.abandon::<Checked>(owner, ThreadId::new(1));
    assert!(other.has_mail(), "what waits in the outbox would hold slabs of others");
    assert!(from.has_warm() && !from.has_untidied());
    let next = from.pool().possess_to_keep(from, ThreadId::new(4), Some(owner)).unwrap();
    assert!(ptr::eq(next, owner) && !from.has_warm(), "the helper would not look after others");
    from.open_gate(owner);
    assert!(from.has_untidied(), "the helper would not look after this one");
    free(from, owner, block);
}
