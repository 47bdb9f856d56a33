//! Tests of the space on the simulated system, mostly one thread at a time.

use crate::base::{GRANULE, SLICE};
use crate::index::space::wants_guard;
use crate::index::{Move, Space, UnmapError};
use crate::pal::simulated::{Barrier, CallKind, Config, Simulated};
use crate::pal::{Access, Errno, Platform};
use crate::rcu::ReaderSlot;
use crate::region::{Kind, Phase, Prefer};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::vec::Vec;

pub(super) fn space_on(config: Config) -> (Simulated, Space<Simulated>) {
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
pub(super) fn region_bytes(os: &Simulated, space: &Space<Simulated>) -> usize {
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
        // What is reserved is reserved to the end of the granule; without a reserve it is what was asked for.
        assert_eq!((huge.base() % (1 << 30), huge.len(), huge.mapped()), (0, GRANULE - page_size, GRANULE));
        let exact = space.map_region(Kind::Huge, 5 * SLICE + 1, 1, 0).unwrap();
        assert_eq!((exact.len(), exact.mapped()), (6 * SLICE, 6 * SLICE + page_size));
        let reader = space.rcu().enter_guest();
        for region in [arena, small, huge, exact] {
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
            let named =
                os.mappings().into_iter().find(|mapping| mapping.range.start == region.base()).unwrap().name;
            let kind = if region.kind() == Kind::Arena { c"specmalloc arena" } else { c"specmalloc huge" };
            assert_eq!(named, Some(kind));
        }
        drop(reader);
        let counts = space.counts();
        assert_eq!((counts.regions, counts.mapped), ([2, 2, 0, 0], region_bytes(&os, &space)));
        assert!(counts.mappings >= os.mappings().len());
        for region in [arena, small, huge, exact] {
            assert!(space.retire_region(region) && !space.retire_region(region));
        }
        assert_eq!(space.counts().retired, 4);
        reap_all(&space);
        assert_eq!(region_bytes(&os, &space), 0);
        let counts = space.counts();
        assert_eq!((counts.regions, counts.mapped, counts.retired), ([0; crate::region::KINDS], 0, 0));
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
fn on_linux_a_hint_places_an_arena() {
    let space = Space::new(crate::pal::Linux::new());
    space.start();
    // What another test of this process maps may lie where hints lead, so each look goes on behind the last.
    let mut arenas = Vec::new();
    let by_one_call = (0..32).any(|_| {
        let map = || space.map_region(Kind::Arena, GRANULE, 1, 0).unwrap();
        let first = map();
        let before = space.os().calls();
        let second = map();
        let after = space.os().calls();
        assert_eq!((first.base() % GRANULE, second.base() % GRANULE), (0, 0));
        arenas.extend([first, second]);
        (after.map - before.map, after.unmap) == (1, before.unmap)
    });
    for arena in arenas {
        // SAFETY: mapped, and nobody else uses it.
        unsafe { (arena.base() as *mut u8).write(1) };
        assert_eq!(space.unmap_now(arena, None), Ok(()));
    }
    assert!(by_one_call, "one call, nothing cut off");
}

#[test]
fn a_region_does_without_the_guard_that_it_cannot_have() {
    let (os, space) = space_on(Config::default());
    os.fail_kind(CallKind::Protect, Errno(libc::ENOMEM));
    let region = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
    assert_eq!((region.mappings(), region.len()), (1, SLICE));
    assert!(os.mappings().len() <= space.counts().mappings, "{:?}", os.mappings());
    os.heal();
    assert_eq!(space.unmap_now(region, None), Ok(()));
    assert_eq!(region_bytes(&os, &space), 0);

    // Nor do the guards of huge regions use up the mappings that the system allows by default.
    assert!(wants_guard(Kind::Huge, 0) && !wants_guard(Kind::Huge, 65_530 / 2));
    assert!(wants_guard(Kind::Arena, usize::MAX));
}

#[test]
fn a_region_that_the_system_refuses_costs_nothing() {
    let (os, space) = space_on(Config::default());
    let refused = || {
        os.fail_kind(CallKind::Map, Errno(libc::ENOMEM));
        let region = space.map_region(Kind::Huge, SLICE, 1, 0);
        os.heal();
        region.is_err()
    };
    // What the first takes of metadata stays for the next.
    let first = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
    let before = space.metadata().used();
    assert!((0..100).all(|_| refused()));
    let next = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
    assert_eq!(first.base() - next.base(), GRANULE, "the place is the next one's");
    let descriptors = space.metadata().used() - before;
    assert!(descriptors < 4 << 10, "{descriptors} bytes of metadata for one region");
}

#[test]
fn a_region_that_the_index_has_no_memory_for_goes_at_once() {
    let mut refused = 0;
    for failing in 0..12 {
        let (os, space) = space_on(Config::default());
        // Leaves room for a descriptor, and none for a node of the index.
        space.metadata().allocate(&os, 1, 1).unwrap();
        let left = space.metadata().mapped() - space.metadata().used() - 64;
        space.metadata().allocate(&os, left - 2048, 1).unwrap();
        let calls = os.record().len();
        os.fail_at((calls + failing) as u64);
        let region = space.map_region(Kind::Huge, SLICE, 1, 0);
        os.heal();
        let placed =
            os.record()[calls..].iter().any(|call| call.kind == CallKind::Map && call.len == SLICE + 4096);
        if region.is_err() && placed {
            refused += 1;
            assert_eq!(
                (space.counts().regions, space.counts().mapped, space.counts().retired),
                ([0; crate::region::KINDS], 0, 0)
            );
            assert_eq!(region_bytes(&os, &space), 0);
        }
    }
    assert_eq!(refused, 2, "the region's own memory, and the index's");
}

/// Pages that cannot be one mapping in their new place go back. What came to lie behind them meanwhile is not ours, and
/// stays when the region goes.
#[test]
fn what_a_stranger_maps_where_pages_were_to_go_stays() {
    let (os, space) = space_on(Config::default());
    let from = space.map_region(Kind::Huge, 2 * SLICE, 1, 0).unwrap();
    let to = space.map_region(Kind::Huge, 8 * SLICE, 1, 0).unwrap();
    // SAFETY: both are this thread's.
    unsafe { (from.base() as *mut u8).write(7) };
    os.fail_kind(CallKind::Resize, Errno(libc::ENOMEM));
    os.fail_kind(CallKind::Map, Errno(libc::EEXIST));
    // SAFETY: as above.
    assert_eq!(unsafe { space.move_pages(from, to, SLICE) }, Move::Undone);
    os.heal();
    // SAFETY: as above.
    assert_eq!(unsafe { (from.base() as *const u8).read() }, 7);
    let stranger = os.map(Some(to.base() + SLICE), 7 * SLICE, Access::ReadWrite).unwrap();
    assert!(space.retire_region(to));
    reap_all(&space);
    assert_eq!((space.counts().retired, space.counts().mapped), (0, from.mapped()));
    let left: Vec<_> = os.mappings().into_iter().map(|mapping| mapping.range).collect();
    assert!(left.contains(&(stranger..stranger + 7 * SLICE)), "{left:x?}");
    assert!(!left.iter().any(|range| range.contains(&to.base()) || range.contains(&(stranger + 7 * SLICE))));
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
    assert!(core::ptr::eq(space.pin_again(id).unwrap().region(), region));
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

/// Among thousands of threads that sleep, regions share a grace period: a look at each slot for each region would be
/// the better part of what unmapping it takes.
#[test]
fn regions_share_a_grace_period_among_many_slots() {
    const SLOTS: usize = 6400;
    let (os, space) = space_on(Config::default());
    for _ in 0..SLOTS {
        // SAFETY: a fresh slot that lives forever.
        unsafe { space.rcu().attach(std::boxed::Box::leak(std::boxed::Box::new(ReaderSlot::new()))) };
    }
    assert_eq!(space.rcu().batch(), SLOTS / 64);
    let free = |bytes: usize| {
        let region = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
        assert!(space.retire_region(region));
        space.reap_in_time(None, bytes)
    };
    let barriers = os.calls().barrier;
    assert_eq!((1..SLOTS / 64).map(|_| free(0)).sum::<usize>(), 0);
    assert!(space.has_retired(), "the helper is to look after those that nobody follows");
    assert_eq!(os.calls().barrier, barriers);
    assert_eq!(free(0), SLOTS / 64);
    assert_eq!(os.calls().barrier, barriers + 1);
    // Not so many that they would be missed.
    assert_eq!((free(20 << 20), free(8 << 20), free(4 << 20)), (0, 0, 3));
    // And whoever asks for all gets all.
    assert_eq!((free(20 << 20), space.reap(None), space.reap_in_time(None, 0)), (0, 1, 0));
    assert_eq!(region_bytes(&os, &space), 0);
}

/// A barrier interrupts the others, and takes as long as all else that unmapping a region does.
#[test]
fn regions_share_a_barrier_where_another_thread_has_a_slot() {
    let (os, space) = space_on(Config::default());
    let slot = || std::boxed::Box::leak(std::boxed::Box::new(ReaderSlot::new()));
    let (own, other) = (slot(), slot());
    // SAFETY: fresh slots that live forever.
    unsafe { space.rcu().attach(own) };
    let free = || {
        let region = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
        assert!(space.retire_region(region));
        space.reap_in_time(Some(own), 0)
    };
    let barriers = os.calls().barrier;
    assert_eq!([free(), free()], [1, 1], "alone: there is nobody to interrupt");
    assert_eq!(os.calls().barrier, barriers);
    // SAFETY: as above.
    unsafe { space.rcu().attach(other) };
    assert_eq!([(); 16].map(|()| free()), [0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8]);
    assert_eq!(os.calls().barrier, barriers + 2);
    assert_eq!(region_bytes(&os, &space), 0);
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
    let other: &'static ReaderSlot = std::boxed::Box::leak(std::boxed::Box::new(ReaderSlot::new()));
    // SAFETY: attached once, and never freed.
    unsafe { space.rcu().attach(other) };
    let regions: Vec<_> = (0..3).map(|_| space.map_region(Kind::Huge, SLICE, 1, 0).unwrap()).collect();
    assert_eq!(space.unmap_now(regions[0], None), Err(UnmapError::NoBarrier));
    assert!(space.retire_region(regions[1]));
    reap_all(&space);
    assert_eq!(space.counts().retired, 2);
    assert!(space.map_region(Kind::Huge, SLICE, 1, 0).is_ok());
    os.reconfigure(|config| config.barrier = Barrier::Works);
    // What failed is tried again when twice as much waits for it.
    for _ in 0..3 {
        assert!(space.retire_region(space.map_region(Kind::Huge, SLICE, 1, 0).unwrap()));
    }
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

/// Where several regions share a grace period, and none waits for one, there is nothing to put off.
#[test]
fn what_was_refused_is_tried_again_by_who_puts_nothing_off() {
    let (os, space) = space_on(Config::default());
    for _ in 0..2 {
        // SAFETY: a fresh slot that lives forever.
        unsafe { space.rcu().attach(std::boxed::Box::leak(std::boxed::Box::new(ReaderSlot::new()))) };
    }
    assert!(space.rcu().batch() > 1);
    let region = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
    os.fail_kind(CallKind::Unmap, Errno(libc::ENOMEM));
    assert!(space.retire_region(region));
    assert_eq!((space.reap(None), space.rcu().statistics().pending), (0, 0));
    os.heal();
    assert_eq!(space.reap_in_time(None, 0), 1);
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
    let run = arena.slices().claim(3, Prefer::Any, 1).run.unwrap();
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
        assert_eq!(
            (counts.regions, counts.mapped, counts.retired),
            ([0; crate::region::KINDS], 0, 0),
            "call {ordinal}"
        );
        // A probe or a part of an over-mapping whose unmap failed is given up: address space, no memory.
        let lost = region_bytes(&os, &space);
        let failed = os.record()[ordinal as usize];
        assert!(lost == 0 || failed.kind == CallKind::Unmap && lost <= failed.len, "call {ordinal}: {lost}");
    }
}

/// The first word of a region. An atomic: whoever finds a region may read it before the thread that mapped it has
/// written.
fn word_at<'a>(base: usize) -> &'a AtomicUsize {
    // SAFETY: the callers are in a section, or have a pin or the region itself, which keeps the memory.
    unsafe { AtomicUsize::from_ptr(std::ptr::with_exposed_provenance_mut(base)) }
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
                    word_at(base).store(base, Ordering::Relaxed);
                    board[me].0.store(base, Ordering::Release);
                    // Others' regions come and go meanwhile: found ones can be read, pinned ones too.
                    let other = board[(me + round) % THREADS].0.load(Ordering::Acquire);
                    let section = space.rcu().enter_guest();
                    let pin = space.pin(other, &section);
                    if space.find(other, &section).is_some() {
                        // The section keeps the memory of what was found in it.
                        let found = word_at(other).load(Ordering::Relaxed);
                        failed.fetch_or(found != other && found != 0, Ordering::Relaxed);
                    }
                    drop(section);
                    if let Some(pin) = &pin {
                        // The pin keeps the memory.
                        let found = word_at(pin.region().base()).load(Ordering::Relaxed);
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
struct AtomicBoard(AtomicUsize);
