//! Threads that vanish in the middle of a call, as those of a process do for the child of a fork.

#[cfg(all(test, not(any(loom, shuttle))))]
use super::Simulated;

/// Never returns. (Nothing is unwound: what the thread has in hand stays so.)
pub(super) fn vanish() -> ! {
    loop {
        std::thread::park();
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
impl Simulated {
    /// Has the thread that makes the call with this ordinal vanish in the middle of it, before its effect, as the threads
    /// of a process do for the child of a fork: it never returns.
    pub fn vanish_at(&self, ordinal: u64) {
        self.state().record.vanish_at = Some(ordinal);
    }

    /// Whether nobody has vanished who was to.
    pub fn waits_for_vanishing(&self) -> bool {
        self.state().record.vanish_at.is_some()
    }
}
