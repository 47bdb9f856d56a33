//! *unmap-storm*: half the threads allocate, touch and free huge blocks as fast as they can; the others replace small
//! ones as larson does and time each malloc. With `--calm` the storm is left out and the others do the same.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use crate::harness::{Block, Job, Outcome, Table, page_size, together};

const TABLE: usize = 5_000;
const SIZES: (usize, usize) = (8, 1_000);
const MIB: usize = 1 << 20;

pub fn run(job: &Job) -> Outcome {
    let page = page_size();
    let victims = (job.threads / 2).max(1);
    let storming = if job.flags.calm { 0 } else { victims };
    let running = AtomicUsize::new(victims);
    let huge = AtomicU64::new(0);
    let histogram: Histogram = Histogram::new();
    let mut outcome = together(victims + storming, |index| {
        if index < victims {
            let done = replace(job, index, victims, &histogram);
            // Relaxed: only tells the others to stop.
            running.fetch_sub(1, Ordering::Relaxed);
            return done;
        }
        let mut random = job.random(index);
        // Relaxed: the loop may run once more than needed.
        while running.load(Ordering::Relaxed) > 0 {
            let mut block = Block::new(random.uniform(MIB, 32 * MIB), &mut random);
            block.touch(page);
            block.free();
            // Relaxed: a sum, read after the join.
            huge.fetch_add(1, Ordering::Relaxed);
        }
        0
    });
    outcome.extras = vec![
        ("storm_blocks", huge.into_inner() as f64),
        ("malloc_p50_ns", histogram.quantile(0.5) as f64),
        ("malloc_p99.9_ns", histogram.quantile(0.999) as f64),
        // Relaxed: the threads were joined.
        ("malloc_max_ns", histogram.max.load(Ordering::Relaxed) as f64),
    ];
    outcome
}

fn replace(job: &Job, index: usize, victims: usize, histogram: &Histogram) -> u64 {
    let (mut quota, mut random) = (job.share(index, victims), job.random(index));
    let mut table: Table<Block> = Table::new(TABLE);
    let mut own: Table<u64> = Table::new(BUCKETS);
    let (mut done, mut max) = (0, 0);
    loop {
        let granted = quota.take(1_000);
        if granted == 0 {
            break;
        }
        for _ in 0..granted {
            let slot = random.below(TABLE);
            table[slot].take().free();
            let len = random.uniform(SIZES.0, SIZES.1);
            let start = Instant::now();
            table[slot] = Block::new(len, &mut random);
            let nanoseconds = start.elapsed().as_nanos() as u64;
            own[bucket(nanoseconds)] += 1;
            max = max.max(nanoseconds);
        }
        done += granted;
    }
    Block::free_all(&mut table);
    histogram.add(&own, max);
    done
}

/// Sixteen buckets to each doubling: a quantile is right to 6 %.
const BUCKETS: usize = 16 * 64;

/// How many mallocs took how long, all threads together.
struct Histogram {
    counts: Vec<AtomicU64>,
    max: AtomicU64,
}

fn bucket(value: u64) -> usize {
    if value < 16 {
        return value as usize;
    }
    let doubling = value.ilog2() as usize;
    (doubling - 3) * 16 + (value >> (doubling - 4)) as usize % 16
}

/// The smallest value of a bucket.
fn floor_of(bucket: usize) -> u64 {
    if bucket < 16 {
        return bucket as u64;
    }
    (16 + bucket as u64 % 16) << (bucket / 16 - 1)
}

impl Histogram {
    fn new() -> Histogram {
        Histogram { counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), max: AtomicU64::new(0) }
    }

    fn add(&self, counts: &[u64], max: u64) {
        // Relaxed: sums, read after the join.
        for (sum, &count) in self.counts.iter().zip(counts) {
            sum.fetch_add(count, Ordering::Relaxed);
        }
        self.max.fetch_max(max, Ordering::Relaxed);
    }

    fn quantile(&self, share: f64) -> u64 {
        // Relaxed: the threads were joined.
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let wanted = (counts.iter().sum::<u64>() as f64 * share) as u64;
        let mut seen = 0;
        for (index, count) in counts.into_iter().enumerate() {
            seen += count;
            if seen > wanted {
                return floor_of(index);
            }
        }
        // Relaxed: as above.
        self.max.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_begin_where_they_say() {
        for index in 0..BUCKETS - 64 {
            assert_eq!(bucket(floor_of(index)), index);
            assert!(floor_of(index) < floor_of(index + 1));
            assert_eq!(bucket(floor_of(index + 1) - 1), index);
        }
    }

    #[test]
    fn quantiles_come_from_the_counts() {
        let histogram = Histogram::new();
        let mut counts = [0; BUCKETS];
        counts[bucket(10)] = 998;
        counts[bucket(5_000)] = 2;
        histogram.add(&counts, 5_100);
        assert_eq!(histogram.quantile(0.5), 10);
        assert_eq!(bucket(histogram.quantile(0.999)), bucket(5_000));
        assert_eq!(histogram.max.load(Ordering::Relaxed), 5_100);
    }
}
