//! *lone* and *replace*: one thread, the fewest instructions around malloc and free. Each has an empty twin that does
//! everything but the two calls; run both under callgrind, and the difference divided by the number of operations is
//! what malloc and free cost together.

use std::hint::black_box;
use std::time::Instant;

use crate::harness::{Job, Outcome, Random};

const LONE_LEN: usize = 64;
const LIVE: usize = 256;
const SIZES: (usize, usize) = (16, 1_000);

/// The two calls, or nothing.
trait Calls {
    fn allocate(&mut self, len: usize) -> *mut u8;
    fn release(&mut self, block: *mut u8);
}

struct Real;

impl Calls for Real {
    #[inline(always)]
    fn allocate(&mut self, len: usize) -> *mut u8 {
        // SAFETY: malloc takes any size.
        unsafe { libc::malloc(len).cast() }
    }

    #[inline(always)]
    fn release(&mut self, block: *mut u8) {
        // SAFETY: the callers release what `allocate` answered, once.
        unsafe { libc::free(block.cast()) }
    }
}

/// One buffer as large as the largest block, handed out each time.
struct Empty([u64; SIZES.1 / 8]);

impl Calls for Empty {
    #[inline(always)]
    fn allocate(&mut self, len: usize) -> *mut u8 {
        black_box(len);
        self.0.as_mut_ptr().cast()
    }

    #[inline(always)]
    fn release(&mut self, block: *mut u8) {
        black_box(block);
    }
}

pub fn run_lone(job: &Job) -> Outcome {
    if job.flags.empty { lone(job, Empty([0; _])) } else { lone(job, Real) }
}

pub fn run_replace(job: &Job) -> Outcome {
    if job.flags.empty { replace::<_, false>(job, Empty([0; _])) } else { replace::<_, true>(job, Real) }
}

fn lone(job: &Job, mut calls: impl Calls) -> Outcome {
    let mut quota = job.share(0, 1);
    let mut done = 0;
    let start = Instant::now();
    loop {
        let granted = quota.take(10_000);
        if granted == 0 {
            return Outcome { ops: done, elapsed: start.elapsed(), extras: Vec::new() };
        }
        for tag in done..done + granted {
            let block = black_box(calls.allocate(black_box(LONE_LEN))).cast::<u64>();
            // SAFETY: 64 bytes, aligned by malloc.
            let changed = unsafe {
                block.write_volatile(tag);
                block.add(7).write_volatile(tag);
                block.read_volatile() != tag
            };
            assert!(!changed && !block.is_null(), "the block's contents changed");
            calls.release(block.cast());
        }
        done += granted;
    }
}

/// With `CHECK` the first word of a block is compared with the number of its slot when it is released.
fn replace<C: Calls, const CHECK: bool>(job: &Job, mut calls: C) -> Outcome {
    let mut quota = job.share(0, 1);
    let mut random = job.random(0);
    let mut live = [std::ptr::null_mut::<u8>(); LIVE];
    for (slot, block) in live.iter_mut().enumerate() {
        *block = allocate(&mut calls, slot, &mut random);
    }
    let mut done = 0;
    let start = Instant::now();
    loop {
        let granted = quota.take(10_000);
        if granted == 0 {
            break;
        }
        for _ in 0..granted {
            let slot = random.below(LIVE);
            release(&mut calls, slot, live[slot], CHECK);
            live[slot] = allocate(&mut calls, slot, &mut random);
        }
        done += granted;
    }
    let elapsed = start.elapsed();
    live.iter().enumerate().for_each(|(slot, &block)| release(&mut calls, slot, block, CHECK));
    Outcome { ops: done, elapsed, extras: Vec::new() }
}

#[inline(always)]
fn allocate(calls: &mut impl Calls, slot: usize, random: &mut Random) -> *mut u8 {
    let block = black_box(calls.allocate(random.uniform(SIZES.0, SIZES.1)));
    // SAFETY: at least 16 bytes, aligned by malloc.
    unsafe { block.cast::<u64>().write_volatile(slot as u64) };
    block
}

#[inline(always)]
fn release(calls: &mut impl Calls, slot: usize, block: *mut u8, check: bool) {
    // SAFETY: the block is live, and `allocate` wrote its first word.
    let found = unsafe { block.cast::<u64>().read_volatile() };
    assert!(!check || found == slot as u64, "the block's contents changed");
    calls.release(block);
}
