//! The allocator's figures beside those of the model, and beside what the simulated system has seen.

use super::Driver;
use specmalloc::internals::base::{CLASSES, GRANULE, SLICE, class_info};
use specmalloc::internals::heap::{
    BlockKind, Census, Checks, ClassCensus, Heap, LiveBlocks, Place, Walk, WalkedBlock,
};
use specmalloc::internals::pal::simulated::CallKind;
use specmalloc::internals::pal::{Access, CallCounts, Misuse};
use specmalloc::internals::rcu::Flavour;
use specmalloc::internals::region::Kind;
use std::collections::{BTreeMap, BTreeSet};

/// What the model counts as it goes.
#[derive(Default)]
pub struct Tally {
    /// Most heaps that were possessed at a time.
    pub heaps: usize,
    remote_frees: u64,
    /// Huge blocks that were to grow, those that did so in place, and the others.
    growth: [u64; 3],
}

impl Tally {
    /// `heap` frees a block.
    pub fn note_free(&mut self, heap: &Heap, place: Place) {
        if let Place::Slab(slab) = place {
            self.remote_frees += u64::from(!std::ptr::eq(slab.owner(), heap));
        }
    }

    /// A block of `usable` bytes was to be resized, and stayed where it was or not.
    pub fn note_resize(&mut self, place: Place, usable: usize, size: usize, stayed: bool) {
        if matches!(place, Place::Huge(_)) && size > usable {
            let [taken, won, lost] = &mut self.growth;
            *taken += 1;
            *(if stayed { won } else { lost }) += 1;
        }
    }
}

/// What the model says is live.
struct Expected {
    classes: [ClassCensus; CLASSES],
    small: LiveBlocks,
    large: LiveBlocks,
    huge: LiveBlocks,
    /// First slices of the slabs that live blocks lie in.
    slabs: BTreeSet<usize>,
    /// Arenas that live blocks lie in.
    arenas: u64,
    large_slices: usize,
}

/// Bytes that slabs of `classes` hold.
fn slab_bytes(classes: &[ClassCensus; CLASSES]) -> usize {
    let bytes =
        |(class, census): (usize, &ClassCensus)| census.slabs as usize * class_info(class).slices as usize;
    classes.iter().enumerate().map(bytes).sum::<usize>() * SLICE
}

impl<C: Checks> Driver<C> {
    fn expected(&self) -> Expected {
        let mut classes = [ClassCensus::default(); CLASSES];
        let [mut small, mut large, mut huge] = [LiveBlocks::default(); 3];
        let (mut slabs, mut arenas) = (BTreeSet::new(), BTreeSet::new());
        let (mut large_slices, page) = (0, self.allocator.page_size());
        for (&address, live) in &self.live {
            let (sum, bytes) = match BlockKind::of(live.size, live.align) {
                BlockKind::Small(class) => {
                    classes[class].live += 1;
                    if slabs.insert(slab_at(address)) {
                        classes[class].slabs += 1;
                    }
                    (&mut small, class_info(class).size as usize)
                }
                BlockKind::Large => {
                    // One more for its colour, if it fills them: 16 lines are room enough.
                    let slices = (address % SLICE + live.usable) / SLICE;
                    let least = (address % SLICE + live.size.max(1)).div_ceil(SLICE);
                    let most = if live.size < SLICE { least } else { (live.size + 1024).div_ceil(SLICE) };
                    assert!(
                        (least..=most.max(least)).contains(&slices),
                        "{slices} slices for {} bytes",
                        live.size
                    );
                    large_slices += slices;
                    (&mut large, live.size)
                }
                // What is before it in its first page, too.
                BlockKind::Huge => (&mut huge, (address % page + live.size.max(1)).next_multiple_of(page)),
            };
            sum.blocks += 1;
            sum.bytes += bytes as u64;
            if BlockKind::of(live.size, live.align) != BlockKind::Huge {
                arenas.insert(address / GRANULE);
            }
        }
        Expected { classes, small, large, huge, slabs, arenas: arenas.len() as u64, large_slices }
    }

    /// The figures as the first hand sees them; `None` before there is a heap.
    fn census(&self) -> Option<Census> {
        if let Some(heap) = self.hands.iter().flatten().next() {
            return Some(self.allocator.census::<C>(heap));
        }
        let heap = self.allocator.pool().possess_idle(super::GUEST)?;
        let mut census = self.allocator.census::<C>(heap);
        self.allocator.give_up(heap);
        census.possessed -= 1;
        Some(census)
    }

    /// Compares what a walk tells: each live block once, and nothing else. Where free blocks carry no mark it tells each
    /// slab, with no fewer blocks than are live.
    fn compare_walk(&self) {
        let (mut walk, mut told) = (Walk::begin(0), Vec::new());
        loop {
            match self.allocator.walk_on::<C>(&mut walk) {
                [] => break,
                found => told.extend_from_slice(found),
            }
        }
        let live = self.live.iter().map(|(&address, live)| WalkedBlock {
            address,
            size: live.usable,
            kind: BlockKind::of(live.size, live.align),
            blocks: 1,
        });
        if C::ON {
            assert!(live.eq(told), "told and live");
            return;
        }
        let is_small = |block: &WalkedBlock| matches!(block.kind, BlockKind::Small(_));
        let (small, whole): (Vec<_>, Vec<_>) = live.partition(is_small);
        let (slabs, rest): (Vec<_>, Vec<_>) = told.into_iter().partition(is_small);
        assert_eq!(whole, rest);
        let mut counted = BTreeMap::new();
        small.iter().for_each(|block| *counted.entry(slab_at(block.address)).or_insert(0) += 1);
        for (slab, live) in counted {
            assert!(slabs.iter().any(|told| told.address == slab && told.blocks >= live), "{slab:#x}");
        }
    }

    /// Compares the figures at any moment.
    pub fn compare_figures(&self) {
        self.compare_walk();
        let live = self.allocator.audit::<C>();
        let Some(census) = self.census() else { return };
        let expected = self.expected();
        assert_eq!(live, Some(expected.small.blocks as usize), "live blocks of slabs");
        for (class, (counted, expected)) in census.classes.iter().zip(&expected.classes).enumerate() {
            let most = counted.slabs * u64::from(class_info(class).capacity);
            assert!(
                (expected.live..=most).contains(&counted.live),
                "class {class}: {counted:?}, {expected:?}"
            );
            assert!(counted.slabs >= expected.slabs, "class {class}: {counted:?}, {expected:?}");
        }
        let small = census.classes.iter().enumerate().fold(LiveBlocks::default(), |sum, (class, counted)| {
            let bytes = counted.live * u64::from(class_info(class).size);
            LiveBlocks { blocks: sum.blocks + counted.live, bytes: sum.bytes + bytes }
        });
        assert_eq!(census.small, small);
        assert_eq!((census.large, census.huge), (expected.large, expected.huge));
        let claimed = slab_bytes(&census.classes) + expected.large_slices * SLICE;
        assert_eq!(census.claimed_bytes, claimed as u64);
        assert!(census.small.bytes + census.free_bytes <= slab_bytes(&census.classes) as u64);
        assert_eq!(census.possessed, self.hands.iter().flatten().count() as u64);
        assert_eq!(census.heaps, self.tally.heaps as u64);
        assert_eq!(census.remote_frees, self.tally.remote_frees);
        let [lookup, space, population] = [census.bets.lookup, census.bets.space, census.bets.population]
            .map(|bet| [bet.taken, bet.won, bet.lost]);
        assert_eq!((lookup[0], space), (lookup[1] + lookup[2], self.tally.growth));
        // Its clock stands still: all are won.
        assert_eq!(population, [self.os.advised(), self.os.advised(), 0]);
        self.compare_with_system(&census);
    }

    fn compare_with_system(&self, census: &Census) {
        let record = self.os.record();
        let count = |kinds: &[CallKind]| {
            record.iter().filter(|call| kinds.contains(&call.kind) && call.result.is_ok()).count() as u64
        };
        let calls = CallCounts {
            map: count(&[CallKind::Map]),
            unmap: count(&[CallKind::Unmap]),
            protect: count(&[CallKind::Protect]),
            remap: count(&[CallKind::Resize, CallKind::Move]),
            purge: count(&[CallKind::Purge]),
            barrier: count(&[CallKind::HeavyBarrier]),
            failed: record.iter().filter(|call| call.result.is_err()).count() as u64,
        };
        assert_eq!(census.calls, calls);
        let purged = record.iter().filter(|call| call.kind == CallKind::Purge && call.result.is_ok());
        assert_eq!(census.purged_bytes, purged.map(|call| call.len as u64).sum::<u64>());
        // Whatever the allocator starts, it ends before another begins: nobody is inside a section here.
        if self.allocator.space().rcu().statistics().flavour == Flavour::Membarrier {
            // One barrier each, but none while the first heap is the only one.
            assert!(census.grace_periods >= calls.barrier - 1);
        }

        // What the system refused to unmap before it was a region's stays mapped: nobody remembers it.
        let refused = || record.iter().filter(|call| call.kind == CallKind::Unmap && call.result.is_err());
        let mapped = self.os.mapped_bytes() as u64;
        let lost = refused().map(|call| call.len as u64).sum::<u64>();
        assert!(
            (census.mapped_bytes..=census.mapped_bytes + lost).contains(&mapped),
            "{mapped} bytes are mapped, {} counted",
            census.mapped_bytes
        );
        let mappings = self.os.mappings();
        assert!(
            mappings.len() as u64 <= census.mappings + refused().count() as u64,
            "{} mappings, {} counted",
            mappings.len(),
            census.mappings
        );
        if record
            .iter()
            .any(|call| matches!(call.kind, CallKind::Protect | CallKind::Unmap) && call.result.is_err())
        {
            return;
        }
        // Each region has one guard, and so has each that is retired and waits for a grace period, maybe for ever.
        let guards = mappings.iter().filter(|mapping| mapping.access == Access::None).count() as u64;
        assert_eq!(census.regions.iter().sum::<u64>() + census.retired, guards);
        let named = |name| {
            let pieces = mappings.iter().filter(|mapping| mapping.name == Some(name));
            // Pages that were moved are a piece of their own.
            let mut end = 0;
            pieces.filter(|piece| std::mem::replace(&mut end, piece.range.end) != piece.range.start).count()
                as u64
        };
        let (arenas, huge) = (named(c"specmalloc arena"), named(c"specmalloc huge"));
        // Names are hints: with few mappings allowed a region may go without.
        if arenas + huge == guards {
            let [counted_arenas, counted_huge, ..] = census.regions;
            assert!((counted_arenas..=counted_arenas + census.retired).contains(&arenas));
            assert!((counted_huge..=counted_huge + census.retired).contains(&huge));
        }
    }

    /// Sees to it that every figure must be exact, and compares. With `relieve` gives back what is free, and compares
    /// again.
    pub(super) fn count(&mut self, relieve: bool) {
        for hand in &mut self.hands {
            if let Some(heap) = hand.take() {
                heap.collect::<C, _>(self.allocator);
                self.allocator.give_up(heap);
            }
        }
        let pool = self.allocator.pool();
        let mut turns = 0..10;
        while (0..pool.made()).filter_map(|index| pool.get(index)).any(Heap::needs_collecting) {
            assert!(turns.next().is_some(), "blocks go round and round");
            self.allocator.collect_idle::<C>(super::GUEST);
        }
        self.compare_exactly();
        if relieve && let Some(heap) = pool.possess_idle(super::GUEST) {
            self.allocator.give_back_all(heap.claimant());
            self.allocator.give_up(heap);
            self.compare_exactly();
            self.compare_relieved();
        }
    }

    fn compare_exactly(&self) {
        self.compare_figures();
        let Some(census) = self.census() else { return };
        let expected = self.expected();
        assert_eq!(census.classes, expected.classes);
        assert_eq!(census.small, expected.small);
        let all = [expected.small, expected.large, expected.huge];
        assert_eq!(census.live_blocks(), self.live.len() as u64);
        assert_eq!(census.live_bytes(), all.iter().map(|live| live.bytes).sum::<u64>());
        assert_eq!(
            census.claimed_bytes as usize,
            slab_bytes(&expected.classes) + expected.large_slices * SLICE
        );
        if C::ON {
            let free = expected.slabs.iter().map(|&slab| self.free_bytes(slab)).sum::<i64>();
            assert_eq!(census.free_bytes as i64, free.max(0));
        }
    }

    /// Bytes of the blocks of a slab that were handed out and are free, by asking of every block; but for what was given
    /// back of them, which is inside of free blocks.
    fn free_bytes(&self, slab: usize) -> i64 {
        // SAFETY: there is a live block in the slab.
        let Place::Slab(record) = (unsafe { Place::trusted(slab) }) else { panic!("no slab at {slab:#x}") };
        let size = record.info().size as usize;
        let blocks = (0..record.info().capacity as usize).map(|index| slab + index * size);
        let free = |&block: &usize| match self.allocator.place(block) {
            Ok(_) => false,
            Err(Misuse::DoubleFree) => true,
            // Never handed out.
            Err(_) => false,
        };
        let page = self.allocator.page_size();
        let hollow = record.hollow_pages() * page;
        let most = if record.is_fallow() {
            // It goes with the words of its blocks: pages that only free ones touch.
            let mut pages = BTreeMap::new();
            for block in blocks.clone() {
                for at in (block / page)..=((block + size - 1) / page) {
                    *pages.entry(at).or_insert(true) &= free(&block);
                }
            }
            pages.into_values().filter(|&only| only).count() * page
        } else if size >= 2 * page {
            blocks.clone().filter(free).count() * ((size - 16) / page * page)
        } else {
            0
        };
        let free = blocks.filter(free).count();
        assert!(hollow <= most, "{hollow} bytes of {free} free blocks of {size}");
        (free * size) as i64 - hollow as i64
    }

    /// After everything free was given back.
    fn compare_relieved(&self) {
        if self.os.record().iter().any(|call| call.result.is_err()) {
            return;
        }
        let Some(census) = self.census() else { return };
        let expected = self.expected();
        assert_eq!((census.dirty_bytes, census.kept_bytes, census.retired), (0, 0, 0));
        let mut regions = census.regions.map(|_| 0);
        regions[Kind::Arena as usize] = expected.arenas;
        regions[Kind::Huge as usize] = expected.huge.blocks;
        assert_eq!(census.regions, regions);
    }
}

/// The first slice of the slab that a live block lies in.
fn slab_at(address: usize) -> usize {
    // SAFETY: a live block of a slab.
    match unsafe { Place::trusted(address) } {
        Place::Slab(slab) => slab.start(),
        _ => panic!("{address:#x} lies in no slab"),
    }
}
