//! Tests of the parts of a region, one thread at a time. What several threads do to them is in `models`.

use super::*;
use crate::base::GRANULE_SLICES;
use crate::pal::simulated::{CallKind, Config, Simulated};
use crate::pal::{Errno, Platform};
use crate::sync::atomic::Ordering::Relaxed;
use proptest::prelude::*;
use std::ops::Range;
use std::vec::Vec;

fn leaked<T>(value: T) -> &'static T {
    std::boxed::Box::leak(std::boxed::Box::new(value))
}

const SHAPE: Shape =
    Shape { kind: Kind::Huge, base: 1 << 30, len: 1 << 20, mapped: 1 << 21, held: 0, mappings: 1 };

#[test]
fn the_end_of_what_is_claimed_is_that_of_the_last_slice() {
    let map = SliceMap::new();
    map.open(3..300);
    map.reopen();
    assert_eq!(map.end_of_claims(), 3);
    for (len, end) in [(1, 4), (60, 64), (1, 65), (200, 265)] {
        assert!(map.claim(len, Prefer::Any, 1).run.is_some());
        assert_eq!(map.end_of_claims(), end);
    }
    map.release(65, 200);
    assert_eq!(map.end_of_claims(), 65);
}

#[test]
fn each_state_allows_its_transitions_and_no_other() {
    let os = Simulated::new();
    let state = State::new();
    assert_eq!((state.phase(), state.pins()), (Phase::Detached, 0));
    assert_eq!(state.try_pin(), Pinning::Detached);
    assert_eq!(state.exclude(), Exclusion::Lost);

    state.attach();
    assert_eq!((state.phase(), state.pins(), state.is_drained()), (Phase::Attached, 0, false));
    assert_eq!(state.try_pin(), Pinning::Pinned);
    assert_eq!(state.try_pin(), Pinning::Pinned);
    state.unpin(&os);
    assert_eq!((state.phase(), state.pins()), (Phase::Attached, 1));

    assert_eq!(state.exclude(), Exclusion::Won { drained: false });
    assert_eq!((state.phase(), state.pins(), state.is_drained()), (Phase::Excluded, 1, false));
    assert_eq!(state.try_pin(), Pinning::Excluded);
    assert_eq!(state.exclude(), Exclusion::Lost);
    state.unpin(&os);
    assert!(state.is_drained());
    state.wait_drained(&os);

    state.detach();
    assert_eq!(state.phase(), Phase::Detached);
    state.attach();
    assert_eq!(state.exclude(), Exclusion::Won { drained: true });
}

#[test]
fn a_handle_outlives_its_region_and_knows_it() {
    let os = Simulated::new();
    let region = leaked(Region::new());
    region.attach(SHAPE);
    let id = region.id();
    assert_eq!(id.try_pin(&os), Pinning::Pinned);
    region.state().unpin(&os);

    assert_eq!(region.exclude(), Exclusion::Won { drained: true });
    assert_eq!(id.try_pin(&os), Pinning::Excluded);
    region.detach();
    assert_eq!(id.try_pin(&os), Pinning::Detached);
    region.attach(Shape { base: 2 << 30, ..SHAPE });
    assert_eq!(id.try_pin(&os), Pinning::Detached);
    assert_eq!(region.state().pins(), 0, "the pin on the wrong life was given back");
    assert_eq!(region.id().try_pin(&os), Pinning::Pinned);
}

#[test]
fn a_region_contains_its_bytes_and_nothing_else() {
    let region = Region::new();
    region.attach(SHAPE);
    let inside = SHAPE.base..SHAPE.base + SHAPE.len;
    for address in [0, 1, inside.start - 1, inside.start, inside.end - 1, inside.end, usize::MAX] {
        assert_eq!(region.contains(address), inside.contains(&address), "{address:#x}");
    }
}

#[test]
fn a_descriptor_says_what_it_was_attached_with() {
    let region = leaked(Region::new());
    assert!(region.is_empty());
    for (number, kind) in [Kind::Arena, Kind::Huge, Kind::File].into_iter().enumerate() {
        let shape = Shape {
            kind,
            base: (number + 1) << 30,
            len: (number + 1) << 16,
            mapped: 2 << 20,
            held: 0,
            mappings: 7,
        };
        if kind == Kind::Arena {
            region.slices().open(1..2);
        }
        region.attach(shape);
        assert_eq!((region.kind(), region.base(), region.len()), (kind, shape.base, shape.len));
        assert_eq!((region.mapped(), region.mappings(), region.generation()), (2 << 20, 7, number as u64));
        assert_eq!(region.left(), region.mapped());
        region.cut(1 << 20);
        assert_eq!((region.left(), region.mapped()), (1 << 20, 2 << 20));
        assert!(!region.is_empty() && region.is_valid());
        assert!(core::ptr::eq(region.id().region(), region));
        let notes = region.huge();
        assert_eq!((notes.used(), notes.dirty()), (0, 0), "a new life begins without notes");
        assert_eq!(region.arena().position(), None);
        notes.set_used(3 * 4096, 64);
        notes.set_dirty(5);
        assert_eq!((notes.dirty(), notes.end_use(), notes.end_use(), notes.colour()), (5, 3 * 4096, 0, 64));
        region.arena().slabs().store(7, Relaxed);
        assert_eq!(region.exclude(), Exclusion::Won { drained: true });
        region.detach();
    }
}

#[test]
fn a_descriptor_that_cannot_be_is_not_valid() {
    let end_of_memory = Region::new();
    end_of_memory.attach(Shape { base: usize::MAX - SHAPE.len, ..SHAPE });
    assert!(!end_of_memory.is_valid(), "it does not end");
    let never_opened = Region::new();
    never_opened.attach(Shape { kind: Kind::Arena, ..SHAPE });
    assert!(!never_opened.is_valid(), "slices out of reach can be claimed");
}

/// The object around a retired link, of both sorts.
#[test]
fn what_is_retired_is_recovered() {
    let region = leaked(Region::new());
    // SAFETY: `Retired` is the first field of a descriptor, whose provenance `retire_link` exposes.
    let recovered = unsafe { Retired::recover(region.retire_link()) };
    assert_eq!(recovered, (RetiredAs::Region, core::ptr::from_ref(region).addr()));
    let node = leaked(Retired::new(RetiredAs::Region));
    node.set(RetiredAs::PageNode);
    let address = core::ptr::from_ref(node).expose_provenance();
    // SAFETY: the object is a `Retired` alone, and its provenance is exposed.
    assert_eq!(unsafe { Retired::recover(node.link()) }, (RetiredAs::PageNode, address));
}

#[test]
fn metadata_is_zero_aligned_and_nobody_elses() {
    let os = Simulated::new();
    let metadata = Metadata::new();
    let mut taken: Vec<Range<usize>> = Vec::new();
    for step in 0..2000 {
        let (size, align) = (1 + step * 37 % 900, 1 << (step % 13));
        let at = metadata.allocate(&os, size, align).unwrap();
        let start = at.as_ptr() as usize;
        assert_eq!(start % align, 0);
        // SAFETY: `size` bytes were handed out, zeroed.
        let bytes = unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), size) };
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes.fill(0xff);
        taken.push(start..start + size);
    }
    taken.sort_by_key(|range| range.start);
    assert!(taken.windows(2).all(|pair| pair[0].end <= pair[1].start));
    let handed: usize = taken.iter().map(Range::len).sum();
    assert!(metadata.used() >= handed && metadata.used() <= metadata.mapped());
    assert_eq!(metadata.mapped(), os.mapped_bytes());
    assert_eq!(os.calls().map, metadata.chunks() as u64);
}

#[test]
fn metadata_serves_what_is_larger_than_a_chunk() {
    for page_size in [4 << 10, 16 << 10, 64 << 10] {
        let os = Simulated::with(Config { page_size, ..Config::default() });
        let metadata = Metadata::new();
        for size in [1, page_size, 64 << 10, 1 << 20, (3 << 20) + 5] {
            let at = metadata.allocate(&os, size, page_size).unwrap();
            assert_eq!(at.as_ptr() as usize % page_size, 0);
            // SAFETY: the last byte handed out.
            unsafe { at.as_ptr().add(size - 1).write(1) };
        }
    }
}

#[test]
fn each_chunk_is_twice_as_large_as_the_one_before_up_to_a_limit() {
    let os = Simulated::new();
    let metadata = Metadata::new();
    for kib in [256, 512, 1024, 1024, 1024, 1024, 1024, 1024, 1024, 1024, 1024] {
        let (chunks, mapped) = (metadata.chunks(), metadata.mapped());
        while metadata.chunks() == chunks {
            metadata.allocate(&os, 4096, 64).unwrap();
        }
        assert_eq!(metadata.mapped() - mapped, kib << 10, "chunk {chunks}");
    }
}

#[test]
fn metadata_survives_a_system_without_memory() {
    let os = Simulated::new();
    let metadata = Metadata::new();
    os.fail_kind(CallKind::Map, Errno(libc::ENOMEM));
    assert_eq!(metadata.allocate(&os, 64, 64), Err(Errno(libc::ENOMEM)));
    assert_eq!((metadata.mapped(), metadata.used(), metadata.chunks()), (0, 0, 0));
    os.heal();
    assert!(metadata.allocate(&os, 64, 64).is_ok());
    assert_eq!(metadata.allocate(&os, usize::MAX - 64, 64), Err(Errno(libc::ENOMEM)));
    assert_eq!(metadata.chunks(), 1);
}

#[test]
fn descriptors_come_back_in_another_life() {
    let os = Simulated::new();
    let (metadata, descriptors) = (Metadata::new(), Descriptors::new());
    let first = descriptors.take(&os, &metadata).unwrap();
    let second = descriptors.take(&os, &metadata).unwrap();
    assert!(!core::ptr::eq(first, second));
    let used = metadata.used();
    for region in [first, second] {
        region.attach(SHAPE);
        assert_eq!(region.exclude(), Exclusion::Won { drained: true });
        region.detach();
        descriptors.recycle(region);
    }
    assert!(core::ptr::eq(descriptors.take(&os, &metadata).unwrap(), second));
    assert!(core::ptr::eq(descriptors.take(&os, &metadata).unwrap(), first));
    assert_eq!((first.generation(), metadata.used()), (1, used));
}

#[test]
fn a_pool_is_a_stack() {
    let pool: Stack<Region> = Stack::new();
    let regions = [(); 3].map(|()| leaked(Region::new()));
    for _ in 0..2 {
        assert!(pool.is_empty() && pool.take().is_none());
        for region in regions {
            pool.give(region);
            assert!(!pool.is_empty());
        }
        for region in regions.iter().rev() {
            assert!(core::ptr::eq(pool.take().unwrap(), *region));
        }
    }
}

#[test]
fn a_new_map_is_closed_until_it_is_opened() {
    let map = SliceMap::new();
    map.open(1..20);
    assert_eq!(map.claim(1, Prefer::Any, 1).run, None);
    assert!(!map.freeze() && !map.is_empty());
    map.reopen();
    assert!(map.is_empty() && map.is_valid());
    assert_eq!(map.free_count(), 19);
    assert!(map.freeze());
    assert!(!map.freeze(), "only one freezes");
    assert_eq!(map.claim(1, Prefer::Any, 1).run, None);
    map.reopen();
    assert_eq!(map.claim(19, Prefer::Any, 1).run, Some(Run { start: 1, len: 19, all_clean: true }));
    assert_eq!(map.claim(1, Prefer::Any, 1).run, None);
}

#[test]
fn the_last_slice_of_a_granule_can_be_claimed() {
    let map = SliceMap::new();
    map.open(1..GRANULE_SLICES);
    map.reopen();
    let last = GRANULE_SLICES - 1;
    assert_eq!(map.claim(last, Prefer::Any, 1).run, Some(Run { start: 1, len: last, all_clean: true }));
    assert_eq!((map.claimed_count(), map.free_count()), (last, 0));
    map.release(1, last);
    assert_eq!((map.claimed_count(), map.dirty_count()), (0, last));
}

#[test]
fn a_claim_can_be_extended_to_the_last_slice_of_a_granule_and_no_further() {
    let map = SliceMap::new();
    map.open(1..GRANULE_SLICES);
    map.reopen();
    let last = GRANULE_SLICES - 1;
    assert_eq!(map.claim(last - 2, Prefer::Any, 1).run.map(|run| run.start), Some(1));
    for extra in [3, 66, GRANULE_SLICES] {
        assert_eq!(map.extend_claim(1, last - 2, extra).run, None, "{extra} more");
    }
    let rest = Some(Run { start: last - 1, len: 2, all_clean: true });
    assert_eq!(map.extend_claim(1, last - 2, 2).run, rest);
    assert_eq!((map.extend_claim(1, last, 1).run, map.free_count()), (None, 0));
}

#[test]
fn a_claim_is_clean_if_all_its_slices_are() {
    const LEN: usize = 130;
    let map = SliceMap::new();
    map.open(1..GRANULE_SLICES);
    map.reopen();
    let claim = |all_clean| {
        let run = map.claim(LEN, Prefer::Any, 1).run;
        assert_eq!(run, Some(Run { start: 1, len: LEN, all_clean }));
    };
    for dirty in [1, 2, 63, 64, 65, 127, 128, LEN - 1, LEN] {
        claim(true);
        (1..=LEN).filter(|&slice| slice != dirty).for_each(|slice| map.release_clean(slice, 1));
        map.release(dirty, 1);
        claim(false);
        map.release_clean(1, LEN);
    }
}

/// Builds with assertions notice a run given back by somebody who does not hold it.
#[cfg(debug_assertions)]
#[test]
fn what_is_not_held_cannot_be_released() {
    let map = SliceMap::new();
    map.open(1..20);
    map.reopen();
    assert_eq!(map.claim(5, Prefer::Any, 1).run.map(|run| run.start), Some(1));
    assert_eq!(map.claim(4, Prefer::Any, 16).run.map(|run| run.start), Some(16));
    for (start, len) in [(0, 1), (0, 2), (3, 0), (5, 2), (8, 1), (19, 2), (20, 1)] {
        let release = std::panic::AssertUnwindSafe(|| map.release(start, len));
        assert!(std::panic::catch_unwind(release).is_err(), "{len} from {start}");
    }
    assert_eq!((map.claimed_count(), map.dirty_count()), (9, 0));
}

/// What a [`SliceMap`] is, slice by slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slice {
    claimed: bool,
    dirty: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Claim { len: usize, align: usize, prefer: Prefer },
    Release { which: usize, clean: bool },
    Extend { which: usize, extra: usize },
    Purge { most: usize },
    Freeze,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let prefer = prop_oneof![Just(Prefer::Any), Just(Prefer::Dirty)];
    let len = prop_oneof![4 => 1..4usize, 2 => 1..80usize, 1 => 1..600usize];
    let step = prop_oneof![
        4 => (len, 0..7u32, prefer).prop_map(|(len, align, prefer)| Step::Claim { len, align: 1 << align, prefer }),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, clean)| Step::Release { which, clean }),
        1 => (any::<usize>(), 1..70usize).prop_map(|(which, extra)| Step::Extend { which, extra }),
        1 => (1..100usize).prop_map(|most| Step::Purge { most }),
        1 => Just(Step::Freeze),
    ];
    prop::collection::vec(step, 1..120)
}

/// The first run of `len` slices at a multiple of `align` all of which `fit`.
fn first(
    slices: &[Slice],
    usable: &Range<usize>,
    len: usize,
    align: usize,
    fit: impl Fn(&Slice) -> bool,
) -> Option<usize> {
    (usable.start..usable.end.saturating_sub(len - 1))
        .find(|start| start % align == 0 && slices[*start..start + len].iter().all(&fit))
}

proptest! {
    #[test]
    fn slices_behave_like_a_list_of_slices(steps in steps(), start in 1..64usize, end in 100..=GRANULE_SLICES) {
        let usable = start..end;
        let map = SliceMap::new();
        map.open(usable.clone());
        map.reopen();
        let mut slices = [Slice { claimed: false, dirty: false }; GRANULE_SLICES];
        let mut held: Vec<(usize, usize)> = Vec::new();
        for step in steps {
            match step {
                Step::Claim { len, align, prefer } => {
                    let free = first(&slices, &usable, len, align, |slice| !slice.claimed);
                    let best = match prefer {
                        Prefer::Any => None,
                        Prefer::Dirty => first(&slices, &usable, len, align, |slice| !slice.claimed && slice.dirty),
                    };
                    let found = if prefer == Prefer::Dirty { best } else { best.or(free) };
                    let expected = found.map(|start| {
                        let all_clean = slices[start..start + len].iter().all(|slice| !slice.dirty);
                        Run { start, len, all_clean }
                    });
                    prop_assert_eq!(map.claim(len, prefer, align).run, expected);
                    if let Some(run) = expected {
                        let slices = &mut slices[run.start..run.start + len];
                        slices.iter_mut().for_each(|slice| slice.claimed = true);
                        let dirty = slices.iter().filter(|slice| slice.dirty).count();
                        prop_assert_eq!(map.dirty_within(run.start, len), dirty);
                        held.push((run.start, len));
                    }
                }
                Step::Release { which, clean } if !held.is_empty() => {
                    let (start, len) = held.swap_remove(which % held.len());
                    if clean { map.release_clean(start, len) } else { map.release(start, len) }
                    slices[start..start + len].fill(Slice { claimed: false, dirty: !clean });
                }
                Step::Extend { which, extra } if !held.is_empty() => {
                    let which = which % held.len();
                    let (start, len) = held[which];
                    let end = start + len;
                    let fits = end + extra <= usable.end && slices[end..end + extra].iter().all(|slice| !slice.claimed);
                    prop_assert_eq!(map.extend_claim(start, len, extra).run.is_some(), fits);
                    if fits {
                        slices[end..end + extra].iter_mut().for_each(|slice| slice.claimed = true);
                        held[which].1 += extra;
                    }
                }
                Step::Purge { most } => {
                    let idle = |slice: &Slice| !slice.claimed && slice.dirty;
                    let expected = first(&slices, &usable, 1, 1, idle).map(|start| {
                        let len = slices[start..usable.end].iter().take_while(|slice| idle(slice)).count().min(most);
                        Run { start, len, all_clean: false }
                    });
                    prop_assert_eq!(map.claim_dirty_run(most).run, expected);
                    if let Some(run) = expected {
                        map.release_clean(run.start, run.len);
                        slices[run.start..run.start + run.len].iter_mut().for_each(|slice| slice.dirty = false);
                    }
                }
                Step::Freeze => {
                    prop_assert_eq!(map.is_empty(), held.is_empty());
                    prop_assert_eq!(map.freeze(), held.is_empty());
                    if held.is_empty() {
                        prop_assert_eq!(map.free_count(), 0);
                        map.reopen();
                    }
                }
                Step::Release { .. } | Step::Extend { .. } => {}
            }
            let usable = &slices[usable.clone()];
            prop_assert!(map.is_valid());
            prop_assert_eq!(map.free_count(), usable.iter().filter(|slice| !slice.claimed).count());
            prop_assert_eq!(map.claimed_count() + map.free_count(), usable.len());
            let dirty = usable.iter().filter(|slice| slice.dirty && !slice.claimed).count();
            prop_assert_eq!(map.dirty_count(), dirty);
        }
    }
}
