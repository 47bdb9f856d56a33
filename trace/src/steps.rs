//! The calls of a trace as a replay makes them, and the order between its threads.
//!
//! Calls on one block happen in the order of the trace, whichever threads they come from: a step says how many calls on
//! its slot come before it. A slot is where a block is kept while it lives, and is used again by the thread that freed
//! the block, so that nobody waits who did not wait for a block.

use crate::{Call, Trace};

/// One call on a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes asked for; zero for a free.
    pub size: u64,
    /// Where the block is kept while it lives.
    pub slot: u32,
    /// How many calls on the slot come before this one.
    pub turn: u32,
    /// The thread.
    pub thread: u32,
    /// The call, by its place in [`Call::NAMES`].
    pub kind: u8,
    /// The power of two that the alignment is, for aligned ones.
    pub shift: u8,
}

/// The steps of a trace, and what they need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// In the order of the trace.
    pub steps: Vec<Step>,
    /// How many slots there are.
    pub slots: usize,
    /// How many threads there are.
    pub threads: usize,
}

impl Steps {
    /// The steps of `trace`, which has no calls afterwards.
    pub fn take(trace: &mut Trace) -> Steps {
        let mut steps = Steps { threads: trace.threads(), ..Steps::default() };
        let mut slot_of = Vec::with_capacity(trace.blocks());
        let mut turns: Vec<u32> = Vec::new();
        let mut vacant = vec![Vec::new(); trace.threads()];
        let calls = trace.take_calls();
        steps.steps.reserve_exact(calls.len());
        for entry in calls {
            let own = &mut vacant[entry.thread as usize];
            let (slot, size, shift) = match entry.call {
                Call::Malloc { size } | Call::Calloc { size } => (None, size, 0),
                Call::Aligned { size, shift } => (None, size, shift),
                Call::Realloc { block, size } => (Some(slot_of[block as usize]), size, 0),
                Call::Free { block } => {
                    own.push(slot_of[block as usize]);
                    (Some(slot_of[block as usize]), 0, 0)
                }
            };
            let slot = slot.unwrap_or_else(|| {
                let slot = own.pop().unwrap_or_else(|| {
                    turns.push(0);
                    turns.len() as u32 - 1
                });
                slot_of.push(slot);
                slot
            });
            let turn = turns[slot as usize];
            turns[slot as usize] += 1;
            let (thread, kind) = (entry.thread, entry.call.kind() as u8);
            steps.steps.push(Step { size, slot, turn, thread, kind, shift });
        }
        steps.slots = turns.len();
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_counts_its_calls_and_goes_to_whoever_freed_its_block() {
        let mut trace = Trace::default();
        let calls = [
            (0, Call::Malloc { size: 1 }),
            (0, Call::Malloc { size: 2 }),
            (1, Call::Realloc { block: 0, size: 3 }),
            (1, Call::Free { block: 0 }),
            (0, Call::Malloc { size: 4 }),
            (1, Call::Aligned { size: 5, shift: 6 }),
        ];
        calls.into_iter().for_each(|(thread, call)| assert!(trace.push(thread, call).is_ok()));
        let steps = Steps::take(&mut trace);
        let seen: Vec<_> = steps.steps.iter().map(|step| (step.slot, step.turn, step.size)).collect();
        assert_eq!(seen, [(0, 0, 1), (1, 0, 2), (0, 1, 3), (0, 2, 0), (2, 0, 4), (0, 3, 5)]);
        assert_eq!((steps.slots, steps.threads, trace.calls().len()), (3, 2, 0));
    }
}
