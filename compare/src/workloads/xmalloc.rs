//! *xmalloc*: half the threads produce batches of blocks, the other half free them. Nothing is freed where it was
//! allocated. The number of batches under way is bounded.

use std::sync::{Condvar, Mutex};

use crate::harness::{Block, Job, Outcome, Random, Table, together};

const BATCH: usize = 1_000;
/// Batches under way per pair of threads.
const BATCHES: usize = 4;
const SIZES: [usize; 11] = [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512];

struct Batch {
    blocks: Table<Block>,
    len: usize,
}

/// Where batches wait. Its room is made beforehand.
struct Depot {
    batches: Mutex<(Vec<Batch>, usize)>,
    arrived: Condvar,
}

impl Depot {
    fn new(room: usize, producers: usize) -> Depot {
        Depot { batches: Mutex::new((Vec::with_capacity(room), producers)), arrived: Condvar::new() }
    }

    fn put(&self, batch: Batch) {
        self.batches.lock().expect("no holder panics").0.push(batch);
        self.arrived.notify_one();
    }

    /// One of those who put batches here will put no more.
    fn one_done(&self) {
        self.batches.lock().expect("no holder panics").1 -= 1;
        self.arrived.notify_all();
    }

    /// A batch, or nothing once there is none and none will come.
    fn take(&self) -> Option<Batch> {
        let mut batches = self.batches.lock().expect("no holder panics");
        loop {
            if let Some(batch) = batches.0.pop() {
                return Some(batch);
            }
            if batches.1 == 0 {
                return None;
            }
            batches = self.arrived.wait(batches).expect("no holder panics");
        }
    }
}

pub fn run(job: &Job) -> Outcome {
    let pairs = (job.threads / 2).max(1);
    let full = Depot::new(pairs * BATCHES, pairs);
    let empty = Depot::new(pairs * BATCHES, pairs);
    for _ in 0..pairs * BATCHES {
        empty.put(Batch { blocks: Table::new(BATCH), len: 0 });
    }
    let outcome = together(2 * pairs, |index| {
        if index < pairs { produce(job, index, pairs, &full, &empty) } else { consume(&full, &empty) }
    });
    Outcome { ops: outcome.ops, ..outcome }
}

fn produce(job: &Job, index: usize, pairs: usize, full: &Depot, empty: &Depot) -> u64 {
    let mut random: Random = job.random(index);
    let mut quota = job.share(index, pairs);
    loop {
        let granted = quota.take(BATCH as u64) as usize;
        if granted == 0 {
            full.one_done();
            return 0;
        }
        let mut batch = empty.take().expect("consumers give every batch back");
        for slot in &mut batch.blocks[..granted] {
            *slot = Block::new(SIZES[random.below(SIZES.len())], &mut random);
        }
        batch.len = granted;
        full.put(batch);
    }
}

fn consume(full: &Depot, empty: &Depot) -> u64 {
    let mut freed = 0;
    while let Some(mut batch) = full.take() {
        Block::free_all(&mut batch.blocks[..batch.len]);
        freed += batch.len as u64;
        empty.put(batch);
    }
    freed
}
