//! Threads that read regions without a heap: each has a reader slot that stands alone.

use super::fork;
use super::options::Options;
use super::process::process;
use super::start::start;
use crate::rcu::ReaderSlot;

/// Makes `slot` one that grace periods look at, for good, and the calling thread's. Starts the allocator if it has not
/// been started: without the options that a `static` may have, so whoever allocates by such a one does so first.
///
/// # Safety
/// The slot is attached once in its life.
pub unsafe fn attach_reader(slot: &'static ReaderSlot) {
    start(Options::NONE);
    fork::notice();
    possess_reader(slot);
    // SAFETY: the caller's; the slot lives forever.
    unsafe { process().space().rcu().attach(slot) };
}

/// Makes an attached slot that no thread has the calling thread's.
pub fn possess_reader(slot: &ReaderSlot) {
    slot.belong_to(fork::number());
}
