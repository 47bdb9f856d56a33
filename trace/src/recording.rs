//! From what libspecmalloc_record.so left in memory to traces: addresses become numbers of blocks, and each program gets
//! a trace of its own.
//!
//! A record has its place before its free and after its allocation, so by the order of the records an address is never
//! handed out twice, but where a block left unseen: then whoever gets its address has freed it. A realloc gives up the
//! old address where it begins and has the new one where it ends. What a child has of its parent is allocated at its
//! start.

#[path = "../../recorder/src/layout.rs"]
pub mod layout;

use crate::{Call, Fault, Trace};
use layout::{ALLOCATED, FREED, Head, PROGRAMS, RESIZED, RESIZING, Record, ZEROED};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// What was recorded of one process: the last program that it ran.
pub struct Recorded {
    /// The process.
    pub process: u32,
    /// Whether it is the one that was recorded first.
    pub first: bool,
    /// Its calls.
    pub trace: Trace,
}

/// What a recording has in it.
pub struct Contents {
    /// One for each process that made calls, in the order in which they began.
    pub processes: Vec<Recorded>,
    /// Calls that had no room.
    pub lost: u64,
    /// Programs that had no room.
    pub unseen: u64,
}

/// A program on its way to a trace.
#[derive(Default)]
struct Making {
    trace: Trace,
    /// The numbers of live blocks, by address.
    live: HashMap<u64, u32>,
    /// The reallocs that a thread has begun, the last one last: a signal handler's is over first.
    resizing: HashMap<u32, Vec<(u64, Option<u32>)>>,
    /// The numbers that threads have in the trace, by those they have in the recording.
    threads: HashMap<u32, u32>,
}

impl Making {
    fn thread(&mut self, recorded: u32) -> u32 {
        let next = self.threads.len() as u32;
        *self.threads.entry(recorded).or_insert(next)
    }

    fn allocate(&mut self, thread: u32, address: u64, call: Call) -> Result<(), Fault> {
        if let Some(lost) = self.live.remove(&address) {
            self.trace.push(thread, Call::Free { block: lost })?;
        }
        let block = self.trace.push(thread, call)?;
        self.live.insert(address, block);
        Ok(())
    }

    fn free(&mut self, thread: u32, address: u64) -> Result<(), Fault> {
        match self.live.remove(&address) {
            Some(block) => self.trace.push(thread, Call::Free { block }).map(|_| ()),
            None => {
                self.trace.skipped += 1;
                Ok(())
            }
        }
    }

    fn record(&mut self, recorded: u32, word: u64, size: u64) -> Result<(), Fault> {
        let (address, kind, shift) = (word >> 16, word >> 8 & 0xff, word as u8);
        let mut resized = None;
        match kind {
            RESIZING => {
                let block = self.live.remove(&address);
                self.resizing.entry(recorded).or_default().push((address, block));
                return Ok(());
            }
            RESIZED => {
                let begun = self.resizing.get_mut(&recorded).and_then(Vec::pop);
                let Some((old, block)) = begun else { return Ok(()) };
                // There was no memory: the block is still there.
                if address == 0 && size > 0 {
                    self.live.extend(block.map(|block| (old, block)));
                    return Ok(());
                }
                resized = Some(block);
            }
            _ => {}
        }
        let thread = self.thread(recorded);
        match (kind, resized) {
            (RESIZED, Some(Some(block))) if address == 0 => {
                self.trace.push(thread, Call::Free { block }).map(|_| ())
            }
            (RESIZED, Some(None)) if address == 0 => {
                self.trace.skipped += 1;
                Ok(())
            }
            (RESIZED, Some(Some(block))) => {
                if let Some(lost) = self.live.insert(address, block) {
                    self.trace.push(thread, Call::Free { block: lost })?;
                }
                self.trace.push(thread, Call::Realloc { block, size }).map(|_| ())
            }
            // A block from before the recording: the trace has it from here on.
            (RESIZED, _) => self.allocate(thread, address, Call::Malloc { size }),
            (ALLOCATED, _) if shift > 0 => self.allocate(thread, address, Call::Aligned { size, shift }),
            (ALLOCATED, _) => self.allocate(thread, address, Call::Malloc { size }),
            (ZEROED, _) => self.allocate(thread, address, Call::Calloc { size }),
            (FREED, _) => self.free(thread, address),
            _ => Ok(()),
        }
    }

    /// What a child of a fork has at its start: the blocks of `parent`, oldest first.
    fn inherit(&mut self, parent: &Making, threads: u32) -> Result<(), Fault> {
        let mut blocks: Vec<_> = parent.live.iter().map(|(address, block)| (*block, *address)).collect();
        blocks.sort_unstable();
        for (block, address) in blocks {
            let thread = self.thread(threads);
            let size = parent.trace.sizes[block as usize];
            self.allocate(thread, address, Call::Malloc { size })?;
        }
        Ok(())
    }
}

/// Makes traces of a recording, which may go on meanwhile: what is not written yet is not in them.
pub fn read(head: &Head, records: &[Record]) -> Result<Contents, Fault> {
    // Relaxed: a count. What a record says is ordered by its first word, a program's by `there`.
    let (begun, programs) =
        (head.next.load(Ordering::Relaxed), head.programs.load(Ordering::Relaxed) as usize);
    let written = &records[..records.len().min(begun as usize)];
    let count = programs.min(PROGRAMS);
    // Acquire: pairs with the recorder's Release store.
    let there = |index: usize| head.program[index].there.load(Ordering::Acquire) != 0;
    let mut making: Vec<Making> = (0..count).map(|_| Making::default()).collect();
    let mut forks: Vec<(u64, usize, usize)> = (0..count)
        .filter(|&index| there(index))
        .filter_map(|index| {
            let program = &head.program[index];
            // Relaxed (both): ordered by `there`.
            let parent = program.parent.load(Ordering::Relaxed) as usize;
            let forked = program.forked.load(Ordering::Relaxed);
            (1..=index).contains(&parent).then(|| (forked, index, parent - 1))
        })
        .collect();
    forks.sort_unstable_by(|one, other| other.cmp(one));
    for (at, record) in written.iter().enumerate() {
        while let Some((_, child, parent)) = forks.pop_if(|fork| fork.0 <= at as u64) {
            let (before, behind) = making.split_at_mut(child);
            behind[0].inherit(&before[parent], 0)?;
        }
        // Acquire: pairs with the recorder's Release store of the word, which it writes last.
        let word = record[0].load(Ordering::Acquire);
        // Relaxed (both): ordered by the word.
        let (size, who) = (record[1].load(Ordering::Relaxed), record[2].load(Ordering::Relaxed));
        let index = (who >> 32) as usize;
        if word != 0 && index < count {
            making[index].record(who as u32, word, size)?;
        }
    }
    let first = head.first.load(Ordering::Relaxed);
    let mut processes: Vec<Recorded> = Vec::new();
    for (index, Making { mut trace, .. }) in making.into_iter().enumerate() {
        if trace.calls().is_empty() || !there(index) {
            continue;
        }
        let program = &head.program[index];
        // Relaxed (all): ordered by `there`.
        let name: Vec<u8> =
            program.name.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        trace.program = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
        let process = program.process.load(Ordering::Relaxed);
        processes.retain(|before| before.process != process);
        processes.push(Recorded { process, first: process == first, trace });
    }
    let lost = begun.saturating_sub(records.len() as u64);
    Ok(Contents { processes, lost, unseen: (programs - count) as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn call(kind: u64, address: u64, size: u64, program: u64, thread: u64) -> Record {
        [address << 16 | kind << 8, size, program << 32 | thread].map(AtomicU64::new)
    }

    fn recording(programs: &[(u32, u32, u64)], records: &[Record]) -> Contents {
        let memory = vec![0_u64; size_of::<Head>() / 8].leak();
        // SAFETY: as many bytes, for good; numbers, for which zero is a value.
        let head = unsafe { &mut *memory.as_mut_ptr().cast::<Head>() };
        for (program, &(process, parent, forked)) in head.program.iter_mut().zip(programs) {
            (program.process, program.parent) = (process.into(), parent.into());
            (program.forked, program.there) = (forked.into(), 1.into());
        }
        (head.programs, head.first) = ((programs.len() as u32).into(), programs[0].0.into());
        head.next = (records.len() as u64 + 2).into();
        read(head, records).unwrap()
    }

    fn calls(trace: &Trace) -> Vec<(u32, Call)> {
        trace.calls().iter().map(|entry| (entry.thread, entry.call)).collect()
    }

    #[test]
    fn addresses_become_numbers_and_reallocs_keep_them() {
        let contents = recording(
            &[(7, 0, 0)],
            &[
                call(ALLOCATED, 0xa0, 10, 0, 5),
                call(ZEROED, 0xb0, 20, 0, 9),
                call(RESIZING, 0xa0, 0, 0, 5),
                // In the middle of it somebody gets the address that it gave up, and a handler's has no memory.
                call(ALLOCATED, 0xa0, 30, 0, 9),
                call(RESIZING, 0xb0, 0, 0, 5),
                call(RESIZED, 0, 99, 0, 5),
                call(RESIZED, 0xc0, 40, 0, 5),
                call(FREED, 0xb0, 0, 0, 5),
                // Unknown, a realloc to nothing, and an address whose free was not seen.
                call(FREED, 0xf0, 0, 0, 5),
                call(RESIZING, 0xc0, 0, 0, 9),
                call(RESIZED, 0, 0, 0, 9),
                call(ALLOCATED, 0xa0, 50, 0, 9),
                // Begun and not written, and a realloc that never ended.
                call(0, 0, 0, 0, 0),
                call(RESIZING, 0xa0, 0, 0, 9),
            ],
        );
        assert_eq!((contents.lost, contents.processes.len()), (2, 1));
        let trace = &contents.processes[0].trace;
        let expected = [
            (0, Call::Malloc { size: 10 }),
            (1, Call::Calloc { size: 20 }),
            (1, Call::Malloc { size: 30 }),
            (0, Call::Realloc { block: 0, size: 40 }),
            (0, Call::Free { block: 1 }),
            (1, Call::Free { block: 0 }),
            (1, Call::Free { block: 2 }),
            (1, Call::Malloc { size: 50 }),
        ];
        assert_eq!((calls(trace), trace.skipped), (expected.to_vec(), 1));
    }

    #[test]
    fn children_begin_with_what_they_have_and_the_last_program_of_a_process_counts() {
        let contents = recording(
            &[(7, 0, 0), (8, 1, 2), (7, 0, 0)],
            &[
                call(ALLOCATED, 0xa0, 10, 0, 0),
                call(ALLOCATED, 0xb0, 20, 0, 0),
                call(FREED, 0xa0, 0, 0, 0),
                call(FREED, 0xb0, 0, 1, 0),
                call(ALLOCATED, 0xa0, 70, 2, 0),
            ],
        );
        let [child, first] = &contents.processes[..] else { panic!("two processes") };
        assert_eq!((child.process, child.first, first.process, first.first), (8, false, 7, true));
        assert_eq!(
            calls(&child.trace),
            [(0, Call::Malloc { size: 10 }), (0, Call::Malloc { size: 20 }), (0, Call::Free { block: 1 })]
        );
        assert_eq!(calls(&first.trace), [(0, Call::Malloc { size: 70 })]);
    }
}
