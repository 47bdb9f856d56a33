//! *rptest*: random sizes up to 100 KiB, small ones more often, replaced at random; one block in ten is sent to another
//! thread, which frees it.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::harness::{Job, Node, Outcome, Random, Table, together};

/// Blocks that one thread holds.
const HELD: usize = 1_000;
/// Replacements between two looks into the inbox.
const BETWEEN: u64 = 100;
const MAX_LEN: usize = 100 << 10;

/// Blocks that others sent, linked through their headers.
struct Inbox(AtomicPtr<Node>);

impl Inbox {
    fn send(&self, node: *mut Node) {
        // Relaxed: the value is only compared; the exchange below decides.
        let mut first = self.0.load(Ordering::Relaxed);
        loop {
            // SAFETY: the sender alone holds the node until the exchange succeeds.
            unsafe { Node::set_next(node, first) };
            // Release: the link and the block's contents go with the pointer to `empty`'s swap.
            match self.0.compare_exchange_weak(first, node, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    fn empty(&self) {
        // Acquire: pairs with the exchange in `send`.
        let list = self.0.swap(null_mut(), Ordering::Acquire);
        // SAFETY: the swap made this thread the only holder of the list.
        unsafe { Node::free_list(list) };
    }
}

pub fn run(job: &Job) -> Outcome {
    let inboxes: Vec<Inbox> = (0..job.threads).map(|_| Inbox(AtomicPtr::new(null_mut()))).collect();
    let outcome = together(job.threads, |index| {
        let (mut quota, mut random) = (job.share(index, job.threads), job.random(index));
        let mut held: Table<*mut Node> = Table::new(HELD);
        let mut done = 0;
        loop {
            let granted = quota.take(BETWEEN);
            if granted == 0 {
                break;
            }
            for _ in 0..granted {
                let slot = random.below(HELD);
                let old =
                    std::mem::replace(&mut held[slot], Node::new(len(&mut random), null_mut(), &mut random));
                if !old.is_null() && job.threads > 1 && random.below(10) == 0 {
                    let other = (index + 1 + random.below(job.threads - 1)) % job.threads;
                    inboxes[other].send(old);
                } else {
                    // SAFETY: the slot alone held it, and it links to nothing.
                    unsafe { Node::free_list(old) };
                }
            }
            inboxes[index].empty();
            done += granted;
        }
        // SAFETY: each slot alone holds its block.
        held.iter().for_each(|&node| _ = unsafe { Node::free_list(node) });
        done
    });
    inboxes.iter().for_each(Inbox::empty);
    outcome
}

/// 16 bytes to 100 KiB, with a chance that falls as the cube of a uniform draw does: half are below 13 KiB, one in
/// ten below 128 bytes.
fn len(random: &mut Random) -> usize {
    let draw = random.below(1 << 16) as u64;
    let cubed = (draw * draw * draw) >> 32;
    (16 + ((cubed * MAX_LEN as u64) >> 16) as usize).clamp(Node::MIN_LEN, MAX_LEN)
}
