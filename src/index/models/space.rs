//! Models of the space: readers, and whoever takes their region away.

use super::on_thread;
use super::watched::Watched;
use crate::base::SLICE;
use crate::index::Space;
use crate::rcu::{ReaderSlot, Section};
use crate::region::{Kind, Prefer, Region};
use crate::sync::checker::explore;
use std::sync::Arc;

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

pub(super) fn readers_and_an_unmap() {
    explore(3, || {
        let world = World::new(Kind::Huge);
        let short = on_thread(&world, |world| world.look(0));
        let long = on_thread(&world, |world| world.pin(1));
        assert_eq!(world.space.unmap_now(world.region, None), Ok(()));
        short.join().unwrap();
        long.join().unwrap();
    });
}

pub(super) fn readers_and_a_reaper() {
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

pub(super) fn claim_and_retire() {
    explore(3, || {
        let world = World::new(Kind::Arena);
        let claimant = on_thread(&world, |world| {
            let section = world.enter(0);
            let arena = world.space.find(world.base, &section);
            let run = arena.and_then(|arena| arena.slices().claim(1, Prefer::Any, 1).run);
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

/// Its owner unmaps a region while another, who found it, retires it.
pub(super) fn unmapped_and_retired() {
    explore(2, || {
        let world = World::new(Kind::Huge);
        let other = on_thread(&world, |world| {
            let section = world.enter(0);
            let found = world.space.find(world.base, &section);
            found.is_some_and(|region| world.space.retire_region(region))
        });
        let unmapped = world.space.unmap_now(world.region, None);
        let retired = other.join().unwrap();
        assert_eq!(unmapped.is_ok(), !retired, "unmapped by both, or by neither");
        world.reap();
        let counts = world.space.counts();
        assert_eq!((counts.regions, counts.retired, counts.mapped), ([0; crate::region::KINDS], 0, 0));
    });
}

pub(super) fn near_and_retire() {
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
