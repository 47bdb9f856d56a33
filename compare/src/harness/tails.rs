//! How long single calls take: the percentiles that throughput hides.
//!
//! A call is timed by the processor's time-stamp counter, fenced at both ends. What reading the counter costs by itself
//! is measured first and subtracted. Beside each malloc, nothing is timed in the same way: what the kernel and the
//! machine do to a program that calls nobody is in those figures, and only what lies above them is the allocator's.
//!
//! Counts are in a mapping of their own, striped by thread, so that recording takes no memory from the allocator.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Table;

/// What was timed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// One malloc or calloc.
    Malloc,
    /// One free.
    Free,
    /// Nothing at all.
    Nothing,
}

const KINDS: usize = 3;
const STRIPES: usize = 64;

/// The shares of calls that are reported, each with the names of its figures.
const QUANTILES: [(f64, [&str; KINDS]); 4] = [
    (0.5, ["malloc_p50_ns", "free_p50_ns", "nothing_p50_ns"]),
    (0.99, ["malloc_p99_ns", "free_p99_ns", "nothing_p99_ns"]),
    (0.999, ["malloc_p99.9_ns", "free_p99.9_ns", "nothing_p99.9_ns"]),
    (0.9999, ["malloc_p99.99_ns", "free_p99.99_ns", "nothing_p99.99_ns"]),
];
const LONGEST: [&str; KINDS] = ["malloc_max_ns", "free_max_ns", "nothing_max_ns"];

static ON: AtomicBool = AtomicBool::new(false);
static RECORDS: OnceLock<Records> = OnceLock::new();

struct Records {
    /// For each stripe and kind the buckets, then the longest.
    counts: Table<AtomicU64>,
    /// What two readings of the counter take, in ticks.
    own_cost: u64,
    ticks_per_ns: f64,
}

const PER_KIND: usize = BUCKETS + 1;

/// Times each call from now on.
pub fn switch_on() {
    RECORDS.get_or_init(|| Records {
        counts: Table::new(STRIPES * KINDS * PER_KIND),
        own_cost: own_cost(),
        ticks_per_ns: ticks_per_ns(),
    });
    // Relaxed: threads that are to be timed are started after this, or read the records through the cell.
    ON.store(true, Ordering::Relaxed);
}

/// Whether calls are timed.
#[inline(always)]
pub fn are_on() -> bool {
    // Relaxed: set before the workload starts.
    ON.load(Ordering::Relaxed)
}

const UNASSIGNED: u32 = 0;
const QUIET: u32 = u32::MAX;

thread_local! {
    /// The thread's stripe, plus one. Needs no destructor: registering one would allocate.
    static STRIPE: Cell<u32> = const { Cell::new(UNASSIGNED) };
}

/// The calling thread's calls are not counted: it is there to disturb others.
pub fn leave_out_this_thread() {
    STRIPE.set(QUIET);
}

/// Carries out one call and records how long it took.
#[inline(never)]
pub fn timed<T>(kind: Kind, call: impl FnOnce() -> T) -> T {
    let records = RECORDS.get().expect("switched on");
    let start = counter_before();
    let answer = call();
    let ticks = counter_after() - start;
    records.add(kind, ticks.saturating_sub(records.own_cost));
    if kind == Kind::Malloc {
        let ticks = time_nothing();
        records.add(Kind::Nothing, ticks.saturating_sub(records.own_cost));
    }
    answer
}

#[inline(always)]
fn time_nothing() -> u64 {
    let start = counter_before();
    black_box(());
    counter_after() - start
}

/// The figures so far, by name, in nanoseconds.
pub fn figures() -> Vec<(&'static str, f64)> {
    let Some(records) = RECORDS.get() else { return Vec::new() };
    let mut figures = Vec::new();
    for kind in [Kind::Malloc, Kind::Free, Kind::Nothing] {
        let histogram = records.histogram(kind);
        for (share, names) in QUANTILES {
            figures.push((names[kind as usize], histogram.quantile(share) as f64 / records.ticks_per_ns));
        }
        figures.push((LONGEST[kind as usize], histogram.longest as f64 / records.ticks_per_ns));
    }
    figures.into_iter().map(|(name, value)| (name, value.round())).collect()
}

impl Records {
    fn add(&self, kind: Kind, ticks: u64) {
        static THREADS: AtomicU32 = AtomicU32::new(0);
        let stripe = STRIPE.get();
        if stripe == QUIET {
            return;
        }
        let stripe = if stripe == UNASSIGNED {
            // Relaxed: any number will do.
            let number = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES as u32 + 1;
            STRIPE.set(number);
            number
        } else {
            stripe
        };
        let counts = &self.counts[self.start(stripe as usize - 1, kind)..][..PER_KIND];
        // Relaxed: sums, read after the threads have been joined.
        counts[bucket(ticks)].fetch_add(1, Ordering::Relaxed);
        counts[BUCKETS].fetch_max(ticks, Ordering::Relaxed);
    }

    fn start(&self, stripe: usize, kind: Kind) -> usize {
        (stripe * KINDS + kind as usize) * PER_KIND
    }

    fn histogram(&self, kind: Kind) -> Histogram {
        let mut histogram = Histogram { counts: vec![0; BUCKETS], longest: 0 };
        for stripe in 0..STRIPES {
            let counts = &self.counts[self.start(stripe, kind)..][..PER_KIND];
            // Relaxed: the threads were joined.
            for (sum, count) in histogram.counts.iter_mut().zip(counts) {
                *sum += count.load(Ordering::Relaxed);
            }
            // Relaxed: as above.
            histogram.longest = histogram.longest.max(counts[BUCKETS].load(Ordering::Relaxed));
        }
        histogram
    }
}

/// Thirty-two buckets to each doubling: a quantile is right to 3 %.
const PER_DOUBLING: usize = 32;
const BUCKETS: usize = PER_DOUBLING * 60;

fn bucket(value: u64) -> usize {
    if value < PER_DOUBLING as u64 {
        return value as usize;
    }
    let doubling = value.ilog2() as usize;
    let above = doubling - PER_DOUBLING.ilog2() as usize;
    ((above + 1) * PER_DOUBLING + (value >> above) as usize % PER_DOUBLING).min(BUCKETS - 1)
}

/// The smallest value of a bucket.
fn floor_of(bucket: usize) -> u64 {
    if bucket < PER_DOUBLING {
        return bucket as u64;
    }
    ((PER_DOUBLING + bucket % PER_DOUBLING) as u64) << (bucket / PER_DOUBLING - 1)
}

struct Histogram {
    counts: Vec<u64>,
    longest: u64,
}

impl Histogram {
    /// The smallest value that at least `share` of all are not above; zero if there is none.
    fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.counts.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return floor_of(index);
            }
        }
        self.longest
    }
}

/// The median of many timings of nothing.
fn own_cost() -> u64 {
    let mut samples: Vec<u64> = (0..20_001).map(|_| time_nothing()).collect();
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn ticks_per_ns() -> f64 {
    let (start, ticks) = (Instant::now(), counter_before());
    while start.elapsed() < Duration::from_millis(20) {
        std::hint::spin_loop();
    }
    (counter_after() - ticks) as f64 / start.elapsed().as_nanos() as f64
}

/// The counter, once everything before is done and before anything after begins.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn counter_before() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: every x86-64 has both instructions.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

/// The counter, once everything before is done.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn counter_after() -> u64 {
    counter_before()
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn counter_before() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn counter_after() -> u64 {
    counter_before()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_begin_where_they_say() {
        for index in 0..BUCKETS - PER_DOUBLING {
            assert_eq!(bucket(floor_of(index)), index);
            assert!(floor_of(index) < floor_of(index + 1));
            assert_eq!(bucket(floor_of(index + 1) - 1), index);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_one_to_a_hundred() {
        // Each value below 64 has a bucket of its own; those above are rounded down to a multiple of two.
        let mut histogram = Histogram { counts: vec![0; BUCKETS], longest: 100 };
        (1..=100).for_each(|value| histogram.counts[bucket(value)] += 1);
        assert_eq!(histogram.quantile(0.01), 1);
        assert_eq!(histogram.quantile(0.5), 50);
        assert_eq!(histogram.quantile(0.99), 98);
        assert_eq!(histogram.quantile(1.0), 100);
    }

    #[test]
    fn one_slow_call_in_a_thousand_is_seen_where_it_should_be() {
        let mut histogram = Histogram { counts: vec![0; BUCKETS], longest: 5_100 };
        histogram.counts[bucket(10)] = 9_990;
        histogram.counts[bucket(5_000)] = 10;
        assert_eq!(histogram.quantile(0.5), 10);
        assert_eq!(histogram.quantile(0.999), 10);
        assert_eq!(histogram.quantile(0.9991), floor_of(bucket(5_000)));
        assert_eq!(Histogram { counts: vec![0; BUCKETS], longest: 0 }.quantile(0.99), 0);
    }

    #[test]
    fn a_call_that_takes_long_is_recorded_and_a_quiet_thread_is_not() {
        switch_on();
        let records = RECORDS.get().expect("switched on");
        let count = |kind| records.histogram(kind).counts.iter().sum::<u64>();
        std::thread::spawn(|| {
            leave_out_this_thread();
            timed(Kind::Free, || std::thread::sleep(Duration::from_secs(1)));
        })
        .join()
        .expect("sleeps only");
        timed(Kind::Free, || std::thread::sleep(Duration::from_millis(10)));
        timed(Kind::Malloc, || ());
        assert!(count(Kind::Malloc) >= 1 && count(Kind::Nothing) >= 1 && count(Kind::Free) >= 1);
        let longest = figures().into_iter().find(|figure| figure.0 == "free_max_ns").expect("is there").1;
        assert!((8e6..9e8).contains(&longest), "{longest} ns");
    }
}
