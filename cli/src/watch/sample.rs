//! A look at a process, and what has changed between two.

use super::threads::Thread;
use crate::doctor::Pressure;
use specmalloc::Statistics;
use specmalloc::internals::api::detail::Detail;
use std::time::Instant;

/// What a process had at one time.
#[derive(Clone)]
pub(super) struct Sample {
    /// When it was looked at.
    pub(super) at: Instant,
    /// The program's name.
    pub(super) name: String,
    /// When the program started, and now, by the clock of the records.
    pub(super) started_ns: u64,
    pub(super) now_ns: u64,
    /// The allocator's figures.
    pub(super) statistics: Statistics,
    /// Those of its heaps and arenas, if it has told them.
    pub(super) detail: Option<Detail>,
    /// Resident memory, as the kernel has it.
    pub(super) resident_bytes: u64,
    /// How long memory was waited for, if the kernel tells.
    pub(super) pressure: Option<Pressure>,
    /// Threads, the allocator's helper among them.
    pub(super) threads: Vec<Thread>,
    /// Processor time used so far.
    pub(super) processor_seconds: f64,
}

/// The last look, and the one before.
pub(super) struct Looks {
    pub(super) last: Sample,
    before: Option<Sample>,
}

impl Looks {
    pub(super) fn new(first: Sample) -> Self {
        Self { last: first, before: None }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        self.before = Some(std::mem::replace(&mut self.last, sample));
    }

    /// Seconds between the two, if there are two.
    pub(super) fn seconds(&self) -> Option<f64> {
        let seconds = self.last.at.duration_since(self.before.as_ref()?.at).as_secs_f64();
        (seconds > 0.0).then_some(seconds)
    }

    /// How fast a figure changes, in a second. None if there is only one look, or another program by now.
    pub(super) fn rate(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let before = self.before.as_ref().filter(|before| before.started_ns == self.last.started_ns)?;
        Some((of(&self.last)? - of(before)?) / self.seconds()?)
    }

    /// The same of a figure of the allocator's.
    pub(super) fn figure_rate(&self, of: impl Fn(&Statistics) -> u64) -> Option<f64> {
        self.rate(|sample| Some(of(&sample.statistics) as f64))
    }

    /// How old the figures are, in seconds.
    pub(super) fn age(&self) -> Option<f64> {
        let written = self.last.detail.as_ref()?.written_ns;
        Some(self.last.now_ns.saturating_sub(written) as f64 * 1e-9)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::time::Duration;

    /// Two looks a second apart: live bytes have grown by a MiB.
    pub(crate) fn looks() -> Looks {
        let now = Instant::now();
        let sample = |at: Instant, live: u64| {
            let mut statistics = Statistics::new();
            statistics.live_bytes = live;
            statistics.live_blocks = 12_345;
            statistics.remote_frees = live / 1024;
            statistics.calls.map = 7;
            statistics.bets.lookup = specmalloc::Bet { taken: 10, won: 9, lost: 1 };
            for (class, blocks) in [(0, 5), (3, 70), (9, 600)] {
                statistics.classes[class].live_blocks = blocks;
                statistics.classes[class].slabs = 1 + class as u64;
            }
            Sample {
                at,
                name: "program".to_owned(),
                started_ns: 1_000_000_000,
                now_ns: 61_000_000_000,
                statistics,
                detail: None,
                resident_bytes: 3 << 20,
                pressure: Some(Pressure { some: 12.5, full: 0.0, of_group: true }),
                threads: Vec::new(),
                processor_seconds: 1.0,
            }
        };
        let mut looks = Looks::new(sample(now, 1 << 20));
        looks.add(sample(now + Duration::from_secs(1), 2 << 20));
        looks
    }

    #[test]
    fn rates_are_changes_in_a_second() {
        let mut looks = looks();
        assert_eq!(looks.figure_rate(|figures| figures.live_bytes), Some((1 << 20) as f64));
        assert_eq!(looks.figure_rate(|figures| figures.calls.map), Some(0.0));
        looks.before.as_mut().unwrap().started_ns = 5;
        assert_eq!(looks.figure_rate(|figures| figures.live_bytes), None, "another program");
        assert_eq!(Looks::new(looks.last).seconds(), None);
    }
}
