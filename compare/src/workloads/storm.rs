//! *unmap-storm*: half the threads allocate, touch and free huge blocks as fast as they can; the others replace small
//! ones as larson does and time each call. With `--calm` the storm is left out and the others do the same.
//!
//! *storm-larson* and *storm-lookup*: the storm is one of regions that come and go at a rate that is the same for all, with
//! `--raw` by mmap and munmap, without the allocator. The others replace small blocks, each call timed, or look
//! addresses up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::ebizzy::look_up;
use crate::harness::{Block, Job, Outcome, Random, Supply, Table, beside, page_size, tails};

const TABLE: usize = 5_000;
const SIZES: (usize, usize) = (8, 1_000);
const MIB: usize = 1 << 20;

pub fn run(job: &Job) -> Outcome {
    let page = page_size();
    let victims = (job.threads / 2).max(1);
    let storming = if job.flags.calm { 0 } else { victims };
    let huge = AtomicU64::new(0);
    tails::switch_on();
    let storm = |random: &mut Random| {
        let mut block = Block::new(random.uniform(MIB, 32 * MIB), random);
        block.touch(page);
        block.free();
        // Relaxed: a sum, read after the join.
        huge.fetch_add(1, Ordering::Relaxed);
    };
    let victim = |index| replace(job, index, victims);
    let mut outcome = beside([victims, storming], victim, |index| job.random(index), storm);
    outcome.extras.push(("storm_blocks", huge.into_inner() as f64));
    outcome
}

/// Regions a second, all stormers together, and their size: more than what any allocator keeps for itself at its defaults.
const RATE: f64 = 25_000.0;
const REGION: usize = 33 * MIB;

pub fn run_larson(job: &Job) -> Outcome {
    tails::switch_on();
    beside_regions(job, replace)
}

pub fn run_lookup(job: &Job) -> Outcome {
    beside_regions(job, look_up)
}

fn beside_regions(job: &Job, victim: impl Fn(&Job, usize, usize) -> u64 + Sync) -> Outcome {
    let victims = (job.threads / 2).max(1);
    let regions = AtomicU64::new(0);
    let supply = if job.flags.raw { Supply::System } else { Supply::Allocator };
    let period = Duration::from_secs_f64(victims as f64 / RATE);
    let storm = |(random, due): &mut (Random, Instant)| {
        if Instant::now() < *due {
            return std::hint::spin_loop();
        }
        *due += period;
        supply.free(supply.block(REGION, random));
        // Relaxed: a sum, read after the join.
        regions.fetch_add(1, Ordering::Relaxed);
    };
    let prepare = |index| (job.random(index), Instant::now());
    let mut outcome = beside([victims, victims], |index| victim(job, index, victims), prepare, storm);
    let rate = regions.into_inner() as f64 / outcome.elapsed.as_secs_f64();
    outcome.extras.push(("regions_per_second", rate.round()));
    outcome
}

fn replace(job: &Job, index: usize, victims: usize) -> u64 {
    let mut random = job.random(index);
    let mut table: Table<Block> = Table::new(TABLE);
    let done = job.share(index, victims).each(|| {
        let slot = random.below(TABLE);
        table[slot].take().free();
        table[slot] = Block::new(random.uniform(SIZES.0, SIZES.1), &mut random);
    });
    Block::free_all(&mut table);
    done
}
