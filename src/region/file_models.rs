//! Models of what only regions of files need of a descriptor: pins beside pins, exclusion of what is not pinned, and
//! bytes that are added.

use super::*;
use crate::pal::simulated::{Config, Simulated};
use crate::sync::SeededBug;
use crate::sync::checker::{explore, models};
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new(
        "region.beside_two_steps",
        "the one step in which a holder counts one more pin",
        "pinned_beside",
    ),
    SeededBug::new(
        "region.unpinned_two_steps",
        "the one step in which an unmapper finds no pin and excludes",
        "excluded_if_unpinned",
    ),
    SeededBug::new("region.file_bytes_relaxed", "the acquire of a file's length", "grown_under_a_reader"),
    SeededBug::new("region.file_grown_relaxed", "the release of a file's length", "grown_under_a_reader"),
];

/// A region of one life, what stands for its memory, and the system.
struct World {
    os: Simulated,
    region: &'static Region,
    memory: UnsafeCell<usize>,
}

// SAFETY: the checker verifies every access, and all threads of a model are coroutines of one.
unsafe impl Send for World {}
// SAFETY: as above.
unsafe impl Sync for World {}

impl World {
    fn new() -> Arc<World> {
        let os = Simulated::with(Config::default());
        // Descriptors are immortal; a model's last as long as the test.
        let region: &'static Region = Box::leak(Box::new(Region::new()));
        let len = 1 << 20;
        region.attach(Shape { kind: Kind::File, base: 1 << 30, len, mapped: len, held: 0, mappings: 1 });
        Arc::new(World { os, region, memory: UnsafeCell::new(0) })
    }

    fn state(&self) -> &State {
        self.region.state()
    }

    fn read(&self) -> usize {
        // SAFETY: the checker verifies that no write overlaps.
        self.memory.with(|value| unsafe { value.read() })
    }

    fn write(&self, number: usize) {
        // SAFETY: the checker verifies that no access overlaps.
        self.memory.with_mut(|value| unsafe { value.write(number) });
    }
}

/// The holder of a pin hands another one on, while its own pin is dropped and the region unmapped. No more are handed on
/// than can be counted.
fn pinned_beside() {
    explore(3, || {
        let world = World::new();
        let pin_all = || (0..10).take_while(|_| world.state().pin_beside()).count();
        assert_eq!(world.state().try_pin(), Pinning::Pinned);
        let others = pin_all();
        assert!(others > 0 && world.state().try_pin() == Pinning::Full && pin_all() == 0);
        (0..others).for_each(|_| world.state().unpin(&world.os));
        let holder = world.clone();
        let holder = thread::spawn(move || {
            assert!(holder.state().pin_beside());
            holder.state().unpin(&holder.os);
            assert_eq!(holder.read(), 0, "read after the unmap");
            holder.state().unpin(&holder.os);
        });
        assert_ne!(world.region.exclude(), Exclusion::Lost);
        world.state().wait_drained(&world.os);
        world.write(1);
        holder.join().unwrap();
    });
}

/// One pins and reads, another unmaps if nobody has pinned.
fn excluded_if_unpinned() {
    explore(3, || {
        let world = World::new();
        let reader = world.clone();
        let reader = thread::spawn(move || {
            if reader.state().try_pin() == Pinning::Pinned {
                assert_eq!(reader.read(), 0, "read after the unmap");
                reader.state().unpin(&reader.os);
            }
        });
        if world.state().exclude_unpinned() != Exclusion::Lost {
            assert!(world.state().is_drained());
            world.write(1);
        }
        reader.join().unwrap();
    });
}

/// A file grows under its region: who sees more bytes sees what the file has there.
fn grown_under_a_reader() {
    explore(3, || {
        let world = World::new();
        let writer = world.clone();
        let writer = thread::spawn(move || {
            writer.write(1);
            writer.region.file().set_bytes(1);
        });
        if world.region.file().bytes() == 1 {
            assert_eq!(world.read(), 1);
        }
        writer.join().unwrap();
    });
}

models! { pinned_beside excluded_if_unpinned grown_under_a_reader }
