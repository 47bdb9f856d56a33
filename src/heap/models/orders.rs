//! Orderings, by loom. What is handed over is a cell of the checker: an access that is not ordered after the last
//! holder's is reported.

use super::super::small::remote::Inbox;
use super::*;
use crate::index::models::watched::Watched;
use crate::sync::checker::{explore, models};
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("heap.inbox_push", "the release of a chain that is sent", "inbox"),
    SeededBug::new("heap.inbox_take", "the acquire of what was sent", "inbox"),
    SeededBug::new(
        "heap.inbox_push",
        "the release of a block that is sent, and the fence behind it",
        "last_touch_of_a_send",
    ),
    SeededBug::new("heap.inbox_push_two_steps", "the one step of a push", "inbox"),
    SeededBug::new("heap.inbox_take_two_steps", "the one step of a take", "inbox"),
    SeededBug::new("heap.possess", "the acquire of a heap", "possession"),
    SeededBug::new("heap.give_up", "the release of a heap", "possession"),
    SeededBug::new("heap.possess_two_steps", "the one step of taking possession", "possession"),
    SeededBug::new("heap.huge_keep", "the release of a kept region", "kept_regions"),
    SeededBug::new("heap.huge_take", "the acquire of a kept region", "kept_regions"),
    SeededBug::new("heap.huge_take_two_steps", "the one step of taking a kept region", "kept_regions"),
    SeededBug::new("heap.table_publish", "the release of an arena's entry in the table", "arena_published"),
    SeededBug::new("heap.made_publish", "the release of a heap that was made", "heap_made"),
    SeededBug::new("heap.made_read", "the acquire of a heap that was made", "heap_made"),
    SeededBug::new("heap.lent_unelected", "the election of who makes a heap that is lent", "lent_and_kept"),
    SeededBug::new("heap.lent_kept", "the look whether an idle heap is only lent", "lent_and_kept"),
    SeededBug::new("heap.ring_fence", "the fence before the look whether the helper sleeps", "helper_woken"),
    SeededBug::new("heap.doze_fence", "the fence before the helper's last look", "helper_woken"),
    SeededBug::new(
        "heap.doze_looks_early",
        "the order of the helper's last look and its sleep",
        "helper_woken",
    ),
    SeededBug::new("heap.ring_without_wake", "the wake of the helper", "helper_woken"),
    SeededBug::new(
        "heap.give_up_fence",
        "the fence between giving up and the look at the inbox",
        "sent_to_an_exiting",
    ),
    SeededBug::new("heap.give_up_blind", "the look at the inbox after giving up", "sent_to_an_exiting"),
    SeededBug::new(
        "heap.post_fence",
        "the fence between sending and the look at the owner",
        "sent_to_an_exiting",
    ),
    SeededBug::new("heap.post_blind", "the look whether the owner has become idle", "sent_to_an_exiting"),
    SeededBug::new("heap.table_read", "the acquire of an arena's entry in the table", "arena_published"),
];

/// Something that one thread at a time holds.
struct Held(UnsafeCell<u32>);

// SAFETY: the checker verifies that accesses do not overlap.
unsafe impl Sync for Held {}

impl Held {
    fn new() -> Held {
        Held(UnsafeCell::new(0))
    }

    /// Uses it, and returns how often it was used before.
    fn use_it(&self) -> u32 {
        // SAFETY: the checker verifies that no access overlaps.
        self.0.with_mut(|value| unsafe {
            *value += 1;
            *value - 1
        })
    }
}

/// Blocks on their way to an owner, and what their senders did with them.
struct Sent {
    inbox: Inbox,
    blocks: [std::cell::UnsafeCell<[usize; 2]>; 2],
    held: [Held; 2],
    arrived: Held,
}

// SAFETY: the words of a block are touched by its holder only, as `held` proves.
unsafe impl Sync for Sent {}

impl Sent {
    const SECRET: usize = 0x5eed_5eed;

    fn address(&self, index: usize) -> *mut Block {
        self.blocks[index].get().cast()
    }

    fn send(&self, index: usize) {
        self.held[index].use_it();
        let block = self.address(index);
        // SAFETY: this thread alone holds the block.
        unsafe { self.inbox.push::<Checked>(block, block, Sent::SECRET) };
    }

    /// By one thread at a time.
    fn receive(&self) {
        let received = crate::sync::atomic::AtomicPtr::new(ptr::null_mut());
        self.inbox.take(&received);
        let mut block = received.load(Ordering::Relaxed);
        while !block.is_null() {
            // SAFETY: the chain is ours.
            let next = unsafe { Block::next::<Checked>(block, Sent::SECRET) }.expect("a free block");
            let index = (0..2).find(|index| self.address(*index) == block).expect("one of the blocks");
            assert_eq!(self.held[index].use_it(), 1, "a block came twice");
            self.arrived.use_it();
            block = next;
        }
    }
}

/// Two senders and an owner: each block arrives once, and what its sender did with it has happened.
fn inbox() {
    explore(3, || {
        let sent = Arc::new(Sent {
            inbox: Inbox::new(),
            blocks: Default::default(),
            held: [Held::new(), Held::new()],
            arrived: Held::new(),
        });
        // Not the senders: see `api::publication` for which thread had better be the first.
        let owner = {
            let sent = Arc::clone(&sent);
            thread::spawn(move || sent.receive())
        };
        let other = {
            let sent = Arc::clone(&sent);
            thread::spawn(move || sent.send(1))
        };
        sent.send(0);
        other.join().unwrap();
        owner.join().unwrap();
        sent.receive();
        assert_eq!(sent.arrived.use_it(), 2, "a block was lost");
    });
}

/// Two threads try for one idle heap: one at a time has it, and sees what the last one did.
fn possession() {
    explore(3, || {
        let world = Arc::new((Base::new(), Held::new()));
        let heap = world.0.possess();
        let index = heap.index() as usize;
        world.1.use_it();
        world.0.get().pool().give_up(heap);
        let threads = [(); 2].map(|()| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let pool = world.0.get().pool();
                let Some(heap) = pool.possess(index, THREAD) else { return 0 };
                world.1.use_it();
                pool.give_up(heap);
                1
            })
        });
        let had: u32 = threads.map(|thread| thread.join().unwrap()).iter().sum();
        assert!(had >= 1, "nobody got an idle heap");
        assert_eq!(world.1.use_it(), 1 + had);
    });
}

/// A huge block is freed while two threads ask for one: at most one of them gets the region, when the last holder is
/// done with it.
fn kept_regions() {
    explore(2, || {
        let world = Arc::new((Base::new(), Held::new()));
        let from = world.0.get();
        let by = world.0.possess().claimant();
        let block = from.allocate_huge(by, 3 * SLICE, 1, false);
        let Ok(Place::Huge(region)) = from.place(block.addr()) else { unreachable!("a huge block") };
        let takers = [(); 2].map(|()| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let from = world.0.get();
                let taken = from.huge().take_kept(from, by, 3 * SLICE, 1);
                if taken.is_some() {
                    world.1.use_it();
                }
                taken.is_some()
            })
        });
        world.1.use_it();
        assert!(from.huge().keep(from, by, region));
        let taken = takers.map(|taker| taker.join().unwrap());
        assert!(taken != [true, true], "one region for two");
        assert_eq!(from.huge().take_kept(from, by, 3 * SLICE, 1).is_some(), taken == [false, false]);
    });
}

/// An arena is entered in the table while another thread looks there: whoever finds it finds it complete.
fn arena_published() {
    explore(2, || {
        let world = Arc::new(Base::new());
        let (first, second) = (world.possess(), world.possess());
        let from = world.get();
        let all = from.claim(first.claimant(), 6, 1, Prefer::Any).expect("an arena");
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let from = world.get();
                let section = second.section(from);
                let region = from.arenas().region(1, &section)?;
                // Relaxed: what `release` does with it.
                Some((region.base() != 0, region.arena().position()))
            })
        };
        let claim = from.claim(first.claimant(), 1, 1, Prefer::Any).expect("another arena");
        assert!(claim.base.abs_diff(all.base) >= 6 * SLICE);
        let found = other.join().unwrap();
        assert!(
            found.is_none_or(|found| found == (true, Some(1))),
            "the arena's base and position: {found:?}"
        );
    });
}

/// Two threads make memory idle while the helper takes what there is and goes to sleep: it does not sleep for ever.
fn helper_woken() {
    explore(3, || {
        struct World {
            os: Simulated,
            bell: Bell,
            idle: AtomicUsize,
        }
        let os = Simulated::with(Config { reserve: GRANULE, ..Config::default() });
        let world = Arc::new(World { os, bell: Bell::new(), idle: AtomicUsize::new(0) });
        let workers = [(); 2].map(|()| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                // Relaxed, here and below: the bell alone is to order it.
                world.idle.fetch_add(1, Ordering::Relaxed);
                world.bell.ring(&world.os);
            })
        });
        let mut taken = 0;
        loop {
            taken += world.idle.swap(0, Ordering::Relaxed);
            if taken == workers.len() {
                break;
            }
            world.bell.doze(&world.os, None, || world.idle.load(Ordering::Relaxed) != 0);
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}

/// A block is sent to a heap that is given up at the same time: whoever comes second wakes the helper, which otherwise
/// would sleep on while the block lies in an inbox that nobody reads.
fn sent_to_an_exiting() {
    explore(2, || {
        let world = Arc::new(Base::new());
        let over = Arc::new(AtomicUsize::new(0));
        let (from, owner, sender) = (world.get(), world.possess(), world.possess());
        // SAFETY: this thread possesses the heap.
        let block = unsafe { from.allocate::<Checked>(owner, 8 << 10, 1, false) }.expose_provenance();
        let on_thread = |body: fn(&'static Allocator<Simulated>, &'static Heap, usize), heap| {
            let world = Arc::clone(&world);
            thread::spawn(move || body(world.get(), heap, block))
        };
        let helper = {
            let (world, over) = (Arc::clone(&world), Arc::clone(&over));
            thread::spawn(move || {
                let from = world.get();
                // Relaxed: the bell orders it.
                let awake = || from.has_idle_memory() || over.load(Ordering::Relaxed) != 0;
                from.bell().doze(from.space().os(), None, awake);
            })
        };
        let exiting = on_thread(|from, owner, _| from.give_up(owner), owner);
        let sending = on_thread(
            |from, heap, block| {
                let place = from.place(block).expect("a live block");
                // SAFETY: this thread possesses the heap, and the block is its.
                unsafe { from.free::<Checked>(heap, ptr::with_exposed_provenance_mut(block), place) };
            },
            sender,
        );
        exiting.join().unwrap();
        sending.join().unwrap();
        if !from.pool().has_unread_inbox() {
            // The block went home by itself: the helper may sleep on, but for the end of this model.
            over.store(1, Ordering::Relaxed);
            from.ring();
        }
        helper.join().unwrap();
    });
}

/// A heap is made while another thread looks at all that there are: whoever finds it finds it complete.
fn heap_made() {
    explore(3, || {
        let world = Arc::new(Base::new());
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let pool = world.get().pool();
                // The number of heaps may be known before the heap is.
                pool.get(0).is_none_or(|heap| heap.inbox().is_empty() && heap.index() == 0)
            })
        };
        let heap = world.possess();
        assert!(other.join().unwrap());
        assert_eq!(heap.index(), 0);
    });
}

/// Two threads borrow a heap for a moment, and one of them keeps one then: one at a time has each, and what is lent is
/// never kept, and lent again.
fn lent_and_kept() {
    explore(1, || {
        let world = Arc::new((Base::new(), [(); 3].map(|()| Held::new())));
        let borrow = |world: &(Base, [Held; 3])| {
            let from = world.0.get();
            let heap = from.pool().lend(from, THREAD).expect("heaps enough");
            world.1[heap.index() as usize].use_it();
            from.pool().give_up(heap);
        };
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || borrow(&world))
        };
        borrow(&world);
        let pool = world.0.get().pool();
        let kept = pool.possess_to_keep(world.0.get(), THREAD, None).expect("heaps enough");
        world.1[kept.index() as usize].use_it();
        assert!(!kept.is_lent(), "what is only lent was kept");
        other.join().unwrap();
        assert_eq!(pool.each().filter(|heap| heap.is_lent()).count(), 1, "one for each place");
        assert!(pool.lend(world.0.get(), THREAD).is_some_and(Heap::is_lent), "it is not lent again");
    });
}

/// A block goes home from another thread, its slab and its arena become empty, and the arena is unmapped: whatever the
/// other thread did with the arena comes before that, and the push of the block is the last of it.
fn last_touch_of_a_send() {
    explore(2, || {
        let world = Arc::new(Base::on(Watched::new()));
        let (from, owner, sender) = (world.get(), world.possess(), world.possess());
        // SAFETY: this thread possesses the heap.
        let block = unsafe { from.allocate::<Checked>(owner, 8 << 10, 1, false) }.expose_provenance();
        let arena = from.arena_of(block).base();
        world.os.watch(arena);
        let unmap = |from: &'static Allocator<Watched>| {
            owner.collect::<Checked, _>(from);
            from.unmap_empty(owner.claimant());
            from.space().reap(Some(owner.slot()));
        };
        // Not the sender: see `api::publication` for which thread had better be the first.
        let owning = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                unmap(world.get());
                unmap(world.get());
            })
        };
        let place = from.place(block).expect("a live block");
        world.os.touch(arena);
        // SAFETY: this thread possesses the heap, and the block is its.
        unsafe { from.free::<Checked>(sender, ptr::with_exposed_provenance_mut(block), place) };
        owning.join().unwrap();
        (0..3).for_each(|_| unmap(from));
        assert_eq!(from.space().counts().mapped, 0, "the arena is still there");
    });
}

models! {
    inbox possession kept_regions arena_published helper_woken sent_to_an_exiting heap_made lent_and_kept
    last_touch_of_a_send
}
