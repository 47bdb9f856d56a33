//! Those who wait until somebody else has done with a unit. A checker runs this without the rest of the layer.

use crate::region::Unit;
use crate::sync::atomic::AtomicBool;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{in_order, seeded};
#[cfg(loom)]
use loom::sync::{Condvar, Mutex, MutexGuard};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(all(test, loom))]
mod models;

/// A value under a lock, and those who wait with it: until a unit is no longer busy, or there are no new readers.
pub(super) struct Waiting<T> {
    kept: Mutex<T>,
    changed: Condvar,
    closed: AtomicBool,
}

impl<T> Waiting<T> {
    pub(super) fn new(kept: T) -> Waiting<T> {
        Waiting { kept: Mutex::new(kept), changed: Condvar::new(), closed: AtomicBool::new(false) }
    }

    /// The value.
    pub(super) fn kept(&self) -> MutexGuard<'_, T> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_closed(&self) -> bool {
        // Relaxed: who comes after the closing knows of it by other ways; who comes beside it comes before or after.
        self.closed.load(Relaxed)
    }

    /// From now on there are no new readers: a change, for those who wait.
    pub(super) fn close(&self) {
        // Relaxed: as above; who waits looks under the lock.
        self.closed.store(true, Relaxed);
    }

    /// Does what those who wait for wait, and tells them then.
    pub(super) fn change<R>(&self, change: impl FnOnce() -> R) -> R {
        in_order(change, || self.tell(), "paging.told_first").0
    }

    /// Waits while another thread is busy with a unit.
    pub(super) fn wait_for(&self, unit: &Unit) {
        let is_over = || !unit.is_busy() || self.is_closed() && !seeded("paging.waits_when_closed");
        if seeded("paging.looked_without_lock") {
            if !is_over() {
                drop(self.changed.wait(self.kept()));
            }
            return;
        }
        let mut kept = self.kept();
        while !is_over() {
            kept = self.changed.wait(kept).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn tell(&self) {
        // Who has looked and does not wait yet has the lock.
        if !seeded("paging.told_without_lock") {
            drop(self.kept());
        }
        if seeded("paging.told_to_one") {
            return self.changed.notify_one();
        }
        self.changed.notify_all();
    }
}
