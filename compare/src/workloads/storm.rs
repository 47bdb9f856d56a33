//! *unmap-storm*: half the threads allocate, touch and free huge blocks as fast as they can; the others replace small
//! ones as larson does and time each call. With `--calm` the storm is left out and the others do the same.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::harness::{Block, Job, Outcome, Table, page_size, tails, together};

const TABLE: usize = 5_000;
const SIZES: (usize, usize) = (8, 1_000);
const MIB: usize = 1 << 20;

pub fn run(job: &Job) -> Outcome {
    let page = page_size();
    let victims = (job.threads / 2).max(1);
    let storming = if job.flags.calm { 0 } else { victims };
    let running = AtomicUsize::new(victims);
    let huge = AtomicU64::new(0);
    tails::switch_on();
    let mut outcome = together(victims + storming, |index| {
        if index < victims {
            let done = replace(job, index, victims);
            // Relaxed: only tells the others to stop.
            running.fetch_sub(1, Ordering::Relaxed);
            return done;
        }
        tails::leave_out_this_thread();
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
    outcome.extras.push(("storm_blocks", huge.into_inner() as f64));
    outcome
}

fn replace(job: &Job, index: usize, victims: usize) -> u64 {
    let (mut quota, mut random) = (job.share(index, victims), job.random(index));
    let mut table: Table<Block> = Table::new(TABLE);
    let mut done = 0;
    loop {
        let granted = quota.take(1_000);
        if granted == 0 {
            break;
        }
        for _ in 0..granted {
            let slot = random.below(TABLE);
            table[slot].take().free();
            table[slot] = Block::new(random.uniform(SIZES.0, SIZES.1), &mut random);
        }
        done += granted;
    }
    Block::free_all(&mut table);
    done
}
