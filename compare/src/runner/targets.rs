//! The figures that specmalloc set itself, and whether they are met: those that come out of the rows, and those that
//! are counted one by one.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Failure;
use super::measure::{Results, Row};
use super::peer::Peer;
use super::report::means_of;
use super::run::set_up;
use super::stats::median;
use super::suite::Group;

const SLEEP_LIMIT_MIB: f64 = 0.25;
/// Workloads of which the instructions of one malloc and one free are counted, and how many there may be.
const INSTRUCTIONS: [(&str, f64); 2] = [("replace", 46.0), ("lone", 46.0)];
const ROUNDS: usize = 3;
/// A program of less than this counts in the mean of memory only.
const SMALL_KIB: f64 = 16_384.0;
const WORKLOADS: [Group; 4] = [Group::Heap, Group::Aged, Group::Traces, Group::AddressSpace];

/// A figure and its limit.
pub struct Line {
    /// What it is.
    pub figure: String,
    /// What it came to.
    pub measured: Result<f64, Failure>,
    /// What it is to come to at most.
    pub limit: f64,
    /// Its unit.
    pub unit: &'static str,
}

/// A table of figures and their limits, and what could not be measured.
pub fn table(lines: impl IntoIterator<Item = Line>) -> (String, Vec<Failure>) {
    let mut text = "| figure | measured | limit | |\n|---|--:|--:|---|\n".to_owned();
    let mut failures = Vec::new();
    for Line { figure, measured, limit, unit } in lines {
        let (measured, verdict) = match measured {
            Ok(value) => (format!("{value:.2}{unit}"), if value <= limit { "met" } else { "missed" }),
            Err(failure) => {
                failures.push(failure);
                ("not measured".to_owned(), "")
            }
        };
        writeln!(text, "| {figure} | {measured} | {limit:.2}{unit} | {verdict} |")
            .expect("a string takes it");
    }
    (text, failures)
}

/// Prints all of them as a table. A figure that could not be measured is a failure; one that is missed is not.
pub fn print_targets(results: &Results, programs: &Path) -> Vec<Failure> {
    let Some(ours) = results.peer("specmalloc") else {
        return vec!["specmalloc is not among the peers".to_owned()];
    };
    let lines = from_rows(results, ours).into_iter().chain(counted(&results.peers[ours], programs));
    let (text, failures) = table(lines);
    println!("{text}");
    failures
}

fn from_rows(results: &Results, ours: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = |figure: &str, measured: Option<f64>, limit| {
        if let Some(value) = measured {
            lines.push(Line { figure: figure.to_owned(), measured: Ok(value), limit, unit: "" });
        }
    };
    let base = results.peer("glibc");
    let mean = |groups: &[Group], peer: usize, figure: &str| means_of(results, groups, peer, base?, figure);
    let best = (0..results.peers.len())
        .filter(|&peer| peer != ours)
        .filter_map(|peer| mean(&WORKLOADS, peer, "seconds"));
    let best = best.min_by(f64::total_cmp);
    let time = mean(&WORKLOADS, ours, "seconds");
    line("workloads, mean time of the best peer's", time.zip(best).map(|(ours, best)| ours / best), 0.90);
    line("workloads, mean peak memory of glibc's", mean(&WORKLOADS, ours, "peak_rss_kib"), 1.00);
    line("programs, mean time of glibc's", mean(&[Group::Programs], ours, "seconds"), 0.85);
    line("programs, mean peak memory of glibc's", mean(&[Group::Programs], ours, "peak_rss_kib"), 1.05);
    for (groups, what, limit) in [
        (&WORKLOADS[..], "workloads", 1.10),
        (&[Group::Programs][..], "programs", 1.03),
        (&[Group::Rust][..], "Rust programs", 0.95),
    ] {
        let rows = || results.rows.iter().filter(|row| groups.contains(&row.task.group));
        let worst = rows()
            .filter_map(|row| Some((behind(row, ours)?, row.task.label())))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((ratio, label)) = worst {
            line(&format!("{what}, the worst row: {label}, time of the best peer's"), Some(ratio), limit);
        }
        let Some(base) = base else { continue };
        let large = rows().filter(|row| row.median(base, "peak_rss_kib").is_some_and(|kib| kib >= SMALL_KIB));
        let worst =
            large.filter_map(|row| Some((row.ratio(ours, base, "peak_rss_kib")?.value, row.task.label())));
        if let Some((ratio, label)) = worst.max_by(|a, b| a.0.total_cmp(&b.0)) {
            line(&format!("{what}, the worst row: {label}, peak memory of glibc's"), Some(ratio), 1.25);
        }
    }
    lines
}

/// Our time as a share of the best peer's on that row.
fn behind(row: &Row, ours: usize) -> Option<f64> {
    Some(row.ratio(ours, row.best("seconds", Some(ours))?, "seconds")?.value)
}

fn counted(peer: &Peer, programs: &Path) -> Vec<Line> {
    let mut lines = vec![Line {
        figure: "resident while asleep, above glibc's".to_owned(),
        measured: sleeping_above_glibc(peer),
        limit: SLEEP_LIMIT_MIB,
        unit: " MiB",
    }];
    lines.extend(INSTRUCTIONS.map(|(workload, limit)| Line {
        figure: format!("malloc and free, {workload}, instructions"),
        measured: instructions_per_pair(peer, programs, workload),
        limit,
        unit: "",
    }));
    lines
}

/// Resident MiB of a sleeping `sleep` under `peer` less that of one under glibc; the median over the rounds.
fn sleeping_above_glibc(peer: &Peer) -> Result<f64, Failure> {
    let mut differences = Vec::new();
    for _ in 0..ROUNDS {
        differences.push((sleeping_kib(Some(peer))? - sleeping_kib(None)?) / 1024.0);
    }
    Ok(median(&differences))
}

/// Resident KiB of `sleep`, once it sleeps, as `smaps_rollup` tells.
fn sleeping_kib(peer: Option<&Peer>) -> Result<f64, Failure> {
    let mut command = Command::new("sleep");
    command.arg("5").env_remove("LD_PRELOAD").stdin(Stdio::null());
    if let Some(peer) = peer {
        peer.preload(&mut command);
    }
    let mut child = command.spawn().map_err(|error| format!("sleep: {error}"))?;
    std::thread::sleep(Duration::from_millis(300));
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", child.id()));
    // It may have ended by itself; either way it is waited for.
    let _ = child.kill();
    let _ = child.wait();
    let rollup = rollup.map_err(|error| format!("smaps_rollup of sleep: {error}"))?;
    rollup
        .lines()
        .find_map(|line| line.strip_prefix("Rss:")?.split_ascii_whitespace().next()?.parse().ok())
        .ok_or("smaps_rollup has no Rss".to_owned())
}

/// Instructions of one malloc and one free, as callgrind counts them: a run less its empty twin, per operation.
fn instructions_per_pair(peer: &Peer, programs: &Path, workload: &str) -> Result<f64, Failure> {
    const OPS: f64 = 1e6;
    let count = |more: &[&str]| {
        let arguments: Vec<String> =
            [workload, "--ops", &OPS.to_string()].iter().chain(more).map(|text| (*text).to_owned()).collect();
        instructions(peer, programs, &arguments, "")
    };
    Ok((count(&[])? - count(&["--empty"])?) / OPS)
}

/// Instructions of a run of `workloads`, as callgrind counts them.
pub fn instructions(
    peer: &Peer,
    programs: &Path,
    arguments: &[String],
    options: &str,
) -> Result<f64, Failure> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    // Valgrind is a static program and hands the variables on to what it runs.
    set_up(&mut command, peer, options);
    let output = command.arg(programs.join("workloads")).args(arguments).output();
    let output = output.map_err(|error| format!("valgrind: {error}; it is Debian's package valgrind"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .ok_or_else(|| format!("valgrind of {}: {text}", arguments.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::measure::tests::{results, row};

    #[test]
    fn the_worst_row_is_named() {
        let rows = vec![
            row(Group::Heap, "x", &[&[2.0; 3], &[1.0; 3], &[2.0; 3]]),
            row(Group::Heap, "y", &[&[2.0; 3], &[1.5; 3], &[1.0; 3]]),
        ];
        let lines = from_rows(&results(&["glibc", "specmalloc", "other"], rows), 1);
        let worst = lines.iter().find(|line| line.figure.contains("time of the best")).expect("is there");
        assert!(
            lines.iter().any(|line| line.figure.contains("the worst row: y 2") && line.measured == Ok(1.5))
        );
        // Ours 0.61, the other's 0.71 of glibc's.
        assert!((worst.measured.clone().expect("was measured") - 0.866).abs() < 1e-3, "{:?}", worst.measured);
    }
}
