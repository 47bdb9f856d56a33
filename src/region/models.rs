//! Models of the state word, the bitmaps, the stack and the metadata, on the real code.
//!
//! Memory of a region is a cell of the checker, which reports every access that is not ordered before the write that
//! stands for unmapping it. Run with `RUSTFLAGS="--cfg loom" cargo test --profile model --lib -p specmalloc region`.

use super::*;
use crate::base::GRANULE;
use crate::pal::simulated::{Config, Simulated};
use crate::sync::SeededBug;
use crate::sync::checker::{explore, models};
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new(
        "region.pin_two_steps",
        "the one step in which a pin looks and counts",
        "pins_and_an_unmapper",
    ),
    SeededBug::new("region.unpin_relaxed", "the release of the last unpin", "pins_and_an_unmapper"),
    SeededBug::new("region.drained_relaxed", "the acquire of the unmapper's look", "pins_and_an_unmapper"),
    SeededBug::new("region.no_wake", "the wake of the unmapper", "pins_and_an_unmapper"),
    SeededBug::new(
        "region.exclude_two_steps",
        "the one step of EXCLUDE and the drop of the base reference",
        "two_unmappers",
    ),
    SeededBug::new("region.pin_unlimited", "the limit of pins", "as_many_pins_as_count"),
    SeededBug::new(
        "region.no_generation_check",
        "the look at the generation after a pin",
        "recycled_under_a_slow_reader",
    ),
    SeededBug::new(
        "region.attach_relaxed",
        "the release when a region is attached",
        "recycled_under_a_slow_reader",
    ),
    SeededBug::new("region.pin_relaxed", "the acquire of a pin", "recycled_under_a_slow_reader"),
    SeededBug::new("region.freeze_skips_word", "the closing of one word", "claim_or_freeze"),
    SeededBug::new(
        "region.claim_two_steps",
        "the one step in which a claim looks and takes",
        "claim_across_words_or_freeze",
    ),
    SeededBug::new(
        "region.freeze_not_reopened",
        "the reopening after a freeze that is called off",
        "freeze_called_off",
    ),
    SeededBug::new(
        "region.freeze_two_steps",
        "the one step in which a freezer looks and closes",
        "two_freezers",
    ),
    SeededBug::new(
        "region.claim_no_rollback",
        "the taking back of bits after a lost claim",
        "overlapping_claims",
    ),
    SeededBug::new(
        "region.claim_two_steps",
        "the one step in which a claim looks and takes",
        "overlapping_claims",
    ),
    SeededBug::new("region.claim_relaxed", "the acquire of a claim", "handed_over"),
    SeededBug::new("region.clear_relaxed", "the release when bits are cleared", "handed_over"),
    SeededBug::new("region.clear_before_dirty", "the order of dirty and claimed bits", "handed_over"),
    SeededBug::new("region.clear_relaxed", "the release when bits are cleared", "last_touch"),
    SeededBug::new("region.freeze_relaxed", "the acquire of the freezer", "last_touch"),
    SeededBug::new("region.purge_without_claim", "the purger's claim of what it purges", "purge_and_claim"),
    SeededBug::new("region.reopen_relaxed", "the release when a new map is opened", "header_before_claims"),
    SeededBug::new("region.pool_no_tag", "the tag against ABA", "pool"),
    SeededBug::new("region.pool_give_relaxed", "the release when an object is given", "pool"),
    SeededBug::new("region.pool_take_relaxed", "the acquire when an object is taken", "pool"),
    SeededBug::new("region.pool_take_again", "the acquire of the next top after a lost race", "pool"),
    SeededBug::new("region.chunk_publish", "the release when a chunk is offered", "metadata"),
    SeededBug::new("region.chunk_acquire", "the acquire of the current chunk", "metadata"),
    SeededBug::new("region.bump_two_steps", "the one step of the bump", "metadata"),
];

fn simulated() -> Simulated {
    Simulated::with(Config { reserve: GRANULE, ..Config::default() })
}

/// Memory that can be unmapped, and holds a number while it is there.
struct Memory(UnsafeCell<usize>);

impl Memory {
    fn new() -> Memory {
        Memory(UnsafeCell::new(0))
    }

    fn read(&self) -> usize {
        // SAFETY: the checker verifies that no write overlaps.
        self.0.with(|value| unsafe { value.read() })
    }

    fn write(&self, number: usize) {
        // SAFETY: the checker verifies that no access overlaps.
        self.0.with_mut(|value| unsafe { value.write(number) });
    }
}

/// A region of one life, its memory, and the system.
struct World {
    os: Simulated,
    region: &'static Region,
    memory: [Memory; 2],
}

const SHAPE: Shape =
    Shape { kind: Kind::Huge, base: 1 << 30, len: 1 << 20, mapped: 1 << 20, held: 0, mappings: 1 };

impl World {
    fn new() -> Arc<World> {
        // Descriptors are immortal; a model's last as long as the test.
        let region: &'static Region = Box::leak(Box::new(Region::new()));
        region.attach(SHAPE);
        Arc::new(World { os: simulated(), region, memory: [Memory::new(), Memory::new()] })
    }

    fn state(&self) -> &State {
        self.region.state()
    }

    fn unmap(&self) -> bool {
        if self.region.exclude() == Exclusion::Lost {
            return false;
        }
        self.state().wait_drained(&self.os);
        self.memory[0].write(1);
        true
    }

    fn pin_and_read(&self) {
        if self.state().try_pin() == Pinning::Pinned {
            assert_eq!(self.memory[0].read(), 0, "read after the unmap");
            self.state().unpin(&self.os);
        }
    }
}

fn on_thread(world: &Arc<World>, run: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || run(&world))
}

fn pins_and_an_unmapper() {
    explore(3, || {
        let world = World::new();
        let readers = [(); 2].map(|()| on_thread(&world, World::pin_and_read));
        assert!(world.unmap());
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(world.state().is_drained());
    });
}

fn two_unmappers() {
    explore(3, || {
        let world = World::new();
        assert_eq!(world.state().try_pin(), Pinning::Pinned);
        let other = world.clone();
        let other = thread::spawn(move || other.unmap());
        let reader = on_thread(&world, |world| {
            assert_eq!(world.memory[0].read(), 0);
            world.state().unpin(&world.os);
        });
        let won = world.unmap();
        reader.join().unwrap();
        assert!(won != other.join().unwrap(), "one of two wins");
    });
}

fn as_many_pins_as_count() {
    explore(3, || {
        let world = World::new();
        let pin = || {
            let world = world.clone();
            thread::spawn(move || world.state().try_pin())
        };
        let others = [pin(), pin()];
        let mine = world.state().try_pin();
        let all = others.map(|other| other.join().unwrap());
        let full = all.iter().chain([&mine]).filter(|&&pinning| pinning == Pinning::Full).count();
        assert_eq!((full, world.state().pins()), (1, 2));
    });
}

fn recycled_under_a_slow_reader() {
    explore(3, || {
        let world = World::new();
        let id = world.region.id();
        let reader = on_thread(&world, move |world| {
            if id.try_pin(&world.os) == Pinning::Pinned {
                assert_eq!(world.region.base(), SHAPE.base, "another life");
                assert_eq!(world.memory[0].read(), 0, "read after the unmap");
                world.state().unpin(&world.os);
            }
        });
        assert!(world.unmap());
        world.region.detach();
        world.region.attach(Shape { base: 2 << 30, ..SHAPE });
        reader.join().unwrap();
        assert_eq!(world.state().pins(), 0);
    });
}

/// A map of the slices 1 to 7 in two words, and the memory of two of them.
struct Slices {
    map: SliceMap,
    memory: [Memory; 8],
}

impl Slices {
    fn new() -> Arc<Slices> {
        let slices = Slices { map: SliceMap::new(), memory: core::array::from_fn(|_| Memory::new()) };
        slices.map.open(1..8);
        slices.map.reopen();
        Arc::new(slices)
    }

    /// Claims, uses the memory as its only user, and returns where.
    fn claim(&self, len: usize, align: usize) -> Option<Run> {
        let run = self.map.claim(len, Prefer::Any, align).run?;
        for memory in &self.memory[run.start..run.start + run.len] {
            let before = memory.read();
            assert!(!run.all_clean || before == 0, "clean memory is zero");
            memory.write(1);
        }
        Some(run)
    }

    fn unmap(&self) {
        self.memory.iter().for_each(|memory| memory.write(2));
    }
}

/// One claim against one freeze: exactly one of them comes about.
fn one_of_both(len: usize, align: usize) {
    explore(4, move || {
        let slices = Slices::new();
        let other = slices.clone();
        let claimant = thread::spawn(move || other.claim(len, align).is_some());
        let frozen = slices.map.freeze();
        if frozen {
            slices.unmap();
        }
        assert!(claimant.join().unwrap() != frozen, "one of both, not {frozen} twice");
    });
}

fn claim_or_freeze() {
    // In the first word, and in the second.
    one_of_both(1, 1);
    one_of_both(1, 4);
}

fn claim_across_words_or_freeze() {
    one_of_both(5, 1);
}

fn freeze_called_off() {
    explore(4, || {
        let slices = Slices::new();
        let run = slices.claim(1, 4).unwrap();
        let other = slices.clone();
        let owner = thread::spawn(move || other.map.release(run.start, run.len));
        let frozen = slices.map.freeze();
        owner.join().unwrap();
        assert_eq!(slices.map.is_empty(), !frozen, "as it was");
    });
}

fn two_freezers() {
    explore(4, || {
        let slices = Slices::new();
        let other = slices.clone();
        let other = thread::spawn(move || other.map.freeze());
        let frozen = slices.map.freeze();
        assert!(frozen != other.join().unwrap(), "one of two freezes");
    });
}

fn overlapping_claims() {
    explore(3, || {
        let slices = Slices::new();
        let other = slices.clone();
        let across = thread::spawn(move || other.claim(5, 1));
        let inside = slices.claim(1, 4);
        let across = across.join().unwrap();
        assert!(inside.is_some() || across.is_some());
        for run in [inside, across].into_iter().flatten() {
            slices.map.release(run.start, run.len);
        }
        assert!(slices.map.is_empty(), "a lost claim leaves nothing behind");
        assert!(slices.map.freeze());
    });
}

fn handed_over() {
    explore(3, || {
        let slices = Slices::new();
        // One slice is left for both.
        let _kept = slices.map.claim(6, Prefer::Any, 2).run;
        let other = slices.clone();
        let other = thread::spawn(move || {
            if let Some(run) = other.claim(1, 1) {
                other.map.release(run.start, run.len);
            }
        });
        if let Some(run) = slices.claim(1, 1) {
            slices.map.release(run.start, run.len);
        }
        other.join().unwrap();
    });
}

fn last_touch() {
    explore(4, || {
        let slices = Slices::new();
        let run = slices.claim(5, 1).unwrap();
        let other = slices.clone();
        let owner = thread::spawn(move || {
            other.memory[0].read();
            other.map.release(run.start, run.len);
        });
        if slices.map.freeze() {
            slices.unmap();
        }
        owner.join().unwrap();
    });
}

fn purge_and_claim() {
    explore(4, || {
        let slices = Slices::new();
        let run = slices.claim(5, 1).unwrap();
        slices.map.release(run.start, run.len);
        let other = slices.clone();
        let purger = thread::spawn(move || {
            if let Some(run) = other.map.claim_dirty_run(8).run {
                other.memory[run.start..run.start + run.len].iter().for_each(|memory| memory.write(0));
                other.map.release_clean(run.start, run.len);
            }
        });
        if let Some(run) = slices.claim(1, 4) {
            slices.map.release(run.start, run.len);
        }
        purger.join().unwrap();
        assert!(slices.map.is_empty());
        let clean = slices.claim(7, 1).unwrap();
        assert_eq!(clean.start, 1);
    });
}

fn header_before_claims() {
    explore(4, || {
        let slices =
            Arc::new(Slices { map: SliceMap::new(), memory: core::array::from_fn(|_| Memory::new()) });
        slices.map.open(1..8);
        let other = slices.clone();
        let claimant = thread::spawn(move || {
            if other.claim(1, 1).is_some() {
                assert_eq!(other.memory[0].read(), 5, "the header is written");
            }
        });
        slices.memory[0].write(5);
        slices.map.reopen();
        claimant.join().unwrap();
    });
}

/// Two objects in a stack, and what their users write to.
struct Shelf {
    pool: Stack<Region>,
    regions: [&'static Region; 2],
    memory: [Memory; 2],
}

impl Shelf {
    fn new() -> Arc<Shelf> {
        let regions = [(); 2].map(|()| &*Box::leak(Box::new(Region::new())));
        let shelf = Shelf { pool: Stack::new(), regions, memory: [Memory::new(), Memory::new()] };
        regions.iter().for_each(|region| shelf.pool.give(region));
        Arc::new(shelf)
    }

    /// What the only user of an object does.
    fn touch(&self, region: &'static Region) {
        self.memory[usize::from(core::ptr::eq(region, self.regions[1]))].write(1);
    }

    fn take(&self) -> Option<&'static Region> {
        let region = self.pool.take()?;
        self.touch(region);
        Some(region)
    }
}

fn pool() {
    explore(3, || {
        let shelf = Shelf::new();
        let other = shelf.clone();
        let other = thread::spawn(move || (other.take(), other.take()));
        // Takes both and gives the first back: the top is what it was, and what lies below is not.
        if let Some(first) = shelf.take() {
            let _second = shelf.take();
            shelf.pool.give(first);
        }
        other.join().unwrap();
    });
}

fn metadata() {
    explore(3, || {
        let world = Arc::new((simulated(), Metadata::new()));
        let other = world.clone();
        let other = thread::spawn(move || {
            [(); 2].map(|()| other.1.allocate(&other.0, 64, 64).unwrap().as_ptr() as usize)
        });
        let mine = world.1.allocate(&world.0, 64, 64).unwrap().as_ptr() as usize;
        let others = other.join().unwrap();
        let [a, b] = others;
        assert!(a.abs_diff(b) >= 64 && a.abs_diff(mine) >= 64 && b.abs_diff(mine) >= 64);
        assert_eq!((world.1.chunks(), world.1.mapped()), (1, world.0.mapped_bytes()));
        let region: &Region = world.1.create(&world.0).unwrap();
        assert_eq!(region.state().phase(), Phase::Detached, "a value is made where zero is none");
    });
}

models! {
    pins_and_an_unmapper two_unmappers as_many_pins_as_count recycled_under_a_slow_reader claim_or_freeze
    claim_across_words_or_freeze freeze_called_off two_freezers overlapping_claims handed_over last_touch
    purge_and_claim header_before_claims pool metadata
}
