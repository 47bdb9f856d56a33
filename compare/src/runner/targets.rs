//! The figures that specmalloc set itself, measured one by one and printed beside their limits.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Failure, Peer, Row, Settings, Summary, median, run_rust};
use crate::workloads::find;

const WORKLOADS: [&str; 4] = ["alloc-100k", "larson", "mstress", "xmalloc"];
const THREADS: [usize; 2] = [2, 16];
const TIME_LIMIT: f64 = 1.10;
const MEMORY_LIMIT: f64 = 1.15;
const PAIR_LIMIT: f64 = 0.60;
const SLEEP_LIMIT_MIB: f64 = 0.5;
const INSTRUCTIONS_LIMIT: f64 = 60.0;

/// Measures and prints all of them. A figure that could not be measured is a failure; one that is missed is not.
pub fn print_targets(settings: &Settings) -> Vec<Failure> {
    println!("| figure | measured | limit | |");
    println!("|---|--:|--:|---|");
    let mut failures = Vec::new();
    let mut report = |figure: &str, measured: Result<f64, Failure>, limit: f64, unit: &str| match measured {
        Ok(value) => {
            let met = if value <= limit { "met" } else { "missed" };
            println!("| {figure} | {value:.2}{unit} | {limit:.2}{unit} | {met} |");
        }
        Err(failure) => {
            println!("| {figure} | not measured | {limit:.2}{unit} | |");
            if !failures.contains(&failure) {
                failures.push(failure);
            }
        }
    };
    match box_pair(settings) {
        Ok([wall, best, cpu]) => {
            report("Box pair of 32 bytes, time of mimalloc's", Ok(wall), PAIR_LIMIT, "");
            report("the same, best samples", Ok(best), PAIR_LIMIT, "");
            report("the same, processor time", Ok(cpu), PAIR_LIMIT, "");
        }
        Err(failure) => report("Box pair of 32 bytes, time of mimalloc's", Err(failure), PAIR_LIMIT, ""),
    }
    for name in WORKLOADS {
        for threads in THREADS {
            let row = Row::measure(settings, find(name).expect("is in the table"), threads);
            let ratio = |summary: Option<Summary>| {
                summary.and_then(|summary| summary.ratio).ok_or_else(|| {
                    let reasons: Vec<_> =
                        row.cells.iter().filter_map(|cell| cell.rounds.as_ref().err()).collect();
                    format!("{name} at {threads} threads: {reasons:?}")
                })
            };
            let of_mimalloc =
                |figure: fn(&super::Figures) -> f64| row.summary("specmalloc", "mimalloc", figure);
            let label = |what: &str| format!("{name}, {threads} threads, {what} of mimalloc's");
            report(&label("time"), ratio(of_mimalloc(|figures| figures.seconds)), TIME_LIMIT, "");
            report(
                &label("processor time"),
                ratio(of_mimalloc(|figures| figures.cpu_seconds)),
                TIME_LIMIT,
                "",
            );
            report(
                &label("peak memory"),
                ratio(of_mimalloc(|figures| figures.peak_rss_kib)),
                MEMORY_LIMIT,
                "",
            );
        }
    }
    report("resident while asleep, above glibc's", sleeping_above_glibc(settings), SLEEP_LIMIT_MIB, " MiB");
    for name in ["replace", "lone"] {
        let measured = specmalloc(settings).and_then(|peer| instructions_per_pair(settings, peer, name));
        report(&format!("malloc and free, {name}, instructions"), measured, INSTRUCTIONS_LIMIT, "");
    }
    failures
}

fn specmalloc(settings: &Settings) -> Result<&Peer, Failure> {
    settings.peers.iter().find(|peer| peer.name == "specmalloc").ok_or("specmalloc is left out".to_owned())
}

/// The ratio of a Box made and dropped, by the wall clock, by its best samples, and in processor time.
fn box_pair(settings: &Settings) -> Result<[f64; 3], Failure> {
    let mut figures = [const { Vec::new() }; 3];
    for _ in 0..settings.rounds {
        let run = |allocator| -> Result<_, Failure> {
            let runs = run_rust(&settings.programs, allocator, "box-pair-32", settings.quick)?;
            runs.into_iter().next().ok_or(format!("the program of {allocator} has no box-pair-32"))
        };
        let (mimalloc, ours) = (run("mimalloc")?, run("specmalloc")?);
        figures[0].push(ours.median_ns / mimalloc.median_ns);
        figures[1].push(ours.best_ns / mimalloc.best_ns);
        figures[2].push(ours.cpu_ns / mimalloc.cpu_ns);
    }
    Ok(figures.map(|ratios| median(&ratios)))
}

/// Resident MiB of a sleeping `sleep` under specmalloc less that of one under glibc; the median over the rounds.
fn sleeping_above_glibc(settings: &Settings) -> Result<f64, Failure> {
    let library = specmalloc(settings)?.library.clone();
    let mut differences = Vec::new();
    for _ in 0..settings.rounds {
        differences.push((sleeping_kib(library.as_ref())? - sleeping_kib(None)?) / 1024.0);
    }
    Ok(median(&differences))
}

/// Resident KiB of `sleep`, once it sleeps, as `smaps_rollup` tells.
fn sleeping_kib(library: Option<&PathBuf>) -> Result<f64, Failure> {
    let mut command = Command::new("sleep");
    command.arg("5").env_remove("LD_PRELOAD").stdin(Stdio::null());
    if let Some(library) = library {
        command.env("LD_PRELOAD", library);
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
fn instructions_per_pair(settings: &Settings, peer: &Peer, workload: &str) -> Result<f64, Failure> {
    const OPS: f64 = 1e6;
    let count = |empty: bool| -> Result<f64, Failure> {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).env_remove("LD_PRELOAD");
        if let Some(library) = &peer.library {
            // Valgrind is a static program and hands the variable on to what it runs.
            command.env("LD_PRELOAD", library);
        }
        command.arg(settings.programs.join("workloads")).args([workload, "--ops", &OPS.to_string()]);
        if empty {
            command.arg("--empty");
        }
        let output = command
            .output()
            .map_err(|error| format!("valgrind: {error}; it is Debian's package valgrind"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        text.lines()
            .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
            .ok_or_else(|| format!("valgrind of {workload}: {text}"))
    };
    Ok((count(false)? - count(true)?) / OPS)
}
