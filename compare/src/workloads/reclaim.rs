//! *reclaim*: a lock-free map whose removed nodes are freed in batches, once an epoch has ended. Each thread replaces
//! nodes at random keys and reads others; a removed node may be read still, so it joins its remover's batch, and a full
//! batch is handed to crossbeam-epoch, which frees it when no reader is left. So thousands of blocks are freed at once,
//! nearly all of them in another thread than they were born in.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use crossbeam_epoch as epoch;

use crate::harness::{Job, Node, Outcome, Random, together};

const KEYS: usize = 16_384;
/// Removed nodes that are freed together.
const BATCH: usize = 1_000;
/// Reads beside each replacement.
const READS: usize = 2;
/// Operations under one guard.
const PINNED: u64 = 50;

/// Nodes that were removed, linked by their removal.
struct Batch {
    first: *mut Node,
    count: usize,
}

// SAFETY: the batch alone holds its nodes for freeing, and any thread may free them.
unsafe impl Send for Batch {}

impl Batch {
    const EMPTY: Batch = Batch { first: null_mut(), count: 0 };

    fn take(&mut self) -> Batch {
        std::mem::replace(self, Batch::EMPTY)
    }

    /// # Safety
    /// The caller alone holds the nodes, and no other thread reads them.
    unsafe fn free(self) -> u64 {
        // SAFETY: as the caller promises.
        unsafe { Node::free_list(self.first) }
    }
}

pub fn run(job: &Job) -> Outcome {
    // A node carries its key's sizes only; which thread it belongs to changes with each replacement.
    let map: Vec<AtomicPtr<Node>> = (0..KEYS).map(|_| AtomicPtr::new(null_mut())).collect();
    let outcome = together(job.threads, |index| {
        let (mut quota, mut random) = (job.share(index, job.threads), job.random(index));
        let mut batch = Batch::EMPTY;
        let mut done = 0;
        loop {
            let granted = quota.take(PINNED);
            if granted == 0 {
                break;
            }
            let guard = epoch::pin();
            for _ in 0..granted {
                replace(&map, &mut batch, &mut random);
                (0..READS).for_each(|_| read(&map[random.below(KEYS)]));
            }
            if batch.count >= BATCH {
                let full = batch.take();
                // SAFETY: the nodes were unlinked from the map, so those who pin from now on do not meet them, and
                // the closure runs when those who had pinned before are gone.
                unsafe { guard.defer_unchecked(move || full.free()) };
                guard.flush();
            }
            done += granted;
        }
        let guard = epoch::pin();
        let rest = batch.take();
        // SAFETY: as above.
        unsafe { guard.defer_unchecked(move || rest.free()) };
        guard.flush();
        done
    });
    for place in &map {
        // Relaxed: the threads were joined. SAFETY: what is still in the map has no other holder.
        unsafe { Node::free_list(place.swap(null_mut(), Ordering::Relaxed)) };
    }
    outcome
}

fn replace(map: &[AtomicPtr<Node>], batch: &mut Batch, random: &mut Random) {
    let node = Node::new(random.log_uniform(16, 512).max(Node::MIN_LEN), null_mut(), random);
    // Release: the node's contents go with the pointer to `read`. Acquire: those of the one before come to us.
    let old = map[random.below(KEYS)].swap(node, Ordering::AcqRel);
    if !old.is_null() {
        // SAFETY: the swap made this thread the only one to unlink it; readers look at its tags, not at its link.
        unsafe { Node::set_next(old, batch.first) };
        batch.first = old;
        batch.count += 1;
    }
}

fn read(place: &AtomicPtr<Node>) {
    // Acquire: pairs with the swap in `replace`.
    let node = place.load(Ordering::Acquire);
    // SAFETY: the guard is held, so a node met in the map is not freed yet.
    assert!(node.is_null() || unsafe { Node::is_intact(node) }, "a node's contents changed");
}
