//! From what the recorder wrote to a trace that can be replayed: addresses become slots, and each call learns how many
//! calls on its slot come before it.

use std::collections::HashMap;
use std::path::Path;

use super::Failure;
use crate::workloads::trace::{Call, Record};

/// Bytes of one record of `preload/record.c`.
const RAW: usize = 24;

/// A record as the recorder writes it. A block of zero ends the file.
#[derive(Clone, Copy)]
struct Raw {
    block: u64,
    old: u64,
    size: u32,
    thread: u16,
    call: u16,
}

/// Turns the recording `from` into the trace `to`, and answers how many calls it has.
pub fn convert(from: &Path, to: &Path) -> Result<usize, Failure> {
    let bytes = std::fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?;
    let records = renumber(bytes.chunks_exact(RAW).map(raw).take_while(|raw| raw.block != 0));
    if records.is_empty() {
        return Err("nothing was recorded".to_owned());
    }
    let mut bytes = Vec::with_capacity(records.len() * size_of::<Record>());
    for record in &records {
        bytes.extend(record.slot.to_ne_bytes());
        bytes.extend(record.turn.to_ne_bytes());
        bytes.extend(record.size.to_ne_bytes());
        bytes.extend(record.thread.to_ne_bytes());
        bytes.extend(record.call.to_ne_bytes());
    }
    std::fs::write(to, bytes).map_err(|error| format!("{}: {error}", to.display()))?;
    Ok(records.len())
}

fn raw(bytes: &[u8]) -> Raw {
    let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let short = |at: usize| u16::from_ne_bytes(bytes[at..at + 2].try_into().expect("two bytes"));
    let size = u32::from_ne_bytes(bytes[16..20].try_into().expect("four bytes"));
    Raw { block: long(0), old: long(8), size, thread: short(20), call: short(22) }
}

#[derive(Default)]
struct Slots {
    live: HashMap<u64, u32>,
    free: Vec<u32>,
    turns: Vec<u32>,
}

impl Slots {
    /// The slot for a new block. One whose free was not recorded, or came too late, keeps its slot.
    fn take(&mut self, block: u64) -> u32 {
        if let Some(&slot) = self.live.get(&block) {
            return slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.turns.push(0);
            self.turns.len() as u32 - 1
        });
        self.live.insert(block, slot);
        slot
    }

    fn turn(&mut self, slot: u32) -> u32 {
        let turn = &mut self.turns[slot as usize];
        *turn += 1;
        *turn - 1
    }
}

fn renumber(recording: impl Iterator<Item = Raw>) -> Vec<Record> {
    let mut slots = Slots::default();
    let mut records = Vec::new();
    for raw in recording {
        let call = raw.call;
        let slot = if call == Call::Free as u16 {
            // What was allocated before the recording began is not freed in the replay.
            let Some(slot) = slots.live.remove(&raw.block) else { continue };
            slots.free.push(slot);
            slot
        } else if let Some(slot) =
            (call == Call::Realloc as u16).then(|| slots.live.remove(&raw.old)).flatten()
        {
            slots.live.insert(raw.block, slot);
            slot
        } else {
            slots.take(raw.block)
        };
        records.push(Record { slot, turn: slots.turn(slot), size: raw.size, thread: raw.thread, call });
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw_call(call: Call, block: u64, old: u64, thread: u16) -> Raw {
        Raw { block, old, size: 100, thread, call: call as u16 }
    }

    #[test]
    fn a_slot_is_used_again_and_counts_its_calls() {
        let recording = [
            raw_call(Call::Malloc, 0xA, 0, 0),
            raw_call(Call::Malloc, 0xB, 0, 0),
            raw_call(Call::Free, 0xA, 0, 1),
            raw_call(Call::Free, 0xC, 0, 1),
            raw_call(Call::Realloc, 0xD, 0xB, 0),
            raw_call(Call::Calloc, 0xA, 0, 1),
            raw_call(Call::Realloc, 0xE, 0, 0),
        ];
        let found: Vec<_> = renumber(recording.into_iter())
            .iter()
            .map(|record| (record.slot, record.turn, record.call))
            .collect();
        let [malloc, calloc, realloc, free] =
            [Call::Malloc, Call::Calloc, Call::Realloc, Call::Free].map(|call| call as u16);
        assert_eq!(
            found,
            [(0, 0, malloc), (1, 0, malloc), (0, 1, free), (1, 1, realloc), (0, 2, calloc), (2, 0, realloc)]
        );
    }

    #[test]
    fn a_recording_becomes_a_trace_that_can_be_opened() {
        let folder = std::env::temp_dir().join(format!("compare-trace-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (from, to) = (folder.join("raw"), folder.join("trace"));
        let mut bytes = Vec::new();
        for raw in [raw_call(Call::Malloc, 0xA, 0, 0), raw_call(Call::Free, 0xA, 0, 3)] {
            bytes.extend([raw.block.to_ne_bytes(), raw.old.to_ne_bytes()].concat());
            bytes.extend(raw.size.to_ne_bytes());
            bytes.extend([raw.thread.to_ne_bytes(), raw.call.to_ne_bytes()].concat());
        }
        bytes.extend([0; 3 * RAW]);
        std::fs::write(&from, &bytes).unwrap();
        assert_eq!(convert(&from, &to), Ok(2));
        let trace = crate::workloads::trace::Trace::open(to.to_str().unwrap()).expect("opens");
        assert_eq!((trace.threads, trace.slots, trace.records.len()), (4, 1, 2));
        std::fs::write(&from, [0; RAW]).unwrap();
        assert!(convert(&from, &to).unwrap_err().contains("nothing"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
