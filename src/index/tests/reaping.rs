//! Tests of who waits for what is being unmapped, on the simulated system.

use super::space::{region_bytes, space_on};
use crate::base::SLICE;
use crate::pal::simulated::Config;
use crate::region::{Kind, Pinning};
use std::time::{Duration, Instant};

#[test]
fn who_would_be_told_that_there_is_no_memory_waits_for_a_section_but_not_forever() {
    let (os, space) = space_on(Config::default());
    let pinned = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
    // Alone, and beside one that is pinned, for which nobody waits.
    for stays in 0..2 {
        let region = space.map_region(Kind::Huge, SLICE, 1, 0).unwrap();
        // As another thread's.
        let section = space.rcu().enter_guest();
        assert!(space.retire_region(region));
        let begun = Instant::now();
        space.reap_all(None);
        assert!(begun.elapsed() >= Duration::from_millis(90) && space.counts().retired == stays + 1);
        drop(section);
        space.reap_all(None);
        assert_eq!(space.counts().retired, stays);
        if stays == 0 {
            assert_eq!(pinned.state().try_pin(), Pinning::Pinned);
            assert!(space.retire_region(pinned));
            space.reap_all(None);
            assert_eq!(space.counts().retired, 1, "it is pinned");
        }
    }
    pinned.state().unpin(&os);
    space.reap_all(None);
    assert_eq!((space.counts().retired, region_bytes(&os, &space)), (0, 0));
}
