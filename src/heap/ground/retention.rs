//! How much memory may stay resident though it is free: one rule for slices and huge blocks, by amount and by age.
//!
//! By amount it is what the options say: a share of the live bytes, and some bytes more. A program that builds up and
//! tears down again and again has hardly anything live at times, and would purge and fault all of its memory in each
//! cycle. So a height of use can be *proven*: by rising to it again after having fallen. The options apply to the
//! proven height where that is higher than what is live, and what lies between the two may stay besides:
//!
//! > live + free and resident <= height + share of height + some bytes, where height is the larger of live and proven
//!
//! Where the process may not have much more, half of that is the limit.
//!
//! The first descent of a program proves nothing, so nothing is kept for it. Use that stays about the same proves only
//! itself. A cycle is proven by its second ascent, and neither purges nor faults from the third on.
//!
//! Where there is a helper, which sees to it that it fades, any height is *believed* that was reached: what many threads
//! use swings with who runs when, and what was purged in between would be faulted in again; and a purge there
//! interrupts the others. When the helper ends, what was only believed is forgotten: the last thread may have to free
//! all that the others left, and then be silent.
//!
//! A proof is believed for a while after use was there last, for at least twice as long as it stayed away before, and
//! then fades. What is dirty and was not needed between two ticks of the helper goes as well, but for what is proven.
//! Where there is none (one thread), the slow paths look at the clock while anything is held on a proof; a process
//! that makes no more calls at all keeps what it had proven last.
//!
//! All figures are hints: of threads that look at the same time one may overwrite what the other has noted, and the
//! next look notes it again.

use super::settings::Settings;
use crate::base::SLICE;
use crate::const_unless_model;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// One part in `UNUSED_PARTS` of what may be dirty is left free by a purge.
const UNUSED_PARTS: usize = 2;
/// Milliseconds between two steps in which a proof fades.
const STEP_MS: u64 = 100;
/// Milliseconds for which a proof is believed: at least, and at most.
const HOLD_MS: u64 = 1_000;
const MOST_HOLD_MS: u64 = 4_000;
/// A step takes one part in `FADE_PARTS` of what is proven and no longer used, and at least `FADE_LEAST` bytes.
const FADE_PARTS: usize = 4;
const FADE_LEAST: usize = 1 << 20;
/// The same for the crest, which costs nothing to remember.
const CREST_PARTS: usize = 32;
/// A tick gives back one part in `AGE_PARTS` of what was not needed since the last, and at least `AGE_LEAST` bytes.
const AGE_PARTS: usize = 4;
const AGE_LEAST: usize = 16 * SLICE;

/// What is known of the heights of use, in bytes that slabs and blocks hold.
pub struct Retention {
    /// Highest use so far. Fades slowly.
    crest: AtomicUsize,
    /// Lowest use since the crest.
    trough: AtomicUsize,
    /// Height to which use has risen again after having fallen from the crest. Fades when use stays away.
    proven: AtomicUsize,
    /// Height that use has reached while there was a helper, which is as good for as long as there is one. Fades, too.
    believed: AtomicUsize,
    /// Highest use since the last proof was looked for.
    high_water: AtomicUsize,
    /// Least that was free and resident since the last tick: all that time this much was not needed.
    low_water: AtomicUsize,
    /// Milliseconds on the clock: when use was last near the proven height, and up to when fading was reckoned.
    reached: AtomicU64,
    faded: AtomicU64,
    /// Twice the longest time, in milliseconds, for which use stayed away before it came back.
    hold: AtomicU64,
    /// Whether more is free and resident than the options would allow without a proof.
    held: AtomicBool,
    /// Whether somebody asks for the time.
    asking: AtomicBool,
}

fn get(figure: &AtomicUsize) -> usize {
    // Relaxed, here and below: figures, see the head of this file.
    figure.load(Ordering::Relaxed)
}

fn set(figure: &AtomicUsize, value: usize) {
    figure.store(value, Ordering::Relaxed);
}

impl Retention {
    const_unless_model! {
        /// Nothing is proven.
        pub(in crate::heap) fn new() -> Retention {
            Retention {
                crest: AtomicUsize::new(0),
                trough: AtomicUsize::new(0),
                proven: AtomicUsize::new(0),
                believed: AtomicUsize::new(0),
                high_water: AtomicUsize::new(0),
                low_water: AtomicUsize::new(0),
                reached: AtomicU64::new(0),
                faded: AtomicU64::new(0),
                hold: AtomicU64::new(0),
                held: AtomicBool::new(false),
                asking: AtomicBool::new(false),
            }
        }
    }

    /// How much of the `dirty` bytes that are free and resident has to go now, while `live` bytes are in use and
    /// `soiled` bytes behind large blocks are resident for nothing, too. `now` is asked for the time in milliseconds
    /// only if it matters.
    pub fn excess(
        &self,
        settings: &Settings,
        live: usize,
        dirty: usize,
        soiled: usize,
        now: impl FnOnce() -> u64,
    ) -> usize {
        self.low_water.fetch_min(dirty, Ordering::Relaxed);
        if get(&self.high_water) < live {
            set(&self.high_water, live);
        }
        let left = settings.memory_left(live) / 2;
        if dirty + soiled <= settings.dirty_limit(live).min(left) {
            if self.is_held() {
                self.held.store(false, Ordering::Relaxed);
            }
            return 0;
        }
        // Who asks for the time may come back here before it has it: a program may have a clock of its own, which
        // allocates. Whoever comes meanwhile leaves it to the other, or to the next.
        if self.asking.swap(true, Ordering::Relaxed) {
            return 0;
        }
        let now = now();
        self.asking.store(false, Ordering::Relaxed);
        self.look(settings, live, now);
        let height = self.height(settings).max(live);
        let limit = settings.dirty_limit(height);
        let most = (height - live + limit).min(left);
        if dirty + soiled <= most {
            // (The helper looks at the clock in any case.)
            self.held.store(!settings.has_helper(), Ordering::Relaxed);
            return 0;
        }
        // A part of what the options leave stays unused, so that the next purge is not due at once.
        let left = limit.min(most).saturating_sub(soiled);
        (dirty + soiled - (most - left / UNUSED_PARTS)).min(dirty)
    }

    /// In the child of a fork: whoever was asking for the time has vanished.
    pub(in crate::heap) fn forget_who_asks(&self) {
        self.asking.store(false, Ordering::Relaxed);
    }

    /// One tick of the helper: how many of the `dirty` bytes have not been needed for so long that they go.
    pub fn aged(&self, settings: &Settings, live: usize, dirty: usize, now: u64) -> usize {
        self.look(settings, live, now);
        let unused = self.low_water.swap(dirty, Ordering::Relaxed).min(dirty);
        // Near the height nothing more is expected: use that stays there keeps what it does not need no longer, or the
        // helper would look at it for ever.
        let height = self.height(settings);
        let expected = if is_near(live, height) { 0 } else { height.saturating_sub(live) };
        let old = unused.saturating_sub(expected);
        old.div_ceil(AGE_PARTS).max(AGE_LEAST).min(old)
    }

    /// Whether use has fallen below a height to which it will rise again, as far as is known.
    pub(in crate::heap) fn expects_rise(&self, settings: &Settings, live: usize, now: u64) -> bool {
        self.look(settings, live, now);
        self.height(settings) > live
    }

    /// The height that use is expected to rise to again, as of the last look. None where nothing is to be dirty.
    fn height(&self, settings: &Settings) -> usize {
        if settings.dirty() == (0, 0) { 0 } else { self.known_height() }
    }

    fn known_height(&self) -> usize {
        get(&self.proven).max(get(&self.believed))
    }

    /// Whether more stays than the options would allow without a proof, and no helper looks at the clock: then it is to
    /// be looked at.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Looks at how far use has come since the last look, and lets fade what was proven too long ago.
    fn look(&self, settings: &Settings, live: usize, now: u64) {
        let top = self.high_water.swap(live, Ordering::Relaxed).max(live);
        let (crest, trough) = (get(&self.crest), get(&self.trough));
        // That much may be dirty down there without a proof: a smaller fall is none.
        let fallen = |height: usize| height.saturating_sub(trough) > settings.dirty_limit(trough);
        let risen = top.min(crest);
        if fallen(risen) && risen > get(&self.proven) {
            set(&self.proven, risen);
        }
        set(&self.believed, if settings.has_helper() { get(&self.believed).max(top) } else { 0 });
        set(&self.crest, crest.max(top));
        set(&self.trough, if top > crest { live } else { trough.min(live) });
        let height = self.known_height();
        let away = now.saturating_sub(self.reached.load(Ordering::Relaxed));
        let hold = self.hold.load(Ordering::Relaxed).max(HOLD_MS);
        if is_near(top, height) {
            self.reached.store(now, Ordering::Relaxed);
            if away <= MOST_HOLD_MS {
                self.hold.store((2 * away).clamp(hold, MOST_HOLD_MS), Ordering::Relaxed);
            }
        }
        self.fade(top, now, away.saturating_sub(hold) / STEP_MS);
    }

    /// Lets fade what is known, to `floor`: what is proven and what is believed by at most `late` steps.
    fn fade(&self, floor: usize, now: u64, late: u64) {
        let before = self.faded.load(Ordering::Relaxed);
        let steps = now.saturating_sub(before) / STEP_MS;
        // Of threads that look at the same time one reckons.
        if steps == 0
            || self.faded.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        for height in [&self.proven, &self.believed] {
            if get(height) > floor && late > 0 {
                set(height, faded(get(height), floor, FADE_PARTS, steps.min(late)));
                self.hold.store(0, Ordering::Relaxed);
            }
        }
        let floor = floor.max(self.known_height());
        set(&self.crest, faded(get(&self.crest), floor, CREST_PARTS, steps));
    }
}

/// What is left of `height` above `floor` after so many `steps`, each of which takes one part in `parts`.
#[inline(never)]
fn faded(height: usize, floor: usize, parts: usize, steps: u64) -> usize {
    let step = |above: usize| above.saturating_sub((above / parts).max(FADE_LEAST));
    floor + (0..steps.min(256)).fold(height.saturating_sub(floor), |above, _| step(above))
}

/// Whether `use_now` is as good as the `height`.
fn is_near(use_now: usize, height: usize) -> bool {
    use_now >= height - height / 8
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
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
}
