//! Models of the blocks of a slab that any thread takes and gives: [`BlockMap`], with a list as the layer above keeps it.

use super::*;
use crate::sync::SeededBug;
use crate::sync::checker::{explore, models};
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("region.block_take_two_steps", "the one step in which a block is taken", "taken_once"),
    SeededBug::new("region.block_take_relaxed", "the acquire when a block is taken", "handed_on"),
    SeededBug::new("region.block_give_relaxed", "the release when a block is given back", "handed_on"),
    SeededBug::new(
        "region.block_give_unfenced",
        "the giver's fence before its look at the standing",
        "found_again",
    ),
    SeededBug::new(
        "region.block_retire_unfenced",
        "the retirer's fence before its look at the blocks",
        "found_again",
    ),
    SeededBug::new("region.block_listed_twice", "the one step that elects who lists a map", "found_again"),
    SeededBug::new("region.block_any_kind", "the look at the kind of a block that was taken", "taken_late"),
    SeededBug::new(
        "region.block_close_two_steps",
        "the one step in which a word is closed",
        "taken_or_closed",
    ),
    SeededBug::new(
        "region.block_close_not_undone",
        "the reopening of words after a close that failed",
        "taken_or_closed",
    ),
    SeededBug::new("region.block_close_relaxed", "the acquire of who closes", "taken_late"),
    SeededBug::new("region.block_open_relaxed", "the release when a map is opened", "taken_late"),
    SeededBug::new("region.block_reopen_relaxed", "the release when a close is undone", "closed_and_undone"),
];

const KIND: u32 = 1;
const OTHER: u32 = 2;

/// A map that is current, a cell of memory for each of its first blocks, and how often it was put into the list.
struct World {
    map: BlockMap,
    memory: [UnsafeCell<usize>; MAP_BLOCKS],
    listed: std::sync::atomic::AtomicUsize,
}

// SAFETY: the checker verifies every access, and all threads of a model are coroutines of one.
unsafe impl Send for World {}
// SAFETY: as above.
unsafe impl Sync for World {}

impl World {
    fn new(count: usize) -> Arc<World> {
        let memory = std::array::from_fn(|_| UnsafeCell::new(0));
        let world = World { map: BlockMap::new(), memory, listed: Default::default() };
        world.map.open(KIND, count);
        Arc::new(world)
    }

    /// Uses a block that the caller holds.
    fn write(&self, index: usize) {
        // SAFETY: the checker verifies that no access overlaps.
        self.memory[index].with_mut(|value| unsafe { value.write(index) });
    }

    fn take(&self) -> Option<usize> {
        match self.map.take(KIND) {
            Ok(index) => index.inspect(|&index| {
                assert_eq!(self.map.kind(), KIND, "a block of another kind");
                self.write(index);
            }),
            Err(index) => {
                self.give_unused(index);
                None
            }
        }
    }

    fn give(&self, index: usize) {
        self.write(index);
        self.give_unused(index);
    }

    fn give_unused(&self, index: usize) {
        match self.map.give(index) {
            Given::Free => {}
            Given::ToList => self.list(),
            Given::Twice => panic!("given twice"),
        }
    }

    fn list(&self) {
        // Not one of the model's atomics: it orders nothing.
        let before = self.listed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(before, 0, "listed twice");
    }

    fn listed(&self) -> bool {
        self.listed.load(std::sync::atomic::Ordering::Relaxed) == 1
    }

    /// Takes the map off the list, if it is there.
    fn unlist(&self) -> bool {
        self.listed.swap(0, std::sync::atomic::Ordering::Relaxed) == 1
    }
}

fn on_thread(world: &Arc<World>, run: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || run(&world))
}

/// Two threads take each block once.
fn taken_once() {
    explore(3, || {
        let world = World::new(2);
        let take = |world: &World| {
            let index = world.map.take(KIND).unwrap().expect("as many blocks as takers");
            assert!(world.map.is_held(index));
            world.write(index);
        };
        let others = [on_thread(&world, take)];
        take(&world);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!((world.map.held(), world.map.take(KIND)), (2, Ok(None)));
    });
}

/// A block goes from who gives it to who takes it, with what was done there.
fn handed_on() {
    explore(3, || {
        let world = World::new(1);
        let index = world.take().unwrap();
        let other = on_thread(&world, |world| {
            if let Some(index) = world.take() {
                world.give(index);
            }
        });
        world.give(index);
        if let Some(index) = world.take() {
            world.give(index);
        }
        other.join().unwrap();
        assert!(world.map.is_unused());
    });
}

/// A map is retired while its blocks are given back: it is in the list once, or no block of it is free.
fn found_again() {
    explore(3, || {
        let count = MAP_BLOCKS / 2 + 1;
        let world = World::new(count);
        while world.take().is_some() {}
        let (first, last) = (0, count - 1);
        let others = [first, last].map(|index| on_thread(&world, move |world| world.give(index)));
        if world.map.retire() {
            world.list();
        }
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(world.listed(), "free blocks of a map that nobody finds");
    });
}

/// A map that is listed, with a block in its last word held by the caller.
fn listed_with_last() -> (Arc<World>, usize) {
    let world = World::new(MAP_BLOCKS);
    while world.take().is_some() {}
    assert!(!world.map.retire());
    for index in 0..MAP_BLOCKS - 1 {
        world.give(index);
    }
    assert!(world.unlist());
    (world, MAP_BLOCKS - 1)
}

/// One takes blocks by an old reference while another closes the map: it is closed, or a block is held.
fn taken_or_closed() {
    explore(3, || {
        let (world, last) = listed_with_last();
        let _free = world.map.give(last);
        let taken = Arc::new(loom::sync::Mutex::new(None));
        let other = {
            let (world, taken) = (world.clone(), taken.clone());
            thread::spawn(move || *taken.lock().unwrap() = world.take())
        };
        let closed = world.map.close();
        other.join().unwrap();
        match (closed, *taken.lock().unwrap()) {
            (true, Some(_)) => panic!("a block of a closed map"),
            (true, None) => assert_eq!(world.map.take(KIND), Ok(None)),
            (false, taken) => {
                assert_eq!(world.map.held(), usize::from(taken.is_some()), "blocks are lost");
            }
        }
    });
}

/// One takes by an old reference while the map is closed and opened for blocks of another kind: it takes none of those,
/// and what it takes of the former was done with.
fn taken_late() {
    explore(3, || {
        let world = World::new(2);
        while world.take().is_some() {}
        assert!(!world.map.retire());
        world.give(0);
        assert!(world.unlist());
        let late = on_thread(&world, |world| {
            if let Some(index) = world.take() {
                world.give(index);
            }
        });
        let giver = on_thread(&world, |world| world.give(1));
        if world.map.close() {
            // The memory is all the closer's.
            world.write(0);
            world.write(1);
            world.map.open(OTHER, 1);
        }
        late.join().unwrap();
        giver.join().unwrap();
        assert_eq!(world.map.held(), 0);
    });
}

/// A close that fails leaves the blocks that it passed to who takes them, with what was done there.
fn closed_and_undone() {
    explore(3, || {
        let (world, _last) = listed_with_last();
        let first = world.take().unwrap();
        let giver = on_thread(&world, move |world| world.give(first));
        let taker = on_thread(&world, |world| _ = world.take());
        assert!(!world.map.close(), "a block is held");
        giver.join().unwrap();
        taker.join().unwrap();
    });
}

models! { taken_once handed_on found_again taken_or_closed taken_late closed_and_undone }
