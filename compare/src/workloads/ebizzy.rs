//! *ebizzy*: a web server's search. Pick a chunk, allocate a buffer, copy the chunk, search it, free the buffer. With
//! `--limit` it is always the same buffer. With `ebizzy-mapped` one more thread allocates, touches and frees huge blocks
//! meanwhile.
//!
//! *lookup*: how large a random one of many live blocks is, asked again and again (`malloc_usable_size`), while one
//! thread allocates and frees huge blocks: does finding a block wait for those who map?

use crate::harness::{Block, Job, Outcome, Table, beside, page_size, together};

const CHUNKS: usize = 10;
/// Bytes of the largest chunk; the others are smaller.
const CHUNK: usize = 256 << 10;
const LOOKED_UP: usize = 20_000;
const HUGE: usize = 8 << 20;

pub fn run_quiet(job: &Job) -> Outcome {
    together(job.threads, |index| search(job, index))
}

pub fn run_mapped(job: &Job) -> Outcome {
    beside_a_mapper(job, |index| search(job, index))
}

fn search(job: &Job, index: usize) -> u64 {
    let (mut quota, mut random) = (job.share(index, job.threads), job.random(index));
    let chunks: Table<u64> = Table::new(CHUNK / 8);
    let mut own: Table<u64> = Table::new(CHUNK / 8 + 1);
    let mut done = 0;
    while quota.take(1) == 1 {
        let words = random.uniform(1, CHUNKS) * CHUNK / CHUNKS / 8;
        let mut buffer = Block::NONE;
        let start = if job.flags.limit {
            own.as_mut_ptr()
        } else {
            buffer = Block::new(words * 8 + 8, &mut random);
            buffer.start().cast()
        };
        // SAFETY: the buffer has so many words and eight bytes more, of which four at each end are a block's tags. It is
        // aligned for words, for malloc aligns every block of this size, and nobody else has it.
        let found = unsafe {
            let copy = std::slice::from_raw_parts_mut(start.add(1), words - 1);
            copy.copy_from_slice(&chunks[1..words]);
            copy.binary_search(&1)
        };
        assert!(found.is_err(), "the chunks are zero");
        buffer.free();
        done += 1;
    }
    done
}

pub fn run_lookup(job: &Job) -> Outcome {
    beside_a_mapper(job, |index| look_up(job, index, job.threads))
}

/// What one of so many `threads` that look up does.
pub fn look_up(job: &Job, index: usize, threads: usize) -> u64 {
    let mut random = job.random(index);
    let mut blocks: Table<Block> = Table::new(LOOKED_UP);
    for slot in blocks.iter_mut() {
        *slot = Block::new(random.log_uniform(16, 8_192), &mut random);
    }
    let done = job.share(index, threads).each(|| {
        let block = &blocks[random.below(LOOKED_UP)];
        // SAFETY: the block is live.
        let usable = unsafe { libc::malloc_usable_size(block.start().cast()) };
        assert!(usable >= block.len(), "{usable} of {} bytes are usable", block.len());
    });
    Block::free_all(&mut blocks);
    done
}

/// Runs `body` on the job's threads while one more allocates, touches and frees huge blocks.
fn beside_a_mapper(job: &Job, body: impl Fn(usize) -> u64 + Sync) -> Outcome {
    let page = page_size();
    beside(
        [job.threads, 1],
        body,
        |index| job.random(index),
        |random| {
            let mut block = Block::new(random.uniform(HUGE / 8, HUGE), random);
            block.touch(page);
            block.free();
        },
    )
}
