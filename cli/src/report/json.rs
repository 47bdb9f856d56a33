//! The statistics as one JSON document.
//!
//! `program`, `sum` and each of `processes` hold the same object of figures: `bytes`, `counts`, `system_calls`,
//! `bets` (each `taken`, `won`, `lost`), and `classes` on request. Numbers are bytes and counts, never formatted.

use super::{Process, Report, bets, calls, counts, sizes};
use serde_json::{Map, Value, json};
use specmalloc::Statistics;

impl Report {
    /// The document, with a newline at its end.
    pub(crate) fn json(&self, classes: bool) -> String {
        let own = self.program.and_then(|index| self.processes[index].record.statistics);
        let process = |process: &Process| {
            json!({
                "pid": process.record.pid,
                "parent": process.record.parent,
                "name": process.name(),
                "end": process.end.to_string(),
                "statistics": process.record.statistics.map(|own| figures(&own, classes)),
            })
        };
        let document = json!({
            "program": {
                "end": self.end.to_string(),
                "statistics": own.map(|own| figures(&own, classes)),
            },
            "sum": figures(&self.sum, classes),
            "processes": self.processes.iter().map(process).collect::<Vec<_>>(),
            "processes_without_room": self.uncounted,
        });
        format!("{document:#}\n")
    }
}

/// The figures as an object.
pub(crate) fn figures(statistics: &Statistics, classes: bool) -> Value {
    let object = |pairs: &[(String, u64)]| -> Value {
        pairs.iter().map(|(name, value)| (name.replace(' ', "_"), json!(value))).collect::<Map<_, _>>().into()
    };
    let bets = bets(statistics)
        .into_iter()
        .map(|(name, bet)| (name.into(), json!({ "taken": bet.taken, "won": bet.won, "lost": bet.lost })));
    let mut figures = json!({
        "bytes": object(&sizes(statistics)),
        "counts": object(&counts(statistics)),
        "system_calls": object(&calls(statistics)),
        "bets": bets.collect::<Map<String, Value>>(),
    });
    if classes {
        let class = statistics.classes.iter().map(|class| {
            json!({
                "block_bytes": class.block_bytes,
                "live_blocks": class.live_blocks,
                "slabs": class.slabs,
            })
        });
        figures["classes"] = class.collect();
    }
    figures
}
