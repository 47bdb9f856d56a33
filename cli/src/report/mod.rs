//! The statistics of one run: which processes there were, how each ended, and their figures.

pub(crate) mod json;
mod table;

use specmalloc::internals::api::shared_record::{ProcessRecord, StatisticsFile};
use specmalloc::internals::api::statistics::{self, FIGURES};
use specmalloc::{Bet, Statistics};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How a process ended, as far as its record and the system tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The program itself, which the command waited for: its exit status.
    Status(i32),
    /// The program itself: the signal that ended it.
    Signal(i32),
    /// It exited in the ordinary way.
    Exited,
    /// It ran another program: a later record has its process id.
    Exec,
    /// It is still running.
    Running,
    /// It was killed, or called `_exit`.
    Abrupt,
}

/// One process and how it ended.
pub(crate) struct Process {
    record: ProcessRecord,
    end: End,
}

impl Process {
    fn name(&self) -> String {
        let name = self.record.name;
        let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        String::from_utf8_lossy(&name[..len]).into_owned()
    }
}

/// Everything that a table or a JSON document shows.
pub(crate) struct Report {
    /// Every record, in the order in which the processes began.
    processes: Vec<Process>,
    /// Processes that found no room in the file.
    uncounted: u64,
    /// Index of the program's own last record.
    program: Option<usize>,
    /// How the program ended.
    end: End,
    /// Figures of all processes added up.
    sum: Statistics,
}

impl Report {
    /// Reads `file` after the program `pid` has ended with `status`.
    pub(crate) fn new(file: &StatisticsFile, pid: u32, status: ExitStatus) -> Self {
        let records: Vec<_> = file.records().collect();
        let uncounted = file.claimed().saturating_sub(records.len() as u64);
        Self::build(records, uncounted, pid, status, |pid| {
            // SAFETY: signal 0 is only a question.
            unsafe { libc::kill(pid as libc::pid_t, 0) == 0 }
        })
    }

    fn build(
        records: Vec<ProcessRecord>,
        uncounted: u64,
        pid: u32,
        status: ExitStatus,
        running: impl Fn(u32) -> bool,
    ) -> Self {
        let end = match (status.code(), status.signal()) {
            (Some(code), _) => End::Status(code),
            (None, signal) => End::Signal(signal.unwrap_or(0)),
        };
        let mut sum = Statistics::new();
        for statistics in records.iter().filter_map(|record| record.statistics) {
            sum.add(&statistics);
        }
        let ends: Vec<_> = records
            .iter()
            .enumerate()
            .map(|(index, record)| {
                if record.finished {
                    End::Exited
                } else if records[index + 1..].iter().any(|later| later.pid == record.pid) {
                    End::Exec
                } else if record.pid == pid {
                    end
                } else if running(record.pid) {
                    End::Running
                } else {
                    End::Abrupt
                }
            })
            .collect();
        let program = records.iter().rposition(|record| record.pid == pid);
        let mut processes: Vec<_> =
            records.into_iter().zip(ends).map(|(record, end)| Process { record, end }).collect();
        if let Some(program) = program {
            processes[program].end = end;
        }
        Self { processes, uncounted, program, end, sum }
    }

    fn count(&self, wanted: impl Fn(End) -> bool) -> usize {
        self.processes.iter().filter(|process| wanted(process.end)).count()
    }
}

/// What a figure is, by how its name ends.
const KINDS: [&str; 5] = ["_bytes", "_calls", "_taken", "_won", "_lost"];

/// The figures whose names end so, with the words that both outputs use: without that ending.
fn figures(statistics: &Statistics, ending: &str) -> Vec<(String, u64)> {
    let figures = FIGURES.iter().zip(statistics::figures(statistics));
    figures
        .filter_map(|(name, figure)| Some((name.strip_suffix(ending)?.replace('_', " "), figure)))
        .collect()
}

/// The figures that are sizes in bytes.
fn sizes(statistics: &Statistics) -> Vec<(String, u64)> {
    figures(statistics, "_bytes")
}

/// The figures that are counts: all that are nothing else.
fn counts(statistics: &Statistics) -> Vec<(String, u64)> {
    let is_count = |name: &str| !KINDS.iter().any(|kind| name.ends_with(kind));
    let figures = FIGURES.iter().zip(statistics::figures(statistics));
    figures
        .filter(|(name, _)| is_count(name))
        .map(|(name, figure)| (name.strip_suffix("_regions").unwrap_or(name).replace('_', " "), figure))
        .collect()
}

/// The system calls.
pub(crate) fn calls(statistics: &Statistics) -> Vec<(String, u64)> {
    figures(statistics, "_calls")
}

/// The bets, by name.
pub(crate) fn bets(statistics: &Statistics) -> [(&'static str, Bet); 3] {
    let bets = statistics.bets;
    [("lookup", bets.lookup), ("space", bets.space), ("population", bets.population)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: u32, parent: u32, finished: bool, live: Option<u64>) -> ProcessRecord {
        let statistics = live.map(|live_bytes| Statistics { live_bytes, ..Statistics::new() });
        ProcessRecord {
            pid,
            parent,
            started_ns: 0,
            name: *b"program\0\0\0\0\0\0\0\0\0",
            finished,
            statistics,
        }
    }

    fn report() -> Report {
        let records = vec![
            record(10, 1, false, Some(1)), // ran exec
            record(11, 10, true, Some(20)),
            record(12, 10, false, Some(300)), // killed
            record(13, 10, false, None),      // running
            record(10, 1, false, Some(4000)), // the program, killed
        ];
        Report::build(records, 2, 10, ExitStatus::from_raw(libc::SIGKILL), |pid| pid == 13)
    }

    #[test]
    fn each_process_ends_its_own_way_and_figures_add_up() {
        let report = report();
        let ends: Vec<_> = report.processes.iter().map(|process| process.end).collect();
        assert_eq!(ends, [End::Exec, End::Exited, End::Abrupt, End::Running, End::Signal(9)]);
        assert_eq!((report.program, report.sum.live_bytes), (Some(4), 4321));
    }

    #[test]
    fn the_table_names_what_the_document_holds() {
        let report = report();
        let document: serde_json::Value = serde_json::from_str(&report.json(true)).unwrap();
        assert_eq!(document["program"]["end"], "killed by signal 9");
        assert_eq!(document["sum"]["bytes"]["live"], 4321);
        assert_eq!(document["processes"].as_array().unwrap().len(), 5);
        assert_eq!(document["processes"][2]["statistics"]["bytes"]["live"], 300);
        assert!(document["processes"][3]["statistics"].is_null());
        let classes = document["sum"]["classes"].as_array().unwrap();
        assert_eq!((classes.len(), &classes[0]["block_bytes"]), (93, &serde_json::json!(16)));
        let table = report.table(false);
        assert!(
            table.contains("killed by signal 9") && table.contains("4,321") && table.contains("2 more"),
            "{table}"
        );
    }

    #[test]
    fn a_program_that_was_not_served_is_told_as_such() {
        let report = Report::build(Vec::new(), 0, 10, ExitStatus::from_raw(0), |_| false);
        assert!(report.table(true).contains("not served"), "{}", report.table(true));
        let document: serde_json::Value = serde_json::from_str(&report.json(false)).unwrap();
        assert!(
            document["program"]["statistics"].is_null() && document["processes"] == serde_json::json!([])
        );
    }
}
