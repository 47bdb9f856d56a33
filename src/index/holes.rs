//! Which of a number of places are free again: a bitmap, and what is known not to fit into it.
//!
//! The bitmap is the only record, so holes that meet are one, and none is ever forgotten. A search that found no room
//! is remembered, so that the next one does not look again: what is known has a version, which whoever makes room
//! changes afterwards. So a search that missed the room cannot write down what it found.

use super::radix::{GRANULES, ROOT};
use crate::pal::Platform;
use crate::region::claims::{clear, read, try_claim};
#[cfg(all(test, loom))]
use crate::region::runs::span;
use crate::region::runs::{BITS, FULL, first_free};
use crate::region::{InPlace, Metadata, zeros64};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicU64, AtomicUsize};
use crate::sync::{Exchange, acquire, release, seeded};

/// Words of a bitmap: for the granules of an entry of the root, and for those entries.
const WORDS: usize = if GRANULES / BITS < 2 { 2 } else { GRANULES / BITS };

/// The bits of what is known that hold a length; the version is above them.
const LENGTH: u64 = u16::MAX as u64;

const _: () = assert!(WORDS * BITS >= GRANULES && WORDS * BITS >= ROOT && WORDS * BITS <= LENGTH as usize);

/// Places, of which some are free. Immortal.
#[repr(align(64))]
pub(super) struct Holes {
    /// Set: held by somebody, or never given back so far.
    held: [AtomicU64; WORDS],
    /// The least length that no free run had, zero if none is known, and the version.
    known: AtomicU64,
}

// SAFETY: made of atomics, which are valid when zero wherever `ZERO_IS_VALID`; zero is what `construct` makes.
unsafe impl InPlace for Holes {
    unsafe fn construct(at: *mut Holes) {
        // SAFETY: passed on.
        unsafe { at.write(Holes { held: zeros64(), known: AtomicU64::new(0) }) };
    }
}

/// The map of holes that `word` leads to.
pub(super) fn find(word: &AtomicUsize) -> Option<&'static Holes> {
    // Acquire: partner is the Release of `ensure`: the map is begun.
    let address = word.load(acquire("index.holes_find"));
    // SAFETY: zero, or the exposed address of a map, which is immortal.
    unsafe { core::ptr::with_exposed_provenance::<Holes>(address).as_ref() }
}

/// The same; makes one if there is none.
pub(super) fn ensure<P: Platform>(word: &AtomicUsize, os: &P, metadata: &Metadata) -> Option<&'static Holes> {
    if let Some(holes) = find(word) {
        return Some(holes);
    }
    let holes: &Holes = metadata.create(os).ok()?;
    holes.begin();
    let address = core::ptr::from_ref(holes).expose_provenance();
    // Release: partner is the Acquire of `find`. Whoever loses the race leaves a map unused: less than a page, once a
    // word.
    let _ = word.compare_exchange(0, address, release("index.holes_link"), Relaxed);
    find(word)
}

impl Holes {
    /// Makes a new map one of places that are all held. By the thread that nobody else knows it from.
    fn begin(&self) {
        for word in &self.held {
            // Relaxed: published with the map.
            word.store(FULL, Relaxed);
        }
    }

    /// Claims the lowest `len` free places that start at a multiple of `align`.
    pub(super) fn claim(&self, len: usize, align: usize) -> Option<usize> {
        // Acquire: partner is the Release of `changed`: who reads that version sees the room made before.
        let known = self.known.load(acquire("index.holes_look"));
        let least = (known & LENGTH) as usize;
        if least != 0 && len >= least {
            return None;
        }
        while let Some(start) = first_free(&read(&self.held), len, align) {
            if try_claim(&self.held, start, start + len, &mut false) {
                return Some(start);
            }
            if !seeded("index.holes_silent") {
                // A part of the run may have been held for a moment, and others have missed it.
                self.changed();
            }
        }
        if align == 1 {
            let now = known & !LENGTH | len as u64;
            // Relaxed: says nothing of other memory. Fails if room was made since the look.
            let _ = self.known.exchange(known, now, Relaxed, Relaxed, "index.holes_two_steps");
        }
        None
    }

    /// Makes the places `start..end` free, which the caller holds.
    pub(super) fn give_back(&self, start: usize, end: usize) {
        clear(&self.held, start, end);
        self.changed();
    }

    /// Claims the first `count` places if all of them are free.
    pub(super) fn claim_all(&self, count: usize) -> bool {
        if read(&self.held)[..count / BITS].iter().any(|&word| word != 0) {
            return false;
        }
        let claimed = try_claim(&self.held, 0, count, &mut false);
        if !claimed && !seeded("index.whole_silent") {
            // As in `claim`.
            self.changed();
        }
        claimed
    }

    /// Whether nothing in `places` is free.
    #[cfg(all(test, loom))]
    pub(super) fn are_held(&self, places: core::ops::Range<usize>) -> bool {
        let held = read(&self.held);
        let bits = |word| span(word, places.start, places.end);
        (0..WORDS).all(|word| held[word] & bits(word) == bits(word))
    }

    /// There may be room that was not seen before.
    fn changed(&self) {
        // Relaxed: only the guess for the exchange below.
        let mut known = self.known.load(Relaxed);
        loop {
            let next = (known & !LENGTH).wrapping_add(LENGTH + 1);
            // Release: partner is the Acquire of `claim`.
            match self.known.compare_exchange_weak(known, next, release("index.holes_changed"), Relaxed) {
                Ok(_) => return,
                Err(now) => known = now,
            }
        }
    }
}
