//! One workload, run as often as it makes system calls, with another of them failing each time.

use crate::driver::{Driver, Step};
use specmalloc::internals::heap::{Checked, LARGE_MAX};
use specmalloc::internals::pal::simulated::{Config, Simulated};

/// Touches every path that calls the system: heaps, arenas, purges, huge blocks that grow, move and are kept.
fn workload() -> Vec<Step> {
    let mut steps = Vec::new();
    let allocate = |hand, size, align, zero| Step::Allocate { hand, size, align, zero };
    for hand in 0..3 {
        steps.push(Step::AllocateMany { hand, size: 100 * hand + 16, count: 200 });
        steps.push(Step::AllocateMany { hand, size: 30_000, count: 12 });
        steps.push(allocate(hand, 600_000, 1, true));
        steps.push(allocate(hand, LARGE_MAX + 5000, 1 << 16, hand == 1));
    }
    // Frees by others, growth in place and by moving, shrinking, a huge block for the second time.
    steps.push(Step::FreeMany { hand: 1, pick: 5, count: 150 });
    steps.extend((0..4).map(|pick| Step::Reallocate {
        hand: 0,
        pick: usize::MAX - pick,
        size: 3 * LARGE_MAX,
    }));
    steps.push(Step::Reallocate { hand: 2, pick: usize::MAX, size: LARGE_MAX + 1 });
    steps.push(Step::Free { hand: 2, pick: usize::MAX });
    steps.push(allocate(2, 2 * LARGE_MAX, 1, true));
    steps.push(Step::Reallocate { hand: 1, pick: 0, size: 900_000 });
    steps.push(Step::GiveUp { hand: 1 });
    steps.push(Step::CollectIdle);
    steps.push(Step::Fork { hand: 0 });
    steps.push(Step::AllocateMany { hand: 2, size: 70_000, count: 20 });
    steps.push(Step::FreeMany { hand: 0, pick: 3, count: 400 });
    steps.push(Step::Collect { hand: 0 });
    steps.push(Step::Purge { hand: 0, most: usize::MAX });
    steps.push(Step::Tick { hand: 0 });
    steps.push(Step::Relieve { hand: 0 });
    steps.push(allocate(0, 5_000_000, 1 << 23, false));
    steps.push(allocate(1, 3_000_000, 1 << 21, true));
    steps.push(Step::Count { relieve: true });
    steps
}

fn run(prepare: impl FnOnce(&Simulated)) -> (Driver<Checked>, Simulated) {
    let os = Simulated::with(Config::default());
    prepare(&os);
    let mut driver = Driver::<Checked>::on(os.clone(), |allocator| {
        // Several arenas, and space in reserve for some of the huge blocks only.
        allocator.settings().set_arena_bytes(1 << 20);
    });
    for step in workload() {
        driver.run(step);
        driver.check();
    }
    (driver, os)
}

fn calls_of_the_workload() -> u64 {
    let (driver, os) = run(|_| {});
    assert_eq!(driver.refused, 0);
    let calls = os.record();
    driver.finish();
    calls.len() as u64
}

#[test]
fn any_one_call_may_fail() {
    let calls = calls_of_the_workload();
    assert!(calls > 40, "the workload makes {calls} calls");
    for ordinal in 0..calls {
        let (mut driver, os) = run(|os| os.fail_at(ordinal));
        assert!(os.record()[ordinal as usize].result.is_err());
        driver.works();
        driver.finish();
    }
}

#[test]
fn all_calls_may_fail_from_any_moment_until_it_is_over() {
    for ordinal in 0..calls_of_the_workload() {
        let (mut driver, os) = run(|os| os.fail_from(ordinal));
        os.heal();
        driver.works();
        driver.finish();
    }
}
