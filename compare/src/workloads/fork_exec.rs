//! *fork-exec*: a process of busy threads and a large heap starts one program after the other. How long is each fork, for
//! the thread that forks? The threads pause between their turns at the allocator, so that they are many, all in the
//! middle of something, and leave it a processor.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Block, Job, Outcome, Random, Table, Work, page_size, thread_time};

const MIB: usize = 1 << 20;
/// The heap, in MiB for each of the first so many forks: a whole run has 1 GiB.
const MIB_A_FORK: usize = 16;
const LARGEST: usize = 8_192;
/// Small blocks that a busy thread replaces.
const TABLE: usize = 500;
/// Of a busy thread: replacements in a row, and how long it sleeps then.
const TURN: usize = 50;
const PAUSE: Duration = Duration::from_millis(2);

pub fn run(job: &Job) -> Outcome {
    let mut random = job.random(job.threads);
    // Of how many forks there is room to note the time; with a time limit nobody knows how many it will be.
    let most = match job.work {
        Work::Ops(forks) => forks as usize,
        Work::Seconds(_) => 1 << 16,
    };
    let mut heap = build(MIB_A_FORK * most.min(1_024 / MIB_A_FORK) * MIB, &mut random);
    let (over, barrier) = (AtomicBool::new(false), Barrier::new(job.threads + 1));
    let mut times: [Table<u64>; 2] = [Table::new(most.max(1)), Table::new(most.max(1))];
    let (forks, elapsed) = std::thread::scope(|scope| {
        for index in 0..job.threads {
            let (over, barrier) = (&over, &barrier);
            scope.spawn(move || {
                barrier.wait();
                replace(over, job.random(index));
            });
        }
        barrier.wait();
        let start = Instant::now();
        let (mut quota, mut forks) = (job.share(0, 1), 0);
        while forks < most && quota.take(1) == 1 {
            let taken = fork_and_wait().map(|time| time.as_nanos() as u64);
            times.iter_mut().zip(taken).for_each(|(times, time)| times[forks] = time);
            forks += 1;
        }
        // Relaxed: only tells the others to stop.
        over.store(true, Ordering::Relaxed);
        (forks, start.elapsed())
    });
    Block::free_all(&mut heap);
    times.iter_mut().for_each(|times| times[..forks].sort_unstable());
    let at = |times: &Table<u64>, share: f64| {
        let place = (forks as f64 * share).ceil() as usize;
        (times[place.max(1) - 1] / 1_000) as f64
    };
    let extras = vec![
        ("fork_p50_us", at(&times[0], 0.5)),
        ("fork_p99_us", at(&times[0], 0.99)),
        ("fork_cpu_p50_us", at(&times[1], 0.5)),
        ("fork_cpu_p99_us", at(&times[1], 0.99)),
    ];
    Outcome { ops: forks as u64, elapsed, extras }
}

fn build(bytes: usize, random: &mut Random) -> Table<Block> {
    let mut heap: Table<Block> = Table::new(2 * bytes / LARGEST);
    for slot in heap.iter_mut() {
        *slot = Block::new(random.uniform(16, LARGEST), random);
        slot.touch(page_size());
    }
    heap
}

fn replace(over: &AtomicBool, mut random: Random) {
    let mut table: Table<Block> = Table::new(TABLE);
    // Relaxed: the loop may run once more than needed.
    while !over.load(Ordering::Relaxed) {
        for _ in 0..TURN {
            let slot = random.below(TABLE);
            table[slot].take().free();
            table[slot] = Block::new(random.uniform(16, 1_000), &mut random);
        }
        std::thread::sleep(PAUSE);
    }
    Block::free_all(&mut table);
}

/// How long the fork took: by the clock, and of the thread's processor time.
fn fork_and_wait() -> [Duration; 2] {
    let program = c"/bin/true";
    let (arguments, environment) = ([program.as_ptr(), std::ptr::null()], [std::ptr::null()]);
    let (start, own) = (Instant::now(), thread_time());
    // SAFETY: the child makes one call that needs nothing of this process, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: text and arrays end as execve wants them to.
        unsafe {
            libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
            libc::_exit(127);
        }
    }
    let times = [start.elapsed(), thread_time() - own];
    let mut status = -1;
    // SAFETY: our child, and a number to be filled in.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert!(child > 0 && status == 0, "no program was started: {status:#x}");
    times
}
