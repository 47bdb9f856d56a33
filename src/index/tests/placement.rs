//! Tests of where regions lie, through the space.

use super::space::space_on;
use crate::base::{GRANULE, SLICE};
use crate::pal::Platform;
use crate::pal::simulated::{CallKind, Config};
use crate::region::Kind;
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
