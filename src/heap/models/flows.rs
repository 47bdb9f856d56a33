//! Whole paths, by shuttle: several threads, one allocator. A ledger knows every live block: no two overlap, and each
//! keeps what its holder wrote. In the end everything is given back, and nothing may be left claimed.
//!
//! Memory that was unmapped too early would fault. So before it is touched the index is asked, which forgets a region
//! before it is unmapped, and shuttle switches threads at atomics only.

use super::*;
use crate::pal::Errno;
use crate::pal::simulated::CallKind;
use crate::sync::checker::{explore, models};
use shuttle::thread;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Schedules drawn for each model, of either kind.
const SCHEDULES: usize = 1000;
/// Eight blocks to a slab of one slice, extended by one block at a time.
const MEDIUM: usize = 8 << 10;
const HUGE: usize = LARGE_MAX + 1;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("heap.possess_two_steps", "the one step of taking possession", "remote_frees"),
    SeededBug::new(
        "heap.steal_unpossessed",
        "possession of the heap that a slab is taken from",
        "remote_frees",
    ),
    SeededBug::new("heap.no_forward", "the look at the owner of a block that was received", "forwarded"),
    SeededBug::new(
        "heap.hand_over_keeps_own",
        "forgetting a slab that another heap took over",
        "remote_frees",
    ),
    SeededBug::new("heap.retire_unfrozen", "the freeze of an arena that is retired", "arenas_come_and_go"),
    SeededBug::new("region.purge_without_claim", "the claim of what is purged", "purged_beside_claims"),
    SeededBug::new("heap.purge_unchecked", "the look at whether a purge succeeded", "purge_that_fails"),
    SeededBug::new(
        "heap.extend_unclaimed",
        "the claim of the slices that a block grows into",
        "grown_in_place",
    ),
    SeededBug::new("heap.huge_take_two_steps", "the one step of taking a kept region", "huge_blocks"),
];

struct World {
    base: Base,
    /// Live blocks: address -> bytes and mark.
    ledger: Mutex<BTreeMap<usize, (usize, u8)>>,
    /// Blocks on their way from one thread to another.
    passed: Mutex<Vec<usize>>,
}

impl World {
    fn new() -> Arc<World> {
        Arc::new(World { base: Base::new(), ledger: Mutex::default(), passed: Mutex::default() })
    }

    fn demand_place(&self, at: usize) -> Place {
        self.base.get().place(at).unwrap_or_else(|misuse| panic!("a live block is taken for: {misuse:?}"))
    }

    fn ends(at: usize, bytes: usize) -> [*mut u8; 2] {
        [at, at + bytes - 16].map(ptr::with_exposed_provenance_mut)
    }

    fn enter(&self, at: usize, bytes: usize) {
        self.demand_place(at);
        let mut ledger = self.ledger.lock().unwrap();
        let below = ledger.range(..at + bytes).next_back();
        assert!(below.is_none_or(|(other, (bytes, _))| other + bytes <= at), "{at:#x} is handed out twice");
        let mark = (at / 16 + ledger.len()) as u8 | 1;
        // SAFETY: the allocator handed the block out, and it is mapped (see above).
        World::ends(at, bytes).into_iter().for_each(|end| unsafe { end.write_bytes(mark, 16) });
        ledger.insert(at, (bytes, mark));
    }

    fn leave(&self, at: usize) -> Place {
        let place = self.demand_place(at);
        let (bytes, mark) = self.ledger.lock().unwrap().remove(&at).expect("a live block");
        for end in World::ends(at, bytes) {
            // SAFETY: the block is ours, and mapped.
            let found = unsafe { end.cast::<[u8; 16]>().read() };
            assert_eq!(found, [mark; 16], "the block at {at:#x} was written by another");
        }
        place
    }

    fn pass(&self, at: usize) {
        self.passed.lock().unwrap().push(at);
    }

    fn passed(&self) -> Option<usize> {
        self.passed.lock().unwrap().pop()
    }

    /// Gives everything back and demands that nothing is left.
    fn finish(&self) {
        let from = self.base.get();
        let actor = Actor::new(self);
        while let Some(at) = self.passed() {
            actor.free(at);
        }
        actor.leave();
        assert!(self.ledger.lock().unwrap().is_empty());
        // What an idle heap received for another it sends on; so once more than there are heaps.
        for _ in 0..=MAX_HEAPS {
            from.collect_idle::<Checked>();
        }
        assert_eq!(from.arenas().claimed_slices(), 0, "blocks were lost");
        let heap = self.base.possess();
        for _ in 0..3 {
            from.relieve(heap);
        }
        let counts = from.space().counts();
        assert_eq!(counts.regions, [0; 3], "regions were lost");
        assert_eq!(counts.retired, 0);
    }
}

/// A thread with its heap.
struct Actor<'a> {
    world: &'a World,
    from: &'static Allocator<Simulated>,
    heap: &'static Heap,
}

impl<'a> Actor<'a> {
    fn new(world: &'a World) -> Actor<'a> {
        Actor::with(world, world.base.possess())
    }

    fn with(world: &'a World, heap: &'static Heap) -> Actor<'a> {
        Actor { world, from: world.base.get(), heap }
    }

    fn get(&self, bytes: usize, zero: bool) -> usize {
        // SAFETY: this thread possesses the heap.
        let block = unsafe { self.from.allocate::<Checked>(self.heap, bytes, 1, zero) };
        assert!(!block.is_null(), "out of memory");
        let at = block.expose_provenance();
        if zero {
            self.world.demand_place(at);
            for end in World::ends(at, bytes) {
                // SAFETY: the block is ours, and mapped.
                assert_eq!(unsafe { end.cast::<[u8; 16]>().read() }, [0; 16], "not zero");
            }
        }
        self.world.enter(at, bytes);
        at
    }

    fn free(&self, at: usize) {
        let place = self.world.leave(at);
        // What the fast path of a free asks.
        // SAFETY: records outlive the model; the fields asked for are atomics there.
        if let Some(slab) = unsafe { self.heap.own_slab(at).as_ref() }
            && slab.is_block(at.wrapping_sub(slab.base()))
        {
            assert!(ptr::eq(slab.owner(), self.heap), "a heap takes another's slab for its own");
        }
        // SAFETY: this thread possesses the heap and the block.
        unsafe { self.from.free::<Checked>(self.heap, ptr::with_exposed_provenance_mut(at), place) };
    }

    fn resize(&self, at: usize, bytes: usize) -> usize {
        let place = self.world.leave(at);
        // SAFETY: this thread possesses the heap and the block, whose kind stays.
        let resized = unsafe { self.from.resize(self.heap, place, bytes, 1) };
        let moved = resized.map(pointer_address);
        self.world.enter(moved.unwrap_or(at), if moved.is_some() { bytes } else { SLICE });
        moved.unwrap_or(at)
    }

    /// What a thread does when it exits.
    fn leave(self) {
        self.heap.settle::<Checked, _>(self.from);
        self.from.give_up(self.heap);
    }
}

fn pointer_address(block: *mut u8) -> usize {
    block.expose_provenance()
}

fn spawn(world: &Arc<World>, body: impl FnOnce(&World) + Send + 'static) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || body(&world))
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Blocks go home from other threads while their owner leaves, its heap is tidied and goes to another thread, and its
/// slabs are taken over by those who free.
fn remote_frees() {
    explore(SCHEDULES, || {
        let world = World::new();
        let owner = Actor::new(&world);
        let heaps = [world.base.possess(), world.base.possess()];
        for _ in 0..10 {
            world.pass(owner.get(MEDIUM, false));
        }
        let senders = heaps.map(|heap| {
            spawn(&world, move |world| {
                let actor = Actor::with(world, heap);
                for _ in 0..3 {
                    world.passed().into_iter().for_each(|at| actor.free(at));
                }
                let blocks = [(); 3].map(|()| actor.get(MEDIUM, false));
                actor.free(blocks[0]);
                world.pass(blocks[1]);
                world.passed().into_iter().for_each(|at| actor.free(at));
                actor.free(blocks[2]);
                actor.leave();
            })
        });
        let successor = spawn(&world, |world| {
            world.base.get().collect_idle::<Checked>();
            let actor = Actor::new(world);
            let at = actor.get(MEDIUM, false);
            world.passed().into_iter().for_each(|at| actor.free(at));
            actor.free(at);
            actor.leave();
        });
        world.pass(owner.get(MEDIUM, false));
        owner.leave();
        join(senders);
        join([successor]);
        world.finish();
    });
}

/// A slab moves to another heap while a block of it is on its way to the old one, which sends it on.
fn forwarded() {
    explore(SCHEDULES, || {
        let world = World::new();
        let owner = Actor::new(&world);
        let heaps = [world.base.possess(), world.base.possess()];
        let mut blocks = [(); 9].map(|()| owner.get(MEDIUM, false)).into_iter();
        // The first slab was full, and can now be given away.
        blocks.next().into_iter().for_each(|at| owner.free(at));
        let sent = blocks.next();
        blocks.for_each(|at| world.pass(at));
        owner.leave();
        let [sender, thief] = heaps;
        let sender = spawn(&world, move |world| {
            let actor = Actor::with(world, sender);
            sent.into_iter().for_each(|at| actor.free(at));
            actor.leave();
        });
        let thief = spawn(&world, move |world| {
            let actor = Actor::with(world, thief);
            let at = actor.get(MEDIUM, false);
            actor.free(at);
            actor.leave();
        });
        join([sender, thief]);
        world.finish();
    });
}

/// Arenas fill and empty while another thread retires those that are empty.
fn arenas_come_and_go() {
    explore(SCHEDULES, || {
        let world = World::new();
        let users = [(); 2].map(|()| {
            spawn(&world, |world| {
                let actor = Actor::new(world);
                for _ in 0..2 {
                    let blocks = [(); 3].map(|()| actor.get(2 * SLICE, false));
                    blocks.into_iter().for_each(|at| actor.free(at));
                }
                actor.leave();
            })
        });
        let unmapper = spawn(&world, |world| {
            let actor = Actor::new(world);
            for _ in 0..3 {
                actor.from.arenas().unmap_empty(actor.from, actor.heap);
            }
            actor.leave();
        });
        join(users);
        join([unmapper]);
        world.finish();
    });
}

fn purged(fails: bool, zero: [bool; 3]) {
    let world = World::new();
    let actor = Actor::new(&world);
    [(); 3].map(|()| actor.get(SLICE, false)).into_iter().for_each(|at| actor.free(at));
    actor.leave();
    if fails {
        world.base.os.fail_kind(CallKind::Purge, Errno(libc::EINVAL));
    }
    let users = [(); 2].map(|()| {
        spawn(&world, move |world| {
            let actor = Actor::new(world);
            for zero in zero {
                let at = actor.get(SLICE, zero);
                thread::yield_now();
                actor.free(at);
            }
            actor.leave();
        })
    });
    let purger = spawn(&world, |world| {
        let actor = Actor::new(world);
        for _ in 0..3 {
            actor.from.arenas().purge(actor.from, actor.heap, usize::MAX);
        }
        actor.leave();
    });
    join(users);
    join([purger]);
    world.base.os.heal();
    world.finish();
}

/// Slices are purged while others claim and use slices: what is live keeps its contents, what should be zero is.
fn purged_beside_claims() {
    explore(SCHEDULES, || purged(false, [false, false, true]));
}

/// The same when the system refuses to purge.
fn purge_that_fails() {
    explore(SCHEDULES, || purged(true, [true; 3]));
}

/// A large block grows in place while another thread claims slices.
fn grown_in_place() {
    explore(SCHEDULES, || {
        let world = World::new();
        let users = [(); 2].map(|()| {
            spawn(&world, |world| {
                let actor = Actor::new(world);
                for _ in 0..2 {
                    let at = actor.get(SLICE, false);
                    let at = actor.resize(at, 2 * SLICE);
                    thread::yield_now();
                    actor.free(at);
                }
                actor.leave();
            })
        });
        join(users);
        world.finish();
    });
}

/// Huge blocks are freed, kept, taken, grown and dropped.
fn huge_blocks() {
    explore(SCHEDULES, || {
        let world = World::new();
        let users = [(); 2].map(|()| {
            spawn(&world, |world| {
                let actor = Actor::new(world);
                for _ in 0..3 {
                    let at = actor.get(HUGE, true);
                    thread::yield_now();
                    actor.free(at);
                }
                actor.leave();
            })
        });
        let dropper = spawn(&world, |world| {
            let actor = Actor::new(world);
            let at = actor.get(HUGE, false);
            actor.free(at);
            actor.from.huge().drop_kept(actor.from, 0);
            actor.from.space().reap(Some(actor.heap.slot()));
            actor.leave();
        });
        join(users);
        join([dropper]);
        assert_eq!(world.base.get().huge().live_blocks(), 0);
        world.finish();
    });
}

models! {
    remote_frees forwarded arenas_come_and_go purged_beside_claims purge_that_fails grown_in_place huge_blocks
}
