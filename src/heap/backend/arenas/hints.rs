//! What is known of every arena without looking at it: a byte for each of a few questions, by position in the table,
//! and above the bytes the highest of each [`FAN`] of them, and so on. So the next position that may serve is found in
//! a few lines of memory, however many arenas there are.
//!
//! A byte may be wrong in either direction while somebody is in the middle of a step. Two rules make it right
//! afterwards:
//! 1. Whoever changes an arena so that its answer grows changes the arena first, passes a full fence
//!    ([`Hints::changed`]), and then looks at the byte and raises it ([`Changed::raise`]).
//! 2. Whoever makes a byte smaller writes it, passes a full fence, and looks at the arena again ([`Hints::lower`]).
//!
//! So of a change and a look that miss each other one sees the other's write: no room is forgotten. A byte that is too
//! high costs a look in vain, after which it is right. The same rules hold between a byte and the one above it, which
//! is raised at once, and lowered when a search has followed it in vain.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{full_fence, seeded};
use crate::{atomic_array, const_unless_model};

/// What is asked of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::heap) enum Asked {
    /// How long its longest free run is, up to [`MOST`].
    Room = 0,
    /// How long its longest run of free and dirty slices is, up to [`MOST`].
    Dirty = 1,
    /// Whether nothing in it is used.
    Empty = 2,
    /// Whether there are slabs in it.
    Slabs = 3,
    /// Whether there was an arena at this position, and there is none now.
    Vacant = 4,
}

impl Asked {
    /// All of them.
    pub(in crate::heap) const ALL: [Asked; QUESTIONS] =
        [Asked::Room, Asked::Dirty, Asked::Empty, Asked::Slabs, Asked::Vacant];
}

const QUESTIONS: usize = 5;
/// The highest answer: a run that any claim fits into, however aligned.
pub(in crate::heap) const MOST: usize = 127;

/// Positions that are known of: those of the table; a few more under a checker, so that there are two nodes.
const POSITIONS: usize = if cfg!(any(loom, shuttle)) { 4 } else { super::MAX_ARENAS };
/// Bytes with one byte above them.
const FAN: usize = if cfg!(any(loom, shuttle)) { 2 } else { 64 };
const BYTES: usize = 8;
/// Words that hold the bytes of one node.
const WORDS: usize = FAN.div_ceil(BYTES);
const LEVELS: usize = if cfg!(any(loom, shuttle)) { 2 } else { 3 };
/// The node that each level begins with: the top first, which is one node.
const FIRST: [usize; LEVELS] = {
    let (mut first, mut node, mut level) = ([0; LEVELS], 0, LEVELS);
    while level > 0 {
        level -= 1;
        first[level] = node;
        node += nodes(level);
    }
    first
};
/// Words of a level's nodes that hold bytes: fewer at the top.
const WORDS_USED: [usize; LEVELS] = {
    let mut words = [WORDS; LEVELS];
    words[LEVELS - 1] = nodes(LEVELS - 2).div_ceil(BYTES);
    words
};
const NODES: usize = FIRST[0] + nodes(0);

const _: () = assert!(nodes(LEVELS - 1) == 1);

/// Nodes of a level.
const fn nodes(level: usize) -> usize {
    POSITIONS.div_ceil(FAN.pow(level as u32 + 1))
}

/// Which way to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::heap) enum Way {
    /// At the position and above.
    Up,
    /// Below the position.
    Down,
}

/// See the head of this file.
#[cfg_attr(not(any(loom, shuttle)), repr(align(64)))]
pub(in crate::heap) struct Hints {
    words: [AtomicU64; NODES * QUESTIONS * WORDS],
}

/// That an arena was changed, and that what the hints say of it is looked at behind that.
#[must_use]
pub(in crate::heap) struct Changed<'a>(&'a Hints);

impl Changed<'_> {
    /// Makes the byte at `position` at least `value`.
    pub(in crate::heap) fn raise(&self, asked: Asked, position: usize, value: usize) {
        self.0.raise_from(asked, 0, position, value.min(MOST));
    }
}

/// A byte of every byte of a word.
const fn all(byte: u64) -> u64 {
    byte * 0x0101_0101_0101_0101
}

impl Hints {
    const_unless_model! {
        /// Nothing is known of anything.
        pub(in crate::heap) fn new() -> Hints {
            Hints { words: atomic_array!(AtomicU64::new(0); NODES * QUESTIONS * WORDS) }
        }
    }

    /// The words of a node.
    fn node(&self, asked: Asked, level: usize, node: usize) -> &[AtomicU64] {
        let start = ((FIRST[level] + node) * QUESTIONS + asked as usize) * WORDS;
        &self.words[start..start + WORDS]
    }

    /// The word that the byte at `index` of a level is in, and how far it is shifted there.
    fn word(&self, asked: Asked, level: usize, index: usize) -> (&AtomicU64, usize) {
        (&self.node(asked, level, index / FAN)[index % FAN / BYTES], index % FAN % BYTES * 8)
    }

    /// The byte at `position`.
    pub(in crate::heap) fn get(&self, asked: Asked, position: usize) -> usize {
        self.byte(asked, 0, position)
    }

    fn byte(&self, asked: Asked, level: usize, index: usize) -> usize {
        let (word, shift) = self.word(asked, level, index);
        // Relaxed, as everything here: the fences order the changes, and nothing is handed over.
        (word.load(Ordering::Relaxed) >> shift & 0xff) as usize
    }

    /// Changes a byte from `seen` to `new`, if it still is `seen`.
    fn exchange(&self, asked: Asked, level: usize, index: usize, seen: usize, new: usize) -> bool {
        let (word, shift) = self.word(asked, level, index);
        let mut now = word.load(Ordering::Relaxed);
        while now >> shift & 0xff == seen as u64 {
            let next = now ^ ((seen ^ new) as u64) << shift;
            match word.compare_exchange_weak(now, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(changed) => now = changed,
            }
        }
        false
    }

    /// Between the change of an arena and the look at what the hints say of it.
    pub(in crate::heap) fn changed(&self) -> Changed<'_> {
        // Partner: the fence in `lower_to`: either we see what the hints say now, or whoever lowers them sees the
        // change.
        full_fence("heap.hint_change_fence");
        Changed(self)
    }

    fn raise_from(&self, asked: Asked, level: usize, index: usize, value: usize) {
        let mut index = index;
        for level in level..LEVELS {
            loop {
                let seen = self.byte(asked, level, index);
                if seen >= value {
                    // Who raised it so far raises those above.
                    return;
                }
                if self.exchange(asked, level, index, seen, value) {
                    break;
                }
            }
            index /= FAN;
            // Partner: the fence in `lower_to`.
            full_fence("heap.hint_raise_fence");
        }
    }

    /// In the child of a fork: forgets the byte at `position` and those above it, before any is raised. A thread that
    /// vanished may have raised one and not yet those above, and whoever finds it raised goes no further.
    pub(in crate::heap) fn forget(&self, asked: Asked, position: usize) {
        let mut index = position;
        for level in 0..LEVELS {
            let seen = self.byte(asked, level, index);
            let _alone = self.exchange(asked, level, index, seen, 0);
            index /= FAN;
        }
    }

    /// Makes the byte at `position` what `measure` finds there, if that is less. `measure` need look no further than
    /// the value that it is given.
    pub(in crate::heap) fn lower(&self, asked: Asked, position: usize, measure: impl Fn(usize) -> usize) {
        self.lower_to(asked, 0, position, measure);
    }

    fn lower_to(&self, asked: Asked, level: usize, index: usize, measure: impl Fn(usize) -> usize) {
        let now = loop {
            let seen = self.byte(asked, level, index);
            let now = measure(seen);
            if now >= seen {
                return;
            }
            if self.exchange(asked, level, index, seen, now) {
                break now;
            }
        };
        // Partners: the fences in `changed` and in `raise_from`.
        full_fence("heap.hint_lower_fence");
        if !seeded("heap.hint_lower_blind") {
            let again = measure(MOST);
            if again > now {
                self.raise_from(asked, level, index, again);
            }
        }
    }

    /// The next position, seen from `bound`, whose byte is at least `least`, which is not zero.
    pub(in crate::heap) fn find(&self, asked: Asked, way: Way, bound: usize, least: usize) -> Option<usize> {
        // The answer is often that there is none.
        if self.at_least(asked, LEVELS - 1, 0, least) == 0 {
            return None;
        }
        self.find_in(asked, 0, way, bound, least)
    }

    fn find_in(&self, asked: Asked, level: usize, way: Way, bound: usize, least: usize) -> Option<usize> {
        let pick = |node: usize, which: u64| {
            let bits = self.at_least(asked, level, node, least) & which;
            let bit = if way == Way::Up { bits.trailing_zeros() } else { bits.checked_ilog2().unwrap_or(64) };
            (bits != 0).then_some(node * FAN + bit as usize)
        };
        let mut bound = bound;
        loop {
            // The node that the bound is in, and those of its bytes that lie on the right side.
            let (node, which) = match way {
                Way::Up => (bound / FAN, u64::MAX << (bound % FAN)),
                Way::Down => (
                    (bound.max(1) - 1) / FAN,
                    if bound == 0 { 0 } else { u64::MAX >> (63 - (bound - 1) % FAN) },
                ),
            };
            if node < nodes(level)
                && let Some(found) = pick(node, which)
            {
                return Some(found);
            }
            if level + 1 == LEVELS {
                return None;
            }
            let next = if way == Way::Up { node + 1 } else { node };
            let above = self.find_in(asked, level + 1, way, next, least)?;
            if let Some(found) = pick(above, u64::MAX) {
                return Some(found);
            }
            self.lower_to(asked, level + 1, above, |_| self.highest(asked, level, above));
            bound = if way == Way::Up { (above + 1) * FAN } else { above * FAN };
        }
    }

    /// A bit for each byte of a node that is at least `least`.
    fn at_least(&self, asked: Asked, level: usize, node: usize, least: usize) -> u64 {
        #[cfg(all(test, not(any(loom, shuttle))))]
        LOOKS.set(LOOKS.get() + 1);
        let mut bits = 0;
        for (index, word) in self.node(asked, level, node).iter().enumerate().take(WORDS_USED[level]) {
            // No byte is above 127, so none carries into the next.
            let high = (word.load(Ordering::Relaxed) + all(128 - least as u64)) & all(0x80);
            // The high bits of the eight bytes, together in the topmost byte of the product.
            bits |= ((high >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (index * BYTES);
        }
        bits
    }

    /// The highest byte of a node.
    fn highest(&self, asked: Asked, level: usize, node: usize) -> usize {
        (node * FAN..(node + 1) * FAN).map(|index| self.byte(asked, level, index)).max().unwrap_or(0)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
std::thread_local! {
    /// Nodes that this thread looked at.
    pub(in crate::heap) static LOOKS: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::boxed::Box;
    use std::collections::BTreeMap;

    fn hints() -> Box<Hints> {
        let mut hints = Box::<Hints>::new_uninit();
        // SAFETY: all zero is what `new` makes, which is larger than the stack of a test allows.
        unsafe {
            hints.as_mut_ptr().write_bytes(0, 1);
            hints.assume_init()
        }
    }

    /// Positions close together and far apart, at the edges of nodes.
    fn position() -> impl Strategy<Value = usize> {
        prop_oneof![0..130usize, 4000..4200usize, 0..POSITIONS, POSITIONS - 70..POSITIONS]
    }

    proptest! {
        #[test]
        fn a_search_finds_what_a_scan_finds(
            steps in prop::collection::vec((position(), 0..=MOST, position(), 1..=MOST), 1..200)
        ) {
            let (hints, mut scan) = (hints(), BTreeMap::new());
            for (position, value, bound, least) in steps {
                hints.lower(Asked::Dirty, position, |_| value);
                hints.changed().raise(Asked::Dirty, position, value);
                scan.insert(position, value);
                prop_assert_eq!(hints.get(Asked::Dirty, position), value);
                let up = scan.range(bound..).find(|(_, found)| **found >= least).map(|(at, _)| *at);
                let down = scan.range(..bound).rev().find(|(_, found)| **found >= least).map(|(at, _)| *at);
                prop_assert_eq!(hints.find(Asked::Dirty, Way::Up, bound, least), up);
                prop_assert_eq!(hints.find(Asked::Dirty, Way::Down, bound, least), down);
                prop_assert_eq!(hints.find(Asked::Room, Way::Up, 0, 1), None);
            }
        }
    }

    #[test]
    fn a_search_looks_at_a_few_nodes_however_many_positions_there_are() {
        let hints = hints();
        for position in 0..POSITIONS {
            hints.changed().raise(Asked::Room, position, 1 + position / (POSITIONS - 1));
        }
        let looks = |bound, least| {
            LOOKS.set(0);
            (hints.find(Asked::Room, Way::Up, bound, least), LOOKS.get())
        };
        assert_eq!(looks(7, 1), (Some(7), 2));
        assert_eq!(looks(7, 2), (Some(POSITIONS - 1), 6));
        assert_eq!(looks(7, 3), (None, 1));
        // A search in vain corrects what it followed, one level at a time.
        hints.lower(Asked::Room, POSITIONS - 1, |_| 1);
        assert_eq!([looks(7, 2), looks(7, 2), looks(7, 2)], [(None, 7), (None, 6), (None, 1)]);
    }
}
