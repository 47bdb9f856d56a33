//! *cache-scratch* and *cache-thrash*: does the allocator put blocks of different threads on one cache line? Actively,
//! when it hands them out (thrash), or passively, when a thread gets back the neighbour of another's block (scratch).

use std::sync::Mutex;

use crate::harness::{Block, Job, Outcome, Random, together};

const LEN: usize = 8;
/// Writes into one block before it is freed.
const WRITES: u64 = 100_000;

pub fn run_scratch(job: &Job) -> Outcome {
    let mut random = job.random(0);
    // Allocated in a row by one thread: neighbours.
    let given: Vec<Mutex<Block>> =
        (0..job.threads).map(|_| Mutex::new(Block::new(LEN, &mut random))).collect();
    together(job.threads, |index| {
        given[index].lock().expect("no holder panics").take().free();
        write_blocks(job, index)
    })
}

pub fn run_thrash(job: &Job) -> Outcome {
    together(job.threads, |index| write_blocks(job, index))
}

fn write_blocks(job: &Job, index: usize) -> u64 {
    let (mut quota, mut random): (_, Random) = (job.share(index, job.threads), job.random(index));
    let mut done = 0;
    loop {
        let writes = quota.take(WRITES);
        if writes == 0 {
            return done;
        }
        let block = Block::new(LEN, &mut random);
        let word = block.start().cast::<u64>();
        // SAFETY: the block is 8 bytes long and malloc aligns it for a word. What was there is put back at the end,
        // so that the tags are checked against a block that others wrote to.
        unsafe {
            let tags = word.read_volatile();
            for _ in 0..writes {
                word.write_volatile(word.read_volatile().wrapping_add(1));
            }
            word.write_volatile(word.read_volatile().wrapping_sub(writes));
            debug_assert_eq!(word.read_volatile(), tags);
        }
        block.free();
        done += writes;
    }
}
