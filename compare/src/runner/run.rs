//! One run of one workload under one allocator, in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Failure, Peer};

/// What a run printed.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Wall-clock seconds of the part that counts.
    pub seconds: f64,
    /// Processor time of the process, user and system, in seconds.
    pub cpu_seconds: f64,
    /// Highest resident memory, in KiB.
    pub peak_rss_kib: f64,
    /// Page faults.
    pub faults: f64,
    /// Mappings at the end.
    pub mappings: f64,
    /// Figures that only this workload has.
    pub extras: Vec<(String, f64)>,
}

/// Runs `workloads ARGUMENTS` from the folder `programs` under `peer`, and checks that the peer served malloc.
pub fn run_workload(programs: &Path, peer: &Peer, arguments: &[String]) -> Result<Figures, Failure> {
    let fail = |what: String| format!("{} under {}: {what}", arguments.join(" "), peer.name);
    let mut command = Command::new(programs.join("workloads"));
    command.args(arguments).env_remove("LD_PRELOAD");
    if let Some(library) = &peer.library {
        command.env("LD_PRELOAD", library);
    }
    let output = command.output().map_err(|error| {
        fail(format!("{error}; is it built? The command is: cargo build --release -p compare"))
    })?;
    if !output.status.success() {
        return Err(fail(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())));
    }
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    let (figures, library) = parse(&line).ok_or_else(|| fail(format!("not a line of figures: {line}")))?;
    if !peer.is_served_by(&library) {
        return Err(fail(format!("malloc was served by {}", library.display())));
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
    let mut library = None;
    for field in line.split_ascii_whitespace().skip(1) {
        let (name, value) = field.split_once('=')?;
        if name == "malloc" {
            library = Some(PathBuf::from(value));
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
    complete.then_some((figures, library?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_an_incomplete_one_is_not() {
        let line = "churn threads=2 ops=10 seconds=0.5 ops_per_second=20 user=0.25 system=0.5 peak_rss_kib=4000 faults=7 \
                    mappings=40 malloc=/lib/libc.so.6 stays_kib=12";
        let (figures, library) = parse(line).expect("complete");
        assert_eq!((figures.seconds, figures.cpu_seconds, figures.peak_rss_kib), (0.5, 0.75, 4000.0));
        assert_eq!((figures.faults, figures.mappings), (7.0, 40.0));
        assert_eq!(figures.extras, [("stays_kib".to_owned(), 12.0)]);
        assert_eq!(library, Path::new("/lib/libc.so.6"));
        assert!(parse(&line.replace("faults=7 ", "")).is_none());
        assert!(parse(&line.replace("malloc=/lib/libc.so.6", "")).is_none());
        assert!(parse("no such thing").is_none());
    }
}
