//! The census: everything that can be counted about an allocator, counted at one time.
//!
//! Taken on demand, from the records that the paths keep anyway: nothing is counted twice, and no figure is a line that
//! all threads write.
//!
//! What is exact: all figures, while nobody else changes anything, but for live blocks of other heaps that are
//! possessed or were not tidied since. There, blocks in bins, and those on their way home, still count as live. So a
//! census errs towards "live" only, and not at all once every heap has been collected ([`Heap::collect`],
//! [`Heaps::collect_idle`]). What lies in an arena for which the table had no place left, beyond the first 65,536, is not
//! counted.

use super::backend::Beside;
use super::block::Checks;
use super::ground::{Bet, Bets};
use super::small::{Heap, Heaps};
use crate::base::{CLASSES, SLICE, class_size};
use crate::pal::{CallCounts, Platform};
use crate::region::{KINDS, Kind, Region};

/// Regions that a look for huge ones meets at most.
const MOST_MET: usize = 1024;

/// Pages that the system is asked about at a time; and how often at most, for a block and for all.
const ASKED_PAGES: usize = 1024;
const MOST_ASKED_OF_ONE: usize = 256;
const MOST_ASKED: usize = 1024;

/// The figures of one size class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCensus {
    /// Blocks handed out and not freed.
    pub live: u64,
    /// Slabs.
    pub slabs: u64,
}

/// Live blocks of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveBlocks {
    /// How many.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl LiveBlocks {
    fn add(&mut self, blocks: u64, bytes: u64) {
        self.blocks += blocks;
        self.bytes += bytes;
    }
}

/// The figures of one heap, its slabs apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapCensus {
    /// The thread that possesses it, by the address of the thread's own words; zero for none.
    pub possessor: usize,
    /// Bytes of free blocks in its bins, which its slabs count as live: of the caller's heap, zero of others.
    pub bin_bytes: u64,
    /// Bytes of slices that it keeps for its next slabs and large blocks.
    pub spare_bytes: usize,
    /// Blocks freed by its possessors for other heaps, ever.
    pub remote_frees: u64,
    /// Whether blocks were sent to it that it has not received.
    pub has_mail: bool,
}

/// The figures of one arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaCensus {
    /// Where it begins.
    pub base: usize,
    /// Its bytes of address space.
    pub len: usize,
    /// Bytes of slices that slabs and large blocks hold, and heaps have spare.
    pub claimed_bytes: usize,
    /// Bytes of free slices that may be resident.
    pub dirty_bytes: usize,
}

/// The figures of an allocator. Bytes are bytes, counts are counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// By size class.
    pub classes: [ClassCensus; CLASSES],
    /// Blocks of slabs; bytes at the size of their class.
    pub small: LiveBlocks,
    /// Large blocks; bytes as they were asked for.
    pub large: LiveBlocks,
    /// Huge blocks; bytes in whole pages.
    pub huge: LiveBlocks,
    /// Bytes of blocks in slabs that were handed out at some time and are free, but for pages of them that were given back.
    pub free_bytes: u64,
    /// Bytes of huge blocks kept for reuse that may be resident.
    pub kept_bytes: u64,
    /// Bytes of slices that slabs and large blocks hold.
    pub claimed_bytes: u64,
    /// Bytes of free slices that may be resident, those that heaps keep for slabs and large blocks among them.
    pub dirty_bytes: u64,
    /// Bytes of those that are known not to be resident: the ends of slices that were used in part.
    pub spared_bytes: u64,
    /// Bytes behind the ends of blocks that are resident with them: of their last pages, and of the last slices of
    /// large blocks.
    pub behind_bytes: u64,
    /// Bytes of records of slices, at the start of arenas.
    pub record_bytes: u64,
    /// Bytes given back by purging, ever.
    pub purged_bytes: u64,
    /// Bytes of address space mapped, for regions and for the allocator's own records.
    pub mapped_bytes: u64,
    /// Bytes of the allocator's own records, outside arenas.
    pub metadata_bytes: u64,
    /// Mappings (VMAs); an upper bound, for neighbours may merge.
    pub mappings: u64,
    /// Regions that are attached, by [`Kind`](crate::region::Kind) as a number.
    pub regions: [u64; KINDS],
    /// Heaps made, ever.
    pub heaps: u64,
    /// Heaps that a thread possesses.
    pub possessed: u64,
    /// Blocks freed for other heaps, ever.
    pub remote_frees: u64,
    /// Grace periods completed.
    pub grace_periods: u64,
    /// Things retired that wait for a grace period.
    pub retired: u64,
    /// System calls by kind.
    pub calls: CallCounts,
    /// How the bets have gone.
    pub bets: Bets,
}

impl Census {
    /// Live blocks of every kind.
    pub fn live_blocks(&self) -> u64 {
        self.small.blocks + self.large.blocks + self.huge.blocks
    }

    /// Bytes of live blocks of every kind.
    pub fn live_bytes(&self) -> u64 {
        self.small.bytes + self.large.bytes + self.huge.bytes
    }

    /// Bytes of arenas that may be resident.
    pub fn arena_bytes(&self) -> u64 {
        let used = self.small.bytes + self.large.bytes + self.free_bytes + self.behind_bytes;
        used + self.dirty_bytes.saturating_sub(self.spared_bytes) + self.record_bytes
    }
}

impl<P: Platform> Heaps<P> {
    /// Counts everything: a look at two lines of each slab and large block, one of each free slice that may be
    /// resident, and three of each heap; and at the bins of `heap`, which the caller possesses, and which takes in
    /// first what was sent to it: its live blocks are exact.
    pub fn census<C: Checks>(&self, heap: &Heap) -> Census {
        heap.settle_all::<C, P>(self);
        // What is free in the bins of these would count as live.
        if self.has_warm() || self.pool().has_lent() {
            self.collect_warm::<C>(heap);
            self.collect_idle::<C>(heap.caller());
        }
        let mut classes = [ClassCensus::default(); CLASSES];
        let (mut small, mut handed_out, mut hollow) = (LiveBlocks::default(), 0, 0);
        let page = self.page_size();
        let Beside { spared, behind, records, blocks, bytes } = {
            let section = heap.section(self);
            self.arenas().survey(&section, page, |slab| {
                let class = &mut classes[slab.class()];
                class.slabs += 1;
                class.live += u64::from(slab.live());
                handed_out += u64::from(slab.handed_out()) * class_size(slab.class()) as u64;
                hollow += (slab.hollow_pages() * page) as u64;
            })
        };
        for (class, ClassCensus { live, .. }) in classes.iter_mut().enumerate() {
            *live = live.saturating_sub(u64::from(heap.uncounted::<C>(class)));
            small.add(*live, *live * class_size(class) as u64);
        }
        let counts = self.space().counts();
        let (rcu, huge) = (self.space().rcu().statistics(), self.huge_figures());
        let heaps = || self.pool().each();
        // Claimed, but free: they hold no slab and no large block.
        let spare: usize = heaps().map(Heap::spare_slices).sum();
        Census {
            classes,
            small,
            large: LiveBlocks { blocks, bytes },
            huge: LiveBlocks {
                blocks: huge.live_blocks().get() as u64,
                bytes: huge.live_bytes().get() as u64,
            },
            free_bytes: handed_out.saturating_sub(small.bytes + hollow),
            kept_bytes: huge.kept_bytes().get() as u64,
            claimed_bytes: (self.claimed_slices().saturating_sub(spare) * SLICE) as u64,
            dirty_bytes: ((self.dirty_slices() + spare) * SLICE) as u64,
            spared_bytes: spared.min((self.dirty_slices() + spare) * SLICE) as u64,
            behind_bytes: behind as u64,
            record_bytes: records as u64,
            purged_bytes: self.purged_bytes(),
            mapped_bytes: (counts.mapped + counts.metadata) as u64,
            metadata_bytes: self.space().metadata().used() as u64,
            mappings: counts.mappings as u64,
            regions: counts.regions.map(|regions| regions as u64),
            heaps: self.pool().made() as u64,
            possessed: heaps().filter(|heap| !self.pool().is_idle(heap.index() as usize)).count() as u64,
            remote_frees: heaps().map(Heap::remote_frees).sum(),
            grace_periods: rcu.grace_periods as u64,
            retired: rcu.pending as u64,
            calls: self.os().calls(),
            bets: self.bets(),
        }
    }

    /// Calls `visit` with the number of its heap, and the bytes of live and of free blocks, for each slab: blocks that
    /// are in a heap's bins or on their way to it count as live. `heap` is the caller's.
    pub fn each_share(&self, heap: &Heap, mut visit: impl FnMut(usize, u64, u64)) {
        let (section, page) = (heap.section(self), self.page_size());
        self.arenas().each_slab(&section, |slab| {
            // SAFETY: heaps live forever.
            if let Some(owner) = unsafe { slab.owner().as_ref() } {
                let size = class_size(slab.class()) as u64;
                let (live, all) = (u64::from(slab.live()), u64::from(slab.handed_out()));
                let free =
                    (all.saturating_sub(live) * size).saturating_sub((slab.hollow_pages() * page) as u64);
                visit(owner.index() as usize, live * size, free);
            }
        });
    }

    /// Calls `visit` with each heap's number and figures. `own` is the caller's.
    pub fn each_heap<C: Checks>(&self, own: &Heap, mut visit: impl FnMut(usize, HeapCensus)) {
        let in_bins = |class| u64::from(own.uncounted::<C>(class)) * class_size(class) as u64;
        for heap in self.pool().each() {
            let is_own = core::ptr::eq(heap, own);
            visit(
                heap.index() as usize,
                HeapCensus {
                    bin_bytes: if is_own { (0..CLASSES).map(in_bins).sum() } else { 0 },
                    possessor: heap.possession().possessor().map_or(0, |thread| thread.number()),
                    spare_bytes: heap.spare_slices() * SLICE,
                    remote_frees: heap.remote_frees(),
                    has_mail: heap.has_mail(),
                },
            );
        }
    }

    /// Calls `visit` with each arena's figures.
    pub fn each_arena(&self, mut visit: impl FnMut(ArenaCensus)) {
        self.arenas().each(|region| {
            visit(ArenaCensus {
                base: region.base(),
                len: region.len(),
                claimed_bytes: region.slices().claimed_count() * SLICE,
                dirty_bytes: region.slices().dirty_count() * SLICE,
            });
        });
    }

    /// Calls `visit` with each huge region, by ascending address, until that says `false` or very many regions were met:
    /// where it begins, its bytes of address space, those that the program uses, none if it is kept, and those that may
    /// be resident. `heap` is the caller's.
    pub fn each_huge(&self, heap: &Heap, mut visit: impl FnMut([usize; 4]) -> bool) {
        let section = heap.section(self);
        let mut at = 0;
        for _ in 0..MOST_MET {
            let Some(region) = self.space().index().first_from(at, &section) else { return };
            let huge = region.huge();
            let about = [region.base(), region.len(), huge.used(), huge.dirty()];
            if region.kind() == Kind::Huge && !visit(about) {
                return;
            }
            at = region.base() + region.named();
        }
    }

    /// Of the first [`ASKED_PAGES`] of so many `pages` at `at`: how many these are, and how many are resident; `None` where
    /// the system does not tell.
    fn ask_residence(&self, at: usize, pages: usize) -> Option<[usize; 2]> {
        let mut told = [0; ASKED_PAGES];
        let told = &mut told[..ASKED_PAGES.min(pages)];
        self.os().are_resident(at, told).ok()?;
        Some([told.len(), told.iter().filter(|page| **page & 1 != 0).count()])
    }

    /// Bytes of huge blocks, live ones and those that are kept, that are not resident, for the program never touched them:
    /// as the system says, which is asked a bounded number of times. Of a very large block parts are looked at, one as far
    /// from the next as all others, and stand for the whole; what nobody is asked about counts as touched. `heap` is the
    /// caller's.
    pub fn untouched_bytes(&self, heap: &Heap) -> usize {
        let page = self.page_size();
        let (mut untouched, mut left) = (0, MOST_ASKED);
        self.each_huge(heap, |[base, _, used, dirty]| {
            let bytes = if used == 0 { dirty } else { used };
            let pages = bytes.checked_div(page).unwrap_or(0);
            let parts = pages.div_ceil(ASKED_PAGES);
            let asked = parts.min(MOST_ASKED_OF_ONE).min(left);
            left -= asked;
            let (mut looked, mut absent) = (0, 0);
            for turn in 0..asked {
                let first = turn * parts / asked * ASKED_PAGES;
                if let Some([asked, resident]) = self.ask_residence(base + first * page, pages - first) {
                    looked += asked;
                    absent += asked - resident;
                }
            }
            untouched += (pages * absent).checked_div(looked).unwrap_or(0) * page;
            left > 0
        });
        untouched
    }

    /// Bytes of arenas that are not resident, though `census` says so: what the program never touched of its blocks, and
    /// what is nobody's of small ones that lie at multiples of more than a page. The system is asked about the arenas, a
    /// bounded number of times; of very many one part in so many is looked at, and stands for those before it. Where it
    /// does not tell, they are.
    pub fn absent_bytes(&self, census: &Census) -> u64 {
        let page = self.page_size();
        let part = ASKED_PAGES * page;
        let starts = |region: &Region| (region.base()..region.base() + region.mapped()).step_by(part.max(1));
        let mut parts = 0;
        self.arenas().each(|region| parts += starts(region).len());
        let step = parts.div_ceil(MOST_ASKED);
        let (mut number, mut resident, mut is_told) = (0, 0, true);
        self.arenas().each(|region| {
            for start in starts(region) {
                number += 1;
                if is_told && usize::is_multiple_of(number, step) {
                    let pages = (region.base() + region.mapped() - start).checked_div(page);
                    let told = self.ask_residence(start, pages.unwrap_or(0));
                    is_told = told.is_some();
                    resident += told.map_or(0, |[_, resident]| resident) * step * page;
                }
            }
        });
        if !is_told {
            return 0;
        }
        census.arena_bytes().saturating_sub(resident as u64)
    }

    /// How the bets have gone.
    pub fn bets(&self) -> Bets {
        Bets {
            lookup: Bet::sum(self.pool().each().map(Heap::lookups)),
            space: self.space_bet().get(),
            population: self.population().get(),
        }
    }
}
