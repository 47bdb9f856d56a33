//! A model of the lives of a slab's record, by loom: a walk, which holds nothing, beside the heap that closes a slab and
//! opens another in its place. What a program has in the slab is a word of the checker's here.

use super::*;
use crate::base::class_of;
use crate::sync::checker::{explore, models};
use loom::thread;
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("heap.life_begun", "the release of a slab that is open", "reopened"),
    SeededBug::new("heap.life_read", "the acquire of a slab that is open", "reopened"),
    SeededBug::new("heap.life_ended", "the fence behind the end of a slab's life", "reopened"),
    SeededBug::new("heap.life_read_again", "the fence before the second look at a life", "reopened"),
    SeededBug::new("heap.life_forgotten", "the second look at a life", "reopened"),
];

/// A slice, its record and a word of it, which says of which class the slab is.
struct Slice {
    record: Slab,
    word: AtomicUsize,
}

impl Slice {
    fn open(&self, class: usize) {
        self.record.open(class, ptr::null_mut(), 0);
        // Relaxed, here and below: the program's.
        self.word.store(class, Ordering::Relaxed);
    }

    /// What a walk does: all that it believes is of one slab.
    fn look(&self) {
        let Some(life) = self.record.life() else { return };
        let (class, slices) = (self.record.class(), self.record.slices());
        let word = self.word.load(Ordering::Relaxed);
        if self.record.is_in(life) {
            assert!(word == class || word == FRESH, "a block of class {word} told as one of class {class}");
            assert_eq!(slices, 1);
        }
    }
}

/// What is in a slab of which nothing was handed out.
const FRESH: usize = usize::MAX;

fn reopened() {
    explore(3, || {
        let slice = Arc::new(Slice { record: Slab::unused(), word: AtomicUsize::new(FRESH) });
        let walker = {
            let slice = Arc::clone(&slice);
            thread::spawn(move || slice.look())
        };
        slice.open(class_of(64));
        slice.record.close();
        slice.word.store(FRESH, Ordering::Relaxed);
        slice.open(class_of(1024));
        walker.join().unwrap();
    });
}

models! { reopened }
