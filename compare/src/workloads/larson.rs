//! *larson*: a server simulated. Each of N chains of threads owns a table of blocks; a thread replaces random entries
//! for a while, starts its successor with the table, and ends. So blocks die in another thread than they were born in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Scope;
use std::time::Instant;

use crate::harness::{Block, Job, Outcome, Quota, Random, Table};

const TABLE: usize = 5_000;
const SIZES: (usize, usize) = (8, 1_000);
/// Replacements of one thread before it hands the table over.
const GENERATION: u64 = 10 * TABLE as u64;

struct Chain {
    table: Table<Block>,
    quota: Quota,
    random: Random,
}

pub fn run(job: &Job) -> Outcome {
    let done = AtomicU64::new(0);
    let chains: Vec<Chain> = (0..job.threads)
        .map(|index| {
            let mut random = job.random(index);
            let mut table = Table::new(TABLE);
            for slot in table.iter_mut() {
                *slot = Block::new(random.uniform(SIZES.0, SIZES.1), &mut random);
            }
            Chain { table, quota: job.share(index, job.threads), random }
        })
        .collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for chain in chains {
            scope.spawn(|| generation(scope, chain, &done));
        }
    });
    Outcome { ops: done.load(Ordering::Relaxed), elapsed: start.elapsed(), extras: Vec::new() }
}

fn generation<'s>(scope: &'s Scope<'s, '_>, mut chain: Chain, done: &'s AtomicU64) {
    let mut count = 0;
    loop {
        let granted = chain.quota.take(1_000);
        for _ in 0..granted {
            let slot = chain.random.below(TABLE);
            chain.table[slot].take().free();
            let len = chain.random.uniform(SIZES.0, SIZES.1);
            chain.table[slot] = Block::new(len, &mut chain.random);
        }
        count += granted;
        if granted == 0 || count >= GENERATION {
            // Relaxed: a sum, read after all threads have been joined.
            done.fetch_add(count, Ordering::Relaxed);
            if granted == 0 {
                Block::free_all(&mut chain.table);
            } else {
                scope.spawn(move || generation(scope, chain, done));
            }
            return;
        }
    }
}
