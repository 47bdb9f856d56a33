//! Models of the word that says whether a unit's bytes are there: who fetches against who evicts, holds and closes.

use super::*;
use crate::sync::SeededBug;
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::checker::{explore, models};
use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::thread;
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new(
        "region.unit_hold_two_steps",
        "the one step in which a unit is taken or held",
        "fetched_once",
    ),
    SeededBug::new("region.unit_hold_relaxed", "the acquire of who holds", "fetched_once"),
    SeededBug::new("region.unit_settled_relaxed", "the release of who has fetched", "fetched_once"),
    SeededBug::new(
        "region.unit_settled_two_steps",
        "the one step in which who fetches finds that it was not evicted",
        "evicted_while_fetched",
    ),
    SeededBug::new("region.unit_fetch_unfenced", "the fence of who takes a unit", "evicted_while_fetched"),
    SeededBug::new(
        "region.unit_again_unfenced",
        "the fence of who fetches once more",
        "evicted_while_fetched",
    ),
    SeededBug::new(
        "region.unit_again_fenced_first",
        "the fence after the word of who fetches once more",
        "evicted_twice_while_fetched",
    ),
    SeededBug::new(
        "region.unit_evict_unfenced",
        "the evictor's fence before its look",
        "evicted_while_fetched",
    ),
    SeededBug::new("region.unit_release_relaxed", "the release of a holder", "evicted_under_readers"),
    SeededBug::new("region.unit_last_relaxed", "the acquire of the last holder", "evicted_under_readers"),
    SeededBug::new(
        "region.unit_last_two_steps",
        "the one step in which the last holder takes the unit",
        "let_go_while_another_comes",
    ),
    SeededBug::new("region.unit_evict_relaxed", "the acquire of who evicts", "evicted_under_readers"),
    SeededBug::new(
        "region.unit_evict_two_steps",
        "the one step in which who evicts takes the unit",
        "evicted_under_readers",
    ),
    SeededBug::new(
        "region.unit_absent_relaxed",
        "the release of who has taken bytes away",
        "evicted_under_readers",
    ),
    SeededBug::new("region.unit_wake_first", "the wake after the change of phase", "woken_after_an_eviction"),
];

/// What stands for bytes that were taken away.
const GONE: usize = 99;

/// A unit, its bytes, and where they are fetched from.
struct World {
    unit: Unit,
    bytes: UnsafeCell<usize>,
    source: AtomicUsize,
}

// SAFETY: the checker verifies every access, and all threads of a model are coroutines of one.
unsafe impl Send for World {}
// SAFETY: as above.
unsafe impl Sync for World {}

impl World {
    fn new() -> Arc<World> {
        Arc::new(World { unit: Unit::new(), bytes: UnsafeCell::new(GONE), source: AtomicUsize::new(0) })
    }

    fn put(&self, number: usize) {
        // SAFETY: the checker verifies that no access overlaps.
        self.bytes.with_mut(|bytes| unsafe { bytes.write(number) });
    }

    fn fetch(&self) {
        loop {
            // Relaxed: as a pager reads what it likes.
            self.put(self.source.load(Relaxed));
            if self.unit.fetched(true) {
                break;
            }
            self.put(GONE);
            self.unit.again();
        }
    }

    /// Holds the unit for a moment: what is read there, unless somebody else is busy with it.
    fn read(&self, thread: u32) -> Option<usize> {
        match self.unit.hold(thread) {
            Hold::Held => {}
            Hold::Fetch => self.fetch(),
            Hold::Busy(_) => return None,
            other => panic!("{other:?}"),
        }
        // SAFETY: the checker verifies that no write overlaps.
        let read = self.bytes.with(|bytes| unsafe { bytes.read() });
        assert_ne!(read, GONE, "held, and not there");
        if self.unit.release() {
            self.take_away();
        }
        Some(read)
    }

    fn take_away(&self) {
        self.put(GONE);
        self.unit.absent(|| ());
    }

    fn evict(&self) {
        if self.unit.evict() == Evict::Now {
            self.take_away();
        }
    }
}

fn on_thread(world: &Arc<World>, run: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || run(&world))
}

/// Two threads hold a unit that is not there: one fetches.
fn fetched_once() {
    explore(3, || {
        let world = World::new();
        let other = on_thread(&world, |world| _ = world.read(1));
        _ = world.read(2);
        other.join().unwrap();
        assert_eq!((world.unit.is_present(), world.read(1)), (true, Some(0)));
    });
}

/// A unit is evicted while one thread reads it, and another may fetch it again.
fn evicted_under_readers() {
    explore(3, || {
        let world = World::new();
        assert_eq!(world.read(1), Some(0));
        let other = on_thread(&world, |world| _ = world.read(2));
        world.evict();
        _ = world.read(1);
        other.join().unwrap();
        world.evict();
        assert!(!world.unit.is_present());
    });
}

/// The last holder of a unit that was evicted lets go while another one comes.
fn let_go_while_another_comes() {
    explore(3, || {
        let world = World::new();
        assert_eq!((world.unit.hold(1), world.fetch()), (Hold::Fetch, ()));
        assert_eq!((world.unit.evict(), world.unit.evict()), (Evict::Later, Evict::Later));
        let other = on_thread(&world, |world| _ = world.read(2));
        if world.unit.release() {
            world.take_away();
        }
        other.join().unwrap();
        world.evict();
        assert!(!world.unit.is_present());
    });
}

/// The source changes, and the unit is evicted, while it is fetched: nobody finds the old bytes afterwards.
fn evicted_while_fetched() {
    explore(3, || {
        let world = World::new();
        let other = on_thread(&world, |world| _ = world.read(2));
        // Relaxed: it is the eviction that orders it.
        world.source.store(1, Relaxed);
        world.evict();
        other.join().unwrap();
        assert_eq!(world.read(1), Some(1), "what was evicted is there again");
    });
}

/// The same twice: the second time it may be fetched once more already.
fn evicted_twice_while_fetched() {
    explore(3, || {
        let world = World::new();
        let other = on_thread(&world, |world| _ = world.read(2));
        for number in [1, 2] {
            // Relaxed: it is the eviction that orders it.
            world.source.store(number, Relaxed);
            world.evict();
        }
        other.join().unwrap();
        assert_eq!(world.read(1), Some(2), "what was evicted is there again");
    });
}

/// A thread faults while its unit is evicted. Its fault is served, or it is woken and comes again.
fn woken_after_an_eviction() {
    /// What the system knows of the page.
    #[derive(Default)]
    struct Page {
        present: bool,
        asleep: bool,
    }
    explore(3, || {
        let (unit, page) = (Arc::new(Unit::new()), Arc::new(Mutex::new(Page::default())));
        assert_eq!(unit.hold(1), Hold::Fetch);
        page.lock().unwrap().present = true;
        assert!(unit.fetched(false));
        let (its_unit, its_page) = (unit.clone(), page.clone());
        let toucher = thread::spawn(move || {
            let asleep = {
                let mut page = its_page.lock().unwrap();
                page.asleep = !page.present;
                page.asleep
            };
            // From here on the thread that reads its message.
            if asleep && its_unit.touch(2) == Hold::Fetch {
                its_page.lock().unwrap().present = true;
                assert!(its_unit.fetched(false));
                its_page.lock().unwrap().asleep = false;
            }
        });
        assert_eq!(unit.evict(), Evict::Now);
        page.lock().unwrap().present = false;
        unit.absent(|| page.lock().unwrap().asleep = false);
        toucher.join().unwrap();
        assert!(!page.lock().unwrap().asleep, "nobody wakes it");
    });
}

models! { fetched_once evicted_under_readers let_go_while_another_comes evicted_while_fetched evicted_twice_while_fetched woken_after_an_eviction }
