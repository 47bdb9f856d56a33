//! `specmalloc replay`, by itself and under `compare`.

#[path = "common/documented.rs"]
mod documented;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn specmalloc(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_specmalloc"));
    command.args(arguments).env_remove("LD_PRELOAD").env_remove("COLUMNS").output().unwrap()
}

#[test]
fn a_trace_is_gone_through_and_measured() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("replayed.trace");
    let mut text = String::new();
    for block in 0..1000 {
        text += &format!("--1-- malloc({}) = {:#x}\n", block * 10, 0x1000 + block * 0x10000);
    }
    for block in (0..1000).step_by(2) {
        text += &format!("--1-- free({:#x})\n", 0x1000 + block * 0x10000);
    }
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let output = specmalloc(&["replay", "--json", "--times", "3", file]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    documented::documented(&document);
    assert_eq!((&document["calls"], &document["skipped"]), (&4500.into(), &0.into()));
    assert_eq!(document["peak_live_bytes"], 4_995_000);
    assert!(document["peak_resident_bytes"].as_u64().unwrap() > 4_995_000 / 2);
    let plain = specmalloc(&["replay", file]);
    let plain = String::from_utf8_lossy(&plain.stdout);
    assert!(plain.starts_with("1,500 calls by 1 thread in "), "{plain}");
    let served = plain.lines().find(|line| line.starts_with("served by /")).expect("the allocator");
    assert!(plain.lines().all(|line| line == served || line.chars().count() <= 80), "{plain}");
    let command = env!("CARGO_BIN_EXE_specmalloc");
    let compared = specmalloc(&["compare", "--only", "glibc", "-n", "1", "--", command, "replay", file]);
    assert_eq!(compared.status.code(), Some(0), "{}", String::from_utf8_lossy(&compared.stderr));
    for wrong in ["/no/such/file", "/proc/self/status"] {
        let output = specmalloc(&["replay", wrong]);
        assert_eq!(output.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&output.stderr).starts_with(&format!("specmalloc: {wrong}: ")));
    }
}
