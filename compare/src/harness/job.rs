//! What a workload is asked to do, how the work is divided among threads, and what it answers.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Block, Random, tails};

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// So many operations in all threads together: times can be compared.
    Ops(u64),
    /// As many as fit in so many seconds: rates can be compared.
    Seconds(f64),
}

/// Switches that only some workloads heed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// Do everything but the calls to malloc and free (`lone`, `replace`).
    pub empty: bool,
    /// Leave the disturbing threads out (`unmap-storm`, `lookup-arenas`).
    pub calm: bool,
    /// Without an allocator: what the system, or an array, makes of the same touches ([`Job::supply`]).
    pub limit: bool,
    /// Looked up in a tree under a lock (`lookup-arenas`).
    pub tree: bool,
    /// A storm of the system's calls instead of the allocator's (`storm-larson`, `storm-lookup`).
    pub raw: bool,
    /// Seconds to stand still at the end (`bleed`).
    pub idle: u64,
    /// What to replay (`trace`).
    pub file: Option<&'static str>,
}

/// One run of a workload.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Number of threads, at least one. A workload on one thread runs on the main thread, unless starting threads is
    /// its point.
    pub threads: usize,
    /// How much to do.
    pub work: Work,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Switches.
    pub flags: Flags,
}

impl Job {
    /// The share of thread `index` out of `shares`. For a time limit the clock starts now.
    pub fn share(&self, index: usize, shares: usize) -> Quota {
        match self.work {
            Work::Ops(ops) => {
                let (whole, rest) = (ops / shares as u64, ops % shares as u64);
                Quota { left: whole + u64::from((index as u64) < rest), deadline: None }
            }
            Work::Seconds(seconds) => {
                Quota { left: u64::MAX, deadline: Some(Instant::now() + Duration::from_secs_f64(seconds)) }
            }
        }
    }

    /// Where blocks are to come from.
    pub fn supply(&self) -> Supply {
        if self.flags.limit { Supply::System } else { Supply::Allocator }
    }

    /// A generator for thread `index`.
    pub fn random(&self, index: usize) -> Random {
        Random::new(self.seed.wrapping_add(index as u64 * 0x1000_0001))
    }
}

/// Where large blocks come from, and go to.
#[derive(Clone, Copy)]
pub enum Supply {
    /// malloc and free.
    Allocator,
    /// mmap and munmap, each block a mapping.
    System,
}

impl Supply {
    /// A block of `len` bytes.
    pub fn block(self, len: usize, random: &mut Random) -> Block {
        match self {
            Supply::Allocator => Block::new(len, random),
            Supply::System => Block::mapped(len, random),
        }
    }

    /// The end of a block that came from here.
    pub fn free(self, block: Block) {
        match self {
            Supply::Allocator => block.free(),
            Supply::System => block.unmap(),
        }
    }
}

/// What one thread has still to do.
pub struct Quota {
    left: u64,
    deadline: Option<Instant>,
}

impl Quota {
    /// Takes up to `want` operations off the quota. Zero means that the work is done.
    #[inline]
    pub fn take(&mut self, want: u64) -> u64 {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.left = 0;
        }
        let granted = want.min(self.left);
        if self.deadline.is_none() {
            self.left -= granted;
        }
        granted
    }

    /// Carries the whole quota out, `operation` by operation, with a look at the clock every thousand. Says how many.
    #[inline]
    pub fn each(mut self, mut operation: impl FnMut()) -> u64 {
        let mut done = 0;
        loop {
            let granted = self.take(1_000);
            if granted == 0 {
                return done;
            }
            (0..granted).for_each(|_| operation());
            done += granted;
        }
    }
}

/// What a workload did.
#[derive(Default)]
pub struct Outcome {
    /// Operations carried out; what one is, the workload says.
    pub ops: u64,
    /// Wall-clock time of the part that counts.
    pub elapsed: Duration,
    /// Further figures, each with its name and unit.
    pub extras: Vec<(&'static str, f64)>,
}

/// Runs `body(index)` on `threads` threads that start together and adds up the operations they answer. One thread is
/// the calling one, so that a single-threaded run happens in a single-threaded process.
pub fn together(threads: usize, body: impl Fn(usize) -> u64 + Sync) -> Outcome {
    if threads == 1 {
        let start = Instant::now();
        let ops = body(0);
        return Outcome { ops, elapsed: start.elapsed(), extras: Vec::new() };
    }
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|index| {
                let (barrier, body) = (&barrier, &body);
                scope.spawn(move || {
                    barrier.wait();
                    body(index)
                })
            })
            .collect();
        // The clock is read before the barrier opens: afterwards the workers may already be running.
        let start = Instant::now();
        barrier.wait();
        let ops = workers.into_iter().map(|worker| worker.join().expect("a worker panicked")).sum();
        Outcome { ops, elapsed: start.elapsed(), extras: Vec::new() }
    })
}

/// The same with `workers` threads whose operations count, beside `others` that call `disturb(index)` again and again for
/// as long as one of those is at work; their state is what `prepare(index)` answers. Their calls are not timed.
pub fn beside<S>(
    [workers, others]: [usize; 2],
    body: impl Fn(usize) -> u64 + Sync,
    prepare: impl Fn(usize) -> S + Sync,
    disturb: impl Fn(&mut S) + Sync,
) -> Outcome {
    let running = AtomicUsize::new(workers);
    together(workers + others, |index| {
        if index < workers {
            let done = body(index);
            // Relaxed: only tells the others to stop.
            running.fetch_sub(1, Ordering::Relaxed);
            return done;
        }
        tails::leave_out_this_thread();
        let mut state = prepare(index);
        // Relaxed: the loop may run once more than needed.
        while running.load(Ordering::Relaxed) > 0 {
            disturb(&mut state);
        }
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_work() {
        for (ops, threads) in [(10, 3), (1, 4), (1_000_003, 16)] {
            let job = Job { threads, work: Work::Ops(ops), seed: 1, flags: Flags::default() };
            let outcome = together(threads, |index| {
                let mut quota = job.share(index, threads);
                let mut done = 0;
                loop {
                    let granted = quota.take(100);
                    if granted == 0 {
                        break done;
                    }
                    done += granted;
                }
            });
            assert_eq!(outcome.ops, ops);
        }
    }

    #[test]
    fn a_time_limit_ends_the_work() {
        let job = Job { threads: 1, work: Work::Seconds(0.0), seed: 1, flags: Flags::default() };
        assert_eq!(job.share(0, 1).take(100), 0);
    }
}
