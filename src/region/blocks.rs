//! Who holds which block of a slab, where any thread may take and give: a bitmap, changed only by read-modify-writes of
//! single words. (Thread heaps keep their free blocks in lists instead; see `heap`.)
//!
//! A bit that is set is a block that is free. So a map that is all zero has nothing to take: it is *closed*, as memory
//! that was just mapped is.
//!
//! Rules, by which thread may do what:
//! 1. Whoever holds the slab's slices opens the map: says of which kind its blocks are, then sets the bits.
//! 2. Anybody may take a block of a map at any time, also by a reference that is old: the map may have been closed since
//!    and opened for blocks of another kind. So the kind is looked at after the bit was taken, when nobody can close the
//!    map any more; a block of the wrong kind is given back.
//! 3. A map is in one *standing* at a time, and the standing says who may change it:
//!
//! | standing | the map is | becomes | by whom |
//! |---|---|---|---|
//! | `CLOSED` | nowhere | `CURRENT` | who opens it |
//! | `CURRENT` | where takers look first | `AWAY` | who took it out of there |
//! | `AWAY` | nowhere: no block is free | `LISTED` | who gives a block back, or finds one that was; one of them |
//! | `LISTED` | in a list, by whoever made it so | `CURRENT`, `CLOSED` | who took it off the list |
//!
//! 4. Only who took it off the list closes it: word by word, each from "all free" to zero. A word with a block that
//!    somebody holds calls it off.

use super::runs::{BITS, span};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicU32, AtomicU64};
use crate::sync::{Exchange, acquire, full_fence, release, seeded};

/// Blocks of a slab at most.
pub const MAP_BLOCKS: usize = if cfg!(any(loom, shuttle)) { 2 * BITS } else { 4096 };
const WORDS: usize = MAP_BLOCKS / BITS;

const CLOSED: u32 = 0;
const CURRENT: u32 = 1;
const AWAY: u32 = 2;
const LISTED: u32 = 3;

/// What became of a block that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Given {
    /// It is free.
    Free,
    /// It is free, and the caller puts the map into the list.
    ToList,
    /// It was free before.
    Twice,
}

/// The blocks of one slab. See the rules at the head of this file.
pub struct BlockMap {
    free: [AtomicU64; WORDS],
    kind: AtomicU32,
    count: AtomicU32,
    standing: AtomicU32,
    /// The word that takers look at first: those before it had nothing.
    first: AtomicU32,
}

impl BlockMap {
    crate::const_unless_model! {
        /// A closed map.
        pub fn new() -> BlockMap {
            BlockMap {
                free: crate::atomic_array![AtomicU64::new(0); WORDS],
                kind: AtomicU32::new(0),
                count: AtomicU32::new(0),
                standing: AtomicU32::new(CLOSED),
                first: AtomicU32::new(0),
            }
        }
    }

    /// Opens a closed map of `count` blocks, all free, of a `kind`. It is current: the caller puts it where takers look.
    pub fn open(&self, kind: u32, count: usize) {
        debug_assert!(self.is_closed() && (1..=MAP_BLOCKS).contains(&count));
        // Relaxed, here and below: read under the Acquire of `take`, which pairs with the Release of the words.
        self.kind.store(kind, Relaxed);
        self.count.store(count as u32, Relaxed);
        self.first.store(0, Relaxed);
        self.standing.store(CURRENT, Relaxed);
        for (word, free) in self.free.iter().enumerate() {
            // Release: partner is the Acquire of `take`: the kind, and what was done with the memory before.
            free.store(span(word, 0, count), release("region.block_open_relaxed"));
        }
    }

    /// Blocks in it. By whoever holds one.
    pub fn count(&self) -> usize {
        // Relaxed: constant while it is open.
        self.count.load(Relaxed) as usize
    }

    /// Of which kind its blocks are. By whoever holds one, or has the map in hand.
    #[inline]
    pub fn kind(&self) -> u32 {
        // Relaxed: as in `count`.
        self.kind.load(Relaxed)
    }

    /// Takes a block of a `kind`: its index. `Err` is a block of another kind, which the caller has in hand and gives
    /// back: the map is not what it was any more. `Ok(None)` says that none is free, or was missed in passing.
    #[inline]
    pub fn take(&self, kind: u32) -> Result<Option<usize>, usize> {
        // Relaxed (both): a hint.
        let first = self.first.load(Relaxed) as usize;
        for word in first..WORDS {
            let free = &self.free[word];
            // Relaxed: only the guess for the exchange below.
            let mut seen = free.load(Relaxed);
            while seen != 0 {
                // Acquire: partner is the Release of `give`: whoever had the block has done with it; and that of `open`.
                let order = acquire("region.block_take_relaxed");
                match free.exchange(seen, seen & (seen - 1), order, Relaxed, "region.block_take_two_steps") {
                    Ok(_) => {
                        if word != first {
                            self.first.store(word as u32, Relaxed);
                        }
                        let index = word * BITS + seen.trailing_zeros() as usize;
                        let is_right = self.kind() == kind || seeded("region.block_any_kind");
                        return if is_right { Ok(Some(index)) } else { Err(index) };
                    }
                    Err(now) => seen = now,
                }
            }
        }
        if first != 0 {
            self.first.store(0, Relaxed);
        }
        Ok(None)
    }

    /// Gives back a block that the caller holds. The slab is not touched after that, but the map is: it lives longer
    /// than its slabs.
    #[inline]
    pub fn give(&self, index: usize) -> Given {
        let bit = 1 << (index % BITS);
        // Release: partner is the Acquire of `take`, and that of `close`.
        let before = self.free[index / BITS].fetch_or(bit, release("region.block_give_relaxed"));
        if before & bit != 0 {
            return Given::Twice;
        }
        // Of a map that is away no block is free: the first of each word looks whether it is.
        if before == 0 && self.found_free() { Given::ToList } else { Given::Free }
    }

    /// A block is free now. Whether the caller is the one to list the map, which was away.
    fn found_free(&self) -> bool {
        // Partner: the fence of `retire`. Either that one sees the block, or this one sees that the map is away.
        full_fence("region.block_give_unfenced");
        // Relaxed: a look; the exchange decides.
        self.standing.load(Relaxed) == AWAY && self.listed()
    }

    fn listed(&self) -> bool {
        // Relaxed (both): elects one; the list hands the map over.
        self.standing.exchange(AWAY, LISTED, Relaxed, Relaxed, "region.block_listed_twice").is_ok()
    }

    /// The caller has taken the map from where takers look, for they found nothing. Whether something is free after all:
    /// the caller lists it then. Otherwise who gives the next block back does.
    #[must_use]
    pub fn retire(&self) -> bool {
        // Relaxed: the fence orders it.
        self.standing.store(AWAY, Relaxed);
        // Partner: that of `found_free`.
        full_fence("region.block_retire_unfenced");
        // Relaxed: as above.
        self.free.iter().any(|word| word.load(Relaxed) != 0) && self.listed()
    }

    /// The caller has taken the map off the list and puts it where takers look.
    pub fn resume(&self) {
        // Relaxed: nobody else changes it in this standing.
        self.standing.store(CURRENT, Relaxed);
    }

    /// Closes the map, which the caller has taken off the list, if no block of it is held. Otherwise it is as before, and
    /// the caller puts it back.
    #[must_use]
    pub fn close(&self) -> bool {
        let count = self.count();
        for (word, free) in self.free.iter().enumerate() {
            let all = span(word, 0, count);
            // Acquire: partner is the Release of `give`: whoever had a block has done with it. Relaxed on failure:
            // nothing is read but the word.
            let order = acquire("region.block_close_relaxed");
            if free.exchange(all, 0, order, Relaxed, "region.block_close_two_steps").is_err() {
                if !seeded("region.block_close_not_undone") {
                    for (word, free) in self.free[..word].iter().enumerate() {
                        // Release: as in `open`.
                        free.store(span(word, 0, count), release("region.block_reopen_relaxed"));
                    }
                }
                return false;
            }
        }
        // Relaxed: as in `open`.
        self.standing.store(CLOSED, Relaxed);
        true
    }

    /// Whether nothing can be taken, nor was.
    fn is_closed(&self) -> bool {
        // Relaxed (both): a check by whoever has the map in hand.
        self.standing.load(Relaxed) == CLOSED && self.free.iter().all(|word| word.load(Relaxed) == 0)
    }

    /// Whether all blocks are free: worth trying to close it.
    pub fn is_unused(&self) -> bool {
        let count = self.count();
        // Relaxed: a hint; `close` decides.
        (0..WORDS).all(|word| self.free[word].load(Relaxed) == span(word, 0, count))
    }

    /// Whether all blocks are free, one of which the caller has just given back, and the map is in the list: roughly.
    #[inline]
    pub fn is_idle(&self, index: usize) -> bool {
        let word = index / BITS;
        // Relaxed (both): a hint.
        self.standing.load(Relaxed) == LISTED
            && self.free[word].load(Relaxed) == span(word, 0, self.count())
            && self.is_unused()
    }

    /// Whether the block is held at this moment.
    pub fn is_held(&self, index: usize) -> bool {
        // Relaxed: known to whoever holds it; for anybody else old when it is told.
        index < self.count() && self.free[index / BITS].load(Relaxed) >> (index % BITS) & 1 == 0
    }

    /// Blocks that are held: exact when nobody takes or gives.
    pub fn held(&self) -> usize {
        // Relaxed: a figure.
        let free = self.free.iter().map(|word| word.load(Relaxed).count_ones() as usize).sum();
        self.count().saturating_sub(free)
    }
}

impl Default for BlockMap {
    fn default() -> BlockMap {
        BlockMap::new()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// The caller puts it back in its list; and when it is unused there, it is to be tried again.
    #[test]
    fn a_map_that_could_not_be_closed_is_as_it_was() {
        let map = BlockMap::new();
        map.open(1, BITS + 1);
        let held: std::vec::Vec<usize> = std::iter::from_fn(|| map.take(1).unwrap()).collect();
        assert!(!map.retire());
        let last = held.len() - 1;
        assert!(matches!(map.give(held[0]), Given::ToList));
        held[1..last].iter().for_each(|&index| _ = map.give(index));
        assert!(!map.close(), "one is held");
        assert!(matches!(map.give(held[last]), Given::Free) && map.is_idle(held[last]));
        assert!(map.close());
    }
}
