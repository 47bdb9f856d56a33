//! What is measured: the rows, in the order of the tables.

use std::path::Path;

use super::programs::{Kit, Program};
use super::{Failure, traces};
use crate::rust_paths;
use crate::workloads::{WORKLOADS, Workload, find};

/// Rows that belong together, and have a mean of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Workloads of the heap.
    Heap,
    /// Some of them on an aged heap.
    Aged,
    /// Replayed malloc calls of real programs.
    Traces,
    /// Workloads of address space.
    AddressSpace,
    /// What speculation is worth: rows of their own, beside the locked twin and the limit. Not of the usual table.
    Speculation,
    /// Real programs.
    Programs,
    /// Rust's collections, with the allocator linked in.
    Rust,
    /// Single calls timed; their times say nothing about throughput.
    Tails,
}

impl Group {
    /// All, in the order of the tables.
    pub const ALL: [Group; 8] = [
        Group::Heap,
        Group::Aged,
        Group::Traces,
        Group::AddressSpace,
        Group::Speculation,
        Group::Programs,
        Group::Rust,
        Group::Tails,
    ];

    /// The name on the command line and in figures.
    pub fn name(self) -> &'static str {
        match self {
            Group::Heap => "heap",
            Group::Aged => "aged",
            Group::Traces => "traces",
            Group::AddressSpace => "address-space",
            Group::Speculation => "speculation",
            Group::Programs => "programs",
            Group::Rust => "rust",
            Group::Tails => "tails",
        }
    }

    /// The heading of its tables.
    pub fn title(self) -> &'static str {
        match self {
            Group::Heap => "Heap workloads",
            Group::Aged => "The same on an aged heap",
            Group::Traces => "Replayed calls of real programs",
            Group::AddressSpace => "Address-space workloads",
            Group::Speculation => "What speculation is worth",
            Group::Programs => "Real programs",
            Group::Rust => "Rust programs, allocator linked in, fat LTO",
            Group::Tails => "Single calls",
        }
    }
}

/// Workloads of address space; all others are the heap's.
const ADDRESS_SPACE: [&str; 14] = [
    "large",
    "page_fault1",
    "mmap1",
    "malloc1",
    "parallel-init",
    "unmap-storm",
    "fault-split",
    "fault-all",
    "fault-fork",
    "spf",
    "spf-small",
    "ebizzy",
    "ebizzy-mapped",
    "lookup",
];
/// Workloads of the table of speculation alone.
const SPECULATION_ONLY: [&str; 4] = ["storm-larson", "storm-lookup", "lookup-arenas", "fork-exec"];
/// Numbers of threads of two workloads that are about many.
const MANY: [usize; 1] = [100];
const BUSY: [usize; 1] = [64];
/// Freed huge blocks are unmapped at once.
const UNKEPT: &str = "keep_huge:off";

/// The rows of the table of speculation: what each is called, its workload, further arguments, options of specmalloc's, and
/// its numbers of threads where they are its own.
type Speculated =
    (&'static str, &'static str, &'static [&'static str], &'static str, Option<&'static [usize]>);
const SPECULATION: [Speculated; 26] = [
    ("lookup-arenas", "lookup-arenas", &[], "", None),
    ("lookup-arenas, no writer", "lookup-arenas", &["--calm"], "", None),
    ("larson", "larson", &[], "", None),
    ("xmalloc", "xmalloc", &[], "", None),
    ("lookup", "lookup", &[], "", None),
    ("storm-larson", "storm-larson", &[], UNKEPT, None),
    ("storm-larson, raw", "storm-larson", &["--raw"], UNKEPT, None),
    ("storm-lookup", "storm-lookup", &[], UNKEPT, None),
    ("storm-lookup, raw", "storm-lookup", &["--raw"], UNKEPT, None),
    ("mmap1", "mmap1", &[], "", None),
    ("mmap1, unkept", "mmap1", &[], UNKEPT, None),
    ("malloc1", "malloc1", &[], "", None),
    ("malloc1, unkept", "malloc1", &[], UNKEPT, None),
    ("malloc2", "malloc2", &[], "", None),
    ("page_fault1", "page_fault1", &[], "", None),
    ("page_fault1, unkept", "page_fault1", &[], UNKEPT, None),
    ("parallel-init", "parallel-init", &[], UNKEPT, None),
    ("fault-split", "fault-split", &[], "", None),
    ("fault-all", "fault-all", &[], "", None),
    ("fault-fork", "fault-fork", &[], "", None),
    ("spf", "spf", &[], "", Some(&MANY)),
    ("spf-small", "spf-small", &[], "", Some(&MANY)),
    ("ebizzy", "ebizzy", &[], "", None),
    ("ebizzy-mapped", "ebizzy-mapped", &[], "", None),
    ("grow", "grow", &[], "", Some(&[1])),
    ("fork-exec", "fork-exec", &[], "", Some(&BUSY)),
];

/// Workloads that are run on an aged heap, too: short lives, long lives, own frees, others' frees.
const AGED: [&str; 5] = ["larson", "xmalloc", "mstress", "alloc-test", "replace"];
/// MiB that are built up to age a heap.
const AGE: (u64, u64) = (512, 128);
/// Workloads of which single calls are timed.
const TAILS: [&str; 5] = ["larson", "xmalloc", "mstress", "rptest", "unmap-storm"];
/// Of a full run's operations, how many make a run of the table: a full table is to take half an hour.
const SHARE: u64 = 6;

/// How a row is run.
#[derive(Clone, Debug)]
pub enum How {
    /// The program `workloads` with these arguments.
    Workload(Vec<String>),
    /// A real program.
    Program(Program),
    /// A benchmark of the Rust workloads.
    Rust,
}

/// A row of the tables.
#[derive(Clone, Debug)]
pub struct Task {
    /// Where it belongs.
    pub group: Group,
    /// Its name.
    pub name: String,
    /// Number of threads, as far as the row says.
    pub threads: usize,
    /// Options of specmalloc's.
    pub options: &'static str,
    /// How it is run.
    pub how: How,
}

impl Task {
    /// The name with the number of threads, where that is a choice.
    pub fn label(&self) -> String {
        if self.threads == 0 { self.name.clone() } else { format!("{} {}", self.name, self.threads) }
    }
}

/// Which rows are wanted.
pub struct Suite {
    /// The smaller amount of work, and fewer rows.
    pub quick: bool,
    /// Only workloads, programs, benchmarks or groups of these names; all if empty.
    pub only: Vec<String>,
    /// Numbers of threads.
    pub threads: Vec<usize>,
    /// The share of the usual work, in thousandths.
    pub work: u64,
}

impl Suite {
    /// An error names what is asked for and does not exist.
    pub fn check(&self) -> Result<(), Failure> {
        let known = |name: &str| {
            Group::ALL.iter().any(|group| group.name() == name)
                || find(name).is_some()
                || rust_paths::names().contains(&name)
        };
        // Programs and traces are known by their folders, and programs may be missing.
        let unknown = self.only.iter().find(|name| !known(name) && !name.contains(':'));
        unknown.map_or(Ok(()), |name| Err(format!("there is no workload {name}")))
    }

    fn wants(&self, group: Group, name: &str) -> bool {
        let full = format!("{}:{name}", group.name());
        if SPECULATION_ONLY.contains(&name) {
            return self.only.iter().any(|only| only == name);
        }
        self.only.is_empty()
            || self.only.iter().any(|only| only == group.name() || *only == full)
            || (!matches!(group, Group::Aged | Group::Tails) && self.only.iter().any(|only| only == name))
    }

    /// Whether any row of the group can be wanted.
    pub fn wants_group(&self, group: Group) -> bool {
        let prefix = format!("{}:", group.name());
        let of_group = |only: &String| {
            only == group.name()
                || only.starts_with(&prefix)
                || match group {
                    Group::Rust => rust_paths::names().contains(&only.as_str()),
                    Group::Heap => find(only).is_some_and(|w| !ADDRESS_SPACE.contains(&w.name)),
                    Group::AddressSpace => find(only).is_some_and(|w| ADDRESS_SPACE.contains(&w.name)),
                    _ => false,
                }
        };
        self.only.is_empty() || self.only.iter().any(of_group)
    }

    fn ops(&self, workload: &Workload) -> u64 {
        let ops =
            if self.quick { workload.quick_ops } else { (workload.ops / SHARE).max(workload.quick_ops) };
        (ops * self.work / 1_000).max(1)
    }

    fn workload(&self, group: Group, workload: &Workload, threads: usize, more: &[String]) -> Task {
        let mut arguments = vec![workload.name.to_owned(), "--threads".to_owned(), threads.to_string()];
        arguments.extend(["--ops".to_owned(), self.ops(workload).to_string()]);
        if workload.name == "bleed" {
            arguments.extend(["--idle".to_owned(), if self.quick { "1" } else { "10" }.to_owned()]);
        }
        arguments.extend_from_slice(more);
        let threads = if workload.threaded { threads } else { 0 };
        Task { group, name: workload.name.to_owned(), threads, options: "", how: How::Workload(arguments) }
    }

    fn each(&self, group: Group, workload: &Workload, more: &[String]) -> Vec<Task> {
        let threads = if workload.threaded { self.threads.as_slice() } else { &[1] };
        threads.iter().map(|&threads| self.workload(group, workload, threads, more)).collect()
    }

    /// The rows that need nothing but the program `workloads`.
    pub fn workloads(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for workload in WORKLOADS.iter().filter(|workload| workload.name != "trace") {
            let group =
                if ADDRESS_SPACE.contains(&workload.name) { Group::AddressSpace } else { Group::Heap };
            if self.wants(group, workload.name) {
                tasks.extend(self.each(group, workload, &[]));
            }
        }
        let age = if self.quick { AGE.1 } else { AGE.0 }.to_string();
        for (group, names, more) in [
            (Group::Aged, AGED, vec!["--age".to_owned(), age]),
            (Group::Tails, TAILS, vec!["--tails".to_owned()]),
        ] {
            for name in names.into_iter().filter(|name| self.wants(group, name)) {
                tasks.extend(self.each(group, find(name).expect("is in the table"), &more));
            }
        }
        tasks
    }

    /// The rows of the table of speculation.
    pub fn speculation(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for (name, workload, more, options, threads) in SPECULATION {
            if !self.only.is_empty() && !self.only.iter().any(|only| only == workload || only == name) {
                continue;
            }
            let workload = find(workload).expect("is in the table");
            let more: Vec<String> = more.iter().map(|&argument| argument.to_owned()).collect();
            let threads = threads.unwrap_or(self.threads.as_slice());
            tasks.extend(threads.iter().map(|&threads| Task {
                name: name.to_owned(),
                options,
                ..self.workload(Group::Speculation, workload, threads, &more)
            }));
        }
        tasks
    }

    /// The Rust benchmarks.
    pub fn rust(&self) -> Vec<Task> {
        let names = rust_paths::names().into_iter().filter(|name| self.wants(Group::Rust, name));
        names
            .map(|name| Task {
                group: Group::Rust,
                name: name.to_owned(),
                threads: 0,
                options: "",
                how: How::Rust,
            })
            .collect()
    }

    /// The traces in a folder, made ready in `ready` to be replayed.
    pub fn traces(&self, folder: &Path, ready: &Path) -> Result<Vec<Task>, Failure> {
        let mut tasks = Vec::new();
        for (name, trace) in
            traces::find(folder)?.into_iter().filter(|found| self.wants(Group::Traces, &found.0))
        {
            let records = ready.join(format!("{name}.records"));
            traces::convert(&trace, &records)?;
            let more = ["--file".to_owned(), records.display().to_string()];
            let replay = self.each(Group::Traces, find("trace").expect("is in the table"), &more);
            tasks.extend(replay.into_iter().map(|task| Task { name: name.clone(), ..task }));
        }
        Ok(tasks)
    }

    /// The programs. Answers what is not there, too.
    pub fn programs(&self, kit: &Kit) -> Result<(Vec<Task>, Vec<Failure>), Failure> {
        let (programs, mut lacking) = kit.find()?;
        let mut tasks = Vec::new();
        for program in programs.into_iter().filter(|program| self.wants(Group::Programs, &program.name)) {
            if let Err(failure) = kit.prepare(&program) {
                lacking.push(format!("{}: {failure}", program.name));
                continue;
            }
            let name = program.name.clone();
            tasks.push(Task {
                group: Group::Programs,
                name,
                threads: 0,
                options: "",
                how: How::Program(program),
            });
        }
        Ok((tasks, lacking))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(only: &[&str]) -> Suite {
        let only = only.iter().map(|name| (*name).to_owned()).collect();
        Suite { quick: true, only, threads: vec![1, 2], work: 1_000 }
    }

    #[test]
    fn every_workload_is_in_one_group_at_each_number_of_threads() {
        let tasks = suite(&[]).workloads();
        let tasks: Vec<_> =
            tasks.iter().filter(|task| [Group::Heap, Group::AddressSpace].contains(&task.group)).collect();
        for workload in WORKLOADS.iter().filter(|workload| workload.name != "trace") {
            if SPECULATION_ONLY.contains(&workload.name) {
                continue;
            }
            let rows = tasks.iter().filter(|task| task.name == workload.name).count();
            assert_eq!(rows, if workload.threaded { 2 } else { 1 }, "{}", workload.name);
        }
        assert!(ADDRESS_SPACE.iter().chain(&AGED).chain(&TAILS).all(|name| find(name).is_some()));
    }

    #[test]
    fn rows_are_chosen_by_group_by_name_and_by_both() {
        let names = |only: &[&str]| {
            suite(only).workloads().into_iter().map(|task| (task.group, task.name)).collect::<Vec<_>>()
        };
        let larson = || "larson".to_owned();
        assert_eq!(names(&["larson"]), [(Group::Heap, larson()), (Group::Heap, larson())]);
        assert_eq!(names(&["tails:larson"]), [(Group::Tails, larson()), (Group::Tails, larson())]);
        assert!(names(&["aged"]).iter().all(|row| row.0 == Group::Aged) && names(&["programs"]).is_empty());
        assert_eq!(suite(&["rust"]).rust().len(), rust_paths::names().len());
        assert!(suite(&["rust"]).wants_group(Group::Rust) && !suite(&["rust"]).wants_group(Group::Programs));
        assert!(suite(&["programs:redis"]).wants_group(Group::Programs));
        assert!(suite(&["no-such"]).check().is_err() && suite(&["larson", "traces:python"]).check().is_ok());
    }
}
