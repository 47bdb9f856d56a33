//! `specmalloc run --json` with the real library: the figures are the allocator's, whatever way a process ends.

mod common;

use common::library;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// What the command tells after running `program`. The command is linked into a folder of its own, where it finds no
/// other library beside itself.
fn document(program: &[&str]) -> Value {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("served-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let command = folder.join("specmalloc");
    std::fs::hard_link(env!("CARGO_BIN_EXE_specmalloc"), &command).unwrap();
    let file = folder.join("document");
    let mut command = Command::new(command);
    command.args(["run", "--json", "--classes", "--output"]).arg(&file).args(program);
    let output = command.env("SPECMALLOC_LIB", library()).env_remove("LD_PRELOAD").output().unwrap();
    let text = std::fs::read(&file).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{error}: {messages}"))
}

/// The figures of a process that has loaded the library and allocated.
fn check(statistics: &Value) {
    let bytes = |name: &str| statistics["bytes"][name].as_u64().unwrap_or_else(|| panic!("{statistics:#}"));
    let count = |name: &str| statistics["counts"][name].as_u64().unwrap();
    assert!(bytes("reserved") >= bytes("live") && bytes("peak_live") >= bytes("live"), "{statistics:#}");
    assert!(bytes("reserved") > 0 && bytes("peak_reserved") >= bytes("reserved"), "{statistics:#}");
    assert!(
        count("regions") >= 1 && count("arenas") >= 1 && count("mappings") >= count("regions"),
        "{statistics:#}"
    );
    assert!(statistics["system_calls"]["map"].as_u64().unwrap() >= 1, "{statistics:#}");
    let classes = statistics["classes"].as_array().unwrap();
    let small: u64 = classes.iter().map(|class| class["live_blocks"].as_u64().unwrap()).sum();
    assert!(small <= count("live_blocks"), "{statistics:#}");
}

#[test]
fn a_program_that_exits_has_figures() {
    let document = document(&["ls", "/"]);
    assert_eq!(document["program"]["end"], "exit status 0");
    check(&document["program"]["statistics"]);
}

#[test]
fn a_program_that_is_killed_has_figures() {
    let document = document(&["sh", "-c", "exec 0<&- 1>&- 2>&-; kill -KILL $$"]);
    assert_eq!(document["program"]["end"], "killed by signal 9");
    check(&document["program"]["statistics"]);
}

#[test]
fn the_figures_of_children_are_counted_and_added_up() {
    let document = document(&["sh", "-c", "ls /; ls /; exec ls /"]);
    let processes = document["processes"].as_array().unwrap();
    let names: Vec<_> = processes.iter().map(|process| process["name"].as_str().unwrap()).collect();
    assert_eq!(names.iter().filter(|name| **name == "ls").count(), 3, "{names:?}");
    let mut reserved = 0;
    for process in processes {
        check(&process["statistics"]);
        reserved += process["statistics"]["bytes"]["reserved"].as_u64().unwrap();
    }
    assert_eq!(document["sum"]["bytes"]["reserved"], reserved);
}
