//! Every workload under every allocator, in turn, for several rounds, as a table in Markdown or JSON.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Failure, Figures, Peer, RustFigures, Summary, geometric_mean, median, run_rust, run_workload};
use crate::workloads::{WORKLOADS, Workload};

/// What to measure and how.
pub struct Settings {
    /// The folder of the programs `workloads` and `compare`.
    pub programs: PathBuf,
    /// The allocators, in the order of the runs.
    pub peers: Vec<Peer>,
    /// The name of the allocator that ratios are taken to.
    pub base: String,
    /// Runs of each workload under each allocator.
    pub rounds: usize,
    /// Numbers of threads.
    pub threads: Vec<usize>,
    /// Names of workloads; all if empty.
    pub only: Vec<String>,
    /// The smaller amount of work.
    pub quick: bool,
    /// JSON instead of Markdown.
    pub json: bool,
}

/// A workload at a number of threads, under each allocator.
pub struct Row {
    /// The workload's name.
    pub workload: &'static str,
    /// Number of threads.
    pub threads: usize,
    /// One per allocator, in the order of the settings.
    pub cells: Vec<Cell>,
}

/// The rounds of one allocator.
pub struct Cell {
    /// The allocator's name.
    pub peer: String,
    /// One per round, or why there are none.
    pub rounds: Result<Vec<Figures>, Failure>,
}

impl Row {
    /// Runs each allocator in turn, round after round. An allocator that fails is not run again.
    pub fn measure(settings: &Settings, workload: &Workload, threads: usize) -> Row {
        let ops = if settings.quick { workload.quick_ops } else { workload.ops };
        let mut arguments = vec![workload.name.to_owned()];
        arguments.extend(["--threads".to_owned(), threads.to_string(), "--ops".to_owned(), ops.to_string()]);
        if workload.name == "bleed" {
            arguments.extend(["--idle".to_owned(), if settings.quick { "1" } else { "10" }.to_owned()]);
        }
        let mut cells: Vec<Cell> = settings
            .peers
            .iter()
            .map(|peer| Cell { peer: peer.name.clone(), rounds: Ok(Vec::with_capacity(settings.rounds)) })
            .collect();
        for _ in 0..settings.rounds {
            for (cell, peer) in cells.iter_mut().zip(&settings.peers) {
                if let Ok(rounds) = &mut cell.rounds {
                    match run_workload(&settings.programs, peer, &arguments) {
                        Ok(figures) => rounds.push(figures),
                        Err(failure) => cell.rounds = Err(failure),
                    }
                }
            }
        }
        Row { workload: workload.name, threads, cells }
    }

    /// One figure of one allocator, against the same of the base.
    pub fn summary(&self, peer: &str, base: &str, figure: impl Fn(&Figures) -> f64) -> Option<Summary> {
        let values = |name: &str| -> Option<Vec<f64>> {
            let cell = self.cells.iter().find(|cell| cell.peer == name)?;
            Some(cell.rounds.as_ref().ok()?.iter().map(&figure).collect())
        };
        Some(Summary::new(&values(peer)?, &values(base).unwrap_or_default()))
    }
}

/// Measures and prints the table; a row as soon as it is there. Answers the failures.
pub fn print_table(settings: &Settings) -> Vec<Failure> {
    if !settings.json {
        let base = &settings.base;
        println!(
            "| workload | threads | allocator | seconds | spread | of {base} | CPU of {base} | peak MiB | of {base} | faults | mappings | other |"
        );
        println!("|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|---|");
    }
    let mut rows = Vec::new();
    let wanted = |name: &str| settings.only.is_empty() || settings.only.iter().any(|other| other == name);
    for workload in WORKLOADS.iter().filter(|workload| wanted(workload.name)) {
        let threads = if workload.threaded { settings.threads.as_slice() } else { &[1] };
        for &threads in threads {
            let row = Row::measure(settings, workload, threads);
            if !settings.json {
                row.cells.iter().for_each(|cell| println!("{}", markdown(&row, cell, &settings.base)));
            }
            rows.push(row);
        }
    }
    if settings.json {
        let rows: Vec<Value> = rows.iter().map(|row| row_as_json(row, &settings.base)).collect();
        println!("{}", json!({ "base": settings.base, "rounds": settings.rounds, "rows": rows }));
    } else {
        println!();
        for peer in &settings.peers {
            print_mean(&rows, &peer.name, &settings.base);
        }
    }
    rows.into_iter().flat_map(|row| row.cells).filter_map(|cell| cell.rounds.err()).collect()
}

fn ratio(summary: Option<Summary>) -> String {
    summary.and_then(|summary| summary.ratio).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn markdown(row: &Row, cell: &Cell, base: &str) -> String {
    let head = format!("| {} | {} | {} |", row.workload, row.threads, cell.peer);
    let Ok(rounds) = &cell.rounds else { return format!("{head} failed | | | | | | | | |") };
    let summary = |figure: fn(&Figures) -> f64| row.summary(&cell.peer, base, figure);
    let (time, peak) = (summary(|figures| figures.seconds), summary(|figures| figures.peak_rss_kib));
    let middle = |summary: Option<Summary>| summary.map_or(0.0, |summary| summary.median);
    format!(
        "{head} {:.3} | {:.0} % | {} | {} | {:.1} | {} | {:.0} | {:.0} | {} |",
        middle(time),
        time.map_or(0.0, |summary| summary.spread) * 100.0,
        ratio(time),
        ratio(summary(|figures| figures.cpu_seconds)),
        middle(peak) / 1024.0,
        ratio(peak),
        middle(summary(|figures| figures.faults)),
        middle(summary(|figures| figures.mappings)),
        extras(rounds)
            .iter()
            .map(|(name, value)| format!("{name} {value:.0}"))
            .collect::<Vec<_>>()
            .join(", "),
    )
}

/// The medians of the figures that only this workload has.
fn extras(rounds: &[Figures]) -> Vec<(String, f64)> {
    let names = rounds.first().map(|figures| figures.extras.as_slice()).unwrap_or_default();
    (0..names.len())
        .map(|at| {
            let values: Vec<f64> =
                rounds.iter().filter_map(|figures| Some(figures.extras.get(at)?.1)).collect();
            (names[at].0.clone(), median(&values))
        })
        .collect()
}

fn row_as_json(row: &Row, base: &str) -> Value {
    let cells: Vec<Value> = row
        .cells
        .iter()
        .map(|cell| match &cell.rounds {
            Err(failure) => json!({ "allocator": cell.peer, "failure": failure }),
            Ok(rounds) => {
                let figure = |figure: fn(&Figures) -> f64| {
                    row.summary(&cell.peer, base, figure)
                        .map(|s| json!({ "median": s.median, "spread": s.spread, "ratio": s.ratio }))
                };
                json!({
                    "allocator": cell.peer,
                    "seconds": figure(|figures| figures.seconds),
                    "cpu_seconds": figure(|figures| figures.cpu_seconds),
                    "peak_rss_kib": figure(|figures| figures.peak_rss_kib),
                    "faults": figure(|figures| figures.faults),
                    "mappings": figure(|figures| figures.mappings),
                    "extras": extras(rounds).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
                })
            }
        })
        .collect();
    json!({ "workload": row.workload, "threads": row.threads, "cells": cells })
}

/// The geometric mean of an allocator's ratios over all rows.
fn print_mean(rows: &[Row], peer: &str, base: &str) {
    let ratios = |figure: fn(&Figures) -> f64| -> Vec<f64> {
        rows.iter().filter_map(|row| row.summary(peer, base, figure)?.ratio).collect()
    };
    let (time, peak) = (ratios(|figures| figures.seconds), ratios(|figures| figures.peak_rss_kib));
    println!(
        "{peer}: {:.2} of {base}'s time and {:.2} of its peak memory (geometric means over {} of {} rows)",
        geometric_mean(&time),
        geometric_mean(&peak),
        time.len(),
        rows.len(),
    );
}

/// Measures the Rust programs of `allocators` in turn and prints their table.
pub fn print_rust_table(settings: &Settings, allocators: &[String], filter: &str) -> Result<(), Failure> {
    let mut rounds: Vec<Vec<Vec<RustFigures>>> = vec![Vec::new(); allocators.len()];
    for _ in 0..settings.rounds {
        for (runs, allocator) in rounds.iter_mut().zip(allocators) {
            runs.push(run_rust(&settings.programs, allocator, filter, settings.quick)?);
        }
    }
    let base = allocators
        .iter()
        .position(|allocator| *allocator == settings.base)
        .ok_or(format!("{} is not among the allocators measured", settings.base))?;
    let mut lines = Vec::new();
    for (at, figures) in rounds[base][0].iter().enumerate() {
        for (allocator, runs) in allocators.iter().zip(&rounds) {
            let summary = |figure: fn(&RustFigures) -> f64| {
                let of =
                    |runs: &[Vec<RustFigures>]| runs.iter().map(|run| figure(&run[at])).collect::<Vec<_>>();
                Summary::new(&of(runs), &of(&rounds[base]))
            };
            lines.push((
                &figures.bench,
                allocator,
                summary(|f| f.median_ns),
                summary(|f| f.best_ns),
                summary(|f| f.cpu_ns),
            ));
        }
    }
    if settings.json {
        let value = |s: &Summary| json!({ "median": s.median, "spread": s.spread, "ratio": s.ratio });
        let rows: Vec<Value> = lines
            .iter()
            .map(|(bench, allocator, wall, best, cpu)| {
                json!({ "bench": bench, "allocator": allocator, "ns": value(wall), "best_ns": value(best),
                        "cpu_ns": value(cpu) })
            })
            .collect();
        println!("{}", json!({ "base": settings.base, "rounds": settings.rounds, "rows": rows }));
        return Ok(());
    }
    let base = &settings.base;
    println!(
        "| benchmark | allocator | ns | spread | of {base} | best ns | of {base} | CPU ns | of {base} |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|");
    for (bench, allocator, wall, best, cpu) in lines {
        println!(
            "| {bench} | {allocator} | {:.2} | {:.0} % | {} | {:.2} | {} | {:.2} | {} |",
            wall.median,
            wall.spread * 100.0,
            ratio(Some(wall)),
            best.median,
            ratio(Some(best)),
            cpu.median,
            ratio(Some(cpu)),
        );
    }
    Ok(())
}
