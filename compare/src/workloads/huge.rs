//! *large*: blocks of 5 to 25 MiB, a byte written in each page, replaced at random in a small table. Do mappings churn,
//! are pages faulted again and again?

use crate::harness::{Block, Job, Outcome, Table, page_size, together};

/// Blocks in the table, all threads together: 300 MiB.
const TABLE: usize = 20;
const MIB: usize = 1 << 20;

pub fn run_large(job: &Job) -> Outcome {
    let page = page_size();
    together(job.threads, |index| {
        let (mut quota, mut random) = (job.share(index, job.threads), job.random(index));
        let mut table: Table<Block> = Table::new((TABLE / job.threads).max(1));
        let mut done = 0;
        while quota.take(1) == 1 {
            let slot = random.below(table.len());
            table[slot].take().free();
            table[slot] = Block::new(random.uniform(5 * MIB, 25 * MIB), &mut random);
            table[slot].touch(page);
            done += 1;
        }
        Block::free_all(&mut table);
        done
    })
}
