//! Models of the holes: what is given back is found again, whoever looks meanwhile.

use super::on_thread;
use crate::base::GRANULE;
use crate::index::holes::{Holes, ensure, find};
use crate::pal::simulated::{Config, Simulated};
use crate::region::Metadata;
use crate::sync::atomic::AtomicUsize;
use crate::sync::checker::explore;
use loom::thread;
use std::sync::Arc;

/// One map of holes.
struct Map {
    os: Simulated,
    metadata: Metadata,
    word: AtomicUsize,
}

impl Map {
    fn new() -> Arc<Map> {
        let os = Simulated::with(Config { reserve: GRANULE, ..Config::default() });
        Arc::new(Map { os, metadata: Metadata::new(), word: AtomicUsize::new(0) })
    }

    fn holes(&self) -> &'static Holes {
        ensure(&self.word, &self.os, &self.metadata).unwrap()
    }
}

/// Two make the first hole of a map at once, a third finds what is free, and nothing else.
pub(super) fn holes_linked() {
    explore(3, || {
        let map = Map::new();
        let reader = on_thread(&map, |map| {
            if let Some(holes) = find(&map.word) {
                assert!(holes.are_held(2..8), "never given back");
            }
        });
        let other = on_thread(&map, |map| map.holes().give_back(0, 1));
        map.holes().give_back(1, 2);
        other.join().unwrap();
        reader.join().unwrap();
        assert_eq!(map.holes().claim(2, 1), Some(0));
        assert_eq!(map.holes().claim(1, 1), None);
    });
}

/// A search that misses what is given back meanwhile does not hide it.
pub(super) fn hole_found() {
    explore(3, || {
        let map = Map::new();
        let _ = map.holes();
        let reader = thread::spawn({
            let map = map.clone();
            move || map.holes().claim(2, 1)
        });
        map.holes().give_back(1, 3);
        let found = reader.join().unwrap();
        assert!(found.is_none_or(|first| first == 1));
        assert_eq!(map.holes().claim(2, 1), if found.is_none() { Some(1) } else { None });
    });
}

/// Nor does one that misses what another search held for a moment. The run lies in two words.
pub(super) fn hole_held_for_a_moment() {
    explore(3, || {
        let map = Map::new();
        map.holes().give_back(3, 5);
        let both = on_thread(&map, |map| {
            map.holes().claim(2, 1);
        });
        let second = on_thread(&map, |map| {
            map.holes().claim(1, 4);
        });
        let first = map.holes().claim(1, 1);
        both.join().unwrap();
        second.join().unwrap();
        let left = !map.holes().are_held(3..4) || !map.holes().are_held(4..5);
        assert_eq!(map.holes().claim(1, 1).is_some(), left, "{first:?}");
    });
}

/// Nor what one held who wanted all of them.
pub(super) fn whole_held_for_a_moment() {
    explore(2, || {
        let map = Map::new();
        map.holes().give_back(4, 8);
        let single = on_thread(&map, |map| {
            map.holes().claim(1, 1);
        });
        let whole = on_thread(&map, |map| {
            map.holes().claim_all(8);
        });
        map.holes().give_back(0, 4);
        let run = map.holes().claim(4, 4);
        single.join().unwrap();
        whole.join().unwrap();
        let is_left = |start: usize| (start..start + 4).all(|place| !map.holes().are_held(place..place + 1));
        let left = is_left(0) || is_left(4);
        assert_eq!(map.holes().claim(4, 1).is_some(), left || (1..4).any(is_left), "{run:?}");
    });
}
