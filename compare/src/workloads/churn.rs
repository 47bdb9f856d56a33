//! *churn*: thousands of short threads, so many at a time, each allocating a little and freeing it. What stays resident?

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::harness::{Block, Job, Outcome, resident_kib};

/// Blocks that one thread allocates.
const BLOCKS: usize = 64;

pub fn run(job: &Job) -> Outcome {
    let before = resident_kib();
    let finished = AtomicU64::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for lane in 0..job.threads {
            let finished = &finished;
            scope.spawn(move || {
                let mut quota = job.share(lane, job.threads);
                let mut random = job.random(lane);
                while quota.take(1) == 1 {
                    let mut own = random.clone();
                    random.next_u64();
                    let short = std::thread::spawn(move || {
                        let mut blocks = [Block::NONE; BLOCKS];
                        for slot in &mut blocks {
                            *slot = Block::new(own.log_uniform(16, 1_024), &mut own);
                        }
                        Block::free_all(&mut blocks);
                    });
                    short.join().expect("the thread only allocates");
                    // Relaxed: a sum, read after the join.
                    finished.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let elapsed = start.elapsed();
    let stays = resident_kib().saturating_sub(before);
    Outcome { ops: finished.into_inner(), elapsed, extras: vec![("stays_kib", stays as f64)] }
}
