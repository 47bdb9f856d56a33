//! Claims of runs of bits in a bitmap, by compare-and-swap on single words: a set bit is held by somebody.
//!
//! A claimant of several words takes them in ascending order; if it meets one in which a bit of its run is held, it
//! gives back what it took.

use super::runs::{BITS, span, words};
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Exchange, acquire, release, seeded};

/// The bitmap at some moment.
pub(crate) fn read<const N: usize>(bitmap: &[AtomicU64; N]) -> [u64; N] {
    // Relaxed: a snapshot to choose from; every choice is validated by the exchange that takes it.
    core::array::from_fn(|word| bitmap[word].load(Relaxed))
}

/// Takes the bits of `start..end`, all or none. Says in `took_back` if it had some of them for a moment: whoever looked
/// meanwhile did not find them.
pub(crate) fn try_claim(bitmap: &[AtomicU64], start: usize, end: usize, took_back: &mut bool) -> bool {
    for word in words(start, end) {
        let mask = span(word, start, end);
        // Relaxed: only the guess for the exchange below.
        let mut seen = bitmap[word].load(Relaxed);
        loop {
            if seen & mask != 0 {
                if start < word * BITS && !seeded("region.claim_no_rollback") {
                    take_back(bitmap, start, word * BITS);
                    *took_back = true;
                }
                return false;
            }
            let taken = seen | mask;
            // Acquire: partner is the Release of `clear`: what the last holder did with what the bits stand for has
            // happened. Relaxed on failure: nothing is read but the word.
            let order = acquire("region.claim_relaxed");
            match bitmap[word].exchange(seen, taken, order, Relaxed, "region.claim_two_steps") {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
    }
    true
}

/// Gives back the bits of `start..end` after a lost claim.
fn take_back(bitmap: &[AtomicU64], start: usize, end: usize) {
    for word in words(start, end) {
        // Relaxed: nothing was done with what they stand for, and as a read-modify-write it keeps the release sequence
        // of those who cleared the bits before.
        bitmap[word].fetch_and(!span(word, start, end), Relaxed);
    }
}

/// Gives back the bits of `start..end`, which the caller holds.
pub(crate) fn clear(bitmap: &[AtomicU64], start: usize, end: usize) {
    for word in words(start, end) {
        // Release: partners are the Acquire of `try_claim` (the next holder) and that of `SliceMap::freeze` (the
        // unmapper).
        bitmap[word].fetch_and(!span(word, start, end), release("region.clear_relaxed"));
    }
}
