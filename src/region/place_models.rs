//! Models of the place where takers of blocks look first: [`Place`], with a list as the layer above keeps it.

use super::{BlockMap, Given, Mapped, Place};
use crate::sync::SeededBug;
use crate::sync::checker::{explore, models};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new(
        "region.place_two_steps",
        "the one step in which a map goes where takers look",
        "replaced_by_two",
    ),
    SeededBug::new(
        "region.place_lost",
        "the retirement of a map that came too late to its place",
        "replaced_by_two",
    ),
    SeededBug::new(
        "region.place_cleared_twice",
        "the one step in which a map is taken from its place",
        "cleared_by_two",
    ),
    SeededBug::new(
        "region.place_clear_relaxed",
        "the acquire of who takes a map from its place",
        "cleared_late",
    ),
    SeededBug::new(
        "region.place_put_relaxed",
        "the release of who puts a map into its place",
        "cleared_late",
    ),
    SeededBug::new(
        "region.place_left_relaxed",
        "the acquire of who puts another map in place of one",
        "replaced_late",
    ),
    SeededBug::new(
        "region.place_other_kept",
        "the return of a block of a map that was another's by then",
        "taken_from_what_was_there",
    ),
];

const KIND: u32 = 1;
const OTHER: u32 = 2;

struct Slab {
    map: BlockMap,
    /// How often it is in the list: not one of the model's atomics, for it orders nothing.
    listed: AtomicUsize,
}

impl Mapped for Slab {
    fn map(&self) -> &BlockMap {
        &self.map
    }
}

impl Slab {
    fn closed() -> &'static Slab {
        Box::leak(Box::new(Slab { map: BlockMap::new(), listed: AtomicUsize::new(0) }))
    }

    /// One that is current, of two blocks.
    fn open() -> &'static Slab {
        let slab = Slab::closed();
        slab.map.open(KIND, 2);
        slab
    }

    fn list(&self) {
        let before = self.listed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(before, 0, "listed twice");
    }

    fn unlist(&self) -> bool {
        self.listed.swap(0, std::sync::atomic::Ordering::Relaxed) == 1
    }

    fn retire(&self) {
        if self.map.retire() {
            self.list();
        }
    }

    fn give(&self, index: usize) {
        match self.map.give(index) {
            Given::Free => {}
            Given::ToList => self.list(),
            Given::Twice => panic!("given twice"),
        }
    }

    /// Whether it is found where it should be: in its place or in the list.
    fn is_found(&self, place: &Place<Slab>) -> bool {
        let is_listed = self.listed.load(std::sync::atomic::Ordering::Relaxed) == 1;
        is_listed != std::ptr::eq(place.seen(), self)
    }
}

fn put(place: &Place<Slab>, slab: &'static Slab) {
    assert!(place.replace(std::ptr::null_mut(), slab).is_none());
}

/// A block as a thread takes it, which brings `next` with it.
fn take_or_bring(place: &Place<Slab>, next: &'static Slab) -> (&'static Slab, usize) {
    let seen = place.seen();
    if let Some(block) = place.take(KIND, Slab::give) {
        next.retire();
        return block;
    }
    let index = next.map.take(KIND).unwrap().expect("nobody else knows it");
    if let Some(left) = place.replace(seen, next) {
        left.retire();
    }
    (next, index)
}

/// Two threads find nothing in a place, and bring a slab each: one of them stays, and nothing is lost.
fn replaced_by_two() {
    explore(3, || {
        let (place, slabs) = (Arc::new(Place::new()), [Slab::open(), Slab::open(), Slab::open()]);
        put(&place, slabs[0]);
        let full = [(); 2].map(|()| place.take(KIND, Slab::give).expect("two blocks"));
        let its_place = place.clone();
        let other = thread::spawn(move || take_or_bring(&its_place, slabs[1]));
        let own = take_or_bring(&place, slabs[2]);
        let others = other.join().unwrap();
        assert!(!std::ptr::eq(own.0, others.0) || own.1 != others.1, "a block twice");
        for (slab, index) in full.into_iter().chain([own, others]) {
            slab.give(index);
        }
        assert!(slabs.iter().all(|slab| slab.is_found(&place)), "a slab that nobody finds");
    });
}

/// Two threads clear a place: one of them has the slab.
fn cleared_by_two() {
    explore(3, || {
        let (place, slab) = (Arc::new(Place::new()), Slab::open());
        put(&place, slab);
        let its_place = place.clone();
        let clear = |place: &Place<Slab>| _ = place.clear().inspect(|slab| slab.retire());
        let other = thread::spawn(move || clear(&its_place));
        clear(&place);
        other.join().unwrap();
        assert!(slab.is_found(&place) && place.seen().is_null());
    });
}

/// A place is cleared while a slab is opened and put there: who has it finds it open.
fn cleared_late() {
    explore(3, || {
        let (place, slab) = (Arc::new(Place::new()), Slab::closed());
        let its_place = place.clone();
        let other = thread::spawn(move || {
            slab.map.open(KIND, 2);
            put(&its_place, slab);
        });
        if let Some(left) = place.clear() {
            assert_eq!(left.map.kind(), KIND, "not as it was put there");
            left.retire();
        }
        other.join().unwrap();
        assert!(slab.is_found(&place));
    });
}

/// A slab comes into the place of one that was taken out, used for other blocks, and put there again: who has that in
/// hand knows it as it is.
fn replaced_late() {
    explore(3, || {
        let (place, slab, next) = (Arc::new(Place::new()), Slab::open(), Slab::open());
        put(&place, slab);
        let its_place = place.clone();
        let other = thread::spawn(move || {
            let Some(slab) = its_place.clear() else { return };
            slab.retire();
            assert!(slab.unlist() && slab.map.close());
            slab.map.open(OTHER, 1);
            slab.retire();
            assert!(slab.unlist() && slab.map.close());
            slab.map.open(KIND, 2);
            if let Some(late) = its_place.replace(std::ptr::null_mut(), slab) {
                late.retire();
            }
        });
        if let Some(left) = place.replace(place.seen(), next) {
            assert_eq!(left.map.kind(), KIND, "not as it was put there");
            left.retire();
        }
        other.join().unwrap();
        assert!(slab.is_found(&place) && next.is_found(&place));
    });
}

/// One takes a block from where another takes a slab away, to use it for other blocks: of those it keeps none.
fn taken_from_what_was_there() {
    explore(3, || {
        let (place, slab) = (Arc::new(Place::new()), Slab::open());
        put(&place, slab);
        let its_place = place.clone();
        let late = thread::spawn(move || {
            if let Some((slab, index)) = its_place.take(KIND, Slab::give) {
                assert_eq!(slab.map.kind(), KIND, "a block of another kind");
                slab.give(index);
            }
        });
        let left = place.clear().expect("nobody else takes it");
        left.retire();
        if left.unlist() {
            if left.map.close() {
                left.map.open(OTHER, 1);
            }
            left.retire();
        }
        late.join().unwrap();
        assert_eq!(slab.map.held(), 0, "a block that nobody has");
        assert!(slab.is_found(&place));
    });
}

models! { replaced_by_two cleared_by_two cleared_late replaced_late taken_from_what_was_there }
