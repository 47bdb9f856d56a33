//! What one call may do for others, and what waits on its way between heaps.

use super::*;
use crate::heap::block::Block;
use crate::heap::lives::Round;
use crate::heap::small::AT_ONCE;

/// Frees `blocks` in the heap of another thread, which then sends them all.
fn send(from: &Allocator<Os>, sender: &Heap, blocks: &[usize]) {
    blocks.iter().for_each(|&block| free(from, sender, block));
    sender.collect::<Checked, _>(from);
}

/// A block that joins others of its slice is kept back with them, but not once their owner has gone.
#[test]
fn what_waits_with_others_goes_when_nobody_possesses_their_heap() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    let [first, second, third] = [(); 3].map(|()| get(from, owner, 48));
    free(from, sender, first);
    // SAFETY: this thread possesses both heaps and holds the blocks.
    let join =
        |block| unsafe { sender.free_along::<Checked>(ptr::with_exposed_provenance_mut::<Block>(block)) };
    assert!(matches!(join(second), Along::Freed) && sender.pinned() == 1);
    from.give_up(owner);
    let Along::ToSend(piece) = join(third) else { panic!("kept back for a thread that has gone") };
    // SAFETY: as above.
    unsafe { sender.send_along::<Checked, _>(from, piece) };
    assert_eq!(sender.pinned(), 0);
    from.collect_idle::<Checked>(ThreadId::new(3));
    assert_eq!(from.claimed_slices(), 0);
}

#[test]
fn no_call_takes_a_whole_inbox() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    // Of this size each block is a run.
    let blocks: Vec<usize> = (0..20 * AT_ONCE).map(|_| get(from, owner, 16)).collect();
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

/// What was freed for a heap comes home in runs, one for each slab and 16 KiB, whatever the slab's standing; what is told of
/// a run is written in none of its neighbours.
#[test]
fn what_is_sent_comes_home_in_runs() {
    for size in [16, 32, 48, 1_000, 6_000, 30_000] {
        let from = allocator(GRANULE);
        let (owner, sender) = (possess(from, 1), possess(from, 2));
        // The last slab is current, all others are full.
        let blocks: Vec<usize> = (0..(300 << 10) / size).map(|_| get(from, owner, size)).collect();
        let (sent, stay): (Vec<_>, Vec<_>) = blocks.iter().enumerate().partition(|(at, _)| at % 3 != 0);
        let words = |block: usize, size: usize| -> &mut [usize] {
            // SAFETY: a live block, which nobody else has.
            unsafe { std::slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(block), size / 8) }
        };
        stay.iter().for_each(|&(at, &block)| words(block, size).fill(at));
        // The second half comes to slabs that are available, and one of these is empty in the end.
        for half in sent.chunks(sent.len().div_ceil(2)) {
            let half: Vec<usize> = half.iter().map(|&(_, &block)| block).collect();
            send(from, sender, &half);
            let runs = owner.receive::<Checked, _>(from, usize::MAX);
            let slabs =
                half.iter().map(|block| block / SLICE).collect::<std::collections::BTreeSet<_>>().len();
            match size {
                16 => assert_eq!(runs, half.len()),
                _ => assert!(
                    runs <= slabs + half.len() * size.next_multiple_of(16) / (16 << 10) + 1,
                    "{runs} runs"
                ),
            }
            assert_eq!(owner.mail::<Checked>(), 0);
            from.audit::<Checked>();
        }
        for &(at, &block) in &stay {
            assert!(words(block, size).iter().all(|&word| word == at), "a neighbour of {size} bytes");
        }
        send(from, sender, &stay.iter().map(|&(_, &block)| block).collect::<Vec<_>>());
        owner.settle_all::<Checked, _>(from);
        from.audit::<Checked>();
        owner.collect::<Checked, _>(from);
        assert_eq!(from.claimed_slices(), 0);
    }
}

/// A run that comes to a heap which gave the slab away goes on to the one that has it, or is freed into it, if that is idle.
#[test]
fn a_run_follows_its_slab() {
    for is_idle in [false, true] {
        let from = allocator(GRANULE);
        let [old, new, sender] = [1, 2, 3].map(|thread| possess(from, thread));
        let blocks: Vec<usize> = (0..100).map(|_| get(from, old, 400)).collect();
        // The first slab is available then.
        let (sent, stay) = blocks.split_at(50);
        stay.iter().for_each(|&block| free(from, old, block));
        old.collect::<Checked, _>(from);
        send(from, sender, sent);
        assert!(old.mail::<Checked>() == 50 && old.give_away(class_of(400), new));
        if is_idle {
            from.give_up(new);
        }
        // Sixteen KiB, and the rest.
        assert_eq!(old.receive::<Checked, _>(from, usize::MAX), 2);
        assert_eq!(new.mail::<Checked>(), if is_idle { 0 } else { 50 });
        if !is_idle {
            assert_eq!(new.receive::<Checked, _>(from, usize::MAX), 2);
            from.audit::<Checked>();
            new.collect::<Checked, _>(from);
        }
        old.collect::<Checked, _>(from);
        from.collect_idle::<Checked>(ThreadId::new(4));
        assert_eq!(from.claimed_slices(), 0);
    }
}

/// A heap that was borrowed for one operation is given up with what it has not received yet, and the helper is told.
#[test]
fn what_a_borrowed_heap_has_left_is_seen() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    // Of this size each block is a run.
    let blocks: Vec<usize> = (0..3 * AT_ONCE).map(|_| get(from, owner, 16)).collect();
    send(from, sender, &blocks);
    owner.settle::<Checked, _>(from);
    assert!(owner.inbox().is_empty() && owner.has_mail());
    from.give_up(owner);
    assert!(from.pool().has_unread_inbox());
    from.collect_idle::<Checked>(ThreadId::new(3));
    assert!(!from.pool().has_unread_inbox() && !owner.has_mail());
    assert_eq!(from.claimed_slices(), 0);
}

/// Whoever looks for a slab in an idle heap takes in what was sent to that, and sends what is for others on.
#[test]
fn nothing_waits_in_a_heap_that_was_asked_for_a_slab() {
    let from = allocator(GRANULE);
    let [idle, next, sender, asks] = [1, 2, 3, 4].map(|number| possess(from, number));
    let blocks = fill(from, idle, 8 << 10);
    get(from, idle, 8 << 10);
    free_home(from, idle, blocks[0]);
    send(from, sender, &blocks[1..2]);
    assert!(idle.has_mail() && idle.give_away(class_of(8 << 10), next));
    from.give_up(idle);
    get(from, asks, 8 << 10);
    assert!(!idle.has_mail() && next.has_mail(), "it would hold the slab until somebody has the heap");
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

/// A thread that is visited when it idles may pin more while it is active, and nothing then.
#[test]
fn what_an_active_thread_pins_goes_home_when_it_idles() {
    let from = allocator(GRANULE);
    let (owner, sender, helper) = (possess(from, 1), possess(from, 2), possess(from, 3));
    from.open_gate(sender);
    let blocks: Vec<usize> = (0..200).map(|_| fill(from, owner, 1 << 10)[0]).collect();
    let mut most = 0;
    for &block in &blocks {
        free(from, sender, block);
        most = most.max(sender.pinned());
    }
    assert!((40..=64).contains(&most), "{most} slices");
    from.make_round::<Checked>(helper, Round::Untidied);
    assert_eq!((sender.pinned(), owner.mail::<Checked>()), (0, blocks.len()));
}

#[test]
fn nothing_waits_in_a_borrowed_heap() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    let blocks = [get(from, owner, 100), get(from, owner, 100)];
    let metadata = from.space().metadata().used();
    let free_at_once = |block| {
        // SAFETY: the test possesses both heaps, and the block is live.
        unsafe {
            let at = ptr::with_exposed_provenance_mut(block);
            sender.free_remote_at_once::<Checked, _>(from, slab_of(from, block), at);
        }
    };
    free_at_once(blocks[0]);
    assert_eq!((owner.mail::<Checked>(), from.space().metadata().used()), (1, metadata));
    // The owner's slab goes to who frees its blocks when nobody possesses it.
    owner.collect::<Checked, _>(from);
    from.give_up(owner);
    free_at_once(blocks[1]);
    sender.collect::<Checked, _>(from);
    from.collect_idle::<Checked>(sender.caller());
    assert_eq!((from.claimed_slices(), sender.remote_frees()), (0, 2));
}

/// A program that gives back more than it wants sends home what it has at hand: a part with each free.
#[test]
fn no_call_empties_a_whole_bin() {
    let from = allocator(GRANULE);
    let heap = possess(from, 1);
    let class = class_of(16);
    let mut blocks: Vec<usize> = (0..30_000).map(|_| get(from, heap, 16)).collect();
    for _ in 0..20 {
        let left = blocks.len() - 4_000;
        blocks.drain(left..).for_each(|block| free(from, heap, block));
        blocks.extend((0..4_000).map(|_| get(from, heap, 16)));
    }
    let (mut longest, mut before) = (0, heap.uncounted::<Checked>(class));
    let mut at_hand = before;
    for block in blocks {
        free(from, heap, block);
        let now = heap.uncounted::<Checked>(class);
        longest = longest.max(before.saturating_sub(now));
        at_hand = at_hand.max(now);
        before = now;
    }
    assert!(at_hand > 4 * AT_ONCE as u32, "{at_hand} blocks at hand");
    assert!((1..=AT_ONCE as u32).contains(&longest), "{longest} blocks in one call");
    assert!(before < 200, "{before} blocks are left at hand");
    heap.collect::<Checked, _>(from);
    assert_eq!(from.claimed_slices(), 0);
}

/// A heap in need of a slab looks at what was sent to idle ones, at some of it.
#[test]
fn no_call_receives_for_many_idle_heaps() {
    let from = allocator(GRANULE);
    let (heap, sender) = (possess(from, 1), possess(from, 2));
    let idle: Vec<_> = (3..10).map(|number| possess(from, number)).collect();
    // All of them are on their way home when their heap is given up. Of this size each block is a run.
    let blocks: Vec<Vec<usize>> =
        idle.iter().map(|idle| (0..AT_ONCE).map(|_| get(from, idle, 16)).collect()).collect();
    blocks.iter().for_each(|blocks| send(from, sender, blocks));
    idle.iter().for_each(|idle| from.give_up(idle));
    let mail = || idle.iter().map(|idle| idle.mail::<Checked>()).sum::<usize>();
    let mut before = mail();
    assert_eq!(before, idle.len() * AT_ONCE);
    for _ in 0..2_000 {
        get(from, heap, 3_000);
        let now = mail();
        assert!(before - now <= AT_ONCE, "{} blocks in one call", before - now);
        before = now;
    }
    assert_eq!(before, 0);
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

/// What leaves at a time, and is lost to the child of a fork in which the sender has vanished: a piece, and sixteen more.
#[test]
fn a_parcel_is_seventeen_pieces_at_most() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    from.open_gate(sender);
    // 16 KiB are sixteen of these.
    let slabs: Vec<Vec<usize>> = (0..40).map(|_| fill(from, owner, 1 << 10)).collect();
    let slices = slab_of(from, slabs[0][0]).slices();
    slabs.iter().flat_map(|slab| &slab[..15]).for_each(|&block| free(from, sender, block));
    assert_eq!((sender.pinned(), owner.mail::<Checked>()), (40 * slices, 0), "all wait");
    free(from, sender, slabs[0][15]);
    assert_eq!(sender.pinned(), 23 * slices);
    assert_eq!(owner.mail::<Checked>(), 16 + 16 * 15);
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

/// What is left of a thread that has gone is there for all, and not for the first who frees some of it.
#[test]
fn nobody_takes_over_more_than_a_few_slabs() {
    let from = allocator(GRANULE);
    let [gone, first, second] = [1, 2, 3].map(|number| possess(from, number));
    let of_a_slab = class_info(class_of(1_000)).capacity as usize;
    let blocks: Vec<usize> = (0..20 * of_a_slab).map(|_| get(from, gone, 1_000)).collect();
    from.give_up(gone);
    let claimed = from.claimed_slices();
    blocks.chunks(of_a_slab).for_each(|slab| free(from, first, slab[0]));
    let mut more: Vec<usize> = [second; 10].iter().map(|heap| get(from, heap, 1_000)).collect();
    more.extend([first; 5].iter().map(|heap| get(from, heap, 1_000)));
    assert_eq!(from.claimed_slices(), claimed, "new slabs beside those that have room");
    more.extend(blocks.chunks(of_a_slab).flat_map(|slab| &slab[1..]));
    more.into_iter().for_each(|block| free(from, first, block));
    from.audit::<Checked>();
}
