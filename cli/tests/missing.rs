//! Where something is missing that a command needs: room for what it writes, who reads what it says, and /proc.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};

/// With standard output on a disk that is full: the status, and what is said of it.
fn on_full_disk(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_specmalloc"));
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    command.args(arguments).env_remove("LD_PRELOAD").stdin(Stdio::null());
    let output = command.stdout(full).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_full_disk_is_told() {
    let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join("full.trace");
    fs::write(&trace, "--1-- malloc(24) = 0x5205040\n--1-- free(0x5205040)\n").unwrap();
    let trace = trace.to_str().unwrap();
    for arguments in [
        &["doctor"][..],
        &["doctor", "--json"],
        &["man"],
        &["completions", "bash"],
        &["replay", trace],
        &["replay", "--json", trace],
        &["replay", "--print", trace],
        &["compare", "--only", "glibc", "-n", "1", "--", "true"],
        &["compare", "--only", "glibc", "-n", "1", "--export-json", "-", "--", "true"],
    ] {
        let (status, said) = on_full_disk(arguments);
        assert_eq!(status, Some(125), "{arguments:?}: {said}");
        assert!(said.contains("specmalloc: standard output: No space left"), "{arguments:?}: {said}");
    }
}

/// As in some containers: nobody is told that the program was not served, or that it is not there.
#[test]
fn without_proc_that_is_told() {
    let command = env!("CARGO_BIN_EXE_specmalloc");
    for arguments in
        ["run --stats -- true", "compare -- true", "record-trace -- true", "profile record -- true", "top 1"]
    {
        let script = format!("mount -t tmpfs none /proc || exit 77; exec {command} {arguments}");
        let mut shell = Command::new("unshare");
        let output = shell.args(["--mount", "sh", "-c", &script]).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // Who is not root must not do that.
        if output.status.code() != Some(77) && !said.starts_with("unshare:") {
            assert_eq!(output.status.code(), Some(125), "{arguments}: {said}");
            assert!(said.starts_with("specmalloc: /proc is not there"), "{arguments}: {said}");
        }
    }
}

/// Nothing ends, or is left undone, because nobody reads what is said beside it.
#[test]
fn who_does_not_listen_need_not() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unheard");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    for (arguments, status) in [
        (&["top", "4194999", "--once"][..], 125),
        (&["run", "--stats", "--output", "/no/such/folder/x", "--", "true"], 125),
        (&["replay", "/no/such/trace"], 125),
        (&["compare", "--only", "glibc", "-n", "1", "--export-json", "-", "--", "true"], 0),
    ] {
        let (nobody, unheard) = std::io::pipe().unwrap();
        drop(nobody);
        let mut command = Command::new(env!("CARGO_BIN_EXE_specmalloc"));
        command.args(arguments).env_remove("LD_PRELOAD").current_dir(&folder).stdin(Stdio::null());
        let ended = command.stdout(Stdio::null()).stderr(unheard).status().unwrap();
        assert_eq!(ended.code(), Some(status), "{arguments:?}");
    }
    fs::remove_dir_all(folder).unwrap();
}
