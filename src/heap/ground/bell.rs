//! How a sleeping helper learns that memory has become idle.
//!
//! The race that must not happen: somebody makes memory idle while the helper, which has just seen that there is none,
//! falls asleep without a timer, and nobody wakes it. Each side writes, passes a full fence, and then reads what the
//! other writes: so either whoever makes memory idle sees that the helper sleeps, or the helper sees the memory.

use crate::const_unless_model;
use crate::heap::mend::Mend;
use crate::pal::Platform;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{full_fence, in_order, seeded};

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
/// Somebody wants the helper to look whether it is to end, and not only when its pause is over.
const CALLED: u32 = 2;

/// The word that the helper sleeps on. One helper at a time.
pub struct Bell {
    /// [`ASLEEP`] from before the helper's last look until somebody wakes it.
    state: AtomicU32,
}

impl Bell {
    const_unless_model! {
        /// Nobody sleeps.
        pub(in crate::heap) fn new() -> Bell {
            Bell { state: AtomicU32::new(AWAKE) }
        }
    }

    /// Wakes the helper if it sleeps. Called after memory has become idle. No system call unless it sleeps.
    pub fn ring<P: Platform>(&self, os: &P) {
        // Partner: the fence in `doze`.
        full_fence("heap.ring_fence");
        // Relaxed (both): the fence orders the look; the exchange elects one of those who ring, and carries nothing.
        if self.state.load(Ordering::Relaxed) == ASLEEP
            && self.state.swap(AWAKE, Ordering::Relaxed) == ASLEEP
            && !seeded("heap.ring_without_wake")
        {
            os.wake(&self.state, 1);
        }
    }

    /// Wakes the helper if it sleeps or pauses: it may have to end. The caller has passed a full fence since it wrote
    /// what the helper is to see. No system call if it was called already.
    pub fn call<P: Platform>(&self, os: &P) {
        // Relaxed: the caller's fence orders it; the exchange elects one of those who call.
        if self.state.swap(CALLED, Ordering::Relaxed) != CALLED && !seeded("heap.call_without_wake") {
            os.wake(&self.state, 1);
        }
    }

    /// Sleeps until somebody rings or calls, or `most_ms` have passed, unless `is_idle` says that there is idle memory
    /// now. By the helper alone.
    pub fn doze<P: Platform>(&self, os: &P, most_ms: Option<u32>, is_idle: impl Fn() -> bool) {
        let lie_down = || {
            self.set(ASLEEP);
            // Partner: the fence in `ring`.
            full_fence("heap.doze_fence");
        };
        let ((), is_idle) = in_order(lie_down, is_idle, "heap.doze_looks_early");
        if !is_idle {
            os.wait(&self.state, ASLEEP, most_ms);
        }
        self.set(AWAKE);
    }

    fn set(&self, state: u32) {
        // Relaxed: the fence orders it before the look. An exchange, for loom does not know that a plain store cannot
        // come between the halves of another thread's.
        self.state.swap(state, Ordering::Relaxed);
    }

    /// Sleeps for `ms` milliseconds, or until somebody calls. By the helper alone.
    pub fn pause<P: Platform>(&self, os: &P, ms: u32) {
        os.wait(&self.state, AWAKE, Some(ms));
        self.set(AWAKE);
    }

    /// Sleeps for `ms` milliseconds, whoever calls meanwhile, but for [`Bell::shake`]. By the helper alone.
    pub fn linger<P: Platform>(&self, os: &P, ms: u32) {
        self.set(CALLED);
        os.wait(&self.state, CALLED, Some(ms));
        self.set(AWAKE);
    }

    /// Wakes the helper whatever it does, if it waits at this moment.
    pub fn shake<P: Platform>(&self, os: &P) {
        os.wake(&self.state, 1);
    }
}

impl Mend for Bell {
    fn mend(&self) {
        // There is no helper in the child.
        // Relaxed: the child has one thread.
        self.state.store(AWAKE, Ordering::Relaxed);
    }
}
