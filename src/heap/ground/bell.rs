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

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::pal::Linux;
    use std::thread;
    use std::time::{Duration, Instant};

    /// How long `sleeps` takes beside a thread that does something for as long as that goes on.
    fn beside(sleeps: impl FnOnce(&Bell, &Linux), wakes: impl Fn(&Bell, &Linux) + Sync) -> Duration {
        let (bell, os, over) = (Bell::new(), Linux::new(), AtomicU32::new(0));
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                // Relaxed: a sign.
                while over.load(Ordering::Relaxed) == 0 {
                    thread::sleep(Duration::from_millis(20));
                    wakes(&bell, &os);
                }
            });
            let begun = Instant::now();
            sleeps(&bell, &os);
            over.store(1, Ordering::Relaxed);
            let took = begun.elapsed();
            // What ends a scope is unknown to ThreadSanitizer.
            other.join().expect("it does not panic");
            took
        })
    }

    #[test]
    fn whoever_calls_ends_every_sleep_but_one_that_is_to_linger() {
        const LONG: u32 = 20_000;
        let pause = |bell: &Bell, os: &Linux| bell.pause(os, LONG);
        let doze = |bell: &Bell, os: &Linux| bell.doze(os, Some(LONG), || false);
        let is_short = |slept: Duration| slept < Duration::from_millis(u64::from(LONG) / 2);
        assert!(is_short(beside(pause, Bell::call)) && is_short(beside(doze, Bell::call)));
        assert!(is_short(beside(doze, Bell::ring)));
        assert!(beside(|bell, os| bell.linger(os, 200), Bell::call) >= Duration::from_millis(190));
        assert!(is_short(beside(|bell, os| bell.linger(os, LONG), Bell::shake)));
    }
}
