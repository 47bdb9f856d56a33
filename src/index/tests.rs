//! Tests of the index and of the space on the simulated system, mostly one thread at a time; see also `models`.

use super::radix::{LIMIT, PAGE};
use super::*;
use crate::base::{GRANULE, SLICE};
use crate::pal::simulated::{Barrier, CallKind, Config, Simulated};
use crate::pal::{Access, Errno};
use crate::rcu::{Rcu, ReaderSlot};
use crate::region::{Kind, Metadata, Phase, Prefer, Region, Retired, RetiredAs, Shape};
use proptest::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
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
        let shape = Shape { kind, base: range.start, len: range.len(), mapped: range.len(), mappings: 1 };
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
            (RetiredAs::PageNode, at) => self.index.recycle(unsafe { page::PageNode::at(at) }),
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
            Coarse::Region(region) => assert_eq!(Some(core::ptr::from_ref(region)), expected),
            Coarse::Nothing => assert_eq!(expected, None),
            Coarse::Unsure => {}
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
    for _ in 0..10 {
        let below = bench.insert(&(AT..cut), Kind::File).unwrap();
        let above = bench.insert(&(cut..AT + 3 * SLICE + PAGE), Kind::File).unwrap();
        bench.check_edges(&(AT..cut), below);
        bench.check_edges(&(cut..AT + 3 * SLICE + PAGE), above);
        assert!(matches!(bench.index.lookup_coarse(AT), Coarse::Unsure));
        bench.remove(above);
        bench.check_edges(&(AT..cut), below);
        bench.check(cut, None);
        bench.remove(below);
        assert!(matches!(bench.index.lookup_coarse(AT), Coarse::Nothing), "the node is unlinked at once");
        assert_eq!(bench.reclaim(), 2);
        let nodes = bench.metadata.used();
        // Only descriptors are new, which this bench does not recycle.
        let grown = nodes - *used.get_or_insert(nodes);
        assert!(grown <= 20 * (size_of::<Region>() + 128));
        used = Some(used.unwrap_or(nodes));
    }
}

#[test]
fn an_arena_is_near_until_it_is_removed() {
    let bench = Bench::new();
    let arena = bench.insert(&(AT..AT + GRANULE), Kind::Arena).unwrap();
    let huge = bench.insert(&(AT + GRANULE..AT + 2 * GRANULE), Kind::Huge).unwrap();
    // The same place in the filter: the second comes too late, and does not take the first's.
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
        let shape =
            Shape { kind: Kind::File, base: range.start, len: range.len(), mapped: range.len(), mappings: 1 };
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

fn space_on(config: Config) -> (Simulated, Space<Simulated>) {
    let os = Simulated::with(config);
    let space = Space::new(os.clone());
    space.start();
    (os, space)
}

/// Reaps until nothing is due any more.
fn reap_all(space: &Space<Simulated>) {
    for _ in 0..3 {
        space.reap(None);
    }
}

/// Bytes mapped for regions, as the system sees it.
fn region_bytes(os: &Simulated, space: &Space<Simulated>) -> usize {
    os.mapped_bytes() - space.metadata().mapped()
}

#[test]
fn regions_lie_where_they_should_at_every_page_size() {
    for page_size in [4 << 10, 16 << 10, 64 << 10] {
        let (os, space) = space_on(Config { page_size, ..Config::default() });
        let arena = space.map_region(Kind::Arena, GRANULE, 1, 0).unwrap();
        assert_eq!((arena.base() % GRANULE, arena.len(), arena.mapped()), (0, GRANULE, GRANULE));
        assert!(space.index().is_near_arena(arena.base()));
        let small = space.map_region(Kind::Arena, 1 << 20, 1, 0).unwrap();
        assert_eq!((small.base() % GRANULE, small.mapped()), (0, 1 << 20));
        let huge = space.map_region(Kind::Huge, 5 * SLICE + 1, 1 << 30, 2 * SLICE).unwrap();
        assert_eq!(
            (huge.base() % (1 << 30), huge.len(), huge.mapped()),
            (0, 8 * SLICE, 8 * SLICE + page_size)
        );
        let reader = space.rcu().enter_guest();
        for region in [arena, small, huge] {
            // SAFETY: the first and last bytes that may be used.
            unsafe {
                (region.base() as *mut u8).write(1);
                let end = region.base() + region.len()
                    - if region.kind() == Kind::Huge { 1 } else { page_size + 1 };
                (end as *mut u8).write(1);
            }
            for address in [region.base(), region.base() + region.len() - 1] {
                assert!(core::ptr::eq(space.find(address, &reader).unwrap(), region));
            }
            let guard = region.base() + region.mapped() - page_size;
            let guards = os.mappings().into_iter().filter(|mapping| mapping.range.start == guard);
            assert_eq!(guards.map(|mapping| mapping.access).collect::<Vec<_>>(), [Access::None]);
        }
        drop(reader);
        let counts = space.counts();
        assert_eq!((counts.regions, counts.mapped), ([2, 1, 0], region_bytes(&os, &space)));
        assert!(counts.mappings >= os.mappings().len());
        for region in [arena, small, huge] {
            assert!(space.retire_region(region) && !space.retire_region(region));
        }
        assert_eq!(space.counts().retired, 3);
        reap_all(&space);
        assert_eq!(region_bytes(&os, &space), 0);
        let counts = space.counts();
        assert_eq!((counts.regions, counts.mapped, counts.retired), ([0; 3], 0, 0));
        assert_eq!(counts.mappings, space.metadata().chunks());
    }
}

#[test]
fn places_are_used_again() {
    let (_os, space) = space_on(Config::default());
    let mut bases = std::collections::BTreeSet::new();
    let mut nodes = 0;
    for round in 0..100 {
        let (one, two) =
            (space.map_region(Kind::Huge, GRANULE, 1, 0), space.map_region(Kind::Huge, SLICE, 1, 0));
        bases.extend([one.unwrap().base(), two.unwrap().base()]);
        space.unmap_now(one.unwrap(), None).unwrap();
        space.unmap_now(two.unwrap(), None).unwrap();
        if round == 2 {
            nodes = space.metadata().used();
        }
    }
    assert!(bases.len() <= 4, "{bases:x?}");
    assert_eq!(space.metadata().used(), nodes, "the index needs no more memory");
}

#[test]
fn a_reserve_is_dropped_before_the_region_is() {
    let (_os, space) = space_on(Config { address_space_limit: 8 << 20, ..Config::default() });
    let region = space.map_region(Kind::Huge, 1 << 20, 1, 64 << 20).unwrap();
    assert_eq!(region.len(), 1 << 20);
    assert_eq!(space.map_region(Kind::Arena, GRANULE, 1, 0).err(), Some(Errno(libc::ENOMEM)));
    // An over-mapping to align it would not fit; a hint does.
    assert!(space.map_region(Kind::Arena, 4 << 20, 1, 0).is_ok());
}

#[test]
fn a_pin_keeps_a_region_and_only_while_it_lasts() {
    let (os, space) = space_on(Config::default());
    let region = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
    let pin = space.pin(region.base(), &space.rcu().enter_guest()).unwrap();
    let id = pin.id();
    assert!(space.retire_region(region));
    reap_all(&space);
    assert_eq!(space.counts().retired, 1, "pinned");
    // SAFETY: the pin keeps the memory.
    unsafe { (pin.region().base() as *mut u8).write(1) };
    assert!(space.find(region.base(), &space.rcu().enter_guest()).is_none());
    assert!(space.pin_again(id).is_none());
    drop(pin);
    assert_eq!(space.reap(None), 1);
    assert_eq!(region_bytes(&os, &space), 0);
    assert!(space.pin_again(id).is_none());
}

#[test]
fn a_section_keeps_a_region() {
    let (os, space) = space_on(Config::default());
    let region = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
    let section = space.rcu().enter_guest();
    let found = space.find(region.base(), &section).unwrap();
    assert!(space.retire_region(region));
    reap_all(&space);
    assert_eq!(found.state().phase(), Phase::Excluded);
    assert!(region_bytes(&os, &space) > 0);
    drop(section);
    reap_all(&space);
    assert_eq!(region_bytes(&os, &space), 0);
}

#[test]
fn an_unmap_inside_the_callers_section_is_an_error() {
    let (_os, space) = space_on(Config::default());
    let slot: &'static ReaderSlot = std::boxed::Box::leak(std::boxed::Box::new(ReaderSlot::new()));
    // SAFETY: attached once, and never freed.
    unsafe { space.rcu().attach(slot) };
    let region = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
    // SAFETY: the slot is attached, and this thread's.
    let section = unsafe { space.rcu().enter(slot) };
    assert_eq!(space.unmap_now(region, Some(slot)), Err(UnmapError::InsideSection));
    assert!(space.pin(region.base(), &section).is_some(), "nothing was changed");
    drop(section);
    assert_eq!(space.unmap_now(region, Some(slot)), Ok(()));
    assert_eq!(space.unmap_now(region, Some(slot)), Err(UnmapError::NotThere));
}

#[test]
fn without_a_barrier_regions_are_parked_and_mapping_goes_on() {
    let (os, space) = space_on(Config { barrier: Barrier::StopsAfter(1), ..Config::default() });
    let regions: Vec<_> = (0..3).map(|_| space.map_region(Kind::Huge, SLICE, 1, 0).unwrap()).collect();
    assert_eq!(space.unmap_now(regions[0], None), Err(UnmapError::NoBarrier));
    assert!(space.retire_region(regions[1]));
    reap_all(&space);
    assert_eq!(space.counts().retired, 2);
    assert!(space.map_region(Kind::Huge, SLICE, 1, 0).is_ok());
    os.reconfigure(|config| config.barrier = Barrier::Works);
    reap_all(&space);
    assert_eq!(space.counts().retired, 0);
}

#[test]
fn a_refused_unmap_is_kept_and_tried_again() {
    let (os, space) = space_on(Config::default());
    let (one, two) = (space.map_region(Kind::Huge, SLICE, 1, 0), space.map_region(Kind::Huge, SLICE, 1, 0));
    os.fail_kind(CallKind::Unmap, Errno(libc::ENOMEM));
    assert_eq!(space.unmap_now(one.unwrap(), None), Err(UnmapError::Kept(Errno(libc::ENOMEM))));
    assert!(space.retire_region(two.unwrap()));
    assert_eq!((space.reap(None), space.counts().retired), (0, 2));
    assert!(space.counts().failed_unmaps >= 3);
    os.heal();
    assert_eq!((space.reap(None), space.counts().retired), (2, 0));
    assert_eq!(region_bytes(&os, &space), 0);
}

#[test]
fn an_arena_is_retired_only_when_no_slice_is_claimed() {
    let (os, space) = space_on(Config::default());
    let arena = space.map_region(Kind::Arena, 1 << 20, 1, 0).unwrap();
    let retire = || space.retire_arena(arena, &space.rcu().enter_guest());
    assert!(!retire(), "closed: its header may not be written yet");
    arena.slices().reopen();
    assert_eq!(arena.slices().free_count(), 14);
    let run = arena.slices().claim(3, Prefer::Any, 1).unwrap();
    assert!(!retire());
    arena.slices().release(run.start, run.len);
    assert!(retire() && !retire());
    assert!(!space.index().is_near_arena(arena.base()));
    reap_all(&space);
    assert_eq!(region_bytes(&os, &space), 0);
}

#[test]
fn whichever_call_fails_nothing_is_lost() {
    // A workload that makes every kind of call; each call in turn fails once.
    let workload = |space: &Space<Simulated>| {
        let shapes =
            [(Kind::Arena, GRANULE, 1, 0), (Kind::Huge, SLICE, 1, SLICE), (Kind::Huge, SLICE, 1 << 28, 0)];
        let regions: Vec<_> = shapes
            .iter()
            .filter_map(|&(kind, len, align, reserve)| space.map_region(kind, len, align, reserve).ok())
            .collect();
        let mapped = regions.len();
        for (turn, region) in regions.into_iter().enumerate() {
            if turn == 1 {
                let _ = space.unmap_now(region, None);
            } else {
                assert!(space.retire_region(region));
            }
            space.reap(None);
        }
        mapped
    };
    let (os, space) = space_on(Config::default());
    assert_eq!(workload(&space), 3);
    let calls = os.record().len() as u64;
    assert!(calls > 10);
    for ordinal in 0..calls {
        let os = Simulated::new();
        os.fail_at(ordinal);
        let space = Space::new(os.clone());
        space.start();
        workload(&space);
        os.heal();
        assert_eq!(workload(&space), 3, "call {ordinal} had failed");
        reap_all(&space);
        let counts = space.counts();
        assert_eq!((counts.regions, counts.mapped, counts.retired), ([0; 3], 0, 0), "call {ordinal}");
        // A probe or a part of an over-mapping whose unmap failed is given up: address space, no memory.
        let lost = region_bytes(&os, &space);
        let failed = os.record()[ordinal as usize];
        assert!(lost == 0 || failed.kind == CallKind::Unmap && lost <= failed.len, "call {ordinal}: {lost}");
    }
}

#[test]
fn threads_that_map_find_pin_and_unmap_agree() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 300;
    let (os, space) = space_on(Config::default());
    let failed = AtomicBool::new(false);
    let board: [AtomicBoard; THREADS] = Default::default();
    std::thread::scope(|scope| {
        for me in 0..THREADS {
            let (space, board, failed) = (&space, &board, &failed);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let region = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
                    let base = region.base();
                    // SAFETY: this thread has just mapped it.
                    unsafe { (base as *mut usize).write(base) };
                    board[me].0.store(base, Ordering::Release);
                    // Others' regions come and go meanwhile: found ones can be read, pinned ones too.
                    let other = board[(me + round) % THREADS].0.load(Ordering::Acquire);
                    let section = space.rcu().enter_guest();
                    let pin = space.pin(other, &section);
                    if space.find(other, &section).is_some() {
                        // SAFETY: the section keeps the memory of what was found in it.
                        let found = unsafe { (other as *const usize).read_volatile() };
                        failed.fetch_or(found != other && found != 0, Ordering::Relaxed);
                    }
                    drop(section);
                    if let Some(pin) = &pin {
                        // SAFETY: the pin keeps the memory.
                        let found = unsafe { (pin.region().base() as *const usize).read_volatile() };
                        failed.fetch_or(found != other && found != 0, Ordering::Relaxed);
                    }
                    drop(pin);
                    if round % 3 == 0 {
                        assert_eq!(space.unmap_now(region, None), Ok(()));
                    } else {
                        assert!(space.retire_region(region));
                        space.reap(None);
                    }
                }
            });
        }
    });
    assert!(!failed.load(Ordering::Relaxed));
    reap_all(&space);
    assert_eq!((space.counts().retired, region_bytes(&os, &space)), (0, 0));
}

#[derive(Default)]
struct AtomicBoard(std::sync::atomic::AtomicUsize);
