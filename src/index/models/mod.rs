//! Models of the index and of the space: regions come and go while others look.
//!
//! The memory of each region is a cell of the checker, which reports every touch that is not ordered before the write
//! that stands for its unmapping. Run with
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib -p specmalloc index`.

mod watched;

use super::page::PageNode;
use super::radix::PAGE;
use super::*;
use crate::base::{GRANULE, SLICE};
use crate::pal::simulated::{Config, Simulated};
use crate::rcu::{Rcu, ReaderSlot, Section};
use crate::region::{Kind, Metadata, Prefer, Region, Retired, RetiredAs, Shape};
use crate::sync::atomic::AtomicBool;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{SeededBug, plant};
use loom::thread;
use std::ops::Range;
use std::sync::Arc;
use watched::Watched;

/// Every place that can be weakened, and the model that must fail then.
pub(crate) const SEEDED: &[SeededBug] = &[
    bug("index.no_grace", "the grace period before an unmap", "readers_and_an_unmap"),
    bug("index.undrained", "the wait for pins before an unmap", "readers_and_an_unmap"),
    bug("index.unlink_late", "the order of unlinking and grace period", "readers_and_an_unmap"),
    bug("index.no_grace", "the grace period before an unmap", "readers_and_a_reaper"),
    bug("index.undrained", "the look at the pins before an unmap", "readers_and_a_reaper"),
    bug("index.no_freeze", "the freeze of an arena", "claim_and_retire"),
    bug("region.clear_relaxed", "the release of the last touch", "claim_and_retire"),
    bug("index.near_late", "the clearing of the filter before the grace period", "near_and_retire"),
    bug("index.publish_relaxed", "the release that publishes a region", "published_in_a_node"),
    bug("index.lookup_relaxed", "the acquire of a lookup", "published"),
    bug("index.node_relaxed", "the release that links a node", "published"),
    bug(
        "index.page_link_relaxed",
        "the release that links a node of pages, and the fence at a guest's entry",
        "published_in_pages",
    ),
    bug(
        "index.page_publish_relaxed",
        "the release that publishes pages, and the fence at a guest's entry",
        "joined_in_pages",
    ),
    bug("index.page_find_relaxed", "the acquire of a lookup in a node of pages", "joined_in_pages"),
    bug("index.ensure_relaxed", "the acquire of a node that another thread links", "neighbours"),
    bug("index.spare_take_relaxed", "the acquire of a spare node", "three_neighbours"),
    bug("index.spare_put_relaxed", "the release of a spare node", "three_neighbours"),
    bug("index.replace_relaxed", "the acquire of a node in the place of a whole entry", "whole_over_cut"),
    bug(
        "index.page_edit_relaxed",
        "the acquire of a node of pages, and the fence of a guest",
        "neighbours_in_pages",
    ),
    bug("index.page_link_blind", "the compare-and-swap that links a node of pages", "neighbours_in_pages"),
    bug("index.page_not_abandoned", "the clearing of a node that lost the race", "neighbours_in_pages"),
    bug("index.node_blind", "the compare-and-swap that links a node", "neighbours"),
    bug("index.page_join_zero", "the refusal to join a node at its end", "join_and_leave"),
    bug("index.page_without_grace", "the grace period of a node of pages", "page_node_reused"),
    bug("index.page_without_grace", "the grace period of a node of pages", "two_leave_and_one_comes"),
    bug(
        "index.page_without_section",
        "the section of those who change nodes of pages",
        "page_node_comes_back",
    ),
];

const fn bug(name: &'static str, removes: &'static str, caught_by: &'static str) -> SeededBug {
    SeededBug { name, removes, caught_by }
}

/// Explores all schedules with at most `preemptions` involuntary switches.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(model);
}

/// A space with one region, and slots for two readers.
struct World {
    space: Space<Watched>,
    slots: [ReaderSlot; 2],
    region: &'static Region,
    base: usize,
}

impl World {
    fn new(kind: Kind) -> Arc<World> {
        let space = Space::new(Watched::new());
        space.start();
        let region = space.map_region(kind, 4 * SLICE, 1, 0).unwrap();
        space.os().watch(region.base());
        if kind == Kind::Arena {
            region.slices().reopen();
        }
        let world = Arc::new(World {
            space,
            slots: [ReaderSlot::new(), ReaderSlot::new()],
            region,
            base: region.base(),
        });
        for slot in &world.slots {
            // SAFETY: attached once, and the world outlives its threads.
            unsafe { world.space.rcu().attach(slot) };
        }
        world
    }

    fn enter(&self, slot: usize) -> Section<'_> {
        // SAFETY: the slot is attached, and in each model one thread uses it.
        unsafe { self.space.rcu().enter(&self.slots[slot]) }
    }

    /// A short reader.
    fn look(&self, slot: usize) {
        let section = self.enter(slot);
        if let Some(region) = self.space.find(self.base, &section) {
            assert_eq!(region.base(), self.base);
            self.space.os().touch(self.base);
        }
    }

    /// A long reader.
    fn pin(&self, slot: usize) {
        let section = self.enter(slot);
        let pin = self.space.pin(self.base, &section);
        drop(section);
        if let Some(pin) = pin {
            assert_eq!(pin.region().base(), self.base);
            self.space.os().touch(self.base);
        }
    }

    fn reap(&self) {
        while self.space.counts().retired > 0 {
            self.space.reap(None);
            crate::sync::spin_hint();
        }
    }
}

fn on_thread<T: 'static>(world: &Arc<T>, run: impl FnOnce(&T) + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || run(&world))
}

fn readers_and_an_unmap() {
    explore(2, || {
        let world = World::new(Kind::Huge);
        let short = on_thread(&world, |world| world.look(0));
        let long = on_thread(&world, |world| world.pin(1));
        assert_eq!(world.space.unmap_now(world.region, None), Ok(()));
        short.join().unwrap();
        long.join().unwrap();
    });
}

fn readers_and_a_reaper() {
    explore(2, || {
        let world = World::new(Kind::Huge);
        let reader = on_thread(&world, |world| {
            world.look(0);
            world.pin(0);
        });
        assert!(world.space.retire_region(world.region));
        world.space.reap(None);
        world.space.reap(None);
        reader.join().unwrap();
        world.reap();
    });
}

fn claim_and_retire() {
    explore(3, || {
        let world = World::new(Kind::Arena);
        let claimant = on_thread(&world, |world| {
            let section = world.enter(0);
            let arena = world.space.find(world.base, &section);
            let run = arena.and_then(|arena| arena.slices().claim(1, Prefer::Any, 1));
            drop(section);
            if let Some(run) = run {
                // The slice holds the arena, as a block in it would.
                world.space.os().touch(world.base);
                world.region.slices().release(run.start, run.len);
            }
        });
        let retired = world.space.retire_arena(world.region, &world.enter(1));
        if retired {
            world.space.reap(None);
            world.space.reap(None);
        }
        claimant.join().unwrap();
        world.reap();
        if !retired {
            assert!(world.space.retire_arena(world.region, &world.enter(1)));
        }
    });
}

fn near_and_retire() {
    explore(3, || {
        let world = World::new(Kind::Arena);
        let reader = on_thread(&world, |world| {
            let _section = world.enter(0);
            if world.space.index().is_near_arena(world.base) {
                world.space.os().touch(world.base);
            }
        });
        assert!(world.space.retire_arena(world.region, &world.enter(1)));
        world.space.reap(None);
        world.space.reap(None);
        reader.join().unwrap();
        world.reap();
    });
}

/// An index by itself, over regions that are not mapped.
struct Bench {
    os: Simulated,
    rcu: Rcu,
    metadata: Metadata,
    index: Index,
    slot: ReaderSlot,
}

impl Bench {
    fn new() -> Arc<Bench> {
        let os = Simulated::with(Config { reserve: GRANULE, ..Config::default() });
        let bench = Arc::new(Bench {
            os,
            rcu: Rcu::new(),
            metadata: Metadata::new(),
            index: Index::new(),
            slot: ReaderSlot::new(),
        });
        bench.rcu.start(&bench.os);
        // SAFETY: attached once, and the bench outlives its threads.
        unsafe { bench.rcu.attach(&bench.slot) };
        bench
    }

    /// A descriptor that had another life before.
    fn region(&self) -> &'static Region {
        let region: &Region = self.metadata.create(&self.os).unwrap();
        region.attach(Shape { kind: Kind::File, base: GRANULE, len: PAGE, mapped: PAGE, mappings: 1 });
        let _ = region.exclude();
        region.detach();
        region
    }

    fn insert(&self, region: &'static Region, range: Range<usize>) {
        let len = range.len();
        region.attach(Shape { kind: Kind::File, base: range.start, len, mapped: len, mappings: 1 });
        self.index.insert(&self.os, &self.rcu, &self.metadata, region).unwrap();
    }

    fn remove(&self, region: &'static Region) {
        self.index.remove(&self.rcu, region);
    }

    fn reclaim(&self) {
        // SAFETY: all that this bench retires are nodes of pages.
        self.rcu.reclaim(&self.os, None, |link| match unsafe { Retired::recover(link) } {
            // SAFETY: the link says so, and the memory of nodes is immortal.
            (RetiredAs::PageNode, at) => self.index.recycle(unsafe { PageNode::at(at) }),
            (RetiredAs::Region, _) => panic!("no region was retired"),
        });
    }

    /// Whatever is found at an address is there.
    fn look(&self, address: usize) {
        // SAFETY: the slot is attached, and in each model one thread uses it.
        let _section = unsafe { self.rcu.enter(&self.slot) };
        self.look_without_section(address);
    }

    /// The same where nothing is removed. The checker does not try all orders of two fences, so that of a section's
    /// entry would hide the lack of an acquire.
    fn look_without_section(&self, address: usize) {
        if let Some(region) = self.index.at(address) {
            assert!(region.contains(address), "{address:#x} is not in {:#x}", region.base());
        }
    }

    fn holds(&self, address: usize, region: &'static Region) -> bool {
        self.index.at(address).is_some_and(|found| core::ptr::eq(found, region))
    }
}

const AT: usize = 2 * GRANULE;

fn published() {
    explore(3, || {
        let bench = Bench::new();
        let region = bench.region();
        let reader = on_thread(&bench, |bench| bench.look_without_section(AT));
        bench.insert(region, AT..AT + SLICE);
        reader.join().unwrap();
        assert!(bench.holds(AT, region));
    });
}

fn published_in_a_node() {
    explore(3, || {
        let bench = Bench::new();
        let region = bench.region();
        // The nodes above are there.
        bench.insert(bench.region(), AT + SLICE..AT + 2 * SLICE);
        let reader = on_thread(&bench, |bench| bench.look_without_section(AT));
        bench.insert(region, AT..AT + SLICE);
        reader.join().unwrap();
        assert!(bench.holds(AT, region));
    });
}

fn published_in_pages() {
    explore(3, || {
        let bench = Bench::new();
        let region = bench.region();
        // The nodes above are there.
        bench.insert(bench.region(), AT + SLICE..AT + 2 * SLICE);
        let reader = on_thread(&bench, |bench| bench.look_without_section(AT + PAGE));
        bench.insert(region, AT + PAGE..AT + 2 * PAGE);
        reader.join().unwrap();
        assert!(bench.holds(AT + PAGE, region));
    });
}

fn joined_in_pages() {
    explore(3, || {
        let bench = Bench::new();
        let (first, second) = (bench.region(), bench.region());
        bench.insert(first, AT..AT + PAGE);
        let reader = on_thread(&bench, |bench| bench.look_without_section(AT + PAGE));
        bench.insert(second, AT + PAGE..AT + 2 * PAGE);
        reader.join().unwrap();
        assert!(bench.holds(AT, first) && bench.holds(AT + PAGE, second));
    });
}

fn neighbours() {
    explore(2, || {
        let bench = Bench::new();
        let (first, second) = (bench.region(), bench.region());
        let other = on_thread(&bench, move |bench| bench.insert(first, AT..AT + SLICE));
        bench.insert(second, AT + SLICE..AT + 2 * SLICE);
        other.join().unwrap();
        assert!(bench.holds(AT, first) && bench.holds(AT + SLICE, second));
        // Takes the nodes that lost, if there are any.
        let third = bench.region();
        bench.insert(third, AT + GRANULE..AT + GRANULE + SLICE);
        bench.remove(first);
        assert!(bench.holds(AT + GRANULE, third) && bench.index.at(AT).is_none());
    });
}

fn three_neighbours() {
    explore(3, || {
        let bench = Bench::new();
        let regions = [(); 3].map(|()| bench.region());
        let slice = |which: usize| AT + which * GRANULE..AT + which * GRANULE + SLICE;
        // The nodes of granules are there; those of slices are raced for, and a spare one may go from thread to thread.
        bench.insert(bench.region(), AT - SLICE..AT);
        let other = on_thread(&bench, move |bench| bench.insert(regions[0], slice(0)));
        let third = on_thread(&bench, move |bench| bench.insert(regions[1], slice(1)));
        bench.insert(regions[2], AT + SLICE..AT + 2 * SLICE);
        other.join().unwrap();
        third.join().unwrap();
        assert!(bench.holds(slice(0).start, regions[0]) && bench.holds(slice(1).start, regions[1]));
        assert!(bench.holds(AT + SLICE, regions[2]));
    });
}

fn whole_over_cut() {
    explore(3, || {
        let bench = Bench::new();
        let (small, whole) = (bench.region(), bench.region());
        let gone = Arc::new(AtomicBool::new(false));
        let told = gone.clone();
        let other = on_thread(&bench, move |bench| {
            bench.insert(small, AT..AT + SLICE);
            bench.remove(small);
            // Relaxed: nothing but the system says that the place is free.
            told.store(true, Relaxed);
        });
        while !gone.load(Relaxed) {
            crate::sync::spin_hint();
        }
        bench.insert(whole, AT..AT + GRANULE);
        assert!(bench.holds(AT, whole) && bench.holds(AT + GRANULE - 1, whole));
        other.join().unwrap();
    });
}

fn neighbours_in_pages() {
    explore(2, || {
        let bench = Bench::new();
        let (first, second, third) = (bench.region(), bench.region(), bench.region());
        // The nodes above are there.
        bench.insert(bench.region(), AT + SLICE..AT + 2 * SLICE);
        let other = on_thread(&bench, move |bench| bench.insert(first, AT..AT + PAGE));
        bench.insert(second, AT + PAGE..AT + 2 * PAGE);
        other.join().unwrap();
        assert!(bench.holds(AT, first) && bench.holds(AT + PAGE, second));
        // Takes the node that lost, if there is one.
        let at = AT + 2 * SLICE;
        bench.insert(third, at + 2 * PAGE..at + 3 * PAGE);
        assert!(bench.holds(at + 2 * PAGE, third));
        assert!(bench.index.at(at).is_none() && bench.index.at(at + PAGE).is_none());
    });
}

fn join_and_leave() {
    explore(3, || {
        let bench = Bench::new();
        let (first, second) = (bench.region(), bench.region());
        bench.insert(first, AT..AT + PAGE);
        let other = on_thread(&bench, move |bench| bench.insert(second, AT + PAGE..AT + 2 * PAGE));
        bench.remove(first);
        other.join().unwrap();
        assert!(bench.holds(AT + PAGE, second) && bench.index.at(AT).is_none());
    });
}

fn page_node_reused() {
    explore(3, || {
        let bench = Bench::new();
        let (first, second) = (bench.region(), bench.region());
        bench.insert(first, AT..AT + PAGE);
        let reader = on_thread(&bench, |bench| bench.look(AT));
        bench.remove(first);
        bench.reclaim();
        bench.reclaim();
        // In the same place of a node of another slice.
        bench.insert(second, AT + SLICE..AT + SLICE + PAGE);
        reader.join().unwrap();
        assert!(bench.holds(AT + SLICE, second));
    });
}

fn page_node_comes_back() {
    explore(3, || {
        let bench = Bench::new();
        let (first, second, third) = (bench.region(), bench.region(), bench.region());
        bench.insert(first, AT..AT + PAGE);
        let other = on_thread(&bench, move |bench| bench.insert(second, AT + PAGE..AT + 2 * PAGE));
        bench.remove(first);
        bench.reclaim();
        bench.reclaim();
        bench.insert(third, AT..AT + PAGE);
        other.join().unwrap();
        assert!(bench.holds(AT + PAGE, second) && bench.holds(AT, third));
    });
}

fn two_leave_and_one_comes() {
    explore(2, || {
        let bench = Bench::new();
        let (first, second, third) = (bench.region(), bench.region(), bench.region());
        bench.insert(first, AT..AT + PAGE);
        bench.insert(second, AT + PAGE..AT + 2 * PAGE);
        let other = on_thread(&bench, move |bench| bench.remove(first));
        // The place that `first` had, in whatever node is there when `third` has come.
        let reader = on_thread(&bench, |bench| bench.look(AT + SLICE));
        bench.remove(second);
        bench.reclaim();
        bench.reclaim();
        bench.insert(third, AT + SLICE + PAGE..AT + SLICE + 2 * PAGE);
        other.join().unwrap();
        reader.join().unwrap();
        assert!(bench.holds(AT + SLICE + PAGE, third) && bench.index.at(AT).is_none());
    });
}

macro_rules! models {
    ($($name:ident)*) => {
        /// The models by name.
        const MODELS: &[(&str, fn())] = &[$((stringify!($name), $name)),*];

        mod pass {
            $(#[test] fn $name() { super::$name(); })*
        }
    };
}

models! {
    readers_and_an_unmap readers_and_a_reaper claim_and_retire near_and_retire published published_in_a_node
    published_in_pages joined_in_pages neighbours three_neighbours whole_over_cut neighbours_in_pages join_and_leave page_node_reused page_node_comes_back two_leave_and_one_comes
}

#[test]
fn every_seeded_bug_is_caught() {
    let mut survivors = Vec::new();
    for bug in SEEDED {
        let (_, model) = MODELS.iter().find(|(name, _)| *name == bug.caught_by).unwrap();
        if plant(bug.name, *model) {
            println!("{:<30} caught by {}", bug.name, bug.caught_by);
        } else {
            survivors.push(bug);
        }
    }
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
}

#[test]
fn every_model_can_fail() {
    for (name, _) in MODELS {
        assert!(SEEDED.iter().any(|bug| bug.caught_by == *name), "no seeded bug makes {name} fail");
    }
}
