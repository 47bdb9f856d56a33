//! Which thread holds which heap.
//!
//! A heap's holder is told by an address of the thread's own, which lies in the mapping of its stack; and where its
//! stack is, the kernel tells of a thread that waits (/proc/PID/task/TID/syscall), to whoever might trace it. The first
//! thread's address lies elsewhere: it is the one that is left.

use crate::output::read_lossily;
use crate::text::printable;
use std::collections::HashMap;
use std::fs;
use std::ops::Range;

/// A thread of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thread {
    pub(super) number: u32,
    pub(super) name: String,
    /// As top has it: R runs, S waits, D waits for a disk.
    pub(super) state: char,
    /// The mapping that its stack lies in, if that is known.
    pub(super) stack: Option<Range<u64>>,
}

/// Where the stacks of threads were seen: those that run now have waited some time.
#[derive(Default)]
pub(super) struct Stacks(HashMap<u32, Range<u64>>);

impl Stacks {
    /// The threads of process `pid`.
    pub(super) fn look(&mut self, pid: u32) -> Vec<Thread> {
        let folder = format!("/proc/{pid}/task");
        let numbers = fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut numbers: Vec<u32> =
            numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        let maps = read_lossily(format!("/proc/{pid}/maps")).unwrap_or_default();
        let mut seen = HashMap::new();
        let threads = numbers.into_iter().filter_map(|number| {
            let stat = read_lossily(format!("{folder}/{number}/stat")).ok()?;
            let (head, rest) = stat.rsplit_once(')')?;
            let name = printable(head.split_once('(')?.1);
            let state = rest.trim_start().chars().next()?;
            let pointer = fs::read_to_string(format!("{folder}/{number}/syscall")).ok();
            let pointer = pointer.as_deref().and_then(stack_pointer);
            let stack = pointer.and_then(|at| mapping(&maps, at)).or_else(|| self.0.get(&number).cloned());
            seen.extend(stack.clone().map(|stack| (number, stack)));
            Some(Thread { number, name, state, stack })
        });
        let threads = threads.collect();
        // Without those that have ended.
        self.0 = seen;
        threads
    }
}

/// The stack pointer in what /proc/PID/task/TID/syscall says: the last word but one, unless the thread runs.
fn stack_pointer(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, .., pointer, _] = words[..] else { return None };
    u64::from_str_radix(pointer.strip_prefix("0x")?, 16).ok()
}

/// The mapping in `maps` that an address lies in.
fn mapping(maps: &str, address: u64) -> Option<Range<u64>> {
    maps.lines().find_map(|line| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
        range.contains(&address).then_some(range)
    })
}

/// The thread that holds the heap of `possessor`, one of `possessors`.
pub(super) fn holder<'a>(threads: &'a [Thread], possessors: &[u64], possessor: u64) -> Option<&'a Thread> {
    let of = |address: u64| {
        threads.iter().find(|thread| thread.stack.as_ref().is_some_and(|stack| stack.contains(&address)))
    };
    let (first, others) = threads.split_first()?;
    of(possessor).or_else(|| {
        let left = possessors.iter().filter(|address| **address != 0 && of(**address).is_none()).count();
        (left == 1 && others.iter().all(|thread| thread.stack.is_some())).then_some(first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_found_by_its_stack_and_the_first_thread_is_what_is_left() {
        assert_eq!(stack_pointer("202 0x1 0x2 0x0 0x0 0x0 0x0 0x7ffe0010 0x7f00aa\n"), Some(0x7ffe_0010));
        assert_eq!((stack_pointer("running\n"), stack_pointer("-1 0x10 0x20\n")), (None, Some(16)));
        let maps = "1000-2000 rw-p 0 00:00 0\n3000-5000 rw-p 0 00:00 0 [stack]\n";
        assert_eq!((mapping(maps, 0x3000), mapping(maps, 0x2000)), (Some(0x3000..0x5000), None));
        let thread = |number, stack| Thread { number, name: "x".to_owned(), state: 'S', stack };
        let threads = [thread(1, Some(0x9000..0xa000)), thread(2, Some(0x1000..0x2000)), thread(3, None)];
        let held_by = |threads: &[Thread], address| {
            holder(threads, &[0x1800, 0x700, 0], address).map(|thread| thread.number)
        };
        assert_eq!((held_by(&threads, 0x1800), held_by(&threads, 0x700)), (Some(2), None));
        assert_eq!(held_by(&threads[..2], 0x700), Some(1));
    }

    #[test]
    fn this_process_has_this_thread() {
        let threads = Stacks::default().look(std::process::id());
        assert!(threads.iter().any(|thread| thread.number == std::process::id()), "{threads:?}");
    }
}
