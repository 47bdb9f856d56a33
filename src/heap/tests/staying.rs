//! What stays resident though free, on the simulated system: counted in pages purged and in calls.

use super::*;
use crate::pal::Errno;
use crate::pal::simulated::CallKind;

/// Builds up 64 MiB in blocks of `size` bytes and tears them down.
fn cycle(from: &Allocator<Os>, heap: &Heap, size: usize) {
    let blocks: Vec<usize> = (0..(64 << 20) / size).map(|_| get(from, heap, size)).collect();
    blocks.iter().for_each(|&block| free(from, heap, block));
}

#[test]
fn a_cycle_makes_no_system_call_from_the_third_on() {
    for size in [1_000, 60_000, 1_000_000, 6_000_000, 30_000_000] {
        let from = allocator(GRANULE);
        let heap = possess(from, 1);
        (0..3).for_each(|_| cycle(from, heap, size));
        let before = from.space().os().calls();
        (0..3).for_each(|_| cycle(from, heap, size));
        assert_eq!(from.space().os().calls(), before, "blocks of {size}");
    }
}

#[test]
fn what_cannot_be_purged_is_not_tried_again_and_again() {
    let from = allocator(GRANULE);
    let (heap, os) = (possess(from, 1), from.space().os());
    os.fail_kind(CallKind::Purge, Errno(22));
    // Something stays, so that the arenas do.
    let _held: Vec<usize> = (0..1_000).map(|_| get(from, heap, 60_000)).collect();
    (0..20).for_each(|_| cycle(from, heap, 60_000));
    let refused = || os.record().iter().filter(|call| call.kind == CallKind::Purge).count();
    let once = refused();
    assert!((1..10).contains(&once), "{once} calls failed");
    for _ in 0..1_000 {
        os.advance_ms(u64::from(from.tick_ms()));
        from.tick::<Checked>(heap);
    }
    // An hour and a half.
    assert!(refused() - once < 100, "{} calls failed", refused());
    os.heal();
    os.advance_ms(7_200_000);
    for _ in 0..100 {
        os.advance_ms(u64::from(from.tick_ms()));
        from.tick::<Checked>(heap);
    }
    assert_eq!(from.arenas().dirty_slices(), 0);
}
