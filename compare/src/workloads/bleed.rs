//! *bleed*: build up mixed blocks, free a random nine in ten, stand still. How much stays resident, second by second?

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::harness::{Block, Job, Outcome, Random, Table, Work, page_size, resident_kib, together};

const MIB: u64 = 1 << 20;
/// The mean of `log_uniform(16, 8192)`, rounded down: how many blocks the table needs to have room for.
const MEAN_LEN: u64 = 1_300;

pub fn run(job: &Job) -> Outcome {
    let Work::Ops(mib) = job.work else { panic!("bleed is measured by its amount, not by time") };
    let share = mib * MIB / job.threads as u64;
    let survivors = Mutex::new(Vec::with_capacity(job.threads));
    let mut outcome = together(job.threads, |index| {
        let (blocks, bytes) = scatter(share, &mut job.random(index));
        survivors.lock().expect("no holder panics").push(blocks);
        bytes / MIB
    });
    let mut survivors: Vec<Table<Block>> = survivors.into_inner().expect("no holder panics");
    let live: usize = survivors.iter().flat_map(|blocks| blocks.iter()).map(Block::len).sum();
    outcome.extras.push(("live_mib", (live >> 20) as f64));
    let idle = Instant::now();
    for (name, second) in [("rss_0s_mib", 0), ("rss_1s_mib", 1), ("rss_5s_mib", 5), ("rss_10s_mib", 10)] {
        if second <= job.flags.idle {
            std::thread::sleep(Duration::from_secs(second).saturating_sub(idle.elapsed()));
            outcome.extras.push((name, (resident_kib() / 1024) as f64));
        }
    }
    survivors.iter_mut().for_each(|blocks| Block::free_all(blocks));
    outcome
}

/// Allocates `share` bytes in mixed blocks and frees a random nine in ten, in an order unlike that of their birth.
/// Answers the rest, and the bytes that were allocated.
fn scatter(share: u64, random: &mut Random) -> (Table<Block>, u64) {
    let page = page_size();
    let mut blocks: Table<Block> = Table::new((2 * share / MEAN_LEN) as usize + 16);
    let (mut count, mut bytes) = (0, 0);
    while bytes < share && count < blocks.len() {
        let mut block = Block::new(random.log_uniform(16, 8_192), random);
        block.touch(page);
        bytes += block.len() as u64;
        blocks[count] = block;
        count += 1;
    }
    random.shuffle(&mut blocks[..count]);
    let kept = count / 10;
    Block::free_all(&mut blocks[kept..count]);
    (blocks, bytes)
}

/// Ages the heap as a long life would, before a workload begins. What is left stays for good.
pub fn age(mib: u64, seed: u64) {
    std::mem::forget(scatter(mib * MIB, &mut Random::new(seed)));
}
