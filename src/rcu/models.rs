//! Models of the whole layer, on the real code: a thing is published, read, unlinked and freed.
//!
//! A thing is a cell of the checker, which reports every read that is not ordered before the write that stands for
//! its being freed. Run with `RUSTFLAGS="--cfg loom" cargo test --profile model --lib -p specmalloc rcu`.

use super::interrupt::arm;
use super::*;
use crate::base::GRANULE;
use crate::pal::Platform;
use crate::pal::simulated::{Barrier, Config, Simulated};
use crate::sync::atomic::{AtomicBool, AtomicUsize};
use crate::sync::checker::{explore, explore_all, models};
use crate::sync::{SeededBug, set_bare, spin_hint};
use loom::cell::UnsafeCell;
use loom::thread;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("rcu.light_barrier", "the light barrier at the entry", "grace_period"),
    SeededBug::new("rcu.heavy_barrier", "the heavy barrier of the waiter", "grace_period"),
    SeededBug::new(
        "rcu.entry_fence",
        "the fence at the entry where there is no membarrier",
        "grace_period_fenced",
    ),
    SeededBug::new(
        "rcu.heavy_fence",
        "the waiter's fence where there is no membarrier",
        "grace_period_fenced",
    ),
    SeededBug::new("rcu.leave_relaxed", "the release at the end of a section", "grace_period"),
    SeededBug::new("rcu.enter_relaxed", "the release at the entry, for the section before", "grace_period"),
    SeededBug::new("rcu.read_relaxed", "the acquire of the waiter's look", "grace_period"),
    SeededBug::new("rcu.any_change", "the look at the generation alone: any change counts", "nested"),
    SeededBug::new("rcu.same_generation", "the new generation of each section", "busy_reader"),
    SeededBug::new("rcu.nested_without_barrier", "the barrier of a nested entry", "interrupted"),
    SeededBug::new("rcu.attach_relaxed", "the release when a slot is attached", "attached_meanwhile"),
    SeededBug::new("rcu.head_relaxed", "the acquire when the slots are looked at", "attached_meanwhile"),
    SeededBug::new("rcu.attach_fence", "the fence behind the attaching of a slot", "no_longer_alone"),
    SeededBug::new(
        "rcu.alone_fence",
        "the fence before the look whether others have a slot",
        "no_longer_alone",
    ),
    SeededBug::new("rcu.alone_looks_early", "the order of that fence and that look", "no_longer_alone"),
    SeededBug::new("rcu.leave_relaxed", "the release at the end of a section", "slot_reused"),
    SeededBug::new("rcu.undecided_entry", "the fence at an entry before the start", "started_meanwhile"),
    SeededBug::new("rcu.guest_fence", "the fence at a guest's entry", "guests"),
    SeededBug::new("rcu.guest_leave_relaxed", "the release at the end of a guest's section", "guests"),
    SeededBug::new("rcu.guests_ignored", "the look at the guests", "reclaimed_from_guests"),
    SeededBug::new("rcu.retire_relaxed", "the release when a link is retired", "reclaimed"),
    SeededBug::new("rcu.snapshot_early", "the order of barrier and snapshot", "reclaimed"),
    SeededBug::new("rcu.no_wait", "the wait for the snapshot", "reclaimed"),
    SeededBug::new(
        "rcu.above_relaxed",
        "the acquire of what is above a batch that is cut off",
        "batch_of_two",
    ),
    SeededBug::new("rcu.lock_relaxed", "the acquire of the reclaimer's lock", "two_reclaimers"),
    SeededBug::new("rcu.unlock_relaxed", "the release of the reclaimer's lock", "two_reclaimers"),
    SeededBug::new("rcu.idle_before_cut", "the step that a vanished reclaimer leaves behind", "forked"),
    SeededBug::new("rcu.child_keeps_lock", "the freeing of a vanished reclaimer's lock", "forked"),
    SeededBug::new("rcu.child_keeps_count", "the count of what waits, in a child", "forked"),
    SeededBug::new("rcu.child_keeps_sections", "the closing of vanished threads' sections", "forked"),
];

/// A system with or without a barrier; nothing else of it is used here.
fn system(barrier: Barrier) -> Simulated {
    Simulated::with(Config { barrier, reserve: GRANULE, ..Config::default() })
}

/// Nothing is published.
const NOTHING: usize = usize::MAX;

/// Two things, one place to publish each, and readers for them.
struct World {
    rcu: Rcu,
    os: Simulated,
    slots: [ReaderSlot; 2],
    published: [AtomicUsize; 2],
    things: [UnsafeCell<u32>; 2],
    links: [RetireLink; 2],
}

impl World {
    /// Started, both things published, the first `attached` slots attached.
    fn new(os: Simulated, attached: usize) -> Arc<World> {
        let world = World::undecided(os, attached);
        world.rcu.start(&world.os);
        world
    }

    fn undecided(os: Simulated, attached: usize) -> Arc<World> {
        let world = Arc::new(World {
            rcu: Rcu::new(),
            os,
            slots: [ReaderSlot::new(), ReaderSlot::new()],
            published: [AtomicUsize::new(0), AtomicUsize::new(1)],
            things: [UnsafeCell::new(0), UnsafeCell::new(0)],
            links: [RetireLink::new(), RetireLink::new()],
        });
        for slot in 0..attached {
            world.attach(slot);
        }
        world
    }

    fn attach(&self, slot: usize) {
        // SAFETY: each model attaches each slot once, and the world outlives its threads.
        unsafe { self.rcu.attach(&self.slots[slot]) }
    }

    fn enter(&self, slot: usize) -> Section<'_> {
        // SAFETY: the slot is attached, and in each model one thread at a time uses it.
        unsafe { self.rcu.enter(&self.slots[slot]) }
    }

    /// What a reader does inside a section. Relaxed: nothing but the section protects it.
    fn look(&self, place: usize) {
        let thing = self.published[place].load(Ordering::Relaxed);
        if thing != NOTHING {
            // SAFETY: the checker verifies that no write overlaps.
            self.things[thing].with(|value| unsafe { value.read() });
        }
    }

    fn read(&self, slot: usize) {
        let section = self.enter(slot);
        self.look(0);
        drop(section);
    }

    fn unlink(&self, place: usize) {
        // Relaxed: that readers see it is what the grace period is for.
        self.published[place].store(NOTHING, Ordering::Relaxed);
    }

    fn free(&self, thing: usize) {
        // SAFETY: the checker verifies that no read overlaps.
        let before = self.things[thing].with_mut(|value| unsafe { value.replace(1) });
        assert_eq!(before, 0, "freed twice");
    }

    fn retire(&self, place: usize) {
        self.unlink(place);
        // SAFETY: unlinked, and each model retires each link once.
        unsafe { self.rcu.retire(&self.links[place]) }
    }

    fn reclaim(&self, own: Option<usize>) -> usize {
        self.rcu.reclaim(&self.os, own.map(|slot| &self.slots[slot]), |link| {
            self.free(usize::from(core::ptr::eq(link, &self.links[1])));
        })
    }

    fn reclaim_all(&self, own: Option<usize>) {
        while self.rcu.statistics().pending != 0 {
            self.reclaim(own);
            spin_hint();
        }
    }

    fn unmap(&self, own: Option<usize>) {
        self.unlink(0);
        self.rcu.synchronize(&self.os, own.map(|slot| &self.slots[slot])).unwrap();
        self.free(0);
    }
}

fn spawn(world: &Arc<World>, body: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || body(&world))
}

fn grace_period_on(barrier: Barrier) {
    explore_all(move || {
        let world = World::new(system(barrier), 1);
        let reader = spawn(&world, |world| {
            world.read(0);
            world.read(0);
        });
        world.unmap(None);
        reader.join().unwrap();
    });
}

fn grace_period() {
    grace_period_on(Barrier::Works);
}

fn grace_period_fenced() {
    grace_period_on(Barrier::Missing);
}

/// The inner section ends before the outer one looks.
fn nested() {
    explore_all(|| {
        let world = World::new(system(Barrier::Works), 1);
        let reader = spawn(&world, |world| {
            let outer = world.enter(0);
            drop(world.enter(0));
            world.look(0);
            drop(outer);
        });
        world.unmap(None);
        reader.join().unwrap();
    });
}

/// A signal handler reads at each step of a reader.
fn interrupted() {
    for point in 0..7 {
        for barrier in [Barrier::Works, Barrier::Missing] {
            explore_all(move || {
                let world = World::new(system(barrier), 1);
                let inner = Arc::clone(&world);
                let reader = spawn(&world, move |world| {
                    assert!(arm(point, move || inner.read(0), || world.read(0)));
                });
                world.unmap(None);
                reader.join().unwrap();
            });
        }
    }
}

/// A thread starts, attaches its slot, reads and exits during a grace period, beside one that was there before.
fn attached_meanwhile() {
    explore(3, || {
        let world = World::new(system(Barrier::Works), 1);
        let old = spawn(&world, |world| world.read(0));
        let new = spawn(&world, |world| {
            world.attach(1);
            world.read(1);
        });
        world.unmap(None);
        old.join().unwrap();
        new.join().unwrap();
    });
}

/// The only thread with a slot unmaps while a second one attaches its own and reads. Whenever the waiter takes itself
/// to be alone the light barrier must not be needed, so there is none here; and where it runs the heavy one, this model
/// ends.
fn no_longer_alone() {
    struct Bare;
    impl Drop for Bare {
        fn drop(&mut self) {
            set_bare(false);
        }
    }
    set_bare(true);
    let _bare = Bare;
    explore_all(|| {
        let world = World::new(system(Barrier::Works), 1);
        let second = spawn(&world, |world| {
            world.attach(1);
            world.read(1);
        });
        let barriers = world.os.calls().barrier;
        world.unlink(0);
        world.rcu.synchronize(&world.os, Some(&world.slots[0])).unwrap();
        if world.os.calls().barrier == barriers {
            world.free(0);
        }
        second.join().unwrap();
    });
}

/// A thread reads while another starts the whole thing and unmaps.
fn started_meanwhile() {
    explore_all(|| {
        let world = World::undecided(system(Barrier::Works), 1);
        let reader = spawn(&world, |world| world.read(0));
        world.rcu.start(&world.os);
        world.unmap(None);
        reader.join().unwrap();
    });
}

/// A thread exits and a new one reads through its slot, the second time while the grace period runs.
fn slot_reused() {
    explore_all(|| {
        let world = World::new(system(Barrier::Works), 1);
        let first = spawn(&world, |world| world.read(0));
        let second = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                first.join().unwrap();
                world.read(0);
            })
        };
        world.unmap(None);
        second.join().unwrap();
    });
}

/// One thread retires, another reclaims, a third reads.
fn reclaimed() {
    explore_all(|| {
        let world = World::new(system(Barrier::Works), 1);
        let reader = spawn(&world, |world| {
            world.read(0);
        });
        let reclaimer = spawn(&world, |world| {
            world.reclaim(None);
            world.reclaim(None);
        });
        world.retire(0);
        reader.join().unwrap();
        reclaimer.join().unwrap();
        world.reclaim_all(None);
        assert_eq!(world.published[0].load(Ordering::Relaxed), NOTHING);
    });
}

/// Two things, unlinked by two threads, share a grace period or not.
fn batch_of_two() {
    explore(3, || {
        let world = World::new(system(Barrier::Works), 1);
        let reader = spawn(&world, |world| {
            let section = world.enter(0);
            world.look(0);
            world.look(1);
            drop(section);
        });
        let other = spawn(&world, |world| world.retire(1));
        world.retire(0);
        world.reclaim(None);
        reader.join().unwrap();
        other.join().unwrap();
        world.reclaim_all(None);
        assert_eq!(world.rcu.statistics().pending, 0);
    });
}

/// Two threads move the same batches, with a reader inside for a while.
fn two_reclaimers() {
    explore_all(|| {
        let world = World::new(system(Barrier::Works), 1);
        world.retire(0);
        let other = spawn(&world, |world| {
            world.reclaim(None);
        });
        world.retire(1);
        world.reclaim(None);
        other.join().unwrap();
        world.reclaim_all(None);
        assert_eq!(world.rcu.statistics().pending, 0);
    });
}

/// Two guests share the one word that a model has.
fn guests() {
    explore(3, || {
        let world = World::new(system(Barrier::Works), 0);
        let [first, second] = [(); 2].map(|()| {
            spawn(&world, |world| {
                let section = world.rcu.enter_guest();
                world.look(0);
                drop(section);
            })
        });
        world.unmap(None);
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// A guest beside a batch.
fn reclaimed_from_guests() {
    explore_all(|| {
        let world = World::new(system(Barrier::Missing), 0);
        let guest = spawn(&world, |world| {
            let section = world.rcu.enter_guest();
            world.look(0);
            drop(section);
        });
        world.retire(0);
        world.reclaim(None);
        world.reclaim(None);
        guest.join().unwrap();
        world.reclaim_all(None);
        assert_eq!(world.rcu.statistics().pending, 0);
    });
}

/// A reader that was seen inside leaves, enters again and stays: the waiter gets through all the same.
fn busy_reader() {
    explore_all(|| {
        let world = World::new(system(Barrier::Works), 1);
        let section = world.enter(0);
        let waiting = Arc::new(AtomicBool::new(false));
        let over = Arc::new(AtomicBool::new(false));
        let reclaimer = {
            let (world, waiting, over) = (Arc::clone(&world), Arc::clone(&waiting), Arc::clone(&over));
            thread::spawn(move || {
                world.retire(0);
                assert_eq!(world.reclaim(None), 0);
                waiting.store(true, Ordering::Release);
                world.reclaim_all(None);
                over.store(true, Ordering::Release);
            })
        };
        world.look(0);
        while !waiting.load(Ordering::Acquire) {
            spin_hint();
        }
        drop(section);
        let again = world.enter(0);
        while !over.load(Ordering::Acquire) {
            spin_hint();
        }
        drop(again);
        reclaimer.join().unwrap();
    });
}

/// A thread that is inside a section and reclaims vanishes at each step of the reclaim, and the other goes on.
fn forked() {
    for point in 0.. {
        let passed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let end = Arc::clone(&passed);
        explore_all(move || {
            let world = World::new(system(Barrier::Works), 2);
            world.retire(0);
            world.retire(1);
            let vanished = Arc::clone(&world);
            let reached = arm(
                point,
                || resume_unwind(Box::new("vanished")),
                move || {
                    let _ = catch_unwind(AssertUnwindSafe(|| vanished.reclaim(Some(0))));
                },
            );
            std::mem::forget(world.enter(0));
            // SAFETY: this thread plays the only one of the child.
            unsafe { world.rcu.child_after_fork(&|slot| core::ptr::eq(slot, &world.slots[1])) };
            world.reclaim(Some(1));
            world.reclaim(Some(1));
            assert_eq!(world.rcu.statistics().pending, 0);
            // At most the link whose `done` was about to run is lost.
            let freed = [0, 1].map(|thing| {
                // SAFETY: no other thread runs.
                world.things[thing].with(|value| unsafe { value.read() })
            });
            assert!(freed.iter().sum::<u32>() >= if reached { 1 } else { 2 });
            end.store(!reached, std::sync::atomic::Ordering::Relaxed);
        });
        if passed.load(std::sync::atomic::Ordering::Relaxed) {
            break;
        }
    }
}

models! {
    grace_period grace_period_fenced nested interrupted attached_meanwhile no_longer_alone slot_reused reclaimed batch_of_two
    two_reclaimers guests reclaimed_from_guests busy_reader started_meanwhile forked
}
