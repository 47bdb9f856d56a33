//! One run of one row under one allocator, in a process of its own, with the proof that the allocator was reached.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::peer::{Malloc, Peer};
use super::{Trouble, process};

/// No run takes as long as this unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(120);

/// What a run cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Wall-clock seconds of the part that counts; of one operation, for a Rust benchmark.
    pub seconds: f64,
    /// Processor time, user and system, in seconds; of one operation, for a Rust benchmark.
    pub cpu_seconds: f64,
    /// Highest resident memory, in KiB.
    pub peak_rss_kib: f64,
    /// Page faults.
    pub faults: f64,
    /// Mappings at the end, where the run tells.
    pub mappings: f64,
    /// Figures that only some rows have.
    pub extras: Vec<(String, f64)>,
}

impl Figures {
    /// A figure by its name: one that all rows have, or one of the others.
    pub fn get(&self, name: &str) -> Option<f64> {
        let value = match name {
            "seconds" => self.seconds,
            "cpu_seconds" => self.cpu_seconds,
            "peak_rss_kib" => self.peak_rss_kib,
            "faults" => self.faults,
            "mappings" => self.mappings,
            _ => self.extras.iter().find(|extra| extra.0 == name)?.1,
        };
        value.is_finite().then_some(value)
    }
}

/// The names of the figures that all rows have.
pub const COMMON: [&str; 5] = ["seconds", "cpu_seconds", "peak_rss_kib", "faults", "mappings"];

/// The command `workloads ARGUMENTS` from the folder `programs`, to run under `peer` with these options of specmalloc's.
pub fn workload_under(peer: &Peer, programs: &Path, arguments: &[String], options: &str) -> Command {
    let mut command = Command::new(peer.workloads.as_deref().unwrap_or(programs).join("workloads"));
    set_up(&mut command, peer, options);
    command.args(arguments).args(peer.arguments);
    command
}

/// Has `command` run under `peer` with these options of specmalloc's.
pub fn set_up(command: &mut Command, peer: &Peer, options: &str) {
    peer.preload(command);
    let own = peer.environment.iter().find(|variable| variable.0 == OPTIONS).map(|variable| variable.1);
    let all: Vec<&str> = own.into_iter().chain([options]).filter(|text| !text.is_empty()).collect();
    if !all.is_empty() {
        command.env(OPTIONS, all.join(","));
    }
}

/// The variable of specmalloc's options. No other allocator reads it.
const OPTIONS: &str = "SPECMALLOC_CONF";

/// Runs `workloads ARGUMENTS` from the folder `programs` under `peer`.
pub fn run_workload(
    programs: &Path,
    peer: &Peer,
    arguments: &[String],
    options: &str,
) -> Result<Figures, Trouble> {
    let mut command = workload_under(peer, programs, arguments, options);
    let ended = process::run(&mut command, LIMIT).map_err(Trouble::Failed)?;
    let read = parse(&ended.output);
    let (figures, object) =
        read.ok_or(Trouble::Failed(format!("not a line of figures: {}", ended.output)))?;
    if !peer.is_served_by(&object) {
        return Err(Trouble::NotReached(format!("malloc was served by {}", object.display())));
    }
    Ok(figures)
}

fn parse(line: &str) -> Option<(Figures, PathBuf)> {
    let mut figures = Figures {
        seconds: f64::NAN,
        cpu_seconds: 0.0,
        peak_rss_kib: f64::NAN,
        faults: f64::NAN,
        mappings: f64::NAN,
        extras: Vec::new(),
    };
    let mut object = None;
    for field in line.split_ascii_whitespace().skip(1) {
        let (name, value) = field.split_once('=')?;
        if name == "malloc" {
            object = Some(PathBuf::from(value));
            continue;
        }
        let value: f64 = value.parse().ok()?;
        match name {
            "seconds" => figures.seconds = value,
            "user" | "system" => figures.cpu_seconds += value,
            "peak_rss_kib" => figures.peak_rss_kib = value,
            "faults" => figures.faults = value,
            "mappings" => figures.mappings = value,
            "threads" | "ops" | "ops_per_second" => {}
            _ => figures.extras.push((name.to_owned(), value)),
        }
    }
    let complete = !(figures.seconds + figures.peak_rss_kib + figures.faults + figures.mappings).is_nan();
    complete.then_some((figures, object?))
}

/// Runs one benchmark of the Rust workloads, in the program whose global allocator `peer` is.
pub fn run_rust(peer: &Peer, bench: &str, quick: bool) -> Result<Figures, Trouble> {
    let program = peer.program.as_ref().ok_or(Trouble::Failed("there is no Rust program".to_owned()))?;
    let mut command = Command::new(program);
    command.args(["--exact", bench]).envs(peer.environment.iter().copied()).env_remove("LD_PRELOAD");
    if quick {
        command.arg("--quick");
    }
    let ended = process::run(&mut command, LIMIT).map_err(Trouble::Failed)?;
    let read = parse_rust(&ended.output, bench);
    let mut figures = read.ok_or(Trouble::Failed(format!("not a line of figures: {}", ended.output)))?;
    figures.faults = ended.faults;
    Ok(figures)
}

fn parse_rust(line: &str, bench: &str) -> Option<Figures> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    if value["bench"] != bench {
        return None;
    }
    let seconds = |name: &str| value[name].as_f64().map(|nanoseconds| nanoseconds * 1e-9);
    Some(Figures {
        seconds: seconds("median_ns")?,
        cpu_seconds: seconds("cpu_ns")?,
        peak_rss_kib: value["peak_rss_kib"].as_f64()?,
        faults: f64::NAN,
        mappings: f64::NAN,
        extras: vec![("best_ns".to_owned(), value["best_ns"].as_f64()?)],
    })
}

/// Whether rows that preload can be measured under the allocator.
pub fn can_preload(peer: &Peer) -> bool {
    peer.malloc != Malloc::Never
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_an_incomplete_one_is_not() {
        let line = "churn threads=2 ops=10 seconds=0.5 ops_per_second=20 user=0.25 system=0.5 peak_rss_kib=4000 \
                    faults=7 mappings=40 malloc=/lib/libc.so.6 stays_kib=12";
        let (figures, object) = parse(line).expect("complete");
        assert_eq!((figures.seconds, figures.cpu_seconds, figures.peak_rss_kib), (0.5, 0.75, 4000.0));
        assert_eq!((figures.faults, figures.mappings), (7.0, 40.0));
        assert_eq!(figures.extras, [("stays_kib".to_owned(), 12.0)]);
        assert_eq!((figures.get("stays_kib"), figures.get("faults")), (Some(12.0), Some(7.0)));
        assert_eq!(object, Path::new("/lib/libc.so.6"));
        assert!(parse(&line.replace("faults=7 ", "")).is_none());
        assert!(parse(&line.replace("malloc=/lib/libc.so.6", "")).is_none());
        assert!(parse("no such thing").is_none() && parse("").is_none());
    }

    #[test]
    fn a_rust_line_is_read_if_it_is_of_the_benchmark_asked_for() {
        let line = r#"{"bench":"box-pair-8","best_ns":1.0,"cpu_ns":2.5,"median_ns":2.0,"peak_rss_kib":900}"#;
        let figures = parse_rust(line, "box-pair-8").expect("is read");
        assert!((figures.seconds - 2e-9).abs() < 1e-15 && (figures.cpu_seconds - 2.5e-9).abs() < 1e-15);
        assert_eq!((figures.get("best_ns"), figures.get("peak_rss_kib")), (Some(1.0), Some(900.0)));
        assert!(parse_rust(line, "box-pair-16").is_none() && parse_rust("{}", "box-pair-8").is_none());
    }
}
