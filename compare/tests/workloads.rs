//! Every workload in small, in this process and through the command, and what the command says to an allocator that
//! hands a block out twice.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use compare::harness::{Flags, Job, Work};
use compare::workloads::WORKLOADS;

/// A number of operations that takes a moment and divides evenly by three.
fn few(name: &str, quick_ops: u64) -> u64 {
    match name {
        "grow" | "large" | "bleed" | "fork-exec" => 12,
        _ => (quick_ops / 1_000).max(60).next_multiple_of(3),
    }
}

#[test]
fn each_does_exactly_the_work_asked_for() {
    for workload in WORKLOADS {
        for threads in [1, 3] {
            let ops = few(workload.name, workload.quick_ops);
            let job = Job { threads, work: Work::Ops(ops), seed: 42, flags: Flags::default() };
            let outcome = (workload.run)(&job);
            assert_eq!(outcome.ops, ops, "{} with {threads} threads", workload.name);
            assert!(!outcome.elapsed.is_zero(), "{} took no time", workload.name);
        }
    }
}

#[test]
fn the_switches_change_what_is_done() {
    for workload in WORKLOADS.iter().filter(|workload| ["lone", "replace"].contains(&workload.name)) {
        let flags = Flags { empty: true, ..Flags::default() };
        let outcome = (workload.run)(&Job { threads: 1, work: Work::Ops(1_000), seed: 1, flags });
        assert_eq!(outcome.ops, 1_000);
    }
    let storm = compare::workloads::find("unmap-storm").expect("is in the table");
    let blocks = |calm| {
        let flags = Flags { calm, ..Flags::default() };
        let outcome = (storm.run)(&Job { threads: 2, work: Work::Ops(20_000), seed: 1, flags });
        outcome.extras.iter().find(|extra| extra.0 == "storm_blocks").expect("is counted").1
    };
    assert!(blocks(false) > 0.0);
    assert_eq!(blocks(true), 0.0);
}

#[test]
fn an_aged_heap_and_timed_calls_do_the_same_work() {
    let output = workloads(&["larson", "--ops", "20000", "--threads", "2", "--age", "4", "--tails"], None);
    let line = String::from_utf8(output.stdout).expect("text");
    assert!(line.starts_with("larson threads=2 ops=20000 "), "{line}");
    let figure = |name: &str| -> f64 {
        let field = line.split_ascii_whitespace().find_map(|field| field.strip_prefix(&format!("{name}=")));
        field.unwrap_or_else(|| panic!("{name} is missing: {line}")).parse().expect("a number")
    };
    for call in ["malloc", "free", "nothing"] {
        let tail = ["p50", "p99", "p99.9", "p99.99", "max"].map(|name| figure(&format!("{call}_{name}_ns")));
        assert!(tail.is_sorted() && tail[4] > 0.0 && tail[4] < 60e9, "{call}: {tail:?}");
    }
    assert!(figure("peak_rss_kib") > 4096.0);
    let untimed = workloads(&["larson", "--ops", "1000"], None);
    assert!(!String::from_utf8_lossy(&untimed.stdout).contains("p99"), "{untimed:?}");
}

#[test]
fn a_trace_that_is_none_is_refused() {
    let output = workloads(&["trace", "--file", "/proc/self/cmdline"], None);
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("is not a trace"),
        "{output:?}"
    );
}

fn workloads(arguments: &[&str], preload: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_workloads"));
    if let Some(path) = preload {
        command.env("LD_PRELOAD", path);
    }
    command.args(arguments).output().expect("the command starts")
}

#[test]
fn the_command_prints_one_line_of_figures_within_a_time_limit() {
    for workload in WORKLOADS {
        let output = workloads(&[workload.name, "--threads", "2", "--seconds", "0.01"], None);
        if workload.name == "bleed" {
            assert!(!output.status.success(), "what bleed shows depends on how much it built up");
            continue;
        }
        assert!(output.status.success(), "{}: {output:?}", workload.name);
        let line = String::from_utf8(output.stdout).expect("text");
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.starts_with(&format!("{} threads=2 ops=", workload.name)), "{line}");
        for field in ["seconds=", "ops_per_second=", "peak_rss_kib=", "faults=", "mappings=", "malloc=/"] {
            assert!(line.contains(&format!(" {field}")), "{field} is missing: {line}");
        }
    }
}

/// Builds the allocator that hands every hundredth block out twice.
fn faulty_malloc() -> PathBuf {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libfaulty_malloc.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faulty_malloc.c");
    let status = Command::new("cc")
        .args(["-O1", "-fPIC", "-shared", "-fno-builtin", "-o"])
        .args([&library, &source])
        .status()
        .expect("a C compiler is there");
    assert!(status.success());
    library
}

#[test]
fn a_block_handed_out_twice_is_reported() {
    let library = faulty_malloc();
    let who = workloads(&["--who"], Some(&library));
    assert!(String::from_utf8_lossy(&who.stdout).contains("libfaulty_malloc.so"), "{who:?}");
    for name in ["alloc-test", "alloc-100k", "rptest", "sh6", "glibc-simple", "glibc-thread", "replace"] {
        let output = workloads(&[name, "--ops", "20000"], Some(&library));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains("contents changed"), "{name}: {output:?}");
    }
}
