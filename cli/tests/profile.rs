//! `specmalloc profile` with the real libraries: what programs of known amounts at known places are said to have
//! allocated, and what comes of programs that end in one way or another.

mod common;

use common::{library, profiler};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of a test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("profile-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What is in it.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// `specmalloc profile` with `arguments`, in this folder.
    fn profile(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(command_path());
        command.arg("profile").args(arguments).current_dir(&self.0);
        command.env("SPECMALLOC_LIB", library()).env_remove("LD_PRELOAD");
        command.output().unwrap()
    }

    /// A profile of `program` by every allocation.
    fn record(&self, program: &[&str]) -> Output {
        self.profile(&[&["record", "--rate", "1", "--"], program].concat())
    }

    /// Standard output of a report.
    fn report(&self, arguments: &[&str]) -> String {
        let output = self.profile(&[&["report"], arguments].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What stacks with all of `functions`, in this order, are said to have.
    fn amount(&self, functions: &[&str], options: &[&str]) -> u64 {
        let text = self.report(&[&["--format", "collapsed"], options].concat());
        let of = |line: &str| {
            let (stack, number) = line.rsplit_once(' ').unwrap();
            let mut names = stack.split(';');
            let has_all = functions.iter().all(|wanted| names.any(|name| name == *wanted));
            has_all.then(|| number.parse::<u64>().unwrap())
        };
        text.lines().filter_map(of).sum()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The command where it finds no other library beside itself.
fn command_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        profiler();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("profile-command");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("specmalloc");
        fs::hard_link(env!("CARGO_BIN_EXE_specmalloc"), &path).unwrap();
        path
    })
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A program, compiled once.
fn program(source: &str) -> String {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let name = format!("profiled-{}-{}", std::process::id(), source.replace('.', "-"));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = LOCK.lock();
    if !path.exists() {
        let (compiler, flags): (_, &[&str]) = match source.rsplit_once('.').unwrap().1 {
            "cpp" => ("c++", &["-g", "-O1"]),
            "rs" => ("rustc", &["--edition=2024", "-g", "-Copt-level=1", "-Cpanic=abort"]),
            _ => ("cc", &["-g", "-O1", "-fno-builtin", "-w"]),
        };
        let mut command = Command::new(compiler);
        let output = command.args(flags).arg(sources.join(source)).arg("-o").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    path.to_str().unwrap().to_owned()
}

/// What the program ends with stays, unless it ended well: then what the command was for has failed.
#[test]
fn a_profile_that_cannot_be_written_is_a_failure() {
    for (end, status) in [("", 125), ("; exit 3", 3)] {
        let folder = Folder::new();
        let script = format!("rmdir d; {} >&2{end}", program("sites.c"));
        fs::create_dir(folder.file("d")).unwrap();
        let output = folder.profile(&["record", "-o", "d/x", "--", "sh", "-c", &script]);
        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
        assert!(stderr(&output).contains("d/x: No such file"), "{}", stderr(&output));
        assert!(folder.names().is_empty());
    }
}

#[test]
fn every_allocation_is_told_with_its_place() {
    let folder = Folder::new();
    let output = folder.record(&[&program("sites.c")]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("specmalloc.pb.gz is written"), "{}", stderr(&output));
    assert_eq!(folder.names(), ["specmalloc.pb.gz"]);
    // What is inlined is a function like others.
    let kept = ["main", "kept", "wrapped"];
    let dropped = ["main", "dropped"];
    assert_eq!(folder.amount(&kept, &[]), 100_000);
    assert_eq!(folder.amount(&kept, &["--objects"]), 100);
    assert_eq!(folder.amount(&dropped, &[]), 0);
    assert_eq!(folder.amount(&dropped, &["--what", "allocated"]), 600_000);
    assert_eq!(folder.amount(&dropped, &["--what", "allocated", "--objects"]), 200);
    assert_eq!(folder.amount(&kept, &["--what", "peak"]), 100_000);
    assert_eq!(folder.amount(&dropped, &["--what", "peak"]), 0);

    let table = folder.report(&["--what", "allocated"]);
    assert!(table.starts_with("allocated: "), "{table}");
    let line = |name: &str| {
        let found = table.lines().find(|line| line.split_whitespace().last() == Some(name));
        found.unwrap_or_else(|| panic!("no {name} in\n{table}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!((line("dropped")[0], line("dropped")[4]), ("586K", "200"));
    assert_eq!((line("kept")[0], line("kept")[2], line("wrapped")[0]), ("0", "97.7K", "97.7K"));
    let tree = folder.report(&["--format", "tree"]);
    let depth = |name: &str| tree.lines().find(|line| line.ends_with(name)).unwrap().rfind(' ').unwrap();
    assert!(depth("main") < depth("kept") && depth("kept") < depth("wrapped"), "{tree}");
    let leaks = folder.report(&["--leaks", "-n", "1"]);
    let has =
        ["97.7K in 100 blocks", "    wrapped  ", "sites.c:11\n", "    kept  ", "sites.c:17\n", "    main  "];
    assert!(has.iter().all(|part| leaks.contains(part)), "{leaks}");
}

#[test]
fn a_function_that_calls_itself_counts_once() {
    let folder = Folder::new();
    assert!(folder.record(&[&program("sites.c"), "again"]).status.success());
    assert_eq!(folder.amount(&["again", "again", "again", "again", "again", "again", "kept"], &[]), 50_000);
    let table = folder.report(&[]);
    let line = table.lines().find(|line| line.ends_with("  again")).unwrap();
    assert_eq!(line.split_whitespace().nth(2), Some("48.8K"), "{table}");
}

#[test]
fn samples_stand_for_all() {
    let folder = Folder::new();
    let output =
        folder.profile(&["record", "--rate", "64K", "-o", "many.pb.gz", "--", &program("sites.c"), "many"]);
    assert!(output.status.success(), "{}", stderr(&output));
    // 100,000 blocks of 1,000 bytes, some 1,500 samples: a deviation of 2.6 %.
    let (bytes, blocks) =
        (folder.amount(&["kept"], &["many.pb.gz"]), folder.amount(&["kept"], &["many.pb.gz", "--objects"]));
    assert!((85_000_000..115_000_000).contains(&bytes), "{bytes}");
    assert!((85_000..115_000).contains(&blocks), "{blocks}");
}

#[test]
fn names_are_as_their_authors_wrote_them() {
    let folder = Folder::new();
    assert!(folder.record(&[&program("names.cpp")]).status.success());
    assert_eq!(folder.amount(&["main", "forest::Tree<double>::grow(int)"], &["--what", "allocated"]), 40_000);
    let rust = Folder::new();
    assert!(rust.record(&[&program("names.rs")]).status.success());
    let text = rust.report(&["--format", "collapsed"]);
    let is_there = |line: &&str| line.ends_with(" 40000") && line.contains("garden::planted;");
    let line = text.lines().find(is_there).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("garden::seeds;"), "inlined: {line}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn code_that_was_made_at_run_time_has_the_name_that_perf_was_told() {
    let folder = Folder::new();
    let output = folder.record(&[&program("made.c")]);
    assert!(output.status.success(), "{}", stderr(&output));
    // The file is needed no more when the profile is made.
    fs::remove_file(String::from_utf8(output.stdout).unwrap().trim()).unwrap();
    assert_eq!(folder.amount(&["main", "jitted function"], &[]), 5000);
}

#[test]
fn what_was_freed_is_told_with_its_life() {
    let folder = Folder::new();
    let output =
        folder.profile(&["record", "--rate", "1", "--lifetimes", "--", &program("sites.c"), "lives"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(folder.amount(&["main", "lived"], &["--objects"]), 20);
    assert_eq!(folder.amount(&["main", "dropped"], &["--objects"]), 50);
    let (long, short) = (folder.amount(&["main", "lived"], &[]), folder.amount(&["main", "dropped"], &[]));
    assert!(long >= 20 * 30_000_000 && short > 0 && short / 50 < long / 20, "{long} and {short} nanoseconds");
    let table = folder.report(&[]);
    let line = table.lines().find(|line| line.ends_with("  lived")).unwrap_or_else(|| panic!("{table}"));
    assert!(table.starts_with("freed: 7") && table.contains("mean") && line.contains("ms"), "{table}");
    let svg = folder.report(&["--format", "flamegraph"]);
    assert!(svg.contains("; process "), "what stands above the picture is one line");
    assert!(svg.contains("nanoseconds") && svg.contains("Lifetimes of what was freed"), "{svg}");
    let wrong = folder.profile(&["report", "--format", "firefox"]);
    assert_eq!(wrong.status.code(), Some(125), "{}", stderr(&wrong));
    assert_eq!(folder.profile(&["record", "--peak", "--lifetimes", "--", "true"]).status.code(), Some(125));
}

#[test]
fn guarded_programs_end_where_they_are_wrong() {
    let mut command = Command::new(command_path());
    command.args(["run", "--guarded", "--conf", "profile:1", "--", &program("sites.c"), "after"]);
    let output = command.env("SPECMALLOC_LIB", library()).env_remove("LD_PRELOAD").output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{}", stderr(&output));
    let report = stderr(&output);
    assert!(report.starts_with("specmalloc: use after free, a write to 0x"), "{report}");
    assert!(
        report.contains("1 bytes inside a block of 64 bytes") && report.contains("  freed by thread "),
        "{report}"
    );
}

#[test]
fn other_formats_say_the_same() {
    let folder = Folder::new();
    assert!(folder.record(&[&program("sites.c")]).status.success());
    let sum = folder.amount(&[], &["--what", "allocated"]);
    let svg = folder.report(&["--format", "flamegraph", "--what", "allocated"]);
    let mut reader = quick_xml::Reader::from_str(&svg);
    let mut depth = 0;
    loop {
        match reader.read_event().unwrap() {
            quick_xml::events::Event::Start(_) => depth += 1,
            quick_xml::events::Event::End(_) => depth -= 1,
            quick_xml::events::Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0);
    assert!(
        svg.contains("<svg") && svg.contains("<script") && svg.contains("dropped (600,000 bytes"),
        "{svg}"
    );
    let all = svg.split("<title>all ").nth(1).and_then(|rest| rest.split(" y=\"").nth(1)).unwrap();
    let top: f64 = all.split('"').next().unwrap().parse().unwrap();
    assert!(top < 100.0, "what all have in common is at the top, {top} from it");
    assert!(
        !svg.contains("src=") && !svg.contains("<link") && !svg.contains("@import"),
        "it is all there is"
    );

    let firefox: Value = serde_json::from_str(&folder.report(&["--format", "firefox"])).unwrap();
    let threads = firefox["threads"].as_array().unwrap();
    let allocated = threads.iter().find(|thread| thread["name"] == "allocated").unwrap();
    let weights = allocated["nativeAllocations"]["weight"].as_array().unwrap();
    assert_eq!(weights.iter().map(|weight| weight.as_u64().unwrap()).sum::<u64>(), sum);
    assert!(firefox["shared"]["stringArray"].as_array().unwrap().iter().any(|name| name == "wrapped"));
    assert!(
        firefox["libs"].as_array().unwrap().iter().all(|lib| lib["breakpadId"].as_str().unwrap().len() == 33)
    );

    // A profile with names is a profile; and it needs the program's file no more.
    let named = folder.profile(&["report", "--format", "pprof", "-o", "named.pb.gz"]);
    assert!(named.status.success(), "{}", stderr(&named));
    assert_eq!(folder.amount(&["kept", "wrapped"], &["named.pb.gz"]), 100_000);
}

#[test]
fn a_profile_is_written_however_the_program_ends() {
    let folder = Folder::new();
    let killed = folder.record(&[&program("sites.c"), "killed"]);
    assert_eq!(killed.status.signal(), Some(libc::SIGKILL));
    assert_eq!(folder.amount(&["kept"], &[]), 100_000);
    let exits = folder.record(&[&program("sites.c"), "exits"]);
    assert_eq!(exits.status.code(), Some(7));
    assert_eq!(folder.amount(&["kept"], &[]), 100_000);
    // Another program in the place of the shell.
    let script = format!("exec {}", program("sites.c"));
    assert!(folder.record(&["sh", "-c", &script]).status.success());
    assert_eq!(folder.amount(&["kept"], &[]), 100_000);
}

#[test]
fn processes_that_are_started_have_profiles_of_their_own() {
    let folder = Folder::new();
    let script = format!("{0} & {0} & wait; wait", program("sites.c"));
    let without = folder.record(&["sh", "-c", &script]);
    assert!(stderr(&without).contains("--follow-fork"), "{}", stderr(&without));
    assert_eq!(folder.names(), ["specmalloc.pb.gz"]);
    let with = folder.profile(&[
        "record",
        "--rate",
        "1",
        "--follow-fork",
        "-o",
        "all.pb.gz",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    assert!(with.status.success(), "{}", stderr(&with));
    let of_children: Vec<String> = folder
        .names()
        .into_iter()
        .filter(|name| name.starts_with("all.") && name != "all.pb.gz")
        .filter(|name| folder.amount(&["kept"], &[name]) == 100_000)
        .collect();
    assert_eq!(of_children.len(), 2, "{:?}", folder.names());
}

#[test]
fn what_cannot_be_profiled_is_told_and_nothing_is_left_behind() {
    let folder = Folder::new();
    let missing = folder.record(&["no such program"]);
    assert_eq!((missing.status.code(), folder.names().len()), (Some(127), 0));
    assert_eq!(folder.record(&["/dev/null"]).status.code(), Some(126));
    let path = folder.file("static");
    let source = folder.file("static.c");
    fs::write(&source, "int main(void) { return 42; }").unwrap();
    let compiled = Command::new("cc").arg("-static").arg(&source).arg("-o").arg(&path).status().unwrap();
    if compiled.success() {
        let output = folder.record(&["./static"]);
        assert_eq!(output.status.code(), Some(42));
        let messages = stderr(&output);
        assert!(
            messages.contains("statically linked") && messages.contains("nothing was noted"),
            "{messages}"
        );
    }
    let killed = folder.record(&["sh", "-c", "kill -9 $PPID"]);
    assert_eq!(killed.status.signal(), Some(libc::SIGKILL));
    assert!(!folder.names().contains(&"specmalloc.pb.gz".to_owned()), "{:?}", folder.names());
    let little = folder.profile(&["record", "--rate", "1G", "true"]);
    assert!(stderr(&little).contains("no samples"), "{}", stderr(&little));
    assert!(folder.report(&[]).contains("live at the end: 0 in 0 blocks, no samples"));
    // An older profile stays if there is nothing new.
    let before = fs::read(folder.file("specmalloc.pb.gz")).unwrap();
    assert_eq!(folder.record(&["no such program"]).status.code(), Some(127));
    assert_eq!(fs::read(folder.file("specmalloc.pb.gz")).unwrap(), before);
    for wrong in
        [&["record", "--rate", "0", "true"][..], &["record", "-o", "/no/such/folder/x", "true"], &["record"]]
    {
        assert_eq!(folder.profile(wrong).status.code(), Some(125), "{wrong:?}");
    }
}

#[test]
fn what_cannot_be_written_as_a_whole_is_not_left_behind() {
    let folder = Folder::new();
    assert!(folder.record(&[&program("sites.c")]).status.success());
    // A file may have a block or two, and more is an error.
    let script =
        "ulimit -f 1; trap '' XFSZ; exec \"$0\" profile report --format flamegraph --output part.svg";
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", script]).arg(command_path()).current_dir(&folder.0).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(!folder.names().contains(&"part.svg".to_owned()), "{:?}", folder.names());
}

#[test]
fn files_that_are_no_profiles_are_refused() {
    let folder = Folder::new();
    assert!(folder.record(&[&program("sites.c")]).status.success());
    let whole = fs::read(folder.file("specmalloc.pb.gz")).unwrap();
    fs::write(folder.file("cut"), &whole[..whole.len() / 2]).unwrap();
    fs::write(folder.file("text"), "heap profile: 1: 2").unwrap();
    fs::write(folder.file("empty"), "").unwrap();
    for (name, why) in [
        ("cut", "cut off"),
        ("text", "not a profile"),
        ("empty", "not a profile"),
        ("missing", "No such file"),
        ("/", "directory"),
    ] {
        let output = folder.profile(&["report", name]);
        assert_eq!(output.status.code(), Some(125), "{name}");
        assert!(stderr(&output).contains(why), "{name}: {}", stderr(&output));
    }
}

/// A program that goes through a round for each byte that it gets, under `specmalloc run` with `options`.
struct Rounds {
    child: Child,
    output: BufReader<ChildStdout>,
    pid: String,
}

impl Rounds {
    fn start(options: &[&str]) -> Rounds {
        let mut command = Command::new(command_path());
        command.arg("run").args(options).arg("--").arg(program("sites.c")).arg("waits");
        command.env("SPECMALLOC_LIB", library()).env_remove("LD_PRELOAD");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut pid = String::new();
        output.read_line(&mut pid).unwrap();
        Rounds { child, output, pid: pid.trim().to_owned() }
    }

    fn round(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        self.output.read_exact(&mut [0]).unwrap();
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
fn a_process_that_runs_is_sampled_for_a_while() {
    let folder = Folder::new();
    let mut rounds = Rounds::start(&["--profile"]);
    rounds.round();
    let mut command = Command::new(command_path());
    command.args(["profile", "attach", "--rate", "64K", &rounds.pid]).current_dir(&folder.0);
    let mut attached = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut messages = BufReader::new(attached.stderr.take().unwrap());
    let mut message = String::new();
    messages.read_line(&mut message).unwrap();
    assert!(message.contains("Ctrl-C"), "{message}");
    let second = folder.profile(&["attach", "--duration", "0", "-o", "second.pb.gz", &rounds.pid]);
    assert_eq!((second.status.code(), folder.file("second.pb.gz").exists()), (Some(125), false));
    assert!(stderr(&second).contains("is asked by another"), "{}", stderr(&second));
    rounds.round();
    rounds.round();
    // SAFETY: no memory is involved; the process is a child that was not waited for.
    assert_eq!(unsafe { libc::kill(attached.id() as i32, libc::SIGINT) }, 0);
    assert!(attached.wait().unwrap().success());
    // 40,000 blocks of 3,000 bytes but for those before the process has heard of it, some 1,800 samples.
    let all = ["--what", "allocated", "--objects"];
    let noted = folder.amount(&["main", "held"], &all);
    assert!((30_000..46_000).contains(&noted), "{noted}");
    // In this round the process hears of the end; what was noted before is not counted again.
    rounds.round();
    for _ in 0..2 {
        rounds.round();
        let output = folder.profile(&["attach", "--duration", "0", &rounds.pid]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(folder.amount(&["main", "held"], &all), 0);
    }
}

#[test]
fn who_cannot_be_attached_to_is_told_why() {
    let folder = Folder::new();
    let attach = |pid: &str| {
        let output = folder.profile(&["attach", "--duration", "0", pid]);
        assert_eq!((output.status.code(), folder.names().len()), (Some(125), 0));
        stderr(&output)
    };
    let why = attach(&Rounds::start(&["--watch"]).pid);
    assert!(why.contains("without libspecmalloc_profile.so") && why.contains("run --profile"), "{why}");
    let own = std::process::id().to_string();
    assert!(attach(&own).contains("does not run under specmalloc"));
    assert!(attach("4194305").contains("there is no process"));
    assert!(attach("self").contains("invalid value"));
}
