//! What speculation is worth: the figures of that table with their limits, those that are counted among them.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Failure;
use super::measure::{Results, Row};
use super::run::workload_under;
use super::suite::Group;
use super::targets::{Line, instructions, table};

/// Where faults and growth are to cost what they cost without an allocator.
const AT_THE_LIMIT: [&str; 4] = ["fault-split", "fault-all", "ebizzy", "parallel-init"];
/// Where memory is steadily used up, and huge pages are to be worth something.
const POPULATED: [&str; 2] = ["page_fault1, unkept", "parallel-init"];
/// Workloads that ask for no mapping themselves: operations of the run of which the calls are counted.
const STEADY: [(&str, u64); 7] = [
    ("malloc2", 2_000_000),
    ("alloc-test", 2_000_000),
    ("xmalloc", 2_000_000),
    ("sh8", 1_000_000),
    ("queue-random", 1_000_000),
    ("ebizzy", 10_000),
    ("page_fault1", 1_310_720),
];
/// Those of which instructions are counted, on one thread.
const COUNTED: [(&str, u64); 2] = [("malloc2", 1_000_000), ("page_fault1", 327_680)];
/// The bets that options can call off.
const NO_BETS: &str = "huge_pages:off,reserve:off";

/// Prints the figures and writes them into the folder. Answers what could not be measured.
pub fn tell(results: &Results, programs: &Path, folder: &Path) -> Vec<Failure> {
    let lines = from_rows(results).into_iter().chain(counted(results, programs));
    let (text, mut failures) = table(lines);
    println!("{text}");
    let file = folder.join("speculation.md");
    if let Err(error) = fs::write(&file, text) {
        failures.push(format!("{}: {error}", file.display()));
    }
    failures
}

fn from_rows(results: &Results) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = |figure: String, measured: Option<f64>, limit| {
        if let Some(value) = measured {
            lines.push(Line { figure, measured: Ok(value), limit, unit: "" });
        }
    };
    let Some(ours) = results.peer("specmalloc") else { return lines };
    let row = |name: &str, threads: usize| {
        results.of(Group::Speculation).find(|row| row.task.name == name && row.task.threads == threads)
    };
    // A figure of ours as a share of another's on the same row.
    let share =
        |row: &Row, other: &str, figure: &str| Some(row.ratio(ours, results.peer(other)?, figure)?.value);
    for this in results.of(Group::Speculation) {
        let (name, threads, label) = (&*this.task.name, this.task.threads, this.task.label());
        // The same as a share of another row.
        let of_row = |other: &str, figure: &str| {
            Some(this.median(ours, figure)? / row(other, threads)?.median(ours, figure)?)
        };
        if AT_THE_LIMIT.contains(&name) {
            line(format!("{label}: time of the limit's"), share(this, "limit", "seconds"), 1.0 / 0.97);
        }
        if POPULATED.contains(&name) {
            line(format!("{label}: time of glibc's"), share(this, "glibc", "seconds"), 0.35);
            line(format!("{label}: time of mimalloc3's"), share(this, "mimalloc3", "seconds"), 0.9);
            line(format!("{label}: faults of glibc's"), share(this, "glibc", "faults"), 0.02);
        }
        match name {
            "fault-all" => {
                line(format!("{label}: time of fault-split's"), of_row("fault-split", "seconds"), 1.03)
            }
            "storm-larson" | "storm-lookup" => {
                let raw = format!("{name}, raw");
                let (rate, time) = (this.median(ours, "regions_per_second"), of_row(&raw, "seconds"));
                line(format!("{label}: of 20,000 regions a second, those wanting"), rate.map(wanting), 0.0);
                line(format!("{label}: time beside the system's calls"), time, 1.0 / 0.95);
                let tail = of_row(&raw, "malloc_p99.9_ns");
                line(format!("{label}: 99.9 % of one malloc, of that beside the system's calls"), tail, 1.2);
            }
            "lookup-arenas" | "lookup-arenas, no writer" => {
                let nanoseconds = this.median(ours, "lookup_ps").map(|ps| ps / 1e3);
                line(format!("{label}: ns of one look"), nanoseconds.filter(|_| threads == 1), 3.0);
                line(format!("{label}: time of a locked tree's"), share(this, "tree", "seconds"), 0.1);
            }
            "grow" => {
                let best = this.best("seconds", Some(ours)).map(|best| &*results.peers[best].name);
                line(
                    format!("{label}: time of the best peer's"),
                    best.and_then(|best| share(this, best, "seconds")),
                    0.5,
                );
            }
            "fork-exec" => {
                for figure in ["fork_p50_us", "fork_p99_us"] {
                    line(format!("{label}: {figure} of glibc's"), share(this, "glibc", figure), 1.05);
                }
            }
            _ => {}
        }
    }
    lines
}

/// How many there are fewer than 20,000.
fn wanting(rate: f64) -> f64 {
    (20_000.0 - rate).max(0.0)
}

fn counted(results: &Results, programs: &Path) -> Vec<Line> {
    let mut lines = Vec::new();
    let (Some(ours), Some(twin)) = (results.peer("specmalloc"), results.peer("twin")) else { return lines };
    let (ours, twin) = (&results.peers[ours], &results.peers[twin]);
    for (workload, ops) in COUNTED {
        let arguments = [workload, "--ops", &ops.to_string()].map(str::to_owned);
        let own = instructions(ours, programs, &arguments, "");
        let measured = own.and_then(|own| Ok(own / instructions(twin, programs, &arguments, NO_BETS)?));
        let figure = format!("{workload}: instructions, of the twin's without bets");
        lines.push(Line { figure, measured, limit: 1.01, unit: "" });
    }
    for (workload, ops) in STEADY {
        let calls = |ops: u64| {
            let arguments = [workload, "--threads", "2", "--ops", &ops.to_string()].map(str::to_owned);
            let command = workload_under(ours, programs, &arguments, "");
            mapping_calls(&command)
        };
        // The second half is steady, as far as the first has found out how high use rises.
        let measured = calls(ops).and_then(|half| Ok(calls(2 * ops)? - half));
        let figure =
            format!("{workload} 2: calls that take the lock of mappings for writing, in {ops} operations");
        lines.push(Line { figure, measured, limit: 0.0, unit: "" });
    }
    lines
}

/// How many system calls that change mappings the command makes, its threads' too, after strace.
fn mapping_calls(command: &Command) -> Result<f64, Failure> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=mmap,munmap,mprotect,mremap,brk,madvise", "-e", "signal=none"]);
    for (name, value) in command.get_envs() {
        // strace is not to run under the allocator itself.
        let value = value.unwrap_or_default().to_string_lossy().into_owned();
        strace.arg("-E").arg(format!("{}={value}", name.to_string_lossy()));
    }
    strace.arg(command.get_program()).args(command.get_args());
    let output =
        strace.output().map_err(|error| format!("strace: {error}; it is Debian's package strace"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("strace: {text}"));
    }
    // What gives pages back, or has them come, only reads.
    let reads = |line: &&str| {
        ["MADV_DONTNEED", "MADV_FREE", "MADV_POPULATE_WRITE", "MADV_COLLAPSE", "resumed>"]
            .iter()
            .any(|advice| line.contains(advice))
    };
    Ok(text.lines().filter(|line| line.contains('(') && !reads(line)).count() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::measure::tests::{results, row};

    #[test]
    fn a_row_is_held_against_the_limit_and_against_its_pair() {
        let rows = vec![
            row(Group::Speculation, "fault-split", &[&[2.0; 3], &[1.0; 3], &[1.0; 3]]),
            row(Group::Speculation, "fault-all", &[&[2.0; 3], &[1.5; 3], &[1.0; 3]]),
        ];
        let lines = from_rows(&results(&["glibc", "specmalloc", "limit"], rows));
        let figure = |name: &str| {
            let line = lines.iter().find(|line| line.figure == name).unwrap_or_else(|| panic!("{name}"));
            (line.measured.clone(), line.limit > 1.0)
        };
        assert_eq!(figure("fault-split 2: time of the limit's"), (Ok(1.0), true));
        assert_eq!(figure("fault-all 2: time of the limit's"), (Ok(1.5), true));
        assert_eq!(figure("fault-all 2: time of fault-split's"), (Ok(1.5), true));
        assert_eq!((wanting(25_000.0), wanting(19_000.0)), (0.0, 1_000.0));
    }
}
