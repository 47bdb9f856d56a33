//! Models of what leads to a region beside the index: guards and pins against reopening and closing.

use super::on_thread;
use super::watched::Watched;
use crate::base::{SLICE, align_down};
use crate::index::radix::ROOT_SPAN;
use crate::index::{Current, Space, UnmapError};
use crate::pal::{Access, Platform};
use crate::rcu::{ReaderSlot, Section};
use crate::region::{Kind, Region, Shape};
use crate::sync::checker::explore;
use std::sync::Arc;

/// A space, a word that leads to its region, where another one is to be, and slots for two readers. (Where an entry of
/// the index's root begins: how many steps a mapping takes depends on its address, and is to be the same in each
/// execution.)
struct World {
    space: Space<Watched>,
    slots: [ReaderSlot; 2],
    current: Current,
    next: usize,
}

impl World {
    fn new() -> Arc<World> {
        let space = Space::new(Watched::new());
        space.start();
        let anywhere = space.os().map(None, SLICE, Access::None).unwrap();
        let base = align_down(anywhere, ROOT_SPAN) - ROOT_SPAN;
        let (slots, current) = ([ReaderSlot::new(), ReaderSlot::new()], Current::new(map(&space, base)));
        let world = Arc::new(World { space, slots, current, next: base + SLICE });
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

    /// A guard; whether there was a region.
    fn look(&self, slot: usize) -> bool {
        let section = self.enter(slot);
        let region = self.current.get(&section);
        region.inspect(|region| self.space.os().touch(region.base())).is_some()
    }

    /// A pin; whether there was one to be had.
    fn pin(&self, slot: usize) -> bool {
        let section = self.enter(slot);
        let region = self.current.get(&section);
        let pin = region.and_then(|region| self.space.pin_region(region, &section).ok());
        drop(section);
        pin.inspect(|pin| self.space.os().touch(pin.region().base())).is_some()
    }

    fn map_next(&self) -> &'static Region {
        map(&self.space, self.next)
    }

    /// What reopening does: `new` takes the place of the current region, if there is one.
    fn reopen(&self, new: &'static Region) -> bool {
        let old = self.current.region();
        let done = old.is_some_and(|old| self.space.supersede(&self.current, old, Some(new)));
        if !done {
            assert!(self.space.retire_region(new));
        }
        self.reap();
        done
    }

    fn reap(&self) {
        self.space.reap(None);
        self.space.reap(None);
    }

    fn close(&self) -> Result<(), UnmapError> {
        let Some(old) = self.current.region() else { return Err(UnmapError::NotThere) };
        self.space.close(&self.current, old, None)
    }

    /// At the end: nothing is left but what the word leads to.
    fn end(&self) {
        while self.space.counts().retired > 0 {
            self.space.reap(None);
            crate::sync::spin_hint();
        }
        let left = usize::from(self.current.region().is_some());
        assert_eq!(self.space.counts().regions[Kind::File as usize], left, "a region is lost");
    }
}

/// The region of the slice at `base`.
fn map(space: &Space<Watched>, base: usize) -> &'static Region {
    assert_eq!(space.os().map(Some(base), SLICE, Access::ReadWrite), Ok(base));
    // SAFETY: mapped just now.
    let region = unsafe { space.adopt_file(base, SLICE, 0, SLICE) }.unwrap();
    space.os().watch(base);
    region
}

/// A guard against reopening: it finds the old region or the new one, and each is complete.
pub(super) fn reopened_under_a_guard() {
    explore(2, || {
        let world = World::new();
        let (old, new) = (world.current.region().unwrap(), world.next);
        let reader = on_thread(&world, move |world| {
            let section = world.enter(0);
            let region = world.current.get(&section).expect("nothing was there");
            assert!([old.base(), new].contains(&region.base()), "not complete");
        });
        let region: &'static Region = Box::leak(Box::new(Region::new()));
        let shape = Shape { kind: Kind::File, base: new, len: SLICE, mapped: SLICE, held: 0, mappings: 1 };
        region.attach(shape);
        assert!(world.space.supersede(&world.current, old, Some(region)));
        reader.join().unwrap();
    });
}

/// A guard against reopening, while another thread does what is due: what it reads is there.
pub(super) fn reopened_beside_a_reaper() {
    explore(1, || {
        let world = World::new();
        let new = world.map_next();
        let reader = on_thread(&world, |world| assert!(world.look(0), "nothing was there"));
        let reaper = on_thread(&world, |world| world.reap());
        assert!(world.reopen(new));
        reader.join().unwrap();
        reaper.join().unwrap();
        world.end();
    });
}

/// A pin against reopening.
pub(super) fn reopened_under_a_pin() {
    explore(2, || {
        let world = World::new();
        let new = world.map_next();
        let reader = on_thread(&world, |world| world.pin(0));
        assert!(world.reopen(new));
        reader.join().unwrap();
        world.end();
    });
}

/// A guard and a pin against an unmap that waits for both.
pub(super) fn closed_under_readers() {
    explore(2, || {
        let world = World::new();
        let short = on_thread(&world, |world| world.look(0));
        let long = on_thread(&world, |world| world.pin(1));
        assert_eq!(world.close(), Ok(()));
        assert!(world.current.region().is_none());
        short.join().unwrap();
        long.join().unwrap();
        world.end();
    });
}

/// One reopens while another closes: what is closed stays closed, and nothing is lost.
pub(super) fn reopened_and_closed() {
    explore(2, || {
        let world = World::new();
        let new = world.map_next();
        let other = on_thread(&world, move |world| world.reopen(new));
        let closed = world.close();
        let reopened = other.join().unwrap();
        assert_eq!(world.current.region().is_some(), reopened && closed.is_err());
        world.end();
    });
}

/// A guard against an unmap that gives way to pins, while another thread does what is due.
pub(super) fn closed_beside_a_reaper() {
    explore(1, || {
        let world = World::new();
        let reader = on_thread(&world, |world| world.look(0));
        let reaper = on_thread(&world, |world| world.reap());
        let old = world.current.region().unwrap();
        assert!(world.space.close_unpinned(&world.current, old));
        reader.join().unwrap();
        reaper.join().unwrap();
        world.end();
    });
}

/// A guard and a pin against an unmap that gives way to pins.
pub(super) fn closed_if_unpinned() {
    explore(2, || {
        let world = World::new();
        let reader = on_thread(&world, |world| {
            world.look(0);
            world.pin(0)
        });
        let old = world.current.region().unwrap();
        let closed = world.space.close_unpinned(&world.current, old);
        world.reap();
        reader.join().unwrap();
        assert_eq!(world.current.region().is_none(), closed);
        world.end();
    });
}
