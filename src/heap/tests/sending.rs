//! What one call may do for others, and what waits on its way between heaps.

use super::*;
use crate::heap::block::Block;
use crate::heap::lives::Round;
use crate::heap::record::Slab;
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

/// Who receives a chain has the blocks fetched that come a few places on, by what the sender noted: in a word that no live
/// block has.
#[test]
fn a_block_that_is_sent_leads_to_one_that_comes_later() {
    let from = allocator(GRANULE);
    let (owner, sender) = (possess(from, 1), possess(from, 2));
    let word =
        |block: usize, word: usize| ptr::with_exposed_provenance_mut::<usize>(block).wrapping_add(word);
    let mut slice = None;
    for size in [48, 16] {
        let blocks: Vec<usize> = (0..64).map(|_| get(from, owner, size)).collect();
        let (sent, stay): (Vec<_>, Vec<_>) = blocks.iter().enumerate().partition(|(at, _)| at % 2 == 0);
        for &(at, &block) in &stay {
            // SAFETY: a live block of two words at least.
            unsafe { (word(block, 0).write(at), word(block, 1).write(!at)) };
        }
        sent.iter().for_each(|&(_, &block)| free(from, sender, block));
        sender.collect::<Checked, _>(from);
        for &(at, &block) in &stay {
            // SAFETY: as above.
            assert_eq!(unsafe { [word(block, 0).read(), word(block, 1).read()] }, [at, !at]);
        }
        if size > 16 {
            // The last one is received first.
            for run in sent.windows(3) {
                // SAFETY: a free block of three words.
                assert_eq!(unsafe { word(*run[2].1, 2).read() }, *run[0].1);
            }
        }
        owner.settle::<Checked, _>(from);
        stay.iter().for_each(|&(_, &block)| free(from, owner, block));
        assert_eq!(owner.mail::<Checked>(), 0);
        // The next slab has the same slice, and so the same piece.
        owner.collect::<Checked, _>(from);
        assert!(*slice.get_or_insert(blocks[0] / SLICE) == blocks[0] / SLICE);
    }
}

/// A block that is sent on is free all along: what is noted in it leaves the mark that tells walks so.
#[test]
fn a_note_leaves_the_mark_of_a_block_that_is_sent_on() {
    let from = allocator(GRANULE);
    let owner = possess(from, 1);
    for size in [16, 48] {
        let address = get(from, owner, size);
        let block = ptr::with_exposed_provenance_mut::<Block>(address);
        let key = Block::key(block, owner.secret());
        // SAFETY: a live block, which nobody else has; it is marked as one that leaves its list.
        unsafe {
            Block::move_on::<Checked>(block, owner.secret());
            Block::note(block, Slab::of_live(block).note_place::<Checked>(), ptr::null_mut());
            assert!(Block::is_free_meanwhile(block, key), "of {size} bytes");
            Block::clear::<Checked>(block);
        }
        free(from, owner, address);
    }
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
    // More than half of them are on their way home when their heap is given up.
    let blocks: Vec<Vec<usize>> =
        idle.iter().map(|idle| (0..AT_ONCE).map(|_| get(from, idle, 48)).collect()).collect();
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
