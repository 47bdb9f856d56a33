//! `specmalloc record-trace` of programs whose calls are known, read back call by call, and made again.

mod common;
#[path = "common/stand_in.rs"]
mod stand_in;

use common::{build, library};
use serde_json::Value;
use stand_in::stand_in;
use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Sizes that only the programs here ask for.
const KNOWN: std::ops::Range<u64> = 50_001..60_000;

fn scratch() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("record");
        // What an earlier run left.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    })
}

/// The command at a place of its own, where no library lies beside it.
fn command_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = scratch().join("specmalloc");
        fs::hard_link(env!("CARGO_BIN_EXE_specmalloc"), &path).unwrap();
        path
    })
}

fn specmalloc(arguments: &[&str]) -> Output {
    static RECORDER: OnceLock<PathBuf> = OnceLock::new();
    let recorder =
        RECORDER.get_or_init(|| build("preload", "specmalloc-recorder", "libspecmalloc_record.so"));
    let mut command = Command::new(command_path());
    command.args(arguments).env_remove("LD_PRELOAD");
    command.env("SPECMALLOC_RECORD_LIB", recorder).env("SPECMALLOC_LIB", library()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn program() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = scratch().join("traced").display().to_string();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/traced.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-w", "-fno-builtin", "-pthread", "-o", &path]).arg(source);
        assert!(compiler.status().unwrap().success());
        path
    })
}

/// Records the case of that name into the file `name`.trace, or with `options` into another one.
fn record(name: &str, case: &str, options: &[&str]) -> (String, Output) {
    let file = scratch().join(format!("{name}.trace")).display().to_string();
    let command = [&["record-trace", "-o", &file], options, &["--", program(), case]].concat();
    let output = specmalloc(&command);
    (file, output)
}

/// The lines of a trace.
fn calls(file: &str) -> Vec<String> {
    let output = specmalloc(&["replay", "--print", file]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(str::to_owned).collect()
}

/// The calls about known blocks, with these and the threads that make them counted from zero.
fn known(file: &str) -> Vec<String> {
    let (mut blocks, mut threads) = (HashMap::new(), HashMap::new());
    let mut lines = Vec::new();
    for line in calls(file) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| -> u64 { words[at].parse().unwrap() };
        let next = blocks.len();
        let line = match words[1] {
            "free" | "realloc" => {
                let Some(block) = blocks.get(&number(2)) else { continue };
                let rest = words[3..].iter().map(|word| format!(" {word}")).collect::<String>();
                format!("{} {block}{rest}", words[1])
            }
            _ if KNOWN.contains(&number(2)) => {
                blocks.insert(number(words.len() - 1), next);
                format!("{} = {next}", words[1..words.len() - 2].join(" "))
            }
            _ => continue,
        };
        let next = threads.len();
        lines.push(format!("{} {line}", threads.entry(number(0)).or_insert(next)));
    }
    lines
}

/// What `edges` does in every case at the start, and where the process ends by itself at the end.
fn framed(lines: &[&str], ends: bool) -> Vec<String> {
    let end: &[&str] = if ends { &["0 free 0", "0 malloc 50081 = LAST", "0 free LAST"] } else { &[] };
    let all = [&["0 malloc 50080 = 0"], lines, end].concat();
    let last = all.iter().filter(|line| line.contains(" = ")).count() - 1;
    all.iter().map(|line| line.replace("LAST", &last.to_string())).collect()
}

#[track_caller]
fn check(case: &str, expected: &[&str]) {
    for under in ["glibc", "specmalloc"] {
        let (file, output) = record(&format!("{case}-{under}"), case, &["--under", under]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let told = text(&output.stderr);
        assert!(told.contains(" calls of traced by ") && told.lines().count() == 1, "{told}");
        assert_eq!(known(&file), framed(expected, true), "under {under}");
    }
}

#[test]
fn every_function_of_the_family_is_recorded_as_what_it_did() {
    check(
        "family",
        &[
            "0 malloc 50001 = 1",
            "0 calloc 50002 = 2",
            "0 aligned 50048 64 = 3",
            "0 aligned 50004 4096 = 4",
            "0 aligned 50005 256 = 5",
            "0 aligned 50006 4096 = 6",
            "0 malloc 50007 = 7",
            "0 realloc 1 50101",
            "0 realloc 1 50500",
            "0 free 2",
            "0 free 3",
            "0 free 4",
            "0 free 5",
            "0 free 6",
            "0 free 7",
            "0 free 1",
        ],
    );
}

#[test]
fn whose_block_is_freed_by_whom_is_recorded() {
    let expected = ["1 malloc 50019 = 1", "2 realloc 1 50020", "2 malloc 50021 = 2", "2 free 2", "0 free 1"];
    check("threads", &expected);
}

#[test]
fn a_thousand_short_threads_are_as_many() {
    let lines: Vec<_> = (1..=1000)
        .flat_map(|i| [format!("{i} malloc {} = {i}", 50_000 + i), format!("{i} free {i}")])
        .collect();
    check("short_threads", &lines.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn what_destructors_of_detached_threads_do_is_recorded() {
    let lines: Vec<_> = (1..=20)
        .flat_map(|i| {
            let (first, second) = (i * 2 - 1, i * 2);
            [
                format!("{i} malloc 50030 = {first}"),
                format!("{i} free {first}"),
                format!("{i} malloc 50031 = {second}"),
                format!("{i} free {second}"),
            ]
        })
        .collect();
    check("detached", &lines.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn what_signal_handlers_do_is_recorded() {
    check(
        "signals",
        &[
            "0 malloc 50070 = 1",
            "0 free 1",
            "0 malloc 50071 = 2",
            "0 realloc 2 50072",
            "0 free 2",
            "0 malloc 50071 = 3",
            "0 realloc 3 50072",
            "0 free 3",
        ],
    );
}

#[test]
fn constructors_and_what_runs_at_the_end_are_recorded_also_without_a_descriptor() {
    check("edges", &["0 malloc 50082 = 1", "0 free 1"]);
    check("closed", &["0 malloc 50095 = 1", "0 free 1"]);
}

#[test]
fn a_process_that_just_ends_is_recorded_to_its_end_and_ends_the_command_alike() {
    let (file, output) = record("ends", "ends_at_once", &[]);
    assert_eq!(output.status.code(), Some(7));
    let expected = ["0 malloc 50050 = 1", "0 free 1", "0 malloc 50051 = 2"];
    assert_eq!(known(&file), framed(&expected, false));
    let (file, output) = record("killed", "killed", &[]);
    assert_eq!(output.status.signal(), Some(9));
    let killed = ["0 malloc 50060 = 1", "0 free 1", "0 malloc 50061 = 2"];
    assert_eq!(known(&file), framed(&killed, false));
    // What the process becomes counts.
    let (file, output) = record("execs", "execs", &[]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(known(&file), framed(&expected, false));
}

#[test]
fn children_are_recorded_if_that_is_wanted_with_what_they_have_of_their_parent() {
    let parent = [
        "0 malloc 50040 = 1",
        "0 malloc 50041 = 2",
        "0 malloc 50043 = 3",
        "0 free 3",
        "0 free 2",
        "0 free 1",
    ];
    let (file, output) = record("forks", "forks", &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(known(&file), framed(&parent, true));
    let (file, output) = record("forked", "forks", &["--follow-fork"]);
    assert_eq!((output.status.code(), text(&output.stderr).lines().count()), (Some(0), 2));
    assert_eq!(known(&file), framed(&parent, true));
    let others: Vec<_> = fs::read_dir(scratch())
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .filter(|path| path.starts_with(&format!("{file}.")))
        .collect();
    let child = ["0 malloc 50040 = 1", "0 malloc 50041 = 2", "0 free 1", "0 malloc 50042 = 3", "0 free 3"];
    assert_eq!(others.len(), 1);
    assert_eq!(known(&others[0]), framed(&child, false));
}

#[test]
fn threads_that_free_each_others_blocks_leave_a_trace_without_a_contradiction() {
    for under in ["glibc", "specmalloc"] {
        let (file, output) = record(&format!("storm-{under}"), "storm", &["--under", under]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let lines = known(&file);
        let count = |word: &str| lines.iter().filter(|line| line.split(' ').nth(1) == Some(word)).count();
        // And what `edges` adds.
        assert_eq!((count("malloc") + count("calloc"), count("free")), (80_002, 80_002));
        let replayed = specmalloc(&["replay", "--json", "--times", "2", &file]);
        assert!(replayed.status.success(), "{}", text(&replayed.stderr));
        let document: Value = serde_json::from_slice(&replayed.stdout).unwrap();
        assert_eq!((&document["threads"], &document["skipped"]), (&5.into(), &0.into()));
    }
}

#[test]
fn a_replay_makes_exactly_the_calls_of_the_trace_under_every_allocator() {
    for (case, others) in [("family", 0), ("detached", 1)] {
        let (file, output) = record(&format!("again-{case}"), case, &[]);
        assert_eq!(output.status.code(), Some(0));
        let counts = |lines: &[String]| {
            let count = |name: &str| lines.iter().filter(|line| line.split(' ').nth(1) == Some(name)).count();
            ["malloc", "calloc", "aligned", "realloc", "free"].map(count)
        };
        let mut expected = counts(&calls(&file));
        // What the trace leaves is freed.
        expected[4] = expected[..3].iter().sum();
        for under in ["glibc", "specmalloc"] {
            let replay = |times: &str| {
                let twice =
                    scratch().join(format!("again-{case}-{under}-{times}.trace")).display().to_string();
                let command = [command_path().to_str().unwrap(), "replay", "--times", times, &file];
                let options = ["record-trace", "-o", &twice, "--under", under, "--"];
                let output = specmalloc(&[&options[..], &command[..]].concat());
                assert!(output.status.success(), "{}", text(&output.stderr));
                counts(&calls(&twice))
            };
            // What the command itself does differs by a few calls from time to time.
            let (few, many) = (replay("2"), replay("202"));
            let each = |(many, few): (&usize, usize)| (many - few + 100) / 200;
            let mut made: Vec<_> = many.iter().zip(few).map(each).collect();
            // The C library allocates for a thread, and frees that later or never.
            if others > 0 {
                assert!(made[1] >= expected[1] && made[4] >= expected[4], "{made:?}");
                (made[1], made[4]) = (expected[1], expected[4]);
            }
            assert_eq!(made, expected, "{case} under {under}");
        }
    }
}

#[test]
fn a_limit_a_name_and_what_cannot_be_recorded() {
    let (file, output) = record("limited", "short_threads", &["--limit", "500"]);
    assert!(
        output.status.success() && text(&output.stderr).contains("calls are not in the trace: see --limit")
    );
    assert!(calls(&file).len() <= 500 && specmalloc(&["replay", &file]).status.success());

    let script = format!("{} edges; {} closed", program(), program());
    let file = scratch().join("named.trace").display().to_string();
    let output = specmalloc(&["record-trace", "--process", "traced", "-o", &file, "--", "sh", "-c", &script]);
    assert!(output.status.success() && text(&output.stderr).contains("calls of traced by"));
    assert_eq!(known(&file), framed(&["0 malloc 50082 = 1", "0 free 1"], true));

    // Nothing recorded, nothing left; what the program ends with stays.
    let file = scratch().join("nothing.trace");
    let shown = file.display().to_string();
    for (command, code) in [
        (&["--process", "nobody", "--", "sh", "-c", "exit 3"][..], 3),
        (&["--", "no such program"], 127),
        (&["--", "/dev/null"], 126),
        (&["--under", "nobody", "--", "true"], 125),
        (&["--limit", "0", "--", "true"], 125),
        (&[], 125),
    ] {
        let output = specmalloc(&[&["record-trace", "-o", &shown], command].concat());
        assert_eq!(output.status.code(), Some(code), "{command:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty() && !file.exists(), "{command:?}");
    }
    // Nor while the program runs; and where there is no place for it by then, what was recorded is lost.
    let folder = scratch().join("gone");
    let shown = folder.join("x").display().to_string();
    for (end, code) in [("exec", 125), ("trap 'exit 3' EXIT;", 3)] {
        fs::create_dir(&folder).unwrap();
        let script = format!("rmdir {} || exit 9; {end} {} edges", folder.display(), program());
        let output = specmalloc(&["record-trace", "-o", &shown, "--", "sh", "-c", &script]);
        assert_eq!(output.status.code(), Some(code), "{script}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("gone/x: No such file"), "{}", text(&output.stderr));
    }
    let output = specmalloc(&["record-trace", "-o", "/dev/full", "--", program(), "edges"]);
    assert!(output.status.code() == Some(125) && text(&output.stderr).contains("/dev/full: No space left"));
    let output = specmalloc(&["record-trace", "-o", "/no/such/folder/x", "--", "true"]);
    assert!(output.status.code() == Some(125) && text(&output.stderr).contains("/no/such/folder/x: No such"));
}

#[test]
fn a_trace_that_is_cut_anywhere_or_of_a_later_version_is_refused() {
    let (file, _) = record("whole", "threads", &[]);
    let whole = fs::read(&file).unwrap();
    let cut = scratch().join("cut.trace");
    for len in (0..whole.len()).step_by(7) {
        fs::write(&cut, &whole[..len]).unwrap();
        let output = specmalloc(&["replay", cut.to_str().unwrap()]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{len}: {told}");
        assert!(told.contains("truncated") || told.contains("not a trace"), "{len}: {told}");
    }
    let head = "calls: 2\nthreads: 1\nblocks: 1\n\n";
    for (contents, why) in [
        (format!("specmalloc trace 9\n{head}"), "version 9; this specmalloc reads version 1"),
        (format!("specmalloc trace 1\n{head}\x04\x04"), "damaged at call 0"),
        (
            format!("specmalloc trace 1\n{}\x08\x04\x04", head.replace('2', "3")),
            "call 2 is about block 0, which was freed",
        ),
    ] {
        fs::write(&cut, contents).unwrap();
        let output = specmalloc(&["replay", cut.to_str().unwrap()]);
        assert!(output.status.code() == Some(125) && text(&output.stderr).contains(why), "{output:?}");
    }
}

#[test]
fn a_replay_is_served_by_whom_one_asks_for() {
    let (file, _) = record("served", "family", &[]);
    let served = |options: &[&str]| {
        let output = specmalloc(&[&["replay", "--json"], options, &[&file]].concat());
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), document["allocator"].as_str().map(str::to_owned), text(&output.stderr))
    };
    let library = library().canonicalize().unwrap().display().to_string();
    assert!(served(&[]).1.unwrap().contains("libc.so"));
    assert_eq!(served(&["--allocator", "specmalloc"]).1.as_deref(), Some(library.as_str()));
    assert_eq!(served(&["--library", &library]).1.as_deref(), Some(library.as_str()));
    let no_malloc = stand_in();
    for wrong in [
        &["--library", no_malloc.to_str().unwrap()][..],
        &["--library", "/no/such.so"],
        &["--allocator", "no"],
    ] {
        let (code, _, told) = served(wrong);
        assert!(code == Some(125) && !told.is_empty(), "{wrong:?}: {told}");
    }
}
