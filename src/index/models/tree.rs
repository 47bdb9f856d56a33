//! Models of the tree: publishing, splitting and unlinking beside lookups and beside each other.

use super::on_thread;
use crate::base::{GRANULE, SLICE};
use crate::index::Index;
use crate::index::pages::PageNode;
use crate::index::radix::PAGE;
use crate::pal::simulated::{Config, Simulated};
use crate::rcu::{Rcu, ReaderSlot};
use crate::region::{Kind, Metadata, Region, Retired, RetiredAs, Shape};
use crate::sync::atomic::AtomicBool;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::checker::explore;
use std::ops::Range;
use std::sync::Arc;

/// An index by itself, over regions that are not mapped.
struct Bench {
    os: Simulated,
    rcu: Rcu,
    metadata: Metadata,
    index: Index,
    slot: ReaderSlot,
}

impl Bench {
    fn new() -> Arc<Bench> {
        let os = Simulated::with(Config { reserve: GRANULE, ..Config::default() });
        let bench = Arc::new(Bench {
            os,
            rcu: Rcu::new(),
            metadata: Metadata::new(),
            index: Index::new(),
            slot: ReaderSlot::new(),
        });
        bench.rcu.start(&bench.os);
        // SAFETY: attached once, and the bench outlives its threads.
        unsafe { bench.rcu.attach(&bench.slot) };
        bench
    }

    /// A descriptor that had another life before.
    fn region(&self) -> &'static Region {
        let region: &Region = self.metadata.create(&self.os).unwrap();
        region.attach(Shape {
            kind: Kind::File,
            base: GRANULE,
            len: PAGE,
            mapped: PAGE,
            held: 0,
            mappings: 1,
        });
        let _ = region.exclude();
        region.detach();
        region
    }

    fn insert(&self, region: &'static Region, range: Range<usize>) {
        let len = range.len();
        region.attach(Shape { kind: Kind::File, base: range.start, len, mapped: len, held: 0, mappings: 1 });
        self.index.insert(&self.os, &self.rcu, &self.metadata, region).unwrap();
    }

    fn remove(&self, region: &'static Region) {
        self.index.remove(&self.rcu, region);
    }

    fn reclaim(&self) {
        // SAFETY: all that this bench retires are nodes of pages.
        self.rcu.reclaim(&self.os, None, |link| match unsafe { Retired::recover(link) } {
            // SAFETY: the link says so, and the memory of nodes is immortal.
            (RetiredAs::PageNode, at) => self.index.recycle(unsafe { PageNode::at(at) }),
            (RetiredAs::Region, _) => panic!("no region was retired"),
        });
    }

    /// Whatever is found at an address is there.
    fn look(&self, address: usize) {
        // SAFETY: the slot is attached, and in each model one thread uses it.
        let _section = unsafe { self.rcu.enter(&self.slot) };
        self.look_without_section(address);
    }

    /// The same where nothing is removed. The checker does not try all orders of two fences, so that of a section's
    /// entry would hide the lack of an acquire.
    fn look_without_section(&self, address: usize) {
        if let Some(region) = self.index.at(address) {
            assert!(region.contains(address), "{address:#x} is not in {:#x}", region.base());
        }
    }

    fn holds(&self, address: usize, region: &'static Region) -> bool {
        self.index.at(address).is_some_and(|found| core::ptr::eq(found, region))
    }
}

const AT: usize = 2 * GRANULE;

pub(super) fn published() {
    explore(3, || {
        let bench = Bench::new();
        let region = bench.region();
        let reader = on_thread(&bench, |bench| bench.look_without_section(AT));
        bench.insert(region, AT..AT + SLICE);
        reader.join().unwrap();
        assert!(bench.holds(AT, region));
    });
}

pub(super) fn published_in_granules() {
    explore(3, || {
        let bench = Bench::new();
        let region = bench.region();
        // The node of granules is there.
        bench.insert(bench.region(), AT - SLICE..AT);
        let reader = on_thread(&bench, |bench| bench.look_without_section(AT));
        bench.insert(region, AT..AT + SLICE);
        reader.join().unwrap();
        assert!(bench.holds(AT, region));
    });
}

/// A region that covers a whole granule comes where a node was left behind by a smaller one, beside lookups at both
/// ends: each finds the region or nothing, and in the end all of it is there.
pub(super) fn folded() {
    explore(3, || {
        let bench = Bench::new();
        let (small, whole) = (bench.region(), bench.region());
        bench.insert(small, AT..AT + SLICE);
        bench.remove(small);
        let reader = on_thread(&bench, |bench| {
            bench.look(AT);
            bench.look(AT + GRANULE - 1);
        });
        bench.insert(whole, AT..AT + GRANULE);
        reader.join().unwrap();
        assert!((0..GRANULE / SLICE).all(|slice| bench.holds(AT + slice * SLICE, whole)));
    });
}

/// It goes again, and smaller ones come in its place when the grace period is over: a lookup finds what is there now.
pub(super) fn unfolded() {
    explore(3, || {
        let bench = Bench::new();
        let (small, whole, next) = (bench.region(), bench.region(), bench.region());
        bench.insert(small, AT..AT + SLICE);
        bench.remove(small);
        bench.insert(whole, AT..AT + GRANULE);
        let reader = on_thread(&bench, move |bench| {
            // SAFETY: the slot is attached, and this thread alone uses it.
            let _section = unsafe { bench.rcu.enter(&bench.slot) };
            if let Some(region) = bench.index.at(AT + SLICE) {
                // Until the section ends the descriptor stays what it was.
                assert_eq!((region.base(), region.len()), (AT, GRANULE));
            }
        });
        bench.remove(whole);
        bench.rcu.synchronize(&bench.os, None).unwrap();
        let _ = whole.exclude();
        whole.detach();
        // The descriptor begins another life, elsewhere.
        bench.insert(whole, AT + GRANULE..AT + GRANULE + SLICE);
        bench.insert(next, AT..AT + SLICE);
        reader.join().unwrap();
        assert!(bench.holds(AT, next) && bench.index.at(AT + SLICE).is_none());
    });
}

pub(super) fn published_in_a_node() {
    explore(3, || {
        let bench = Bench::new();
        let region = bench.region();
        // The nodes above are there.
        bench.insert(bench.region(), AT + SLICE..AT + 2 * SLICE);
        let reader = on_thread(&bench, |bench| bench.look_without_section(AT));
        bench.insert(region, AT..AT + SLICE);
        reader.join().unwrap();
        assert!(bench.holds(AT, region));
    });
}

pub(super) fn published_in_pages() {
    explore(3, || {
        let bench = Bench::new();
        let region = bench.region();
        // The nodes above are there.
        bench.insert(bench.region(), AT + SLICE..AT + 2 * SLICE);
        let reader = on_thread(&bench, |bench| bench.look_without_section(AT + PAGE));
        bench.insert(region, AT + PAGE..AT + 2 * PAGE);
        reader.join().unwrap();
        assert!(bench.holds(AT + PAGE, region));
    });
}

pub(super) fn joined_in_pages() {
    explore(3, || {
        let bench = Bench::new();
        let (first, second) = (bench.region(), bench.region());
        bench.insert(first, AT..AT + PAGE);
        let reader = on_thread(&bench, |bench| bench.look_without_section(AT + PAGE));
        bench.insert(second, AT + PAGE..AT + 2 * PAGE);
        reader.join().unwrap();
        assert!(bench.holds(AT, first) && bench.holds(AT + PAGE, second));
    });
}

pub(super) fn neighbours() {
    explore(2, || {
        let bench = Bench::new();
        let (first, second) = (bench.region(), bench.region());
        let other = on_thread(&bench, move |bench| bench.insert(first, AT..AT + SLICE));
        bench.insert(second, AT + SLICE..AT + 2 * SLICE);
        other.join().unwrap();
        assert!(bench.holds(AT, first) && bench.holds(AT + SLICE, second));
        // Takes the nodes that lost, if there are any.
        let third = bench.region();
        bench.insert(third, AT + GRANULE..AT + GRANULE + SLICE);
        bench.remove(first);
        assert!(bench.holds(AT + GRANULE, third) && bench.index.at(AT).is_none());
    });
}

pub(super) fn three_neighbours() {
    explore(3, || {
        let bench = Bench::new();
        let regions = [(); 3].map(|()| bench.region());
        let slice = |which: usize| AT + which * GRANULE..AT + which * GRANULE + SLICE;
        // The nodes of granules are there; those of slices are raced for, and a spare one may go from thread to thread.
        bench.insert(bench.region(), AT - SLICE..AT);
        let other = on_thread(&bench, move |bench| bench.insert(regions[0], slice(0)));
        let third = on_thread(&bench, move |bench| bench.insert(regions[1], slice(1)));
        bench.insert(regions[2], AT + SLICE..AT + 2 * SLICE);
        other.join().unwrap();
        third.join().unwrap();
        assert!(bench.holds(slice(0).start, regions[0]) && bench.holds(slice(1).start, regions[1]));
        assert!(bench.holds(AT + SLICE, regions[2]));
    });
}

pub(super) fn whole_over_cut() {
    explore(3, || {
        let bench = Bench::new();
        let (small, whole) = (bench.region(), bench.region());
        let gone = Arc::new(AtomicBool::new(false));
        let told = gone.clone();
        let other = on_thread(&bench, move |bench| {
            bench.insert(small, AT..AT + SLICE);
            bench.remove(small);
            // Relaxed: nothing but the system says that the place is free.
            told.store(true, Relaxed);
        });
        while !gone.load(Relaxed) {
            crate::sync::spin_hint();
        }
        bench.insert(whole, AT..AT + GRANULE);
        assert!(bench.holds(AT, whole) && bench.holds(AT + GRANULE - 1, whole));
        other.join().unwrap();
    });
}

pub(super) fn neighbours_in_pages() {
    explore(2, || {
        let bench = Bench::new();
        let (first, second, third) = (bench.region(), bench.region(), bench.region());
        // The nodes above are there.
        bench.insert(bench.region(), AT + SLICE..AT + 2 * SLICE);
        let other = on_thread(&bench, move |bench| bench.insert(first, AT..AT + PAGE));
        bench.insert(second, AT + PAGE..AT + 2 * PAGE);
        other.join().unwrap();
        assert!(bench.holds(AT, first) && bench.holds(AT + PAGE, second));
        // Takes the node that lost, if there is one.
        let at = AT + 2 * SLICE;
        bench.insert(third, at + 2 * PAGE..at + 3 * PAGE);
        assert!(bench.holds(at + 2 * PAGE, third));
        assert!(bench.index.at(at).is_none() && bench.index.at(at + PAGE).is_none());
    });
}

pub(super) fn join_and_leave() {
    explore(3, || {
        let bench = Bench::new();
        let (first, second) = (bench.region(), bench.region());
        bench.insert(first, AT..AT + PAGE);
        let other = on_thread(&bench, move |bench| bench.insert(second, AT + PAGE..AT + 2 * PAGE));
        bench.remove(first);
        other.join().unwrap();
        assert!(bench.holds(AT + PAGE, second) && bench.index.at(AT).is_none());
        // Who came too late has left nothing in the node, which another slice has next.
        bench.reclaim();
        bench.reclaim();
        bench.insert(bench.region(), AT + SLICE..AT + SLICE + PAGE);
        assert!(bench.index.at(AT + SLICE + PAGE).is_none());
    });
}

pub(super) fn page_node_reused() {
    explore(3, || {
        let bench = Bench::new();
        let (first, second) = (bench.region(), bench.region());
        bench.insert(first, AT..AT + PAGE);
        let reader = on_thread(&bench, |bench| bench.look(AT));
        bench.remove(first);
        bench.reclaim();
        bench.reclaim();
        // In the same place of a node of another slice.
        bench.insert(second, AT + SLICE..AT + SLICE + PAGE);
        reader.join().unwrap();
        assert!(bench.holds(AT + SLICE, second));
    });
}

pub(super) fn page_node_comes_back() {
    explore(3, || {
        let bench = Bench::new();
        let (first, second, third) = (bench.region(), bench.region(), bench.region());
        bench.insert(first, AT..AT + PAGE);
        let other = on_thread(&bench, move |bench| bench.insert(second, AT + PAGE..AT + 2 * PAGE));
        bench.remove(first);
        bench.reclaim();
        bench.reclaim();
        bench.insert(third, AT..AT + PAGE);
        other.join().unwrap();
        assert!(bench.holds(AT + PAGE, second) && bench.holds(AT, third));
    });
}

pub(super) fn two_leave_and_one_comes() {
    explore(2, || {
        let bench = Bench::new();
        let (first, second, third) = (bench.region(), bench.region(), bench.region());
        bench.insert(first, AT..AT + PAGE);
        bench.insert(second, AT + PAGE..AT + 2 * PAGE);
        let other = on_thread(&bench, move |bench| bench.remove(first));
        // The place that `first` had, in whatever node is there when `third` has come.
        let reader = on_thread(&bench, |bench| bench.look(AT + SLICE));
        bench.remove(second);
        bench.reclaim();
        bench.reclaim();
        bench.insert(third, AT + SLICE + PAGE..AT + SLICE + 2 * PAGE);
        other.join().unwrap();
        reader.join().unwrap();
        assert!(bench.holds(AT + SLICE + PAGE, third) && bench.index.at(AT).is_none());
    });
}
