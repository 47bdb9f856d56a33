//! *fault-split*, *fault-all*, *fault-fork* and *spf*: what page faults in an allocator's blocks cost many threads.
//! The faults themselves are the kernel's; where a block lies, and in whose mapping, is the allocator's. Split against
//! all is the pair that tells whether threads get in each other's way. With `--limit` the blocks are mappings, without an
//! allocator.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::harness::{Block, Job, Outcome, page_size, together};

const MIB: usize = 1 << 20;
/// What each thread touches between two barriers.
const SHARE: usize = 2 * MIB;
/// How far apart two pieces of one thread lie in the shared block, at least.
const STRIDE: usize = 8 * MIB;

/// Each thread touches a block of its own and gives its pages back, all in step.
pub fn run_split(job: &Job) -> Outcome {
    let (page, barrier) = (page_size(), Barrier::new(job.threads));
    together(job.threads, |index| {
        let (mut quota, mut random) = (job.share(index, job.threads), job.random(index));
        let block = job.supply().block(SHARE + 2 * page, &mut random);
        let start = block.start().align_offset(page);
        let rounds = rounds(job, page);
        let mut done = 0;
        for _ in 0..rounds {
            let pages = quota.take((SHARE / page) as u64);
            touch(&block, start, pages as usize, page);
            barrier.wait();
            give_back(&block, start, SHARE);
            done += pages;
        }
        job.supply().free(block);
        done
    })
}

/// One block for all: each thread touches every so-manieth piece, and the first gives all pages back.
pub fn run_all(job: &Job) -> Outcome {
    shared(job, give_back)
}

/// As `fault-all`, but a child is forked and waited for before the pages go: the next touch copies nothing, yet the
/// kernel has walked all of it.
pub fn run_fork(job: &Job) -> Outcome {
    shared(job, |block, start, len| {
        // SAFETY: the child only ends, without running anything of this process.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(0);
            }
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        give_back(block, start, len);
    })
}

fn shared(job: &Job, between: impl Fn(&Block, usize, usize) + Sync) -> Outcome {
    let (page, barrier) = (page_size(), Barrier::new(job.threads));
    let len = job.threads.max(STRIDE / SHARE) * SHARE;
    let block = job.supply().block(len + 2 * page, &mut job.random(0));
    let start = block.start().align_offset(page);
    let outcome = together(job.threads, |index| {
        let mut quota = job.share(index, job.threads);
        let mut done = 0;
        for _ in 0..rounds(job, page) {
            let pages = quota.take((SHARE / page) as u64);
            touch(&block, start + index * SHARE, pages as usize, page);
            if barrier.wait().is_leader() {
                between(&block, start, len);
            }
            barrier.wait();
            done += pages;
        }
        done
    });
    job.supply().free(block);
    outcome
}

/// How often the thread with the largest share has to come back; the same for all, so that they stay in step.
fn rounds(job: &Job, page: usize) -> u64 {
    let mut quota = job.share(0, job.threads);
    // A time limit cannot be kept in step; then it is a fixed number.
    if matches!(job.work, crate::harness::Work::Seconds(_)) {
        return 16;
    }
    let mut rounds = 0;
    while quota.take((SHARE / page) as u64) > 0 {
        rounds += 1;
    }
    rounds
}

fn touch(block: &Block, start: usize, pages: usize, page: usize) {
    for number in 0..pages {
        // SAFETY: `start` and so many pages lie inside the block, whose tags are at its very ends. Past the tag that
        // the front may carry. No other thread writes this page.
        unsafe { block.start().add(start + number * page + 8).write_volatile(1) };
    }
}

/// The pages wholly inside the block, without those of its tags.
fn give_back(block: &Block, start: usize, len: usize) {
    let page = page_size();
    let skipped = if start == 0 { page } else { 0 };
    // SAFETY: these pages belong to the block, whose holder does not need their contents any more.
    unsafe { libc::madvise(block.start().add(start + skipped).cast(), len - skipped, libc::MADV_DONTNEED) };
}

/// Threads are started that each allocate some regions, touch a little of each, and end: how long until all are done?
/// One operation is one region.
pub fn run_spf(job: &Job) -> Outcome {
    spf::<30>(job, 30)
}

/// The same with little to do for each thread.
pub fn run_spf_small(job: &Job) -> Outcome {
    spf::<2>(job, 10)
}

fn spf<const REGIONS: usize>(job: &Job, pages: usize) -> Outcome {
    let page = page_size();
    let done = AtomicU64::new(0);
    let start = Instant::now();
    let mut quotas: Vec<_> = (0..job.threads).map(|index| job.share(index, job.threads)).collect();
    loop {
        let before = done.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            for (index, quota) in quotas.iter_mut().enumerate() {
                let done = &done;
                scope.spawn(move || {
                    let mut random = job.random(index);
                    let mut regions = [const { Block::NONE }; REGIONS];
                    let granted = quota.take(REGIONS as u64) as usize;
                    for slot in &mut regions[..granted] {
                        *slot = job.supply().block((pages + 2) * page, &mut random);
                        touch(slot, 0, pages, page);
                    }
                    regions[..granted].iter_mut().for_each(|slot| job.supply().free(slot.take()));
                    // Relaxed: a sum, read after the join.
                    done.fetch_add(granted as u64, Ordering::Relaxed);
                });
            }
        });
        // Relaxed: the threads were joined.
        if done.load(Ordering::Relaxed) == before {
            return Outcome { ops: done.into_inner(), elapsed: start.elapsed(), extras: Vec::new() };
        }
    }
}
