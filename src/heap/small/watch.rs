//! Which heaps can be visited, and which need not be looked at: see `lives::visits`.

use super::pool::MAX_HEAPS;
use crate::sync::atomic::{AtomicU64, Ordering};
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
    /// Those that are as the last thread left them: see `lives::visits`. Changed by a heap's possessor only.
    pub(in crate::heap) warm: Set,
}

impl Watch {
    const_unless_model! {
        /// Nothing to watch.
        pub(in crate::heap) fn new() -> Watch {
            Watch { gated: Set::new(), tidied: Set::new(), warm: Set::new() }
        }
    }

    /// Something has come to a heap: it is not tidied any more. Returns whether it was, and the bell is to be rung.
    pub(in crate::heap) fn disturb(&self, index: usize) -> bool {
        self.tidied.remove(index)
    }

    pub(in crate::heap) fn untidied(&self, word: usize) -> u64 {
        self.gated.bits(word) & !self.tidied.bits(word)
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
