//! Models of what a slab's record says to a walk, which holds nothing, by loom: beside the heap that closes the slab and
//! opens another in its place, and beside one that tills it. What lies in the slab is a word of the checker's here.

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
    SeededBug::new("heap.fallow_written", "the release of a page that was tilled", "tilled"),
    SeededBug::new("heap.fallow_read", "the acquire of a page that was tilled", "tilled"),
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

/// Blocks of a fallow page are listed, by which they are known to be free, and the page is fallow no more.
fn tilled() {
    const LISTED: usize = 1;
    explore(3, || {
        let slice = Arc::new(Slice { record: Slab::unused(), word: AtomicUsize::new(0) });
        slice.record.set_fallow(1);
        let walker = {
            let slice = Arc::clone(&slice);
            thread::spawn(move || {
                // As `Slab::is_free_meanwhile`.
                let before = slice.record.fallow();
                let word = slice.word.load(Ordering::Relaxed);
                let after = slice.record.fallow();
                if after & 1 == 0 && before == after {
                    assert_eq!(word, LISTED, "a free block is taken for a live one");
                }
            })
        };
        // As `Heap::till`.
        slice.word.store(LISTED, Ordering::Relaxed);
        slice.record.set_fallow(0);
        walker.join().unwrap();
    });
}

models! { reopened tilled }
