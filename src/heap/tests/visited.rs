//! Heaps that are visited while their threads end, or whose visitor forks.

use super::*;
use crate::heap::gate::Gate;
use crate::rcu::ReaderSlot;

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
    let fork = |heap: &Heap| {
        let _section = heap.section(from);
        // SAFETY: this thread plays all of them, and is the visitor from here on.
        unsafe { from.child_after_fork(visitor, 0) };
        assert!(heap.slot().is_inside(), "the visitor is in the middle of something");
    };
    from.visit::<Checked>(visitor, Gate::mark, |_| true, fork);
    assert!(from.pool().is_idle(owner.index() as usize) && owner.visit().visitor().is_none());
    let next = possess(from, 3);
    assert!(ptr::eq(next, owner));
    free(from, next, block);
    next.collect::<Checked, _>(from);
    assert_eq!(from.claimed_slices(), 0);
}

/// A thread that has left its heap to a visitor forks, as it may in what it still runs at its end.
#[test]
fn what_was_left_to_a_vanished_visitor_is_nobodys() {
    let from = allocator(GRANULE);
    let (owner, visitor) = (ThreadId::new(1), ThreadId::new(2));
    let heap = possess(from, 1);
    from.open_gate(heap);
    assert!(heap.visit().knock(visitor));
    heap.gate().mark();
    from.leave_heap::<Checked>(heap, owner);
    assert!(heap.visit().is_gone() && !from.pool().is_idle(heap.index() as usize));
    // SAFETY: this thread plays both, and is the one that has left from here on.
    unsafe { from.child_after_fork(owner, 0) };
    assert!(from.pool().is_idle(heap.index() as usize));
    from.audit_child::<Checked>();
}

/// A thread that was a guest all along, and had little: its heap has nothing to give back.
#[test]
fn what_is_warm_and_has_nothing_is_tidied_once() {
    let from = allocator(GRANULE);
    from.settings().set_helper(true);
    let owner = possess(from, 1);
    from.open_gate(owner);
    from.abandon::<Checked>(owner, ThreadId::new(1));
    assert!(from.has_warm() && !owner.needs_collecting());
    from.collect_idle::<Checked>(ThreadId::new(2));
    assert!(!from.has_warm(), "the helper would not sleep");
}

/// Where there is no helper nobody looks later at what a thread leaves.
#[test]
fn what_is_free_in_a_heap_goes_back_with_its_thread() {
    for has_helper in [false, true] {
        let from = allocator(GRANULE);
        from.settings().set_helper(has_helper);
        let owner = possess(from, 1);
        from.open_gate(owner);
        let blocks: Vec<usize> = [100, 10_000, 100_000].map(|size| get(from, owner, size)).into();
        blocks.into_iter().for_each(|block| free(from, owner, block));
        assert!(owner.needs_collecting() && from.claimed_slices() > 0);
        from.abandon::<Checked>(owner, ThreadId::new(1));
        assert_eq!((owner.needs_collecting(), from.claimed_slices() > 0), (has_helper, has_helper));
        from.audit::<Checked>();
    }
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

/// A thread may vanish when it has lent room to its heap, or taken it back, and has not counted that.
#[test]
fn a_child_counts_anew_what_is_lent_to_heaps() {
    let from = allocator(GRANULE);
    let gone = possess(from, 1);
    for (lent, counted) in [(3, 0), (0, 3)] {
        gone.claimant().spares().lend(lent);
        from.lent().add(counted);
        // SAFETY: this thread is the only one.
        unsafe { from.child_after_fork(ThreadId::new(2), 0) };
        from.audit_child::<Checked>();
    }
}

/// Readers without a heap are told apart by the number that their slot has of them.
#[test]
fn a_child_keeps_the_sections_of_its_own_thread_and_of_no_other() {
    let from = allocator(GRANULE);
    let rcu = from.space().rcu();
    let slots = [5, 6].map(|number| {
        let slot = &*Box::leak(Box::new(ReaderSlot::new()));
        slot.belong_to(number);
        // SAFETY: a fresh slot that lives forever.
        unsafe { rcu.attach(slot) };
        slot
    });
    // SAFETY: this thread plays those of both slots, which are attached.
    let sections = slots.map(|slot| unsafe { rcu.enter(slot) });
    // SAFETY: as above, and is the one of number 5 from here on.
    unsafe { from.child_after_fork(ThreadId::new(1), 5) };
    assert_eq!(slots.map(ReaderSlot::is_inside), [true, false]);
    let [own, vanished] = sections;
    core::mem::forget(vanished);
    drop(own);
    assert!(!slots[0].is_inside());
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
