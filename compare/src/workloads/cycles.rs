//! *cycles*: so many MiB of mixed blocks are built up and torn down, again and again: in the order of their birth, the
//! other way round, and at random. Is what a tear-down gives back mapped and faulted again?

use crate::harness::{Block, Job, Outcome, Table, together};

/// Live bytes at the top of a cycle, all threads together.
const TOP: usize = 64 << 20;
const SIZES: (usize, usize) = (16, 8_192);
const MAX_BLOCKS: usize = TOP / 256;

pub fn run(job: &Job) -> Outcome {
    together(job.threads, |index| {
        let (mut quota, mut random) = (job.share(index, job.threads), job.random(index));
        let mut blocks: Table<Block> = Table::new(MAX_BLOCKS / job.threads + 1);
        let mut done = 0;
        for cycle in 0.. {
            let (mut count, mut bytes) = (0, 0);
            while bytes < TOP / job.threads && count < blocks.len() && quota.take(1) == 1 {
                blocks[count] = Block::new(random.log_uniform(SIZES.0, SIZES.1), &mut random);
                bytes += blocks[count].len();
                count += 1;
            }
            if count == 0 {
                return done;
            }
            match cycle % 3 {
                0 => {}
                1 => blocks[..count].reverse(),
                _ => random.shuffle(&mut blocks[..count]),
            }
            Block::free_all(&mut blocks[..count]);
            done += count as u64;
        }
        done
    })
}
