//! *grow*: realloc doubling from 64 bytes to 1 GiB, and in steps of 1 MiB to 128 MiB with a neighbour allocated after
//! each step. All threads together stay within 1 GiB of live memory, so N threads grow to 1 GiB / N each.

use crate::harness::{Block, Job, Outcome, Quota, Random, Table, page_size, together};

const MIB: usize = 1 << 20;

pub fn run(job: &Job) -> Outcome {
    let page = page_size();
    together(job.threads, |index| {
        let (mut quota, mut random) = (job.share(index, job.threads), job.random(index));
        let mut done = 0;
        loop {
            let before = done;
            done += double((1024 * MIB / job.threads).next_power_of_two(), page, &mut quota, &mut random);
            done += step((128 * MIB / job.threads).max(8 * MIB), page, &mut quota, &mut random);
            if done == before {
                return done;
            }
        }
    })
}

fn double(limit: usize, page: usize, quota: &mut Quota, random: &mut Random) -> u64 {
    let mut block = Block::new(64, random);
    let mut done = 0;
    while block.len() < limit && quota.take(1) == 1 {
        let old = block.len();
        block.resize(2 * old, random);
        touch_and_check(&block, old, page);
        done += 1;
    }
    block.free();
    done
}

fn step(limit: usize, page: usize, quota: &mut Quota, random: &mut Random) -> u64 {
    let mut neighbours: Table<Block> = Table::new(limit / MIB);
    let mut block = Block::new(MIB, random);
    let mut done = 0;
    touch_and_check(&block, 0, page);
    while block.len() < limit && quota.take(1) == 1 {
        let old = block.len();
        block.resize(old + MIB, random);
        touch_and_check(&block, old, page);
        neighbours[done] = Block::new(random.uniform(16, 64 << 10), random);
        done += 1;
    }
    block.free();
    Block::free_all(&mut neighbours);
    done as u64
}

/// Writes a word into each page from `old` on, and reads back some of the words that earlier calls wrote.
fn touch_and_check(block: &Block, old: usize, page: usize) {
    let word = |at: usize| block.start().wrapping_add(at).cast::<u64>();
    // Whole pages past the tag at the front; the last one is left to the tag at the end.
    let mut at = old.next_multiple_of(page).max(page);
    while at + 16 <= block.len() {
        // SAFETY: the word lies inside the block; malloc aligns it, `page` being a multiple of a word.
        unsafe { word(at).write_volatile(at as u64) };
        at += page;
    }
    // At most 64 reads, spread over what the block held before it grew.
    let mut at = page;
    while at + 16 <= old {
        // SAFETY: as above; the word was written when the block grew past it.
        if unsafe { word(at).read_volatile() } != at as u64 {
            eprintln!("workloads: realloc lost the contents of a block at byte {at} of {}", block.len());
            std::process::abort();
        }
        at += (old / 64).next_multiple_of(page).max(page);
    }
}
