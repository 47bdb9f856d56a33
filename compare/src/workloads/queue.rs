//! *queue*: the oldest of N live blocks of one size is replaced, for each N and size of a grid; the same newest first,
//! at random, and with a period. The cost should be flat over the whole grid, so the cheapest and the dearest point of
//! it are figures of their own.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::harness::{Block, Job, Outcome, Random, Table, together};

/// Live blocks, all threads together.
const LIVE: [usize; 4] = [16, 256, 4_096, 65_536];
const SIZES: [usize; 7] = [16, 64, 256, 1 << 10, 4 << 10, 32 << 10, 256 << 10];
/// A point of the grid that would hold more is left out.
const MAX_BYTES: usize = 256 << 20;
/// Of so many neighbours in the order of birth the last goes first, in `period`.
const PERIOD: usize = 13;

#[derive(Clone, Copy)]
enum Order {
    Oldest,
    Newest,
    Random,
    Period,
}

pub fn run_oldest(job: &Job) -> Outcome {
    grid(job, Order::Oldest)
}

pub fn run_newest(job: &Job) -> Outcome {
    grid(job, Order::Newest)
}

pub fn run_random(job: &Job) -> Outcome {
    grid(job, Order::Random)
}

pub fn run_period(job: &Job) -> Outcome {
    grid(job, Order::Period)
}

fn points() -> Vec<(usize, usize)> {
    let all = LIVE.iter().flat_map(|&live| SIZES.iter().map(move |&size| (live, size)));
    all.filter(|(live, size)| live * size <= MAX_BYTES).collect()
}

fn grid(job: &Job, order: Order) -> Outcome {
    let points = points();
    // For each point, nanoseconds and operations of all threads.
    let costs = Mutex::new(vec![(Duration::ZERO, 0u64); points.len()]);
    let mut outcome = together(job.threads, |index| {
        let mut random = job.random(index);
        let mut blocks: Table<Block> = Table::new((LIVE[LIVE.len() - 1] / job.threads).max(1));
        let mut own = [(Duration::ZERO, 0u64); LIVE.len() * SIZES.len()];
        let mut done = 0;
        for (at, &(live, size)) in points.iter().enumerate() {
            let mut quota = job.share(index * points.len() + at, job.threads * points.len());
            let live = (live / job.threads).max(1);
            let start = Instant::now();
            let mut count = 0;
            loop {
                let granted = quota.take(1_000);
                if granted == 0 {
                    break;
                }
                for number in count..count + granted {
                    let slot = next(order, number as usize, live, &mut random);
                    blocks[slot].take().free();
                    blocks[slot] = Block::new(size, &mut random);
                }
                count += granted;
            }
            own[at] = (start.elapsed(), count);
            Block::free_all(&mut blocks[..live]);
            done += count;
        }
        let mut costs = costs.lock().expect("no holder panics");
        for (sum, own) in costs.iter_mut().zip(own) {
            *sum = (sum.0 + own.0, sum.1 + own.1);
        }
        done
    });
    let costs = costs.into_inner().expect("no holder panics");
    let per_op = |&(time, ops): &(Duration, u64)| (ops > 0).then(|| time.as_nanos() as f64 / ops as f64);
    let per_op: Vec<f64> = costs.iter().filter_map(per_op).collect();
    outcome.extras.push(("cheapest_ns", per_op.iter().copied().fold(f64::MAX, f64::min).round()));
    outcome.extras.push(("dearest_ns", per_op.iter().copied().fold(0.0, f64::max).round()));
    outcome
}

/// The slot of the block that goes: the first `live` operations fill the slots, unless they are drawn.
fn next(order: Order, number: usize, live: usize, random: &mut Random) -> usize {
    match order {
        Order::Oldest => number % live,
        Order::Random => random.below(live),
        Order::Newest if number < live => number,
        // The youngest block is replaced again and again, and the others stay.
        Order::Newest => live - 1,
        Order::Period => {
            let (group, within) = (number % live / PERIOD, number % live % PERIOD);
            let members = PERIOD.min(live - group * PERIOD);
            group * PERIOD + members - 1 - within
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_stays_within_the_live_blocks_and_a_round_of_two_meets_each_once() {
        let mut random = Random::new(1);
        for live in [1, 12, 13, 16, 256] {
            for order in [Order::Oldest, Order::Newest, Order::Random, Order::Period] {
                assert!((0..3 * live).all(|number| next(order, number, live, &mut random) < live));
            }
            for order in [Order::Oldest, Order::Period] {
                let mut round: Vec<_> = (live..2 * live).map(|n| next(order, n, live, &mut random)).collect();
                round.sort_unstable();
                assert!(round.into_iter().eq(0..live));
            }
        }
    }

    #[test]
    fn no_point_holds_too_much() {
        let points = points();
        assert!(points.contains(&(65_536, 4 << 10)) && !points.contains(&(65_536, 32 << 10)));
        assert!(points.contains(&(256, 256 << 10)));
    }
}
