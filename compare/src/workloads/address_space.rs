//! The address-space workloads: *page_fault1*, *mmap1*, *malloc1*, *malloc2*, *parallel-init*. With `--limit` their large
//! blocks are mappings, without an allocator.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::harness::{Block, Job, Outcome, map, page_size, together, unmap};

const MIB: usize = 1 << 20;

pub fn run_page_fault(job: &Job) -> Outcome {
    let page = page_size();
    together(job.threads, |index| {
        let (mut quota, mut random) = (job.share(index, job.threads), job.random(index));
        let mut done = 0;
        loop {
            let pages = quota.take((128 * MIB / page) as u64);
            if pages == 0 {
                return done;
            }
            let mut block = job.supply().block(pages as usize * page, &mut random);
            block.touch(page);
            job.supply().free(block);
            done += pages;
        }
    })
}

pub fn run_untouched(job: &Job) -> Outcome {
    together(job.threads, |index| {
        let mut quota = job.share(index, job.threads);
        let mut done = 0;
        while quota.take(1) == 1 {
            if job.flags.limit {
                // SAFETY: mapped just now.
                unsafe { unmap(map(128 * MIB), 128 * MIB) };
            } else {
                // SAFETY: malloc takes any size, and free takes what it answered, null included.
                unsafe { libc::free(std::hint::black_box(libc::malloc(128 * MIB))) };
            }
            done += 1;
        }
        done
    })
}

pub fn run_128_mib(job: &Job) -> Outcome {
    pairs(job, 128 * MIB, 1)
}

pub fn run_1_kib(job: &Job) -> Outcome {
    pairs(job, 1_024, 1_000)
}

fn pairs(job: &Job, len: usize, chunk: u64) -> Outcome {
    together(job.threads, |index| {
        let (mut quota, mut random) = (job.share(index, job.threads), job.random(index));
        let mut done = 0;
        loop {
            let granted = quota.take(chunk);
            if granted == 0 {
                return done;
            }
            for _ in 0..granted {
                job.supply().free(job.supply().block(len, &mut random));
            }
            done += granted;
        }
    })
}

/// The block that is touched by all threads together, and the piece each of them takes in turn.
const SHARED_LEN: usize = 512 * MIB;
const PIECE: usize = 2 * MIB;

pub fn run_parallel_init(job: &Job) -> Outcome {
    let page = page_size();
    let mut random = job.random(0);
    let mut quota = job.share(0, 1);
    let mut outcome = Outcome::default();
    loop {
        let pages = quota.take((SHARED_LEN / page) as u64);
        if pages == 0 {
            return outcome;
        }
        let block = job.supply().block(pages as usize * page, &mut random);
        outcome.elapsed += touch_together(&block, job.threads, page);
        outcome.ops += pages;
        job.supply().free(block);
    }
}

fn touch_together(block: &Block, threads: usize, page: usize) -> Duration {
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|index| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    for piece in (index * PIECE..block.len()).step_by(threads * PIECE) {
                        for at in (piece..(piece + PIECE).min(block.len())).step_by(page) {
                            // SAFETY: inside the block, and no other thread writes this piece. Past the tag at the
                            // front; the one at the end is not at the start of a page.
                            unsafe { block.start().add(at + 8).write_volatile(1) };
                        }
                    }
                })
            })
            .collect();
        let start = Instant::now();
        barrier.wait();
        workers.into_iter().for_each(|worker| worker.join().expect("a worker only writes"));
        start.elapsed()
    })
}
