//! The bench programs, one per Rust global allocator: where they are, and what they print.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Failure;

/// What one bench program said about one benchmark, in nanoseconds per operation.
#[derive(Clone, Debug, PartialEq)]
pub struct RustFigures {
    /// The benchmark.
    pub bench: String,
    /// By the wall clock, the median of the samples.
    pub median_ns: f64,
    /// By the wall clock, the best sample.
    pub best_ns: f64,
    /// Processor time, the median of the samples.
    pub cpu_ns: f64,
}

/// Runs the bench program of `allocator` (`system`, `mimalloc`, `specmalloc`), all benchmarks or those whose names
/// contain `filter`.
pub fn run_rust(
    programs: &Path,
    allocator: &str,
    filter: &str,
    quick: bool,
) -> Result<Vec<RustFigures>, Failure> {
    let program = find_program(&programs.join("deps"), allocator)?;
    let fail = |what: &dyn std::fmt::Display| format!("{}: {what}", program.display());
    let mut command = Command::new(&program);
    command.arg(filter).env_remove("LD_PRELOAD");
    if quick {
        command.arg("--quick");
    }
    let output = command.output().map_err(|error| fail(&error))?;
    if !output.status.success() {
        return Err(fail(&String::from_utf8_lossy(&output.stderr).trim()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| parse(line, allocator).ok_or_else(|| fail(&format!("says {line}")))).collect()
}

/// The newest program that cargo built for the bench target: their names end in a hash of how they were built.
fn find_program(folder: &Path, allocator: &str) -> Result<PathBuf, Failure> {
    let prefix = format!("rust_{allocator}-");
    let newest = std::fs::read_dir(folder).ok().and_then(|entries| {
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .filter(|entry| entry.path().extension().is_none())
            .max_by_key(|entry| entry.metadata().and_then(|metadata| metadata.modified()).ok())
    });
    newest.map(|entry| entry.path()).ok_or_else(|| {
        format!("no bench program rust_{allocator} is built; build it with: cargo bench -p compare --no-run")
    })
}

fn parse(line: &str, allocator: &str) -> Option<RustFigures> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    if value["allocator"] != allocator {
        return None;
    }
    Some(RustFigures {
        bench: value["bench"].as_str()?.to_owned(),
        median_ns: value["median_ns"].as_f64()?,
        best_ns: value["best_ns"].as_f64()?,
        cpu_ns: value["cpu_ns"].as_f64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_if_it_is_of_the_allocator_asked_for() {
        let line =
            r#"{"allocator":"system","bench":"box-pair-8","best_ns":1.0,"cpu_ns":2.5,"median_ns":2.0}"#;
        let figures =
            RustFigures { bench: "box-pair-8".to_owned(), median_ns: 2.0, best_ns: 1.0, cpu_ns: 2.5 };
        assert_eq!(parse(line, "system"), Some(figures));
        assert_eq!(parse(line, "mimalloc"), None);
    }

    #[test]
    fn a_missing_program_names_the_build_command() {
        let failure = find_program(Path::new("/no/such/folder"), "system").unwrap_err();
        assert!(failure.contains("cargo bench -p compare --no-run"), "{failure}");
    }
}
