//! *mstress*: threads allocate short lists of linked objects of mixed sizes, keep some for a while, some across
//! rounds, and exchange some with other threads through an atomic table. All threads are joined and started anew each
//! round.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::Instant;

use crate::harness::{Job, Node, Outcome, Quota, Random, Table};

/// Steps of one thread in one round.
const ROUND: u64 = 20_000;
/// Lists that a thread holds within a round, and across rounds.
const LOCAL: usize = 1_000;
const KEPT: usize = 500;
/// Places of exchange.
const SHARED: usize = 256;

/// What one thread has, and its successor of the next round takes over.
struct State {
    local: Table<*mut Node>,
    kept: Table<*mut Node>,
    quota: Quota,
    random: Random,
}

// SAFETY: the lists are held by one thread at a time, and any thread may free them.
unsafe impl Send for State {}

pub fn run(job: &Job) -> Outcome {
    let shared: Vec<AtomicPtr<Node>> = (0..SHARED).map(|_| AtomicPtr::new(null_mut())).collect();
    let mut states: Vec<State> = (0..job.threads)
        .map(|index| State {
            local: Table::new(LOCAL),
            kept: Table::new(KEPT),
            quota: job.share(index, job.threads),
            random: job.random(index),
        })
        .collect();
    let total = AtomicU64::new(0);
    let start = Instant::now();
    loop {
        let before = total.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            for state in &mut states {
                // Relaxed: a sum, read after the join.
                scope.spawn(|| total.fetch_add(round(state, &shared), Ordering::Relaxed));
            }
        });
        if total.load(Ordering::Relaxed) == before {
            break;
        }
    }
    for state in &states {
        // SAFETY: the threads are gone; each list has one holder.
        state.kept.iter().for_each(|&list| _ = unsafe { Node::free_list(list) });
    }
    for place in &shared {
        // Relaxed: the threads were joined. SAFETY: each list has one holder.
        unsafe { Node::free_list(place.swap(null_mut(), Ordering::Relaxed)) };
    }
    Outcome { ops: total.into_inner(), elapsed: start.elapsed(), extras: Vec::new() }
}

fn round(state: &mut State, shared: &[AtomicPtr<Node>]) -> u64 {
    let steps = state.quota.take(ROUND);
    let random = &mut state.random;
    for _ in 0..steps {
        let slot = random.below(LOCAL);
        match random.below(100) {
            0..50 => replace(&mut state.local[slot], new_list(random)),
            50..75 => {
                // Acquire and Release: the pointer carries its list to whoever swaps it out at this place.
                let place = &shared[random.below(SHARED)];
                state.local[slot] = place.swap(state.local[slot], Ordering::AcqRel);
            }
            75..90 => replace(&mut state.local[slot], null_mut()),
            _ => {
                let list = std::mem::replace(&mut state.local[slot], null_mut());
                replace(&mut state.kept[random.below(KEPT)], list);
            }
        }
    }
    for slot in state.local.iter_mut() {
        replace(slot, null_mut());
    }
    steps
}

fn replace(slot: &mut *mut Node, list: *mut Node) {
    // SAFETY: the slot alone holds its list.
    unsafe { Node::free_list(std::mem::replace(slot, list)) };
}

/// One to four linked objects, most of them small.
fn new_list(random: &mut Random) -> *mut Node {
    let mut list = null_mut();
    for _ in 0..=random.below(4) {
        let len = match random.below(10_000) {
            0..2 => random.log_uniform(64 << 10, 1 << 20),
            2..200 => random.log_uniform(1 << 10, 64 << 10),
            _ => random.log_uniform(16, 1 << 10),
        };
        list = Node::new(len.max(Node::MIN_LEN), list, random);
    }
    list
}
