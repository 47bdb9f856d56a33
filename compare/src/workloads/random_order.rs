//! *alloc-test* and *alloc-100k*: many live blocks, the next one to go drawn at random.

use crate::harness::{Block, Job, Outcome, Table, together};

/// Slots of alloc-test, all threads together.
const SLOTS: usize = 1 << 20;

pub fn run_slots(job: &Job) -> Outcome {
    together(job.threads, |index| {
        let mut random = job.random(index);
        let mut slots: Table<Block> = Table::new((SLOTS / job.threads).max(1));
        let done = job.share(index, job.threads).each(|| {
            let slot = random.below(slots.len());
            slots[slot].take().free();
            slots[slot] = Block::new(random.log_uniform(8, 1_024), &mut random);
        });
        Block::free_all(&mut slots);
        done
    })
}

/// Live blocks of alloc-100k, in each thread.
const HUNDRED_K: usize = 100_000;

pub fn run_100k(job: &Job) -> Outcome {
    together(job.threads, |index| {
        let (mut quota, mut random) = (job.share(index, job.threads), job.random(index));
        let mut blocks: Table<Block> = Table::new(HUNDRED_K);
        let mut done = 0;
        loop {
            let len = quota.take(HUNDRED_K as u64) as usize;
            if len == 0 {
                return done;
            }
            for slot in &mut blocks[..len] {
                *slot = Block::new(random.uniform(16, 256), &mut random);
            }
            for left in (1..=len).rev() {
                let drawn = random.below(left);
                blocks.swap(drawn, left - 1);
                blocks[left - 1].take().free();
            }
            done += len as u64;
        }
    })
}
