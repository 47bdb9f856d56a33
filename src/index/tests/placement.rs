//! Tests of where regions lie, through the space.

use super::space::space_on;
use crate::base::{GRANULE, SLICE};
use crate::index::Space;
use crate::index::radix::ROOT_SPAN;
use crate::pal::simulated::{CallKind, Config, Simulated};
use crate::pal::{Access, Platform};
use crate::region::{Kind, Region};
use std::vec::Vec;

/// A system in which the places that are asked for first exist.
const HINTED: usize = 512 << 30;
/// How far below the system's own mappings regions begin at least.
const DISTANCE: usize = 128 << 30;

#[test]
fn the_first_region_lies_at_random_far_below_the_systems_mappings() {
    let depths: Vec<usize> = (0..20)
        .map(|seed| {
            let (os, space) = space_on(Config { reserve: HINTED, seed: seed * 7, ..Config::default() });
            let region = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
            os.range().end - region.base()
        })
        .collect();
    let (least, most) = (depths.iter().min().unwrap(), depths.iter().max().unwrap());
    assert!(*least >= DISTANCE && *most <= 3 * DISTANCE + 2 * GRANULE, "{depths:x?}");
    // All of the range is drawn from.
    assert!(*least < DISTANCE + DISTANCE / 2 && *most > 2 * DISTANCE + DISTANCE / 2, "{depths:x?}");
}

#[test]
fn what_is_left_of_a_place_is_used_again() {
    let (os, space) = space_on(Config { reserve: HINTED, ..Config::default() });
    let map = || {
        let before = os.calls().map;
        let region = space.map_region(Kind::Arena, GRANULE, 1, 0).unwrap();
        (region.base(), os.calls().map - before)
    };
    // Another lies right above the place, so that a hint beyond its end costs a call.
    let above = map().0;
    let wide = space.map_region(Kind::Huge, 4 * GRANULE - SLICE, 1, 0).unwrap();
    assert_eq!(wide.base() + 4 * GRANULE, above);
    let place = wide.base();
    space.unmap_now(wide, None).unwrap();
    for granule in 0..4 {
        assert_eq!(map(), (place + granule * GRANULE, 1));
    }
    assert_eq!(map(), (place - GRANULE, 1), "the place is used up");
}

#[test]
fn no_more_is_mapped_for_a_multiple_than_can_be_needed() {
    // None of the places that are asked for exists here.
    let (os, space) = space_on(Config::default());
    let align = 1 << 28;
    let region = space.map_region(Kind::Huge, SLICE, align, 0).unwrap();
    assert!(region.base().is_multiple_of(align));
    let maps = os.record().into_iter().filter(|call| call.kind == CallKind::Map && call.result.is_ok());
    let most = maps.map(|call| call.len).max().unwrap();
    assert!((region.mapped()..region.mapped() + align).contains(&most), "{most:#x}");
}

/// A space that has been used before, and its region, which stays.
fn used_space() -> (Simulated, Space<Simulated>, usize) {
    let (os, space) = space_on(Config { reserve: 4 * HINTED, ..Config::default() });
    let lowest = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap().base();
    (os, space, lowest)
}

/// A few numbers that look random, the same in every run.
fn draws(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as usize % below
    }
}

#[test]
fn free_addresses_are_used_again_the_lowest_first() {
    let (_os, space) = space_on(Config { reserve: HINTED, ..Config::default() });
    let map = |granules: usize| space.map_region(Kind::Huge, granules * GRANULE - SLICE, 1, 0).unwrap();
    // More than can be remembered one by one, from the top down; every second one goes.
    let regions: Vec<&Region> = (0..500).map(|_| map(1)).collect();
    let (keep, go): (Vec<&Region>, Vec<&Region>) =
        regions.into_iter().partition(|region| (region.base() / GRANULE).is_multiple_of(2));
    let mut free: Vec<usize> = go.iter().map(|region| region.base()).collect();
    go.iter().for_each(|region| space.unmap_now(region, None).unwrap());
    free.sort_unstable();
    let again: Vec<&Region> = free.iter().map(|_| map(1)).collect();
    for (region, at) in again.iter().zip(&free) {
        assert_eq!(region.base(), *at);
    }

    // Holes that meet are one, within an entry of the root.
    let lowest = free[0].min(keep.iter().map(|region| region.base()).min().unwrap());
    keep.iter().chain(&again).for_each(|region| space.unmap_now(region, None).unwrap());
    let edge = lowest.next_multiple_of(ROOT_SPAN).min(lowest + 500 * GRANULE);
    assert_eq!(map((edge - lowest) / GRANULE).base(), lowest);
}

#[test]
fn bursts_of_regions_of_any_size_need_nothing_more_after_the_first_few() {
    let (os, space) = space_on(Config { reserve: 4 * HINTED, ..Config::default() });
    let (mut draw, mut lowest, mut nodes) = (draws(1), usize::MAX, 0);
    for cycle in 0..40 {
        let mut live: Vec<&Region> = Vec::new();
        for step in 0..400 {
            let kind = if draw(4) == 0 { Kind::Arena } else { Kind::Huge };
            let len = if kind == Kind::Arena { GRANULE } else { SLICE + (SLICE << draw(16)) + draw(GRANULE) };
            let reserve = if draw(2) == 0 || kind == Kind::Arena { 0 } else { len };
            let align = 1 << (12 + draw(if kind == Kind::Arena { 14 } else { 20 }));
            live.push(space.map_region(kind, len, align, reserve).unwrap());
            if step % 3 == 0 {
                let gone = live.swap_remove(draw(live.len()));
                assert!(space.retire_region(gone));
                space.reap(None);
            }
        }
        let low = live.iter().map(|region| region.base()).min().unwrap();
        live.iter().for_each(|region| assert!(space.retire_region(region)));
        while space.counts().retired > 0 {
            space.reap(None);
        }
        if cycle < 10 {
            lowest = low.min(lowest);
            nodes = space.metadata().used();
        } else {
            assert!(low + ROOT_SPAN >= lowest, "cycle {cycle}: {low:#x} below {lowest:#x}");
        }
    }
    let more = space.metadata().used() - nodes;
    assert!(more <= 64 << 10, "{more} bytes more");
    assert_eq!(os.mapped_bytes(), space.metadata().mapped());
}

#[test]
fn a_strangers_granule_is_left_out_and_no_other() {
    for granules in [1, 2, 3, 7, 64] {
        for which in 0..granules {
            let (os, space) = space_on(Config { reserve: HINTED, ..Config::default() });
            let map =
                |granules: usize| space.map_region(Kind::Huge, granules * GRANULE - SLICE, 1, 0).unwrap();
            let place = map(granules);
            let base = place.base();
            space.unmap_now(place, None).unwrap();
            let stranger = base + which * GRANULE + SLICE;
            os.map(Some(stranger), 4096, Access::None).unwrap();
            assert!(map(granules).base() < base, "below, where there is room");
            // Holes at the edge of an entry of the root may be lower.
            let singles: Vec<usize> = (0..2 * granules).map(|_| map(1).base()).collect();
            for granule in (0..granules).filter(|&granule| granule != which) {
                assert!(singles.contains(&(base + granule * GRANULE)), "{granules} {which} {granule}");
            }
        }
    }
}

#[test]
fn a_large_mapping_of_a_strangers_is_passed_in_a_few_steps() {
    let (os, space) = space_on(Config { reserve: HINTED, ..Config::default() });
    let first = space.map_region(Kind::Arena, GRANULE, 1, 0).unwrap().base();
    let stranger = 64 << 30;
    os.map(Some(first - stranger), stranger, Access::None).unwrap();
    let before = os.record().len();
    let below = space.map_region(Kind::Arena, GRANULE, 1, 0).unwrap();
    assert!(below.base() < first - stranger);
    assert!(os.record().len() - before <= 16, "{:?}", &os.record()[before..]);
}

#[test]
fn a_wide_region_takes_whole_entries_of_the_root_and_gives_them_back() {
    let (_os, space, lowest) = used_space();
    let wide = |len: usize| space.map_region(Kind::Huge, len, 1, 1 << 30).unwrap();
    let used = space.metadata().used();
    let (one, two) = (wide(ROOT_SPAN * 2), wide(ROOT_SPAN - SLICE));
    for (region, entries) in [(one, 3), (two, 2)] {
        assert_eq!((region.base() % ROOT_SPAN, region.mapped()), (0, entries * ROOT_SPAN));
        assert!(region.base() < lowest);
    }
    assert!(space.metadata().used() - used < 2 << 10, "no nodes: the entries of the root name them");
    let bottom = one.base().min(two.base());
    space.unmap_now(one, None).unwrap();
    space.unmap_now(two, None).unwrap();
    assert_eq!(wide(ROOT_SPAN * 4).base(), bottom, "units that are free side by side are one hole");
}

#[test]
fn a_unit_is_cut_up_and_becomes_whole_again() {
    let (_os, space, lowest) = used_space();
    let wide = |entries: usize| space.map_region(Kind::Huge, entries * ROOT_SPAN - GRANULE, 1, 1).unwrap();
    let narrow = || space.map_region(Kind::Huge, GRANULE - SLICE, 1, 0).unwrap();
    let unit = wide(1);
    let base = unit.base();
    space.unmap_now(unit, None).unwrap();
    // The rest of the unit that the first region lies in comes first.
    let rest = lowest % ROOT_SPAN / GRANULE;
    let mut regions: Vec<&Region> = (0..rest).map(|_| narrow()).collect();
    assert!(regions.iter().all(|region| region.base() / ROOT_SPAN != base / ROOT_SPAN));
    regions.extend((0..3).map(|_| narrow()));
    let cut: Vec<usize> = regions[rest..].iter().map(|region| region.base()).collect();
    assert_eq!(cut, [base, base + GRANULE, base + 2 * GRANULE]);
    let other = wide(1);
    assert_ne!(other.base(), base);
    regions.iter().for_each(|region| space.unmap_now(region, None).unwrap());
    assert_eq!(wide(1).base(), base);
}
