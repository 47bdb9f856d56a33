//! *glibc-simple* and *glibc-thread*: what glibc's own benchmarks of malloc do.

use crate::harness::{Block, Job, Outcome, Table, together};

const LISTS: [usize; 4] = [25, 100, 400, 1_600];

pub fn run_simple(job: &Job) -> Outcome {
    together(job.threads, |index| {
        let (mut quota, mut random) = (job.share(index, job.threads), job.random(index));
        let mut list: Table<Block> = Table::new(LISTS[LISTS.len() - 1]);
        let mut done = 0;
        for round in 0.. {
            let len = quota.take(LISTS[round % LISTS.len()] as u64) as usize;
            if len == 0 {
                break;
            }
            for slot in &mut list[..len] {
                *slot = Block::new(random.uniform(16, 512), &mut random);
            }
            Block::free_all(&mut list[..len]);
            done += len as u64;
        }
        done
    })
}

const WORKING_SET: usize = 1_024;
const LEN: (usize, usize) = (4, 32_768);

pub fn run_thread(job: &Job) -> Outcome {
    together(job.threads, |index| {
        let mut random = job.random(index);
        let mut set: Table<Block> = Table::new(WORKING_SET);
        let done = job.share(index, job.threads).each(|| {
            let slot = random.below(WORKING_SET);
            set[slot].take().free();
            // The inverse of a uniform draw: the chance of a size falls with its square.
            let len = (LEN.1 / (1 + random.below(LEN.1 / LEN.0))).max(LEN.0);
            set[slot] = Block::new(len, &mut random);
        });
        Block::free_all(&mut set);
        done
    })
}
