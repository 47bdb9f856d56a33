//! Programs whose free memory is purged when it has to be: what stays, and what is faulted in again.

use super::*;

const MIB: usize = 1 << 20;

/// A program whose free memory is purged when, and only when, it has to be.
struct Program {
    settings: Settings,
    retention: Retention,
    live: usize,
    dirty: usize,
    now: u64,
    faulted: usize,
}

impl Program {
    fn new() -> Program {
        let (settings, retention) = (Settings::new(), Retention::new());
        Program { settings, retention, live: 0, dirty: 0, now: 5_000, faulted: 0 }
    }

    fn bound(&mut self) {
        let excess = self.retention.excess(&self.settings, self.live, self.dirty, 0, || self.now);
        assert!(excess <= self.dirty);
        self.dirty -= excess;
    }

    /// Goes to `live` MiB, a MiB at a time.
    fn go(&mut self, live: usize) -> usize {
        let before = self.faulted;
        while self.live > live * MIB {
            self.live -= MIB;
            self.dirty += MIB;
            self.bound();
        }
        while self.live < live * MIB {
            self.live += MIB;
            if self.dirty >= MIB {
                self.dirty -= MIB;
            } else {
                self.faulted += MIB;
                self.bound();
            }
        }
        (self.faulted - before) / MIB
    }

    /// Lets the helper tick for `ms` milliseconds.
    fn idle(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now += 100;
            let old = self.retention.aged(&self.settings, self.live, self.dirty, self.now);
            assert!(old <= self.dirty);
            self.dirty -= old;
        }
    }
}

#[test]
fn a_first_descent_keeps_what_the_options_say() {
    let mut program = Program::new();
    program.go(1_000);
    for live in (0..1_000).rev() {
        program.go(live);
        assert!(program.dirty <= program.settings.dirty_limit(program.live));
    }
    assert!(program.dirty >= 2 * MIB);
}

#[test]
fn what_is_regretted_fades_where_nothing_has_to_go() {
    let mut program = Program::new();
    program.live = 100 * MIB;
    let regret = program.retention.regret();
    regret.faulted(program.live);
    regret.turned(2 * program.live);
    regret.purging(program.live / 2, program.live);
    let limit = program.settings.dirty_limit(program.live);
    assert!(regret.more(limit) > 0);
    regret.turned(8 * program.live);
    program.bound();
    assert_eq!(program.retention.regret().more(limit), 0);
}

#[test]
fn what_is_resident_behind_large_blocks_counts_with_what_is_dirty() {
    let program = Program::new();
    let excess = |dirty, soiled| {
        program.retention.excess(&program.settings, 100 * MIB, dirty * MIB, soiled * MIB, || 5_000)
    };
    assert_eq!((excess(15, 0), excess(10, 5)), (0, 0));
    assert!(excess(17, 0) > 0 && excess(10, 7) > 0);
    assert_eq!(excess(1, 30), MIB, "what is behind a block is not anybody's to purge");
}

#[test]
fn a_clock_that_allocates_is_not_asked_again_meanwhile() {
    let program = Program::new();
    let excess =
        |now: &dyn Fn() -> u64| program.retention.excess(&program.settings, 100 * MIB, 30 * MIB, 0, now);
    let inner = std::cell::Cell::new(None);
    let outer = excess(&|| {
        inner.set(Some(excess(&|| panic!("asked inside itself"))));
        5_000
    });
    assert!(outer > 0 && inner.get() == Some(0));
    assert!(excess(&|| 5_000) > 0);
}

#[test]
fn a_cycle_faults_twice_and_no_more() {
    for period in [0, 10, 900, 1_800] {
        let mut program = Program::new();
        let faults = [(); 6].map(|()| {
            let faulted = program.go(200);
            program.now += period / 2;
            program.go(0);
            program.now += period / 2;
            faulted
        });
        assert!(faults[0] == 200 && faults[1] >= 190, "{faults:?}");
        assert_eq!(faults[2..], [0; 4], "with a period of {period} ms");
    }
}

#[test]
fn a_swing_that_is_too_wide_at_its_low_end_only_is_a_cycle() {
    for (low, high) in [(100, 117), (200, 229)] {
        let mut program = Program::new();
        let faults = [(); 6].map(|()| {
            let faulted = program.go(high);
            program.go(low);
            faulted
        });
        assert!(faults[1] > 0, "more than the options allow: {faults:?}");
        assert_eq!(faults[2..], [0; 4], "{low} to {high}");
    }
}

#[test]
fn what_is_live_and_dirty_stays_below_the_proven_height_and_its_share() {
    let mut program = Program::new();
    for height in [200, 190, 210, 205, 180, 230] {
        program.go(height);
        program.go(10);
        let most = 230 * MIB + program.settings.dirty_limit(230 * MIB);
        assert!(program.live + program.dirty <= most);
    }
    // Half as high, then nothing: the height that was proven was another one.
    let mut program = Program::new();
    for height in [200, 100] {
        program.go(height);
        program.go(0);
    }
    assert!(program.dirty <= 100 * MIB + program.settings.dirty_limit(100 * MIB));
}

#[test]
fn use_that_stays_the_same_proves_nothing_but_itself() {
    let mut program = Program::new();
    for turn in 0..1_000 {
        program.go(if turn % 2 == 0 { 200 } else { 185 });
        // Free memory of a kind that does not fit.
        program.dirty += 3 * MIB;
        program.bound();
        assert!(program.live + program.dirty <= 200 * MIB + program.settings.dirty_limit(200 * MIB));
    }
}

#[test]
fn a_proof_is_believed_for_a_while_and_fades() {
    let mut program = Program::new();
    for _ in 0..4 {
        program.go(200);
        program.go(0);
    }
    program.idle(900);
    assert_eq!(program.go(200), 0);
    program.go(0);
    program.idle(6_000);
    assert!(program.dirty <= 4 * MIB, "{} MiB after six seconds", program.dirty / MIB);
    program.idle(2_000);
    assert_eq!(program.dirty, 0);
}

#[test]
fn with_a_helper_what_was_used_once_stays_for_a_while_and_no_more_than_that() {
    let mut program = Program::new();
    program.settings.set_helper(true);
    program.go(200);
    for live in [50, 150, 100, 180, 50, 200] {
        program.go(live);
        assert!(program.live + program.dirty <= 200 * MIB + program.settings.dirty_limit(200 * MIB));
    }
    assert_eq!(program.faulted, 200 * MIB, "nothing was purged");
    program.go(100);
    program.idle(900);
    assert!(!program.retention.is_held() && program.dirty >= 100 * MIB);
    program.idle(4_000);
    assert!(program.dirty <= program.settings.dirty_limit(program.live));
}

#[test]
fn what_was_only_believed_goes_with_the_helper() {
    let mut program = Program::new();
    program.settings.set_helper(true);
    program.go(200);
    program.settings.set_helper(false);
    program.go(0);
    assert!(program.dirty <= program.settings.dirty_limit(0), "a first descent");
    // And what was proven stays proven.
    for _ in 0..3 {
        program.settings.set_helper(true);
        program.go(200);
        program.settings.set_helper(false);
        program.go(0);
    }
    assert_eq!(program.go(200), 0);
}

#[test]
fn with_a_helper_what_is_not_needed_near_the_height_goes() {
    for live in [99, 95, 90, 88, 60] {
        let mut program = Program::new();
        program.settings.set_helper(true);
        program.go(100);
        program.go(live);
        program.idle(10_000);
        assert_eq!(program.dirty, 0, "{live} of 100");
    }
}

#[test]
fn without_a_helper_the_next_look_lets_a_proof_fade() {
    let mut program = Program::new();
    for _ in 0..4 {
        program.go(200);
        program.go(0);
    }
    assert!(program.retention.is_held() && program.dirty >= 200 * MIB);
    program.now += 10_000;
    program.bound();
    assert!(program.dirty <= 4 * MIB);
}

#[test]
fn where_nothing_is_to_be_dirty_nothing_is_kept_on_a_proof() {
    let mut program = Program::new();
    program.settings.set_dirty(Some(0), Some(0));
    for _ in 0..4 {
        program.go(200);
        program.go(0);
        assert_eq!(program.dirty, 0);
    }
}

#[test]
fn a_process_that_may_not_have_more_keeps_less() {
    let mut program = Program::new();
    program.settings.set_memory(220 * MIB);
    for _ in 0..4 {
        program.go(200);
        for live in (0..200).rev() {
            program.go(live);
            assert!(program.dirty <= 110 * MIB - program.live / 2);
        }
    }
}

/// What is free at a tick, and was used since the last, is not what nobody needs.
#[test]
fn what_is_used_between_two_ticks_stays() {
    let mut program = Program::new();
    program.go(100);
    program.go(92);
    program.idle(100);
    for used in 101..106 {
        // All that is free, and one more.
        program.go(used);
        program.go(92);
        let before = program.dirty;
        program.idle(100);
        assert_eq!((program.dirty, before), ((used - 92) * MIB, (used - 92) * MIB));
    }
}

/// Without a helper somebody has to look while more stays than the options say, and no longer.
#[test]
fn who_keeps_by_a_proof_is_looked_at_as_long() {
    let mut program = Program::new();
    for held in [false, true, true] {
        program.go(1_000);
        assert!(!program.retention.is_held());
        program.go(0);
        assert_eq!(program.retention.is_held(), held);
        // One more than there is free.
        program.go(1_001);
    }
}

/// A proof is believed for twice as long as use stayed away before.
#[test]
fn a_proof_outlasts_twice_the_time_between() {
    for (between, after, stays) in [(1_500, 2_500, true), (100, 2_500, false)] {
        let mut program = Program::new();
        for _ in 0..3 {
            program.go(1_000);
            program.go(0);
            program.now += between;
        }
        program.now += after - between;
        program.bound();
        assert_eq!(program.go(1_000) == 0, stays, "{after} ms after {between}");
    }
}

/// Nor is a proof believed for longer because one before it was, which has faded.
#[test]
fn how_long_a_proof_is_believed_fades_with_it() {
    let mut program = Program::new();
    for (between, after) in [(1_500, 20_000), (100, 2_500)] {
        for _ in 0..3 {
            program.go(1_000);
            program.go(0);
            program.now += between;
        }
        program.now += after;
        program.bound();
        assert!(program.dirty < 500 * MIB, "{} MiB", program.dirty / MIB);
        program.go(0);
    }
}

/// Who rises to where it was a minute ago has not proven that it will again.
#[test]
fn what_was_long_ago_proves_nothing() {
    for (ms, stays) in [(1_000, true), (60_000, false)] {
        let mut program = Program::new();
        program.go(1_000);
        program.go(0);
        program.idle(ms);
        program.go(1_000);
        program.go(0);
        assert_eq!(program.dirty > program.settings.dirty_limit(0), stays, "after {ms} ms");
    }
}

#[test]
fn a_rise_is_expected_as_long_as_a_proof_is_believed() {
    let mut program = Program::new();
    let expects =
        |program: &Program| program.retention.expects_rise(&program.settings, program.live, program.now);
    program.go(1_000);
    program.go(0);
    assert!(!expects(&program));
    program.go(1_000);
    program.go(0);
    assert!(expects(&program));
    program.now += 20_000;
    assert!(!expects(&program));
}
