//! Random operations under several kinds of system.

use crate::driver::{Driver, HANDS, Step};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use specmalloc::internals::base::{SLICE, SMALL_MAX};
use specmalloc::internals::heap::{Checked, Checks, LARGE_MAX, Trusting};
use specmalloc::internals::pal::simulated::{Barrier, Config};

/// Bytes of address space in which the places that the allocator asks for first exist.
const HINTED: usize = 512 << 30;

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0usize..=1024,
        4 => 1025..=SMALL_MAX,
        1 => SMALL_MAX - 8..SMALL_MAX + 9,
        3 => (1usize..40, 0usize..3).prop_map(|(slices, more)| slices * SLICE - 1 + more),
        1 => SMALL_MAX + 1..=LARGE_MAX,
        1 => LARGE_MAX - 1..LARGE_MAX + 2,
        3 => LARGE_MAX + 1..3 * LARGE_MAX,
    ]
}

fn align() -> impl Strategy<Value = usize> {
    prop_oneof![12 => Just(1usize), 4 => (0u32..16).prop_map(|shift| 1 << shift), 1 => (16u32..26).prop_map(|shift| 1 << shift)]
}

fn step() -> impl Strategy<Value = Step> {
    let hand = || 0..HANDS;
    let pick = any::<usize>;
    prop_oneof![
        10 => (hand(), size(), align(), any::<bool>())
            .prop_map(|(hand, size, align, zero)| Step::Allocate { hand, size, align, zero }),
        3 => (hand(), 0usize..9000, 1usize..80)
            .prop_map(|(hand, size, count)| Step::AllocateMany { hand, size, count }),
        8 => (hand(), pick()).prop_map(|(hand, pick)| Step::Free { hand, pick }),
        3 => (hand(), pick(), 1usize..100).prop_map(|(hand, pick, count)| Step::FreeMany { hand, pick, count }),
        6 => (hand(), pick(), size()).prop_map(|(hand, pick, size)| Step::Reallocate { hand, pick, size }),
        2 => hand().prop_map(|hand| Step::GiveUp { hand }),
        1 => hand().prop_map(|hand| Step::Settle { hand }),
        1 => hand().prop_map(|hand| Step::Collect { hand }),
        1 => Just(Step::CollectIdle),
        1 => (hand(), 1usize..64).prop_map(|(hand, most)| Step::Purge { hand, most }),
        1 => hand().prop_map(|hand| Step::Tick { hand }),
        1 => hand().prop_map(|hand| Step::Relieve { hand }),
        1 => hand().prop_map(|hand| Step::Fork { hand }),
        1 => Just(Step::ForkByGuest),
        3 => any::<bool>().prop_map(|relieve| Step::Count { relieve }),
    ]
}

/// Runs `steps`; on a `roomy` system nothing may be refused.
fn agree<C: Checks>(
    config: Config,
    roomy: bool,
    arena_bytes: usize,
    headroom: bool,
    steps: &[Step],
) -> TestCaseResult {
    let mut driver = Driver::<C>::new(config, |allocator| {
        allocator.settings().set_arena_bytes(arena_bytes);
        allocator.settings().set_reserve(headroom);
    });
    for &step in steps {
        driver.run(step);
        driver.check();
    }
    prop_assert!(!roomy || driver.refused == 0, "{} requests were refused", driver.refused);
    driver.finish();
    Ok(())
}

/// A quarter of the usual number: a case is long. `PROPTEST_CASES` sets four times what is run.
fn cases() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases / 4, max_shrink_iters: 2000, failure_persistence: None, ..usual }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..60)
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn agrees_with_the_model(
        page_shift in prop::sample::select(vec![12, 14, 16]),
        arena_shift in 20u32..26,
        reserve in prop::sample::select(vec![64 << 30, HINTED]),
        headroom in any::<bool>(),
        trusting in any::<bool>(),
        steps in steps(),
    ) {
        let config = Config { page_size: 1 << page_shift, reserve, ..Config::default() };
        let run = if trusting { agree::<Trusting> } else { agree::<Checked> };
        run(config, true, 1 << arena_shift, headroom, &steps)?;
    }

    #[test]
    fn agrees_with_the_model_in_narrow_systems(
        page_shift in prop::sample::select(vec![12, 14, 16]),
        address_space_mib in 8usize..200,
        commit_mib in 4usize..200,
        mapping_limit in 6usize..60,
        barrier in prop_oneof![Just(Barrier::Works), Just(Barrier::Missing), (0u64..6).prop_map(Barrier::StopsAfter)],
        arena_shift in 20u32..26,
        steps in steps(),
    ) {
        let config = Config {
            page_size: 1 << page_shift,
            address_space_limit: address_space_mib << 20,
            commit_limit: commit_mib << 20,
            mapping_limit,
            barrier,
            ..Config::default()
        };
        agree::<Checked>(config, false, 1 << arena_shift, arena_shift % 2 == 0, &steps)?;
    }
}

#[test]
fn an_arena_made_for_an_aligned_run_holds_it() {
    for align_shift in 4..=LARGE_MAX.ilog2() {
        let align = 1 << align_shift;
        for slices in [1, 7, 8, 14, 15, 24, 30, 31, 62, 64] {
            let allocate = Step::Allocate { hand: 0, size: slices * SLICE, align, zero: false };
            agree::<Checked>(Config::default(), true, 1 << 20, false, &[allocate]).unwrap();
        }
    }
}

#[test]
fn a_huge_block_is_zero_whatever_earlier_ones_left_behind() {
    let allocate = |size, zero| Step::Allocate { hand: 0, size, align: 1, zero };
    let resize = |size| Step::Reallocate { hand: 0, pick: 0, size };
    let free = Step::Free { hand: 0, pick: 0 };
    let (short, long, longest) = (LARGE_MAX + 1, 2 * LARGE_MAX, 3 * LARGE_MAX);
    // A long block's pages lie behind a shorter one that shrinks.
    let shrunk = [allocate(longest, false), free, allocate(long, false), resize(short), free];
    // Pages that moved here are a mapping of their own: they are purged, and grow once more.
    let moved = [allocate(short, false), resize(longest), resize(longest - 1), free];
    let again = [allocate(short, false), resize(longest), resize(7 * LARGE_MAX), free];
    // One that is a little shorter was there in between, and has left what is behind it.
    let shorter = long - long / 16;
    let between = [allocate(long, false), free, allocate(shorter, false), free];
    for steps in [&shrunk[..], &moved, &again, &between] {
        for zeroed in [short, long, longest] {
            let steps = [steps, &[allocate(zeroed, true)]].concat();
            agree::<Checked>(Config::default(), true, 1 << 20, true, &steps).unwrap();
        }
    }
}

#[test]
fn figures_of_huge_blocks_are_exact_however_they_change() {
    let allocate = |size, align| Step::Allocate { hand: 0, size, align, zero: true };
    let resize = |size| Step::Reallocate { hand: 0, pick: 0, size };
    let free = Step::Free { hand: 0, pick: 0 };
    let count = |relieve| Step::Count { relieve };
    let (short, long, longest) = (LARGE_MAX + 1, 2 * LARGE_MAX, 3 * LARGE_MAX);
    // In place, by moving, shorter again; kept and taken from there; nothing at all, at a large multiple.
    let changed = [allocate(short, 1), resize(long), resize(longest), resize(short), count(false)];
    let kept = [free, count(false), allocate(long, 1), allocate(short, 1), count(true), free, free];
    let none = [allocate(1, 2 * LARGE_MAX), resize(0), count(false), free, count(false), count(true)];
    for headroom in [false, true] {
        let steps = [&changed[..], &kept, &none].concat();
        agree::<Checked>(Config::default(), true, 1 << 20, headroom, &steps).unwrap();
    }
}

#[test]
fn what_waits_for_a_grace_period_is_counted_when_there_is_none() {
    let allocate = |size| Step::Allocate { hand: 0, size, align: 1, zero: false };
    let steps = [
        // With one heap there is no barrier.
        Step::Allocate { hand: 1, size: 1, align: 1, zero: false },
        Step::Free { hand: 1, pick: 0 },
        allocate(LARGE_MAX + 1),
        Step::Free { hand: 0, pick: 0 },
        allocate(LARGE_MAX),
        Step::Free { hand: 0, pick: 0 },
        Step::Relieve { hand: 0 },
        Step::Count { relieve: true },
    ];
    // The first barrier is the one that is tried at the start.
    let config = Config { barrier: Barrier::StopsAfter(1), ..Config::default() };
    agree::<Checked>(config, true, 1 << 20, true, &steps).unwrap();
}
