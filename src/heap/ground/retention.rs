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

use super::regret::Regret;
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
    /// Whether more had better stay.
    regret: Regret,
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
                regret: Regret::new(),
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
        self.regret.fade(live);
        let left = settings.memory_left(live) / 2;
        let limit = self.limit(settings, live);
        if dirty + soiled <= limit.min(left) {
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
        let proven = settings.dirty_limit(height);
        let most = (height - live + proven).max(limit).min(left);
        if dirty + soiled <= most {
            // (The helper looks at the clock in any case.)
            self.held.store(!settings.has_helper(), Ordering::Relaxed);
            return 0;
        }
        // A part of what the options leave stays unused, so that the next purge is not due at once.
        let left = limit.max(proven).min(most).saturating_sub(soiled);
        (dirty + soiled - (most - left / UNUSED_PARTS)).min(dirty)
    }

    /// Bytes that may be dirty while so many are live, without a proof.
    fn limit(&self, settings: &Settings, live: usize) -> usize {
        let limit = settings.dirty_limit(live);
        limit + self.regret.more(limit)
    }

    /// Whether what is purged is faulted in again.
    pub(in crate::heap) fn regret(&self) -> &Regret {
        &self.regret
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
mod tests;
