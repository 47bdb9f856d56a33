//! Figures: counts that are told, and that decisions go by where a figure that is wrong for a moment does no harm.

use super::atomic::{AtomicUsize, Ordering};
use crate::sync::{const_unless_model, seeded};

/// A count that any thread may change and ask for. Relaxed, all: a figure; no access to it is ordered with any other,
/// and it is exact once nobody is changing it.
#[repr(transparent)]
pub struct Counter(AtomicUsize);

impl Counter {
    const_unless_model! {
        /// Zero.
        pub fn new() -> Counter {
            Counter(AtomicUsize::new(0))
        }
    }

    /// A word as a counter.
    pub fn of(word: &AtomicUsize) -> &Counter {
        // SAFETY: `repr(transparent)`.
        unsafe { &*core::ptr::from_ref(word).cast() }
    }

    /// The count.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts `more`.
    pub fn add(&self, more: usize) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// As [`Counter::add`]; in two steps where the bug `name` is planted.
    pub fn add_in_one_step(&self, more: usize, name: &str) {
        if !seeded(name) { self.add(more) } else { self.add_alone(more) }
    }

    /// Takes `fewer` off, which somebody has counted.
    pub fn take_off(&self, fewer: usize) {
        self.0.fetch_sub(fewer, Ordering::Relaxed);
    }

    /// Counts `more`, where one thread at a time counts: no locked instruction.
    pub fn add_alone(&self, more: usize) {
        self.0.store(self.get() + more, Ordering::Relaxed);
    }

    /// Begins anew at `count`, where nobody else counts.
    pub fn set(&self, count: usize) {
        self.0.store(count, Ordering::Relaxed);
    }
}

impl Default for Counter {
    fn default() -> Counter {
        Counter::new()
    }
}
