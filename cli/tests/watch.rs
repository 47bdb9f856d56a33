//! `specmalloc top` and `maps` beside a process that runs under the real library.

mod common;
#[path = "common/documented.rs"]
mod documented;

use common::{library, profiler};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A program that waits for a line, under the command with `options`; its number as it says it.
struct Waiting {
    command: Child,
    input: Option<ChildStdin>,
    pid: String,
}

impl Waiting {
    fn start(options: &[&str], script: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_specmalloc"));
        command.arg("run").args(options).args(["--", "sh", "-c", script]);
        command.env("SPECMALLOC_LIB", library()).env_remove("LD_PRELOAD");
        let mut command =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(command.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { input: command.stdin.take(), command, pid: line.trim().to_owned() }
    }

    fn end(mut self) -> std::process::ExitStatus {
        self.input.take().unwrap().write_all(b"\n").unwrap();
        self.command.wait().unwrap()
    }
}

fn specmalloc(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_specmalloc"));
    command.args(arguments).stdin(Stdio::null()).env_remove("COLUMNS").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_process_is_looked_at_while_it_runs() {
    let waiting = Waiting::start(&["--watch"], "echo $$; read line; exit 3");
    let output = specmalloc(&["top", &waiting.pid, "--once", "--json", "--delay", "0.1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((document["pid"].to_string(), document["name"].as_str()), (waiting.pid.clone(), Some("sh")));
    documented::documented(&document);
    let (pressure, tells) = (&document["memory_pressure"], fs::exists("/proc/pressure/memory").unwrap());
    assert_eq!(tells || pressure.is_object(), pressure["some_percent"].is_number(), "{pressure}");
    let live = document["bytes"]["live"].as_u64().unwrap();
    let (heaps, arenas) = (document["heaps"].as_array().unwrap(), document["arenas"].as_array().unwrap());
    assert!(live > 0 && heaps[0]["held"] == true, "{document:#}");
    let shares: u64 = heaps.iter().map(|heap| heap["live_bytes"].as_u64().unwrap()).sum();
    assert!(shares > 0 && shares <= 2 * live, "{document:#}");
    assert_eq!(document["counts"]["arenas"].as_u64().unwrap(), arenas.len() as u64);
    assert!(
        document["interval_seconds"].as_f64().unwrap() >= 0.1 && document["rates"]["live_bytes"].is_number()
    );
    assert!(document["resident_bytes"].as_u64().unwrap() > 0 && document["age_seconds"].is_number());

    let plain = text(&specmalloc(&["top", &waiting.pid, "--once", "--delay", "0"]).stdout);
    for word in ["classes\n", "heaps\n", "arenas\n", "system calls\n", "bets\n", "held by"] {
        assert!(plain.contains(word), "{word}: {plain}");
    }
    assert!(plain.lines().all(|line| line.chars().count() <= 80) && !plain.contains('\x1b'), "{plain}");

    let maps = specmalloc(&["maps", &waiting.pid, "--json"]);
    let document: Value = serde_json::from_slice(&maps.stdout).unwrap();
    documented::documented(&document);
    let arena = &document["arenas"][0];
    assert!(arena["resident_bytes"].as_u64().unwrap() > 0, "{document:#}");
    assert!(arena["bytes"].as_u64().unwrap() >= arena["resident_bytes"].as_u64().unwrap(), "{document:#}");
    assert!(document["kinds"].as_array().unwrap().iter().any(|kind| kind["name"] == "files"));
    let plain = text(&specmalloc(&["maps", &waiting.pid]).stdout);
    assert!(plain.contains("\narenas ") && plain.lines().all(|line| line.chars().count() <= 80), "{plain}");
    assert_eq!(waiting.end().code(), Some(3));
}

#[test]
fn the_figures_of_threads_that_idle_are_those_of_now() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/resting.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("resting");
    let mut compiler = Command::new("cc");
    let compiled = compiler.args(["-O1", "-pthread", "-o"]).arg(&program).arg(source).status().unwrap();
    assert!(compiled.success());
    let script = format!("exec {}", program.display());
    let waiting = Waiting::start(&["--watch"], &script);
    let live = || {
        let output = specmalloc(&["top", &waiting.pid, "--once", "--json", "--delay", "0"]);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document["counts"]["live_blocks"].as_u64().unwrap()
    };
    let begun = Instant::now();
    while live() < 3000 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} blocks live", live());
    }
    waiting.end();
}

#[test]
fn what_was_never_touched_is_not_resident() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (program, figures) = (folder.join("untouched"), folder.join("untouched.json"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/untouched.c");
    assert!(Command::new("cc").args(["-O0", "-o"]).args([&program, &source]).status().unwrap().success());
    let script = format!("exec '{}'", program.display());
    let waiting = Waiting::start(&["--json", "--output", figures.to_str().unwrap()], &script);
    let resident = |document: &Value| document["bytes"]["resident"].as_u64().unwrap();
    for arguments in [["top", &waiting.pid, "--once", "--json"].as_slice(), &["maps", &waiting.pid, "--json"]]
    {
        let document: Value = serde_json::from_slice(&specmalloc(arguments).stdout).unwrap();
        let told = if arguments[0] == "maps" { &document["statistics"] } else { &document };
        assert!(told["bytes"]["live"].as_u64().unwrap() > 300_000_000, "{document:#}");
        assert!((1..20_000_000).contains(&resident(told)), "{document:#}");
    }
    assert_eq!(waiting.end().code(), Some(0));
    let document: Value = serde_json::from_str(&fs::read_to_string(&figures).unwrap()).unwrap();
    let process = document["processes"].as_array().unwrap().last().unwrap();
    assert!((1..20_000_000).contains(&resident(&process["statistics"])), "{document:#}");
}

/// `top` in a terminal of its own of 80 columns and 40 lines, whose name is `term`; what it wrote and how it ended, a signal
/// having been sent when it had drawn.
fn in_terminal(pid: &str, term: &str) -> (String, std::process::ExitStatus) {
    in_terminal_of(pid, term, (80, 40))
}

/// The same in so many columns and lines.
fn in_terminal_of(pid: &str, term: &str, (columns, lines): (u16, u16)) -> (String, std::process::ExitStatus) {
    let (mut master, mut slave) = (0, 0);
    let size = libc::winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the numbers and the size are valid; the descriptors are nobody else's.
    let (mut master, slave) = unsafe {
        let null = std::ptr::null_mut();
        assert_eq!(libc::openpty(&mut master, &mut slave, null, std::ptr::null(), &raw const size), 0);
        (File::from_raw_fd(master), File::from_raw_fd(slave))
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_specmalloc"));
    command.args(["top", pid, "--delay", "1000"]).env("TERM", term).env_remove("NO_COLOR");
    let [input, output, error] = [(); 3].map(|()| Stdio::from(slave.try_clone().unwrap()));
    let mut top = command.stdin(input).stdout(output).stderr(error).spawn().unwrap();
    drop((command, slave));
    let (mut text, mut sent) = (Vec::new(), false);
    let mut part = [0; 4096];
    // An error is the end of a terminal.
    while let Ok(len @ 1..) = master.read(&mut part) {
        text.extend(&part[..len]);
        if !sent && text.windows(5).any(|word| word == b"leave") {
            sent = true;
            // SAFETY: no memory is involved; the process has not been waited for.
            unsafe { libc::kill(top.id() as i32, libc::SIGTERM) };
        }
    }
    (String::from_utf8_lossy(&text).into_owned(), top.wait().unwrap())
}

#[test]
fn the_terminal_is_as_it_was_also_after_a_signal_and_one_that_cannot_be_drawn_on_is_told() {
    let waiting = Waiting::start(&["--watch"], "echo $$; read line");
    let (shown, status) = in_terminal(&waiting.pid, "xterm");
    assert!(shown.contains("\x1b[?1049h") && shown.contains("classes"), "{shown}");
    assert!(shown.trim_end().ends_with("\x1b[?25h") && shown.contains("\x1b[?1049l"), "{shown}");
    assert_eq!(status.signal(), Some(libc::SIGTERM), "{shown}");
    let (shown, status) = in_terminal(&waiting.pid, "dumb");
    assert!(shown.contains("TERM is dumb") && !shown.contains('\x1b'), "{shown}");
    assert_eq!(status.code(), Some(125));
    waiting.end();
}

#[test]
fn small_terminals_show_what_matters_first_and_large_ones_all() {
    let waiting = Waiting::start(&["--watch"], "echo $$; read line");
    for (size, shown, hidden) in [
        ((200, 50), &["live", "resident", "mappings", "blocks/s", "bets"][..], &[][..]),
        ((80, 24), &["live", "resident", "mappings", "blocks/s", "bets"], &[]),
        ((40, 10), &["live", "resident", "blocks/s", "classes", "leave"], &["mappings", "bets"]),
        ((20, 6), &["sh", "live", "class", "leave"], &["mappings"]),
    ] {
        let (text, status) = in_terminal_of(&waiting.pid, "xterm-256color", size);
        assert_eq!(status.signal(), Some(libc::SIGTERM), "{size:?}: {text}");
        for word in shown {
            assert!(text.contains(word), "{word} in {size:?}: {text}");
        }
        for word in hidden {
            assert!(!text.contains(word), "{word} in {size:?}: {text}");
        }
    }
    waiting.end();
}

#[test]
fn what_cannot_be_looked_at_says_why() {
    let failed = |arguments: &[&str]| {
        let output = specmalloc(arguments);
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        text(&output.stderr)
    };
    assert_eq!(failed(&["top", "4194999", "--once"]), "specmalloc: there is no process 4194999\n");
    let own = std::process::id().to_string();
    assert!(failed(&["maps", &own]).contains("does not run under specmalloc"));
    let unwatched = Waiting::start(&[], "echo $$; read line");
    let why = failed(&["top", &unwatched.pid, "--once"]);
    assert!(why.contains("publishes no figures: start it with specmalloc run --watch"), "{why}");
    unwatched.end();
    let watched = Waiting::start(&["--watch"], "echo $$; read line");
    assert!(failed(&["top", &watched.pid]).contains("no terminal"));
    watched.end();
    assert!(failed(&["top", "1", "--json"]).contains("--once"));
    assert!(failed(&["top", "x"]).contains("invalid value"));
    assert!(failed(&["top", "1", "--delay=-1"]).contains("not from 0"));
}

/// A process may be called anything, and lie anywhere; the kernel cuts off names in the middle of a letter.
#[test]
fn names_are_of_any_bytes() {
    profiler();
    let folder = format!("{}/any-bytes", env!("CARGO_TARGET_TMPDIR"));
    let script = format!(
        r#"folder="{folder}/$(printf '\377')"; mkdir -p "$folder"; cp /bin/sh "$folder/sh"
        exec "$folder/sh" -c 'printf "\033[2Jn\303" >/proc/$$/comm; echo $$; read line'"#
    );
    let waiting = Waiting::start(&["--profile"], &script);
    let plain = specmalloc(&["top", &waiting.pid, "--once", "--delay", "0"]);
    assert!(plain.status.success(), "{}", text(&plain.stderr));
    let plain = text(&plain.stdout);
    assert!(plain.contains("held by") && plain.contains("?[2Jn") && !plain.contains('\x1b'), "{plain}");
    let maps = specmalloc(&["maps", &waiting.pid]);
    assert!(maps.status.success(), "{}", text(&maps.stderr));
    let (start, profile) = (Instant::now(), format!("{folder}/x.pb.gz"));
    let attach = specmalloc(&["profile", "attach", "--duration", "0.3", "--output", &profile, &waiting.pid]);
    assert!(attach.status.success(), "{}", text(&attach.stderr));
    assert!(start.elapsed() >= Duration::from_millis(300), "it was taken for one that has ended");
    waiting.end();
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_cannot_be_written_is_told() {
    let waiting = Waiting::start(&["--watch"], "echo $$; read line");
    for arguments in [&["top", &waiting.pid, "--once", "--delay", "0"][..], &["maps", "--json", &waiting.pid]]
    {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_specmalloc"));
        let output = command.args(arguments).stdin(Stdio::null()).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        assert!(text(&output.stderr).contains("standard output: No space left"), "{}", text(&output.stderr));
    }
    waiting.end();
}

/// What a process in a container calls a file is another one here.
#[test]
fn functions_of_a_container_are_found_in_its_files() {
    profiler();
    let folder = format!("{}/container", env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&folder).unwrap();
    let compile = |name: &str, source: &str| {
        let (path, file) = (format!("{folder}/{name}"), format!("{folder}/{name}.c"));
        fs::write(&file, source).unwrap();
        assert!(Command::new("cc").args(["-g", "-w", "-o", &path, &file]).status().unwrap().success());
        path
    };
    let inside = compile(
        "inside",
        "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n
        int there(void) { void *volatile block = malloc(5000000); free(block); return 0; }
        int main(void) { printf(\"%d\\n\", getpid()), fflush(stdout); for (;;) there(), usleep(100); }",
    );
    let outside =
        compile("outside", "int here(int a) { return a; } int main(int a) { return here(a) + here(2 * a); }");
    let script = format!("mount --bind {inside} {outside} 2>/dev/null || echo no; exec {outside}");
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        env!("CARGO_BIN_EXE_specmalloc"),
        "run",
        "--profile",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    command.env("SPECMALLOC_LIB", library()).env_remove("LD_PRELOAD").stdin(Stdio::null());
    let mut container = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut pid = String::new();
    BufReader::new(container.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    // Who is not root must not do that.
    if let Ok(number) = pid.trim().parse::<i32>() {
        let profile = format!("{folder}/x.pb.gz");
        let attach = ["profile", "attach", "--duration", "0.5", "--rate", "64K", "-o", &profile, pid.trim()];
        let attach = specmalloc(&attach);
        assert!(attach.status.success(), "{}", text(&attach.stderr));
        let report = ["profile", "report", "--format", "collapsed", "--what", "allocated", &profile];
        let names = text(&specmalloc(&report).stdout);
        assert!(names.contains("main;there ") && !names.contains("here;"), "{names}");
        // SAFETY: no memory is involved; its parent, which waits for it, is a child that was not waited for.
        unsafe { libc::kill(number, libc::SIGTERM) };
    }
    container.wait().unwrap();
    fs::remove_dir_all(folder).unwrap();
}

/// Who replaces blocks again and again, and does nothing else, hears of it, too.
#[test]
fn a_steady_program_hears_who_asks_for_samples() {
    profiler();
    let folder = format!("{}/steady", env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&folder).unwrap();
    let (path, file, profile) =
        (format!("{folder}/steady"), format!("{folder}/steady.c"), format!("{folder}/x.pb.gz"));
    let source = "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n
        int main(int count, char **arguments) { printf(\"%d\\n\", getpid()), fflush(stdout);
        for (;;) { void *volatile block = malloc(atoi(arguments[1])); free(block); } }";
    fs::write(&file, source).unwrap();
    assert!(Command::new("cc").args(["-O1", "-o", &path, &file]).status().unwrap().success());
    for size in ["100", "5000", "50000"] {
        let waiting = Waiting::start(&["--profile"], &format!("exec {path} {size}"));
        let attach = specmalloc(&["profile", "attach", "--duration", "0.5", "-o", &profile, &waiting.pid]);
        assert!(attach.status.success(), "{}", text(&attach.stderr));
        let report = text(&specmalloc(&["profile", "report", "--what", "allocated", &profile]).stdout);
        assert!(!report.contains(", 0 samples,"), "{size}: {report}");
        // SAFETY: no memory is involved; its parent is a child that was not waited for.
        unsafe { libc::kill(waiting.pid.parse().unwrap(), libc::SIGTERM) };
        let mut waiting = waiting;
        waiting.command.wait().unwrap();
    }
    fs::remove_dir_all(folder).unwrap();
}
