//! Which heaps can be visited, and which need not be looked at: see `lives::visits`.

use super::pool::MAX_HEAPS;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::seeded;
use crate::{atomic_array, const_unless_model};

pub(in crate::heap) const WORD: usize = u64::BITS as usize;
const WORDS: usize = MAX_HEAPS.div_ceil(WORD);

/// A set of heaps, by index. What it says is a hint, but where a comment says more.
pub(in crate::heap) struct Set([AtomicU64; WORDS]);

impl Set {
    const_unless_model! {
        fn new() -> Set {
            Set(atomic_array!(AtomicU64::new(0); WORDS))
        }
    }

    pub(in crate::heap) fn bits(&self, word: usize) -> u64 {
        // Relaxed: a hint.
        self.0[word].load(Ordering::Relaxed)
    }

    pub(in crate::heap) fn has(&self, index: usize) -> bool {
        self.bits(index / WORD) & 1 << (index % WORD) != 0
    }

    pub(in crate::heap) fn add(&self, index: usize) {
        // Relaxed: see the callers.
        self.0[index / WORD].fetch_or(1 << (index % WORD), Ordering::Relaxed);
    }

    /// How many of the first `heaps` heaps are in it.
    pub(in crate::heap) fn count(&self, heaps: usize) -> usize {
        (0..heaps.div_ceil(WORD)).map(|word| self.bits(word).count_ones() as usize).sum()
    }

    /// Returns whether it was there.
    pub(in crate::heap) fn remove(&self, index: usize) -> bool {
        let bit = 1 << (index % WORD);
        // Relaxed: see the callers.
        self.has(index) && self.0[index / WORD].fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }
}

/// Which heaps can be visited, and which need not be watched.
pub(in crate::heap) struct Watch {
    /// Those with an open gate.
    pub(in crate::heap) gated: Set,
    /// Those that the helper has tidied, and nobody has used since.
    pub(in crate::heap) tidied: Set,
    /// Those that were swept, and nobody has used since.
    pub(in crate::heap) swept: Set,
    /// Those that are as the last thread left them: see `lives::visits`. Changed by a heap's possessor only.
    pub(in crate::heap) warm: Set,
    /// Where sweeps go on.
    pub(in crate::heap) hand: Hand,
}

impl Watch {
    const_unless_model! {
        /// Nothing to watch.
        pub(in crate::heap) fn new() -> Watch {
            Watch {
                gated: Set::new(),
                tidied: Set::new(),
                swept: Set::new(),
                warm: Set::new(),
                hand: Hand::new(),
            }
        }
    }

    /// Something has come to a heap: it is not tidied any more. Returns whether it was, and the bell is to be rung.
    pub(in crate::heap) fn disturb(&self, index: usize) -> bool {
        self.tidied.remove(index)
    }

    /// The owner of a heap has come in past a probe, or another has come to possess it.
    pub(in crate::heap) fn note_used(&self, index: usize) {
        if !seeded("heap.used_unnoted") {
            self.swept.remove(index);
        }
    }

    pub(in crate::heap) fn untidied(&self, word: usize) -> u64 {
        self.gated.bits(word) & !self.tidied.bits(word)
    }

    /// Those of them that were not swept, either.
    pub(in crate::heap) fn unswept(&self, word: usize) -> u64 {
        self.untidied(word) & !self.swept.bits(word)
    }

    pub(in crate::heap) fn is_unswept(&self, index: usize) -> bool {
        self.unswept(index / WORD) & 1 << (index % WORD) != 0
    }
}

/// Sweeps that are left out after one that was not worth it: the first time, and after many.
const LEAST_PAUSE: usize = 4;
const MOST_PAUSE: usize = 64;

/// Where sweeps go on, and whether they are worth it: see `lives::sweeps`. Of threads that sweep at the same time one may
/// overwrite what the other has noted.
pub(in crate::heap) struct Hand {
    at: AtomicUsize,
    /// Sweeps to leave out, and how many were after the last one that was in vain.
    left_out: AtomicUsize,
    pause: AtomicUsize,
}

impl Hand {
    const_unless_model! {
        fn new() -> Hand {
            Hand { at: AtomicUsize::new(0), left_out: AtomicUsize::new(0), pause: AtomicUsize::new(0) }
        }
    }

    /// Whether it is to move on, or counts what is left out.
    pub(in crate::heap) fn is_due(&self) -> bool {
        // Relaxed, here and below: figures.
        let left = self.left_out.load(Ordering::Relaxed);
        if left > 0 {
            self.left_out.store(left - 1, Ordering::Relaxed);
        }
        left == 0
    }

    /// Moves on by one of so many heaps, and returns which.
    pub(in crate::heap) fn move_on(&self, heaps: usize) -> usize {
        self.at.fetch_add(1, Ordering::Relaxed) % heaps.max(1)
    }

    /// Notes whether a sweep was worth it.
    pub(in crate::heap) fn note(&self, worth: bool) {
        let pause = self.pause.load(Ordering::Relaxed);
        let pause = if worth { 0 } else { (2 * pause).clamp(LEAST_PAUSE, MOST_PAUSE) };
        self.pause.store(pause, Ordering::Relaxed);
        self.left_out.store(pause, Ordering::Relaxed);
    }
}

/// The numbers of the bits that are set in `bits`.
pub(in crate::heap) fn each_bit(mut bits: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(bit)
    })
}
