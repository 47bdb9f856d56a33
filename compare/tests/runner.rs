//! The runner, end to end on one small workload: its report, and what it says when an allocator is not what it should
//! be.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An allocator to compare glibc with, built once for each test.
fn peer(name: &str, switch: &str) -> String {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lib{name}.so"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faulty_malloc.c");
    let arguments = ["-O1", "-fPIC", "-shared", "-fno-builtin", switch, "-o"];
    let status = Command::new("cc").args(arguments).args([&library, &source]).status();
    assert!(status.expect("a C compiler is there").success());
    format!("{name}={}", library.display())
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("report-{name}"))
}

fn table(name: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_compare"))
        .args(["table", "--quick", "--rounds", "2", "--work", "50", "--allocators", "glibc"])
        .args(["--only", "glibc-simple", "--threads", "1", "--folder"])
        .arg(folder(name))
        .args(arguments)
        .output()
        .expect("the command starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

fn report(name: &str, file: &str) -> String {
    std::fs::read_to_string(folder(name).join(file)).expect("the report is written")
}

#[test]
fn a_report_has_a_column_per_allocator_and_the_base_is_one() {
    let output = table("whole", &["--peer", &peer("sound", "-DSOUND")]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("| geometric mean | glibc | sound |"), "{output:?}");
    let markdown = report("whole", "report.md");
    let row = markdown.lines().find(|line| line.starts_with("| glibc-simple 1 |")).expect("has a row");
    let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('*')).collect();
    assert!(cells.len() == 5 && cells[2].ends_with("(1.00)") && cells[3].contains("s ("), "{row}");

    let value: serde_json::Value = serde_json::from_str(&report("whole", "results.json")).expect("JSON");
    let cells = value["rows"][0]["cells"].as_array().expect("a list");
    assert_eq!((&cells[0]["allocator"], &cells[1]["allocator"]), (&"glibc".into(), &"sound".into()));
    assert_eq!(cells[0]["figures"]["seconds"]["ratio"]["value"], 1.0);
    assert!(cells[1]["figures"]["peak_rss_kib"]["median"].as_f64().is_some_and(|kib| kib > 500.0), "{value}");

    let csv = report("whole", "runs.csv");
    let seconds =
        csv.lines().filter(|line| line.starts_with("heap,glibc-simple,1,") && line.contains(",seconds,"));
    assert_eq!(seconds.count(), 4, "two allocators, two rounds: {csv}");
    assert!(
        report("whole", "plane.svg").contains("sound")
            && report("whole", "matrix-heap.svg").contains("glibc-simple")
    );
}

#[test]
fn a_peer_that_fails_is_named_and_the_others_are_measured() {
    let output = table("faulty", &["--peer", &peer("faulty", "-DFAULTY")]);
    assert!(!output.status.success(), "{output:?}");
    assert!(text(&output.stderr).contains("under faulty: ended by signal 6: workloads: "), "{output:?}");
    let markdown = report("faulty", "report.md");
    assert!(markdown.contains("(1.00)** | failed |"), "{markdown}");
}

#[test]
fn a_library_that_does_not_serve_malloc_is_found_out() {
    // An object that is loaded into this test and has no malloc.
    let maps = std::fs::read_to_string("/proc/self/maps").expect("is there");
    let files = maps.lines().filter_map(|line| Some(&line[line.find('/')?..]));
    let path = files.into_iter().find(|path| path.contains("libgcc_s")).expect("std needs it");
    let output = table("nothing", &["--peer", &format!("nothing={path}")]);
    assert!(!output.status.success(), "{output:?}");
    assert!(report("nothing", "report.md").contains("(1.00)** | not reached |"), "{output:?}");
    assert!(text(&output.stderr).contains("malloc was served by"), "{output:?}");
}

#[test]
fn wrong_requests_are_refused_by_name() {
    for (arguments, message) in [
        (["--only", "no-such"], "there is no workload no-such"),
        (["--base", "no-such"], "no-such is not among the allocators"),
        (["--without", "no-such"], "there is no allocator no-such"),
        (["--peer", "glibc=/proc/self/exe"], "two allocators are called glibc"),
    ] {
        let output = table("refused", &arguments);
        assert!(!output.status.success() && text(&output.stderr).contains(message), "{output:?}");
    }
    let output = table("refused", &["--peer", "other=/no/such/library.so"]);
    assert!(text(&output.stderr).contains("/no/such/library.so"), "{output:?}");
}
