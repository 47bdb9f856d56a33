//! The figures of one process, as plain data. Imports `base`, `pal`, and of `heap` the bets.
//!
//! Every field is a `u64`, so that the whole is an array of words: [`crate::api::shared_record`] copies it word by
//! word into memory that another process reads. Bytes are bytes, counts are counts; nothing is ever negative.

use crate::base::{CLASSES, class_size};
pub use crate::heap::{Bet, Bets};
#[cfg(not(any(loom, shuttle)))]
use crate::pal::CallCounts;

/// System calls made since the process started: [`CallCounts`] with a fixed layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemCalls {
    /// `mmap` calls that succeeded.
    pub map: u64,
    /// `munmap` calls that succeeded.
    pub unmap: u64,
    /// `mprotect` calls that succeeded.
    pub protect: u64,
    /// `mremap` calls that succeeded.
    pub remap: u64,
    /// `madvise(MADV_DONTNEED)` calls that succeeded.
    pub purge: u64,
    /// `membarrier` calls that succeeded.
    pub barrier: u64,
    /// Calls of any kind that failed.
    pub failed: u64,
}

impl SystemCalls {
    /// The same in this layout.
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn of(calls: CallCounts) -> Self {
        let CallCounts { map, unmap, protect, remap, purge, barrier, failed } = calls;
        Self { map, unmap, protect, remap, purge, barrier, failed }
    }
}

/// The figures of one size class.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStatistics {
    /// Bytes in a block of the class: the same in every process.
    pub block_bytes: u64,
    /// Blocks handed out and not freed.
    pub live_blocks: u64,
    /// Slabs that hold blocks of the class.
    pub slabs: u64,
}

/// The figures of one process. They are not one instant's; free blocks in the bins of other live threads, and those on
/// their way to them, count as live until the threads' heaps are tidied.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of blocks handed out and not freed: large ones as they were asked for, others at their usable size.
    pub live_bytes: u64,
    /// Blocks handed out and not freed.
    pub live_blocks: u64,
    /// Bytes of free blocks inside slabs, of huge blocks kept for reuse, and of what is behind blocks in their last pages
    /// and is resident with them.
    pub cached_bytes: u64,
    /// Bytes of free slices that may still be resident.
    pub dirty_bytes: u64,
    /// Bytes of address space mapped, for regions and for the allocator's own records.
    pub reserved_bytes: u64,
    /// Bytes of mapped memory thought resident: an estimate. The kernel is asked only where the program itself asks for
    /// its figures, about live huge blocks and, once a small block was asked for at a multiple of more than a page, about
    /// arenas: what was never touched of those is not in it.
    pub resident_bytes: u64,
    /// Largest `live_bytes` seen.
    pub peak_live_bytes: u64,
    /// Largest `reserved_bytes` seen.
    pub peak_reserved_bytes: u64,
    /// Bytes given back to the system by purging, in all.
    pub purged_bytes: u64,
    /// Regions mapped now, of all kinds.
    pub regions: u64,
    /// Regions that are arenas.
    pub arenas: u64,
    /// Regions of huge blocks, those that are kept for reuse included.
    pub huge: u64,
    /// Mappings (VMAs) that the allocator owns: what counts against `vm.max_map_count`. An upper bound, for neighbours
    /// may merge.
    pub mappings: u64,
    /// Heaps that a thread possesses now.
    pub threads: u64,
    /// Heaps that exist, those that nobody possesses included.
    pub heaps: u64,
    /// Blocks freed by a thread that does not own their slab, in all.
    pub remote_frees: u64,
    /// Grace periods that have passed.
    pub grace_periods: u64,
    /// Things retired and still waiting for a grace period.
    pub retired_pending: u64,
    /// System calls made.
    pub calls: SystemCalls,
    /// The three bets.
    pub bets: Bets,
    /// Bytes of the allocator's own records.
    pub metadata_bytes: u64,
    /// One entry per size class, smallest first.
    pub classes: [ClassStatistics; CLASSES],
}

/// The names of the figures, in the order of the words before the classes. The C header has them so; the command's
/// document and table are made from them.
pub const FIGURES: [&str; 35] = [
    "live_bytes",
    "live_blocks",
    "cached_bytes",
    "dirty_bytes",
    "reserved_bytes",
    "resident_bytes",
    "peak_live_bytes",
    "peak_reserved_bytes",
    "purged_bytes",
    "regions",
    "arenas",
    "huge_regions",
    "mappings",
    "threads",
    "heaps",
    "remote_frees",
    "grace_periods",
    "retired_pending",
    "map_calls",
    "unmap_calls",
    "protect_calls",
    "remap_calls",
    "purge_calls",
    "barrier_calls",
    "failed_calls",
    "lookup_taken",
    "lookup_won",
    "lookup_lost",
    "space_taken",
    "space_won",
    "space_lost",
    "population_taken",
    "population_won",
    "population_lost",
    "metadata_bytes",
];

/// The figures, in the order of their names.
pub fn figures(statistics: &Statistics) -> [u64; FIGURES.len()] {
    core::array::from_fn(|figure| statistics.words()[figure])
}

/// Words in a [`Statistics`].
pub(crate) const WORDS: usize = size_of::<Statistics>() / size_of::<u64>();

const _: () = assert!(size_of::<Statistics>() == (FIGURES.len() + 3 * CLASSES) * size_of::<u64>());
const _: () = assert!(align_of::<Statistics>() == align_of::<u64>());

impl Statistics {
    /// All zero, but for the block sizes of the classes.
    pub const fn new() -> Self {
        const CALLS: SystemCalls =
            SystemCalls { map: 0, unmap: 0, protect: 0, remap: 0, purge: 0, barrier: 0, failed: 0 };
        const BET: Bet = Bet { taken: 0, won: 0, lost: 0 };
        let mut classes = [ClassStatistics { block_bytes: 0, live_blocks: 0, slabs: 0 }; CLASSES];
        let mut class = 0;
        while class < CLASSES {
            classes[class].block_bytes = class_size(class) as u64;
            class += 1;
        }
        Self {
            live_bytes: 0,
            live_blocks: 0,
            cached_bytes: 0,
            dirty_bytes: 0,
            reserved_bytes: 0,
            resident_bytes: 0,
            peak_live_bytes: 0,
            peak_reserved_bytes: 0,
            purged_bytes: 0,
            regions: 0,
            arenas: 0,
            huge: 0,
            mappings: 0,
            threads: 0,
            heaps: 0,
            remote_frees: 0,
            grace_periods: 0,
            retired_pending: 0,
            calls: CALLS,
            bets: Bets { lookup: BET, space: BET, population: BET },
            metadata_bytes: 0,
            classes,
        }
    }

    /// Adds the figures of another process. Peaks add up too: the sum bounds the peak of all processes together.
    pub fn add(&mut self, other: &Statistics) {
        for (mine, theirs) in self.words_mut().iter_mut().zip(other.words()) {
            *mine = mine.wrapping_add(*theirs);
        }
        for (class, entry) in self.classes.iter_mut().enumerate() {
            entry.block_bytes = class_size(class) as u64;
        }
    }

    /// The record as words, in the order of the fields.
    pub(crate) fn words(&self) -> &[u64; WORDS] {
        // SAFETY: `Statistics` is repr(C) of u64 only, of the size and alignment asserted above: no padding, and every
        // word is initialised.
        unsafe { &*(&raw const *self).cast() }
    }

    /// The record as words that may be written: every value of a word is a valid field.
    pub(crate) fn words_mut(&mut self) -> &mut [u64; WORDS] {
        // SAFETY: as in `words`; the borrow is unique, and any u64 is a valid value of any field.
        unsafe { &mut *(&raw mut *self).cast() }
    }
}

impl Default for Statistics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_fields_in_order() {
        let mut statistics = Statistics::new();
        for (index, word) in statistics.words_mut().iter_mut().enumerate() {
            *word = index as u64;
        }
        assert_eq!(statistics.live_bytes, 0);
        assert_eq!(statistics.retired_pending, 17);
        assert_eq!(statistics.calls.map, 18);
        assert_eq!(statistics.bets.population.lost, 33);
        assert_eq!((statistics.metadata_bytes, statistics.classes[0].block_bytes), (34, 35));
        assert_eq!(statistics.classes[CLASSES - 1].slabs as usize, WORDS - 1);
    }

    #[test]
    fn a_sum_keeps_the_block_sizes() {
        let mut one = Statistics::new();
        one.live_bytes = 5;
        one.classes[3].live_blocks = 2;
        let mut sum = one;
        sum.add(&one);
        assert_eq!((sum.live_bytes, sum.classes[3].live_blocks), (10, 4));
        assert_eq!(sum.classes[3].block_bytes, class_size(3) as u64);
    }
}
