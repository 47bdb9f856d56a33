//! *sh6* and *sh8*: batches of many sizes, small ones more often, freed last in first out, in order, and interleaved.
//! In sh6 a thread frees its own batch, in sh8 the batch of the thread before it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};

use crate::harness::{Block, Job, Outcome, Random, Table, together};

const BATCH: usize = 2_000;
const MAX_LEN: usize = 1_000;
/// Interleaved means every so-manieth block in each of as many passes.
const STRIDE: usize = 7;

pub fn run_own(job: &Job) -> Outcome {
    together(job.threads, |index| {
        let (mut quota, mut random) = (job.share(index, job.threads), job.random(index));
        let mut batch = Table::new(BATCH);
        let mut done = 0;
        for round in 0.. {
            let len = quota.take(BATCH as u64) as usize;
            if len == 0 {
                break;
            }
            fill(&mut batch[..len], &mut random);
            drain(&mut batch[..len], round);
            done += len as u64;
        }
        done
    })
}

pub fn run_crossed(job: &Job) -> Outcome {
    let threads = job.threads;
    let batches: Vec<Mutex<(Table<Block>, usize)>> =
        (0..threads).map(|_| Mutex::new((Table::new(BATCH), 0))).collect();
    let barrier = Barrier::new(threads);
    let more = AtomicBool::new(true);
    together(threads, |index| {
        let (mut quota, mut random) = (job.share(index, threads), job.random(index));
        let mut done = 0;
        for round in 0.. {
            let len = quota.take(BATCH as u64) as usize;
            {
                let mut own = batches[index].lock().expect("no holder panics");
                fill(&mut own.0[..len], &mut random);
                own.1 = len;
            }
            if index == 0 {
                // Relaxed: the barriers order the store before the other threads' loads of this round, and those
                // before the next round's store. Thread 0 has the largest share, so it is the last to run out; under
                // a time limit all stop when it does.
                more.store(len > 0, Ordering::Relaxed);
            }
            barrier.wait();
            let goes_on = more.load(Ordering::Relaxed);
            {
                let mut other = batches[(index + 1) % threads].lock().expect("no holder panics");
                let len = other.1;
                drain(&mut other.0[..len], round);
                done += len as u64;
            }
            barrier.wait();
            if !goes_on {
                break;
            }
        }
        done
    })
}

fn fill(batch: &mut [Block], random: &mut Random) {
    for slot in batch {
        // The smaller of two draws: the chance of a size falls linearly towards the largest.
        let len = random.uniform(1, MAX_LEN).min(random.uniform(1, MAX_LEN));
        *slot = Block::new(len, random);
    }
}

fn drain(batch: &mut [Block], round: u64) {
    match round % 3 {
        0 => batch.iter_mut().rev().for_each(|slot| slot.take().free()),
        1 => Block::free_all(batch),
        _ => {
            for first in 0..STRIDE {
                batch.iter_mut().skip(first).step_by(STRIDE).for_each(|slot| slot.take().free());
            }
        }
    }
}
