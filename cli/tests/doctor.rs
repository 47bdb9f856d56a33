//! `specmalloc doctor` as a user meets it, on whatever machine the tests run.

#[path = "common/documented.rs"]
mod documented;

use serde_json::Value;
use std::process::{Command, Output, Stdio};

fn doctor(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_specmalloc"));
    command.arg("doctor").args(arguments).env_remove("LD_PRELOAD").env_remove("COLUMNS").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_lines_and_the_document_say_the_same_and_so_does_the_status() {
    let plain = doctor(&[]);
    let lines = text(&plain.stdout);
    assert!(
        !lines.contains('\x1b') && lines.lines().all(|line| line.len() <= 80 || line.contains(" $ ")),
        "{lines}"
    );
    let output = doctor(&["--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    documented::documented(&document);
    let findings = document["findings"].as_array().unwrap();
    for topic in
        ["kernel", "membarrier", "RLIMIT_AS", "RLIMIT_MEMLOCK", "mappings", "cgroup memory", "processors"]
    {
        assert!(
            lines.contains(topic) && findings.iter().any(|finding| finding["topic"] == topic),
            "{topic}: {lines}"
        );
    }
    for finding in findings {
        let told = finding["advice"].is_string() || !finding["commands"].as_array().unwrap().is_empty();
        assert_eq!(finding["state"] != "ok", told, "{finding}");
    }
    let act = findings.iter().any(|finding| finding["state"] == "act");
    assert_eq!(output.status.code(), Some(i32::from(act)));
}

#[test]
fn who_serves_malloc_is_told_of_programs_and_of_processes() {
    assert!(text(&doctor(&["sh"]).stdout).contains("the C library in /"));
    let mut sleeper = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let output = doctor(&["--json", "--pid", &sleeper.id().to_string()]);
    let _ = sleeper.kill();
    sleeper.wait().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = document["findings"].as_array().unwrap();
    let of = |topic: &str| findings.iter().find(|finding| finding["topic"] == topic).unwrap();
    assert_eq!(of("who serves malloc")["found"], "the C library");
    assert!(of("mappings")["found"].as_str().unwrap().ends_with(&format!("in process {}", sleeper.id())));
}

#[test]
fn what_is_not_there_is_named() {
    let failed = |arguments: &[&str]| {
        let output = doctor(arguments);
        (output.status.code().unwrap(), text(&output.stderr))
    };
    assert_eq!(
        failed(&["no such program"]),
        (127, "specmalloc: no such program: No such file or directory (os error 2)\n".into())
    );
    // Beyond what the kernel gives out.
    assert_eq!(failed(&["--pid", "4194999"]), (125, "specmalloc: there is no process 4194999\n".into()));
    assert_eq!(failed(&["--pid", "x"]).0, 125);
}

#[test]
fn of_a_script_it_is_who_serves_the_interpreter() {
    use std::os::unix::fs::PermissionsExt;
    let path =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("script-{}", std::process::id()));
    let about = |lines: &str, mode| {
        std::fs::write(&path, lines).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let output = doctor(&["--json", path.to_str().unwrap()]);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let findings = document["findings"].as_array().cloned().unwrap_or_default();
        let found = findings.iter().find(|finding| finding["topic"] == "who serves malloc");
        found.map_or(output.status.code().unwrap().to_string(), |found| {
            found["found"].as_str().unwrap().to_owned()
        })
    };
    assert_eq!(about("#!/bin/sh\n", 0o700), "the C library in /bin/sh");
    // Without an interpreter in it a shell takes it.
    for lines in ["echo hello\n", ""] {
        assert_eq!(about(lines, 0o700), "the C library in /bin/sh, which runs what has no #! line");
    }
    assert_eq!(about("#!/no/such/program\n", 0o700), "127");
    assert_eq!(about("#!/bin/sh\n", 0o600), "126");
    std::fs::remove_file(path).unwrap();
}
