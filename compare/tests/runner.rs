//! The runner, end to end on one small workload: its tables, and what it says when an allocator is not what it should be.

use std::process::{Command, Output};

fn table(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_compare"))
        .args(["table", "--quick", "--rounds", "2", "--without", "specmalloc", "--only", "glibc-simple"])
        .args(["--threads", "1"])
        .args(arguments)
        .output()
        .expect("the command starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn a_table_has_a_row_per_allocator_and_the_base_is_one() {
    let output = table(&[]);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    let row = |name: &str| {
        let start = format!("| glibc-simple | 1 | {name} |");
        let line = lines.iter().find(|line| line.starts_with(&start));
        line.unwrap_or_else(|| panic!("no row of {name} in {lines:?}"))
            .split('|')
            .map(str::trim)
            .collect::<Vec<_>>()
    };
    let (glibc, mimalloc) = (row("glibc"), row("mimalloc"));
    assert_eq!(glibc.len(), lines[0].split('|').count());
    assert_eq!((mimalloc[6], mimalloc[9]), ("1.00", "1.00"));
    assert!(glibc[4].parse::<f64>().is_ok() && glibc[6].parse::<f64>().is_ok(), "{glibc:?}");
}

#[test]
fn json_has_the_same_figures() {
    let output = table(&["--json", "--base", "glibc"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["base"], "glibc");
    let cells = value["rows"][0]["cells"].as_array().expect("a list");
    assert_eq!(cells[0]["allocator"], "glibc");
    assert_eq!(cells[0]["seconds"]["ratio"], 1.0);
    assert!(cells[1]["peak_rss_kib"]["median"].as_f64().is_some_and(|kib| kib > 500.0), "{value}");
}

#[test]
fn a_library_that_does_not_serve_malloc_is_found_out() {
    // An object that is loaded into this test and has no malloc.
    let maps = std::fs::read_to_string("/proc/self/maps").expect("is there");
    let files = maps.lines().filter_map(|line| Some(&line[line.find('/')?..]));
    let path = files.into_iter().find(|path| path.contains("libgcc_s")).expect("std needs it");
    let output = table(&["--peer", &format!("nothing={path}")]);
    assert!(!output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("| glibc-simple | 1 | nothing | failed |"), "{output:?}");
    assert!(text(&output.stderr).contains("malloc was served by"), "{output:?}");
}

#[test]
fn wrong_requests_are_refused_by_name() {
    for (arguments, message) in [
        (["--only", "no-such"], "there is no workload no-such"),
        (["--base", "no-such"], "no-such is not among the allocators"),
        (["--peer", "glibc=/proc/self/exe"], "two allocators are called glibc"),
    ] {
        let output = table(&arguments);
        assert!(!output.status.success() && text(&output.stderr).contains(message), "{output:?}");
    }
    let output = table(&["--peer", "other=/no/such/library.so"]);
    assert!(text(&output.stderr).contains("/no/such/library.so"), "{output:?}");
}
