//! *trace*: the malloc calls of a real program, recorded by thread, replayed. With more threads, so many copies of the
//! program at once. A block's size, its life and the thread of each call are as recorded; what the program did with its
//! memory meanwhile is not.
//!
//! Calls on one block happen in the recorded order, whichever threads they come from: a record says how many calls on
//! its slot come before it, and waits for them.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::harness::{Block, Job, Outcome, Quota, Random, Table, Zeroed, together};

/// What a record did.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u16)]
pub enum Call {
    /// malloc, or an aligned one.
    Malloc,
    /// calloc.
    Calloc,
    /// realloc of a live block.
    Realloc,
    /// free.
    Free,
}

/// One recorded call.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Record {
    /// Where the block is kept while it lives.
    pub slot: u32,
    /// How many calls on the slot come before this one.
    pub turn: u32,
    /// Bytes asked for.
    pub size: u32,
    /// The thread.
    pub thread: u16,
    /// The call, a [`Call`] as a number.
    pub call: u16,
}

/// Calls in their order, and how many threads and slots they need.
pub struct Trace {
    /// At least one.
    pub threads: usize,
    /// At least one.
    pub slots: usize,
    /// At least one.
    pub records: &'static [Record],
}

impl Trace {
    /// Checks what `file`'s bytes hold against its own header, so that a replay stays within bounds.
    pub fn new(records: &'static [Record]) -> Option<Trace> {
        let threads = records.iter().map(|record| record.thread as usize + 1).max()?;
        let slots = records.iter().map(|record| record.slot as usize + 1).max()?;
        records.iter().all(|record| record.call <= Call::Free as u16).then_some(Trace {
            threads,
            slots,
            records,
        })
    }

    /// Maps a file of records. The mapping stays for good.
    pub fn open(path: &str) -> Option<Trace> {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open(path).ok()?;
        let count = file.metadata().ok()?.len() as usize / size_of::<Record>();
        // SAFETY: a fresh mapping of a file that nobody changes while it is replayed; records are plain numbers.
        let records = unsafe {
            let start = libc::mmap(
                std::ptr::null_mut(),
                (count * size_of::<Record>()).max(1),
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_POPULATE,
                file.as_raw_fd(),
                0,
            );
            if start == libc::MAP_FAILED {
                return None;
            }
            std::slice::from_raw_parts(NonNull::new(start)?.cast::<Record>().as_ptr(), count)
        };
        Trace::new(records)
    }

    /// A small one that is made up: two threads that replace blocks, each sometimes the other's.
    fn made_up() -> Trace {
        let mut random = Random::new(77);
        let mut turns = [0; 64];
        let records: Vec<Record> = (0..10_000)
            .map(|_| {
                let slot = random.below(turns.len());
                let turn = turns[slot];
                turns[slot] += 1;
                let call =
                    [Call::Malloc, Call::Realloc, Call::Free, Call::Calloc, Call::Free][turn as usize % 5];
                let (size, thread) = (random.log_uniform(16, 4_096) as u32, random.below(2) as u16);
                Record { slot: slot as u32, turn, size, thread, call: call as u16 }
            })
            .collect();
        Trace::new(records.leak()).expect("has records")
    }
}

/// A block, and how many calls on it have been done.
struct Slot {
    turn: AtomicU32,
    block: UnsafeCell<Block>,
}

// SAFETY: a zero counter and no block.
unsafe impl Zeroed for Slot {}

// SAFETY: the block is touched only by the thread whose turn it is.
unsafe impl Sync for Slot {}

impl Slot {
    fn turn<T>(&self, turn: u32, call: impl FnOnce(&mut Block) -> T) -> T {
        let mut looks = 0;
        // Acquire: pairs with the store below of whoever came before.
        while self.turn.load(Ordering::Acquire) != turn {
            looks += 1;
            if looks % 64 == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        // SAFETY: it is this thread's turn, until it says so below.
        let answer = call(unsafe { &mut *self.block.get() });
        // Release: the block goes to whoever comes next.
        self.turn.store(turn + 1, Ordering::Release);
        answer
    }
}

/// One copy of the program.
struct Copy {
    slots: Table<Slot>,
    barrier: Barrier,
    /// How many records the threads replay in this pass.
    granted: AtomicU64,
}

/// Replays the file that the job names.
pub fn run(job: &Job) -> Outcome {
    let trace = match job.flags.file {
        None => Trace::made_up(),
        Some(path) => Trace::open(path).unwrap_or_else(|| {
            eprintln!("workloads: {path} is not a trace");
            std::process::exit(2);
        }),
    };
    let copies: Vec<Copy> = (0..job.threads)
        .map(|_| Copy {
            slots: Table::new(trace.slots),
            barrier: Barrier::new(trace.threads),
            granted: AtomicU64::new(0),
        })
        .collect();
    together(job.threads * trace.threads, |index| {
        let (copy, thread) = (index / trace.threads, index % trace.threads);
        let quota = (thread == 0).then(|| job.share(copy, job.threads));
        play(&trace, &copies[copy], thread, quota, job.random(index))
    })
}

/// The thread with the quota counts for its copy.
fn play(trace: &Trace, copy: &Copy, thread: usize, mut quota: Option<Quota>, mut random: Random) -> u64 {
    let mut done = 0;
    loop {
        if let Some(quota) = &mut quota {
            let granted = quota.take(trace.records.len() as u64);
            // Relaxed: the barrier orders it before the others' loads.
            copy.granted.store(granted, Ordering::Relaxed);
            done += granted;
        }
        copy.barrier.wait();
        // Relaxed: as above.
        let granted = copy.granted.load(Ordering::Relaxed) as usize;
        if granted == 0 {
            return done;
        }
        for record in &trace.records[..granted] {
            if record.thread as usize == thread {
                copy.slots[record.slot as usize]
                    .turn(record.turn, |block| replay(record, block, &mut random));
            }
        }
        copy.barrier.wait();
        // What the program left behind, and the turns, for the next pass.
        if quota.is_some() {
            for slot in copy.slots.iter() {
                // Relaxed: the barriers keep the other threads away.
                slot.turn.store(0, Ordering::Relaxed);
                slot.turn(0, |block| block.take().free());
                slot.turn.store(0, Ordering::Relaxed);
            }
        }
    }
}

fn replay(record: &Record, block: &mut Block, random: &mut Random) {
    let size = (record.size as usize).max(1);
    match record.call {
        call if call == Call::Free as u16 => block.take().free(),
        call if call == Call::Realloc as u16 && block.is_some() => block.resize(size, random),
        call => {
            // A recording that lost a free: the block before goes first.
            block.take().free();
            *block = if call == Call::Calloc as u16 {
                Block::zeroed(size, random)
            } else {
                Block::new(size, random)
            };
        }
    }
}
