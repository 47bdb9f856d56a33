//! The workloads: one file per family, each plain `malloc`, `calloc`, `realloc` and `free` through libc, so that any
//! allocator is swapped in from outside. Every block is verified when it is freed.
//!
//! May import `harness` only. No parameter here was chosen after looking at a result.

mod address_space;
mod bleed;
mod cache;
mod churn;
mod cycles;
mod ebizzy;
mod faults;
mod fill_drain;
mod fork_exec;
mod grow;
mod huge;
mod larson;
mod lookup;
mod mstress;
mod queue;
mod random_order;
mod reclaim;
mod rptest;
mod sh;
mod single;
mod storm;
pub mod trace;
mod xmalloc;

pub use bleed::age;

use crate::harness::{Job, Outcome};

/// A workload: its name, what one operation is, and how much of it makes a run.
pub struct Workload {
    /// The name on the command line and in tables.
    pub name: &'static str,
    /// What it does, and what one operation is.
    pub about: &'static str,
    /// Operations of a full run, all threads together: about a second on a small machine.
    pub ops: u64,
    /// Operations of a quick run.
    pub quick_ops: u64,
    /// Whether more than one thread makes sense.
    pub threaded: bool,
    /// Carries it out.
    pub run: fn(&Job) -> Outcome,
}

/// Every workload, in the order of the tables.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "larson",
        about: "server: random replacement in tables that are handed to new threads; op = one replacement",
        ops: 20_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: larson::run,
    },
    Workload {
        name: "xmalloc",
        about: "producers allocate batches, consumers free them (at least one pair); op = one block",
        ops: 20_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: xmalloc::run,
    },
    Workload {
        name: "mstress",
        about: "linked objects of mixed sizes and lifetimes, exchanged, threads restarted each round; op = one step",
        ops: 6_000_000,
        quick_ops: 600_000,
        threaded: true,
        run: mstress::run,
    },
    Workload {
        name: "sh6",
        about: "batches of sizes 1 to 1,000 freed last in first out, in order, interleaved; op = one block",
        ops: 20_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: sh::run_own,
    },
    Workload {
        name: "sh8",
        about: "the batches of sh6, each freed by the next thread; op = one block",
        ops: 20_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: sh::run_crossed,
    },
    Workload {
        name: "rptest",
        about: "random sizes up to 100 KiB, one free in ten in another thread; op = one replacement",
        ops: 6_000_000,
        quick_ops: 600_000,
        threaded: true,
        run: rptest::run,
    },
    Workload {
        name: "alloc-test",
        about: "a random one of a million slots: free what is there, allocate a random size; op = one slot",
        ops: 10_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: random_order::run_slots,
    },
    Workload {
        name: "alloc-100k",
        about: "100,000 blocks of 16 to 256 bytes, freed in random order; op = one block",
        ops: 20_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: random_order::run_100k,
    },
    Workload {
        name: "cache-scratch",
        about: "neighbouring 8-byte blocks given to threads that free them, allocate and write; op = one write",
        ops: 2_000_000_000,
        quick_ops: 200_000_000,
        threaded: true,
        run: cache::run_scratch,
    },
    Workload {
        name: "cache-thrash",
        about: "threads allocate 8-byte blocks at the same time and write them; op = one write",
        ops: 2_000_000_000,
        quick_ops: 200_000_000,
        threaded: true,
        run: cache::run_thrash,
    },
    Workload {
        name: "glibc-simple",
        about: "lists of 25 to 1,600 blocks of 16 to 512 bytes, filled and drained; op = one block",
        ops: 20_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: fill_drain::run_simple,
    },
    Workload {
        name: "glibc-thread",
        about: "1,024 blocks of 4 to 32,768 bytes, mostly small, one random one replaced; op = one replacement",
        ops: 20_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: fill_drain::run_thread,
    },
    Workload {
        name: "large",
        about: "blocks of 5 to 25 MiB, touched, replaced at random in a table of 20; op = one block",
        ops: 1_000,
        quick_ops: 200,
        threaded: true,
        run: huge::run_large,
    },
    Workload {
        name: "grow",
        about: "realloc doubling from 64 bytes to 1 GiB, and by 1 MiB with neighbours in between; op = one realloc",
        ops: 500,
        quick_ops: 200,
        threaded: true,
        run: grow::run,
    },
    Workload {
        name: "churn",
        about: "short threads that allocate a little; op = one thread",
        ops: 10_000,
        quick_ops: 3_200,
        threaded: true,
        run: churn::run,
    },
    Workload {
        name: "bleed",
        about: "mixed blocks built up, a random 90 % freed, then idle; op = one MiB built up",
        ops: 1_024,
        quick_ops: 256,
        threaded: true,
        run: bleed::run,
    },
    Workload {
        name: "queue-oldest",
        about: "the oldest of 16 to 65,536 live blocks of 16 bytes to 256 KiB replaced; op = one replacement",
        ops: 10_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: queue::run_oldest,
    },
    Workload {
        name: "queue-newest",
        about: "the same, the newest replaced",
        ops: 10_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: queue::run_newest,
    },
    Workload {
        name: "queue-random",
        about: "the same, a random one replaced",
        ops: 10_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: queue::run_random,
    },
    Workload {
        name: "queue-period",
        about: "the same, the last of each thirteen first",
        ops: 10_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: queue::run_period,
    },
    Workload {
        name: "reclaim",
        about: "a lock-free map whose removed nodes are freed by the thousand after an epoch; op = one \
                replacement",
        ops: 5_000_000,
        quick_ops: 500_000,
        threaded: true,
        run: reclaim::run,
    },
    Workload {
        name: "cycles",
        about: "64 MiB of mixed blocks built up and torn down again and again; op = one block",
        ops: 5_000_000,
        quick_ops: 1_000_000,
        threaded: true,
        run: cycles::run,
    },
    Workload {
        name: "trace",
        about: "the recorded malloc calls of a program replayed, a copy per thread (--file); op = one call",
        ops: 10_000_000,
        quick_ops: 1_000_000,
        threaded: true,
        run: trace::run,
    },
    Workload {
        name: "page_fault1",
        about: "128 MiB allocated, one byte written per page, freed; op = one page",
        ops: 1_000_000,
        quick_ops: 131_072,
        threaded: true,
        run: address_space::run_page_fault,
    },
    Workload {
        name: "mmap1",
        about: "128 MiB allocated and freed untouched; op = one block",
        ops: 200_000,
        quick_ops: 20_000,
        threaded: true,
        run: address_space::run_untouched,
    },
    Workload {
        name: "malloc1",
        about: "128 MiB allocated, written at both ends, freed; op = one block",
        ops: 100_000,
        quick_ops: 10_000,
        threaded: true,
        run: address_space::run_128_mib,
    },
    Workload {
        name: "malloc2",
        about: "1 KiB allocated, written at both ends, freed; op = one block",
        ops: 50_000_000,
        quick_ops: 5_000_000,
        threaded: true,
        run: address_space::run_1_kib,
    },
    Workload {
        name: "lone",
        about: "one 64-byte block allocated and freed again and again; op = one pair (--empty: without the calls)",
        ops: 50_000_000,
        quick_ops: 5_000_000,
        threaded: false,
        run: single::run_lone,
    },
    Workload {
        name: "replace",
        about: "a random one of 256 blocks of 16 to 1,000 bytes replaced; op = one pair (--empty: without the calls)",
        ops: 50_000_000,
        quick_ops: 5_000_000,
        threaded: false,
        run: single::run_replace,
    },
    Workload {
        name: "parallel-init",
        about: "all threads together touch one huge block for the first time; op = one page",
        ops: 1_000_000,
        quick_ops: 131_072,
        threaded: true,
        run: address_space::run_parallel_init,
    },
    Workload {
        name: "fault-split",
        about: "each thread touches 2 MiB of its own and gives them back, in step; op = one page",
        ops: 500_000,
        quick_ops: 65_536,
        threaded: true,
        run: faults::run_split,
    },
    Workload {
        name: "fault-all",
        about: "the same in one shared block, all of it given back by one thread; op = one page",
        ops: 500_000,
        quick_ops: 65_536,
        threaded: true,
        run: faults::run_all,
    },
    Workload {
        name: "fault-fork",
        about: "as fault-all, with a fork before the pages go; op = one page",
        ops: 250_000,
        quick_ops: 32_768,
        threaded: true,
        run: faults::run_fork,
    },
    Workload {
        name: "spf",
        about: "threads that each allocate 30 regions, touch 30 pages of each, and end; op = one region",
        ops: 12_000,
        quick_ops: 1_800,
        threaded: true,
        run: faults::run_spf,
    },
    Workload {
        name: "spf-small",
        about: "the same with 2 regions and 10 pages of each",
        ops: 12_000,
        quick_ops: 1_800,
        threaded: true,
        run: faults::run_spf_small,
    },
    Workload {
        name: "ebizzy",
        about: "a chunk copied into a fresh buffer and searched; op = one search",
        ops: 50_000,
        quick_ops: 10_000,
        threaded: true,
        run: ebizzy::run_quiet,
    },
    Workload {
        name: "ebizzy-mapped",
        about: "the same beside a thread that allocates, touches and frees huge blocks; op = one search",
        ops: 20_000,
        quick_ops: 5_000,
        threaded: true,
        run: ebizzy::run_mapped,
    },
    Workload {
        name: "lookup",
        about: "malloc_usable_size of random live blocks beside a thread that allocates, touches and frees \
                huge ones; op = one question",
        ops: 20_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: ebizzy::run_lookup,
    },
    Workload {
        name: "unmap-storm",
        about: "half the threads allocate, touch and free huge blocks, the others replace small ones, each call timed \
                (--calm: without the storm); op = one replacement",
        ops: 5_000_000,
        quick_ops: 500_000,
        threaded: true,
        run: storm::run,
    },
    Workload {
        name: "storm-larson",
        about: "small blocks replaced, each call timed, beside 25,000 regions a second that are mapped and unmapped (--raw: by \
                the system's calls); op = one replacement",
        ops: 5_000_000,
        quick_ops: 500_000,
        threaded: true,
        run: storm::run_larson,
    },
    Workload {
        name: "storm-lookup",
        about: "malloc_usable_size of random live blocks beside the same; op = one question",
        ops: 20_000_000,
        quick_ops: 2_000_000,
        threaded: true,
        run: storm::run_lookup,
    },
    Workload {
        name: "lookup-arenas",
        about: "specmalloc's index asked which of 64 arenas an address lies in, beside a thread that maps and unmaps regions \
                (--calm: without; --tree: a tree under a lock instead); op = one question",
        ops: 200_000_000,
        quick_ops: 20_000_000,
        threaded: true,
        run: lookup::run,
    },
    Workload {
        name: "fork-exec",
        about: "programs started by a process of busy threads and 1 GiB of heap; op = one fork",
        ops: 1_200,
        quick_ops: 64,
        threaded: true,
        run: fork_exec::run,
    },
];

/// Those that can do without an allocator, for the limit of what one could reach (`--limit`).
pub const LIMITED: &[&str] = &[
    "page_fault1",
    "mmap1",
    "malloc1",
    "parallel-init",
    "fault-split",
    "fault-all",
    "fault-fork",
    "spf",
    "spf-small",
    "ebizzy",
    "ebizzy-mapped",
    "lookup-arenas",
];

/// The workload of that name.
pub fn find(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}
