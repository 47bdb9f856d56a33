//! What each heap and each arena of a process has, as words that another process reads. Imports `sync` only.
//!
//! Written in place, without a copy on the stack of whoever allocates: so there is a [`DetailWriter`], and [`Detail`] is
//! the reader's.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Heaps that have a place; those beyond are added up in the last.
pub const HEAPS: usize = 32;
/// Arenas that have a place: 2 GiB of them, as they usually are.
pub const ARENAS: usize = 64;

/// Huge regions that have a place.
pub const HUGE: usize = 64;

const HEAD: usize = 4;
const HEAP: usize = size_of::<HeapDetail>() / size_of::<u64>();
const ARENA: usize = size_of::<ArenaDetail>() / size_of::<u64>();
const BLOCK: usize = size_of::<HugeDetail>() / size_of::<u64>();
/// Words of it all.
pub(super) const DETAIL_WORDS: usize = HEAD + HEAPS * HEAP + ARENAS * ARENA + HUGE * BLOCK;

const _: () = assert!(size_of::<Detail>() == DETAIL_WORDS * size_of::<u64>());

/// What a heap has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapDetail {
    /// The thread that possesses it, by the address of the thread's own words; zero for none.
    pub possessor: u64,
    /// Slabs.
    pub slabs: u64,
    /// Bytes of live blocks in them; of a heap whose thread did not write this, with those in bins and on their way
    /// home.
    pub live_bytes: u64,
    /// Bytes of free blocks in them.
    pub cached_bytes: u64,
    /// Bytes of whole slices that it keeps.
    pub spare_bytes: u64,
    /// Blocks freed by its possessors for other heaps, ever.
    pub remote_frees: u64,
    /// One if blocks were sent to it that it has not received.
    pub mail: u64,
}

/// What an arena has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaDetail {
    /// Where it begins.
    pub base: u64,
    /// Its bytes of address space.
    pub bytes: u64,
    /// Bytes of slices that slabs and large blocks hold, and heaps have spare.
    pub claimed_bytes: u64,
    /// Bytes of free slices that may be resident.
    pub dirty_bytes: u64,
}

/// What the region of a huge block has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugeDetail {
    /// Where it begins.
    pub base: u64,
    /// Its bytes of address space.
    pub bytes: u64,
    /// Bytes that the program uses; zero if it is kept for another block.
    pub used_bytes: u64,
    /// Bytes from its start that may be resident.
    pub dirty_bytes: u64,
}

/// The heaps, arenas and huge blocks of a process, as they were at one time.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detail {
    /// CLOCK_MONOTONIC in nanoseconds when this was written.
    pub written_ns: u64,
    /// Heaps that there are.
    pub heap_count: u64,
    /// Arenas that there are.
    pub arena_count: u64,
    /// Huge regions that were found.
    pub huge_count: u64,
    heaps: [HeapDetail; HEAPS],
    arenas: [ArenaDetail; ARENAS],
    huge: [HugeDetail; HUGE],
}

impl Detail {
    pub(super) fn of(words: [u64; DETAIL_WORDS]) -> Detail {
        // SAFETY: repr(C) of u64 only, of the size asserted above: any words are valid fields.
        unsafe { core::mem::transmute(words) }
    }

    /// The heaps that have a place, by number.
    pub fn heaps(&self) -> &[HeapDetail] {
        &self.heaps[..HEAPS.min(self.heap_count as usize)]
    }

    /// The arenas that have a place.
    pub fn arenas(&self) -> &[ArenaDetail] {
        &self.arenas[..ARENAS.min(self.arena_count as usize)]
    }

    /// The huge regions that have a place, by ascending address.
    pub fn huge(&self) -> &[HugeDetail] {
        &self.huge[..HUGE.min(self.huge_count as usize)]
    }
}

/// Fills a copy of the words.
pub struct DetailWriter<'a> {
    words: &'a [AtomicU64; DETAIL_WORDS],
    arenas: usize,
    huge: usize,
}

impl<'a> DetailWriter<'a> {
    pub(super) fn new(words: &'a [AtomicU64; DETAIL_WORDS], now_ns: u64) -> Self {
        let writer = Self { words, arenas: 0, huge: 0 };
        for word in 0..HEAD + HEAPS * HEAP {
            writer.set(word, 0);
        }
        writer.set(0, now_ns);
        writer
    }

    // Relaxed, all accesses: whoever publishes the words has the copy to itself, and orders them.

    fn set(&self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::Relaxed);
    }

    fn add(&self, word: usize, value: u64) {
        self.set(word, self.words[word].load(Ordering::Relaxed).wrapping_add(value));
    }

    fn set_all<const N: usize>(&self, start: usize, values: [u64; N]) {
        values.into_iter().enumerate().for_each(|(word, value)| self.set(start + word, value));
    }

    /// Notes the heap `number`; what its slabs have comes by [`DetailWriter::share`].
    pub fn heap(&mut self, number: usize, possessor: u64, spare_bytes: u64, remote_frees: u64, mail: bool) {
        let start = HEAD + number.min(HEAPS - 1) * HEAP;
        if number < HEAPS {
            self.set(start, possessor);
        }
        self.add(start + 4, spare_bytes);
        self.add(start + 5, remote_frees);
        self.set(start + 6, u64::from(mail));
        self.add(1, 1);
    }

    /// Adds a slab to the heap `number`.
    pub fn share(&mut self, number: usize, live_bytes: u64, cached_bytes: u64) {
        let start = HEAD + number.min(HEAPS - 1) * HEAP;
        self.add(start + 1, 1);
        self.add(start + 2, live_bytes);
        self.add(start + 3, cached_bytes);
    }

    /// Says that of what the slabs of the heap `number` count as live so much is free, in its bins.
    pub fn in_bins(&mut self, number: usize, bytes: u64) {
        let live = HEAD + number.min(HEAPS - 1) * HEAP + 2;
        // Relaxed: as above.
        let free = bytes.min(self.words[live].load(Ordering::Relaxed));
        self.add(live, free.wrapping_neg());
        self.add(live + 1, free);
    }

    /// Adds an arena.
    pub fn arena(&mut self, arena: ArenaDetail) {
        if self.arenas < ARENAS {
            let ArenaDetail { base, bytes, claimed_bytes, dirty_bytes } = arena;
            let start = HEAD + HEAPS * HEAP + self.arenas * ARENA;
            self.set_all(start, [base, bytes, claimed_bytes, dirty_bytes]);
        }
        self.arenas += 1;
        self.set(2, self.arenas as u64);
    }

    /// Adds a huge region; says whether there is a place for another.
    pub fn huge(&mut self, region: HugeDetail) -> bool {
        if self.huge < HUGE {
            let HugeDetail { base, bytes, used_bytes, dirty_bytes } = region;
            let start = HEAD + HEAPS * HEAP + ARENAS * ARENA + self.huge * BLOCK;
            self.set_all(start, [base, bytes, used_bytes, dirty_bytes]);
            self.huge += 1;
        }
        self.set(3, self.huge as u64);
        self.huge < HUGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let words = [const { AtomicU64::new(99) }; DETAIL_WORDS];
        let mut writer = DetailWriter::new(&words, 7);
        writer.heap(0, 0x1000, 64, 5, false);
        writer.share(0, 100, 28);
        writer.share(0, 200, 0);
        writer.in_bins(0, 50);
        for number in HEAPS - 1..HEAPS + 2 {
            writer.heap(number, 0x2000, 1, 1, true);
            writer.share(number, 10, 1);
        }
        let arena = ArenaDetail { base: 4096, bytes: 8192, claimed_bytes: 100, dirty_bytes: 50 };
        for _ in 0..ARENAS + 1 {
            writer.arena(arena);
        }
        let block = HugeDetail { base: 1 << 40, bytes: 5 << 20, used_bytes: 7, dirty_bytes: 4096 };
        let places = (0..HUGE + 1).filter(|_| writer.huge(block)).count();
        assert_eq!(places, HUGE - 1, "the last finds the last");
        let detail = Detail::of(words.each_ref().map(|word| word.load(Ordering::Relaxed)));
        assert_eq!((detail.written_ns, detail.heap_count, detail.arena_count), (7, 4, ARENAS as u64 + 1));
        let first = HeapDetail {
            possessor: 0x1000,
            slabs: 2,
            live_bytes: 250,
            cached_bytes: 78,
            spare_bytes: 64,
            remote_frees: 5,
            mail: 0,
        };
        assert_eq!((detail.heaps.len(), detail.heaps()[0]), (HEAPS, first));
        let last = detail.heaps[HEAPS - 1];
        assert_eq!((last.slabs, last.live_bytes, last.spare_bytes, last.possessor), (3, 30, 3, 0x2000));
        assert_eq!((detail.arenas().len(), detail.arenas()[ARENAS - 1]), (ARENAS, arena));
        assert_eq!((detail.huge().len(), detail.huge()[HUGE - 1]), (HUGE, block));
    }
}
