//! Figures for other programs.

use std::fmt::Write;

use serde_json::{Value, json};
use specmalloc_measure::table::quoted;

use crate::runner::Trouble;
use crate::runner::measure::{Results, Row};
use crate::runner::run::COMMON;
use crate::runner::stats::{Estimate, spread};

/// One line for each figure of each run.
pub fn csv(results: &Results) -> String {
    let mut text = "group,row,threads,allocator,version,round,figure,value\n".to_owned();
    for row in &results.rows {
        for (cell, peer) in row.cells.iter().zip(&results.peers) {
            for (round, figures) in cell.rounds.iter().enumerate() {
                let extras = figures.extras.iter().map(|extra| extra.0.as_str());
                for name in COMMON.into_iter().chain(extras) {
                    let Some(value) = figures.get(name) else { continue };
                    let task = &row.task;
                    let fields =
                        [task.group.name(), &task.name, &task.threads.to_string(), &peer.name, &peer.version];
                    let fields: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
                    writeln!(text, "{},{},{name},{value}", fields.join(","), round + 1)
                        .expect("a string takes it");
                }
            }
        }
    }
    text
}

/// The summary: medians, spreads, ratios to the base with their intervals.
pub fn json(results: &Results) -> Value {
    let peers: Vec<Value> =
        results.peers.iter().map(|peer| json!({ "name": peer.name, "version": peer.version })).collect();
    let missing: Vec<Value> =
        results.missing.iter().map(|peer| json!({ "name": peer.name, "why": peer.why })).collect();
    json!({
        "base": results.base,
        "rounds": results.rounds,
        "quick": results.quick,
        "allocators": peers,
        "missing": missing,
        "lacking": results.lacking,
        "rows": results.rows.iter().map(|row| row_json(results, row)).collect::<Vec<_>>(),
    })
}

fn row_json(results: &Results, row: &Row) -> Value {
    let base = results.peer(&results.base);
    let cells = row.cells.iter().enumerate().filter(|(_, cell)| cell.applies).map(|(peer, cell)| {
        let mut figures = serde_json::Map::new();
        let extras = cell.rounds.first().map(|figures| figures.extras.as_slice()).unwrap_or_default();
        for name in COMMON.into_iter().chain(extras.iter().map(|extra| extra.0.as_str())) {
            let Some(median) = row.median(peer, name) else { continue };
            let ratio = base.and_then(|base| row.ratio(peer, base, name));
            figures.insert(
                name.to_owned(),
                json!({ "median": median, "spread": spread(&cell.values(name)), "ratio": ratio.map(estimate) }),
            );
        }
        let (reached, failure) = match &cell.trouble {
            None => (true, None),
            Some(Trouble::NotReached(why)) => (false, Some(why)),
            Some(Trouble::Failed(why)) => (true, Some(why)),
        };
        let rounds = cell.rounds.len();
        json!({ "allocator": results.peers[peer].name, "rounds": rounds, "reached": reached, "failure": failure,
                "figures": figures })
    });
    let cells: Vec<Value> = cells.collect();
    json!({ "group": row.task.group.name(), "row": row.task.name, "threads": row.task.threads, "cells": cells })
}

fn estimate(estimate: Estimate) -> Value {
    json!({ "value": estimate.value, "low": estimate.low, "high": estimate.high })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::measure::tests::{results, row};
    use crate::runner::suite::Group;

    #[test]
    fn every_figure_of_every_run_is_a_line() {
        let results = results(&["glibc", "other"], vec![row(Group::Heap, "x", &[&[2.0, 2.0], &[1.0]])]);
        let text = csv(&results);
        assert_eq!(text.lines().count(), 1 + 3 * 5, "{text}");
        assert!(
            text.contains("\nheap,x,2,other,1,1,seconds,1\n") && text.contains(",2,malloc_p99_ns,20\n"),
            "{text}"
        );
    }

    #[test]
    fn the_summary_has_ratios_and_their_intervals() {
        let mut results = results(&["glibc", "other"], vec![row(Group::Heap, "x", &[&[2.0; 3], &[1.0; 3]])]);
        let value = json(&results);
        let cells = &value["rows"][0]["cells"];
        assert_eq!(cells[1]["figures"]["seconds"]["ratio"], json!({ "value": 0.5, "low": 0.5, "high": 0.5 }));
        assert_eq!(
            (&cells[0]["figures"]["peak_rss_kib"]["median"], &cells[0]["failure"]),
            (&json!(1024.0), &Value::Null)
        );
        results.rows[0].cells[1].trouble = Some(Trouble::NotReached("by another".to_owned()));
        let value = json(&results);
        assert_eq!(value["rows"][0]["cells"][1]["reached"], false);
    }
}
