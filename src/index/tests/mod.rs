//! Tests of the tree, one thread at a time; see also `models`. Those of the space are in `space`, `placement` and `reaping`.

mod placement;
mod reaping;
mod space;

use super::radix::{LIMIT, PAGE};
use super::*;
use crate::base::{GRANULE, SLICE};
use crate::pal::Errno;
use crate::pal::simulated::{CallKind, Simulated};
use crate::rcu::Rcu;
use crate::region::{Kind, Metadata, Region, Retired, RetiredAs, Shape};
use proptest::prelude::*;
use std::ops::Range;
use std::vec::Vec;

/// An index by itself, over regions that are not mapped.
struct Bench {
    os: Simulated,
    rcu: Rcu,
    metadata: Metadata,
    index: Index,
}

impl Bench {
    fn new() -> Bench {
        let bench =
            Bench { os: Simulated::new(), rcu: Rcu::new(), metadata: Metadata::new(), index: Index::new() };
        bench.rcu.start(&bench.os);
        bench
    }

    fn insert(&self, range: &Range<usize>, kind: Kind) -> Result<&'static Region, Errno> {
        let region: &Region = self.metadata.create(&self.os).unwrap();
        let shape =
            Shape { kind, base: range.start, len: range.len(), mapped: range.len(), held: 0, mappings: 1 };
        region.slices().open(1..2);
        region.attach(shape);
        self.index.insert(&self.os, &self.rcu, &self.metadata, region).map(|()| region)
    }

    fn remove(&self, region: &'static Region) {
        self.index.remove(&self.rcu, region);
    }

    fn reclaim(&self) -> usize {
        // SAFETY: all that this bench retires are nodes of pages.
        self.rcu.reclaim(&self.os, None, |link| match unsafe { Retired::recover(link) } {
            // SAFETY: the link says so, and the memory of nodes is immortal.
            (RetiredAs::PageNode, at) => self.index.recycle(unsafe { pages::PageNode::at(at) }),
            (RetiredAs::Region, _) => panic!("no region was retired"),
        })
    }

    fn find(&self, address: usize) -> Option<*const Region> {
        self.index.lookup(address, &self.rcu.enter_guest()).map(core::ptr::from_ref)
    }

    /// What is at `address`, by both kinds of lookup.
    fn check(&self, address: usize, expected: Option<&'static Region>) {
        let expected = expected.map(core::ptr::from_ref);
        assert_eq!(self.find(address), expected, "{address:#x}");
        match self.index.lookup_coarse(address) {
            Found::Region(region) => assert_eq!(Some(core::ptr::from_ref(region)), expected),
            Found::Nothing => assert_eq!(expected, None),
            Found::Unsure => {}
        }
    }

    fn check_edges(&self, range: &Range<usize>, region: &'static Region) {
        let middle = range.start + range.len() / 2;
        for address in [range.start, range.start + 1, middle, range.end - PAGE, range.end - 1] {
            self.check(address, Some(region));
        }
    }
}

const AT: usize = 0x7f00_0000_0000;

#[test]
fn nothing_is_found_where_nothing_is() {
    let bench = Bench::new();
    for address in [0, 1, PAGE, AT, LIMIT - 1, LIMIT, 1 << 48, usize::MAX - 1, usize::MAX] {
        bench.check(address, None);
        assert!(!bench.index.is_near_arena(address));
    }
    assert_eq!(bench.metadata.used(), 0, "looking up needs no memory");
}

#[test]
fn what_lies_above_the_index_is_refused() {
    let bench = Bench::new();
    assert_eq!(bench.insert(&(LIMIT - SLICE..LIMIT + SLICE), Kind::Huge).err(), Some(Errno(libc::ENOMEM)));
    assert!(bench.insert(&(LIMIT - SLICE..LIMIT), Kind::Huge).is_ok());
}

#[test]
fn a_wide_region_takes_few_entries_and_little_memory() {
    let bench = Bench::new();
    let region = bench.insert(&(AT..AT + (10 << 30)), Kind::Huge).unwrap();
    bench.check_edges(&(AT..AT + (10 << 30)), region);
    // One node of granules and the descriptor.
    assert!(bench.metadata.used() < 18 << 10, "{}", bench.metadata.used());
    let used = bench.metadata.used();
    // A whole entry of the root: no node at all.
    let wide = bench.insert(&((64 << 30)..(128 << 30)), Kind::Huge).unwrap();
    bench.check_edges(&((64 << 30)..(128 << 30)), wide);
    assert!(bench.metadata.used() - used < 1 << 10);
}

#[test]
fn what_was_cut_once_can_be_whole_again() {
    let bench = Bench::new();
    let granule = AT..AT + GRANULE;
    let (low, high) = (AT..AT + 3 * SLICE, AT + 3 * SLICE..AT + GRANULE);
    for _ in 0..2 {
        let (below, above) =
            (bench.insert(&low, Kind::Huge).unwrap(), bench.insert(&high, Kind::Huge).unwrap());
        bench.check_edges(&low, below);
        bench.check_edges(&high, above);
        bench.remove(below);
        bench.check(AT, None);
        bench.check_edges(&high, above);
        bench.remove(above);

        let whole = bench.insert(&granule, Kind::Huge).unwrap();
        bench.check_edges(&granule, whole);
        bench.remove(whole);
        [AT, AT + SLICE, granule.end - 1].iter().for_each(|&address| bench.check(address, None));
    }
    // The same below a whole entry of the root.
    let root = AT / (64 << 30) * (64 << 30);
    let whole = bench.insert(&(root..root + (64 << 30)), Kind::Huge).unwrap();
    bench.check_edges(&(root..root + (64 << 30)), whole);
    bench.check_edges(&granule, whole);
    bench.remove(whole);
    bench.check(AT, None);
}

#[test]
fn page_nodes_come_and_go() {
    let bench = Bench::new();
    let cut = AT + 5 * PAGE;
    let mut used = None;
    for round in 0..100 {
        let below = bench.insert(&(AT..cut), Kind::File).unwrap();
        let above = bench.insert(&(cut..AT + 3 * SLICE + PAGE), Kind::File).unwrap();
        bench.check_edges(&(AT..cut), below);
        bench.check_edges(&(cut..AT + 3 * SLICE + PAGE), above);
        assert!(matches!(bench.index.lookup_coarse(AT), Found::Unsure));
        bench.remove(above);
        bench.check_edges(&(AT..cut), below);
        bench.check(cut, None);
        bench.remove(below);
        assert!(matches!(bench.index.lookup_coarse(AT), Found::Nothing), "the node is unlinked at once");
        assert_eq!(bench.reclaim(), 2);
        let nodes = bench.metadata.used();
        // Only descriptors are new, which this bench does not recycle.
        let grown = nodes - *used.get_or_insert(nodes);
        assert!(
            grown <= 2 * round * size_of::<Region>().next_multiple_of(64) + 1024,
            "{grown} by round {round}"
        );
    }
}

#[test]
fn an_arena_is_near_until_it_is_removed() {
    let bench = Bench::new();
    let arena = bench.insert(&(AT..AT + GRANULE), Kind::Arena).unwrap();
    let huge = bench.insert(&(AT + GRANULE..AT + 2 * GRANULE), Kind::Huge).unwrap();
    // The same place in the near table: the second comes too late, and does not take the first's.
    let far = AT + 256 * GRANULE;
    let second = bench.insert(&(far..far + GRANULE), Kind::Arena).unwrap();
    assert!(bench.index.is_near_arena(AT) && bench.index.is_near_arena(AT + GRANULE - 1));
    assert!(!bench.index.is_near_arena(AT - 1) && !bench.index.is_near_arena(AT + GRANULE));
    assert!(!bench.index.is_near_arena(far));
    bench.remove(second);
    assert!(bench.index.is_near_arena(AT));
    bench.remove(arena);
    assert!(!bench.index.is_near_arena(AT));
    bench.remove(huge);
}

#[test]
fn without_memory_for_nodes_nothing_is_published() {
    let range = AT + PAGE..AT + 2 * GRANULE + PAGE;
    // How many nodes fit before memory is gone; the last time all do.
    let mut refused = 0;
    for budget in 0.. {
        let bench = Bench::new();
        let region: &Region = bench.metadata.create(&bench.os).unwrap();
        let shape = Shape {
            kind: Kind::File,
            base: range.start,
            len: range.len(),
            mapped: range.len(),
            held: 0,
            mappings: 1,
        };
        region.attach(shape);
        // Leaves `budget` steps of 1 KiB in the only chunk.
        let left = bench.metadata.mapped() - bench.metadata.used() - 64;
        bench.metadata.allocate(&bench.os, left.saturating_sub(budget << 10), 1).unwrap();
        bench.os.fail_kind(CallKind::Map, Errno(libc::ENOMEM));
        let outcome = bench.index.insert(&bench.os, &bench.rcu, &bench.metadata, region);
        let edges = [range.start, AT + SLICE, AT + GRANULE, AT + 2 * GRANULE];
        if outcome.is_ok() {
            edges.iter().for_each(|&address| bench.check(address, Some(region)));
            break;
        }
        refused += 1;
        edges.iter().for_each(|&address| bench.check(address, None));
        bench.os.heal();
        assert_eq!(bench.index.insert(&bench.os, &bench.rcu, &bench.metadata, region), Ok(()));
        edges.iter().for_each(|&address| bench.check(address, Some(region)));
    }
    assert!(refused >= 4, "{refused}");
}

#[derive(Clone, Debug)]
struct Change {
    at: usize,
    pages: usize,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let pages = prop_oneof![3 => 1..40usize, 1 => 1..20_000usize, 1 => Just(GRANULE / PAGE), 1 => Just(16)];
    let at = (0..4 * GRANULE / PAGE, prop_oneof![Just(1), Just(16), Just(GRANULE / PAGE)]);
    let change = (at, pages).prop_map(|((at, unit), pages)| Change { at: at / unit * unit, pages });
    prop::collection::vec(change, 1..60)
}

proptest! {
    #[test]
    fn the_index_behaves_like_a_list_of_ranges(changes in changes(), root_edge in any::<bool>()) {
        let bench = Bench::new();
        // Across the edge of two entries of the root, or somewhere inside one.
        let origin = if root_edge { (64usize << 30) * 7 - 2 * GRANULE } else { AT };
        let mut there: Vec<(Range<usize>, &'static Region)> = Vec::new();
        for change in changes {
            let start = origin + change.at * PAGE;
            let range = start..start + change.pages * PAGE;
            // What is in the way goes; if nothing is, the range comes.
            let (gone, stay): (Vec<_>, Vec<_>) =
                there.into_iter().partition(|(other, _)| other.start < range.end && range.start < other.end);
            there = stay;
            for (range, region) in &gone {
                bench.remove(region);
                bench.check(range.start, None);
                bench.check(range.end - 1, None);
            }
            if gone.is_empty() {
                there.push((range.clone(), bench.insert(&range, Kind::File).unwrap()));
            }
            bench.reclaim();
            for (range, region) in &there {
                bench.check_edges(range, region);
                for address in [range.start - 1, range.end] {
                    let owner = there.iter().find(|(other, _)| other.contains(&address));
                    bench.check(address, owner.map(|(_, region)| *region));
                }
            }
        }
        there.iter().for_each(|(_, region)| bench.remove(region));
        while bench.reclaim() > 0 {}
        prop_assert_eq!(bench.rcu.statistics().pending, 0);
    }
}
