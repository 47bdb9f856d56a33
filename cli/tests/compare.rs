//! `specmalloc compare` as a user meets it. The allocators are glibc and copies of it, so nothing depends on what is
//! installed, and no test looks at a time.

#[path = "common/documented.rs"]
mod documented;
#[path = "common/stand_in.rs"]
mod stand_in;

use serde_json::Value;
use stand_in::stand_in;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

fn scratch() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compare");
        // What an earlier run left.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.split_whitespace().find(|word| word.contains("/libc.so.6")).unwrap();
        // The loader takes a library of this name for the C library, wherever it lies.
        fs::copy(libc, path.join("libother.so")).unwrap();
        path
    })
}

/// `specmalloc compare` of glibc with `arguments`.
fn compare(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_specmalloc"));
    command.args(["compare", "--only", "glibc"]).args(arguments).stdin(Stdio::null());
    command.env_remove("LD_PRELOAD").env_remove("COLUMNS").output().unwrap()
}

fn other() -> String {
    format!("other={}", scratch().join("libother.so").display())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn two_allocators_are_measured_and_shown_in_every_form() {
    let file = |name: &str| scratch().join(name).display().to_string();
    let (json, csv, markdown, plot) = (file("all.json"), file("all.csv"), file("all.md"), file("all.svg"));
    let output = compare(&[
        "-n",
        "3",
        "--warmup",
        "1",
        "--with",
        &other(),
        "--reference",
        "other",
        "--export-json",
        &json,
        "--export-csv",
        &csv,
        "--export-markdown",
        &markdown,
        "--plot",
        &plot,
        "--",
        "ls",
        "/",
    ]);
    let table = text(&output.stdout);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{table}");
    for line in ["ls /: medians of 3 runs under each", "\nglibc ", "\nother ", "Ratios are to other"] {
        assert!(table.contains(line), "{line} is missing in:\n{table}");
    }
    assert!(!table.contains('\x1b') && table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let document: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    documented::documented(&document);
    let results = document["results"].as_array().unwrap();
    assert_eq!((results.len(), &document["reference"]), (2, &Value::from("other")));
    for (result, name) in results.iter().zip(["glibc", "other"]) {
        assert_eq!(
            (result["command"].as_str(), result["parameters"]["allocator"].as_str()),
            (Some(name), Some(name))
        );
        assert_eq!(result["times"].as_array().unwrap().len(), 3);
        for figure in ["mean", "median", "min", "max", "stddev"] {
            assert!(result[figure].as_f64().unwrap() > 0.0, "{figure}: {result}");
        }
        assert!(result["memory_usage_byte"][0].as_u64().unwrap() > 500_000, "{result}");
        assert!(result["page_faults"][0].as_u64().unwrap() > 10, "{result}");
        // As later versions of hyperfine have it.
        let runs = result["measurements"].as_array().unwrap();
        let times: Vec<&Value> = runs.iter().map(|run| &run["time_wall_clock"]["value"]).collect();
        assert_eq!(times, result["times"].as_array().unwrap().iter().collect::<Vec<_>>());
        assert_eq!(result["summary"]["time_wall_clock"]["median"], result["median"]);
    }
    assert_eq!(fs::read_to_string(csv).unwrap().lines().count(), 3);
    assert!(fs::read_to_string(markdown).unwrap().contains("| Allocator |"));
    assert!(fs::read_to_string(plot).unwrap().contains("Peak memory"));
}

#[test]
fn whoever_fails_or_does_not_serve_is_named_and_the_rest_goes_on() {
    let no_malloc = stand_in();
    let junk = scratch().join("junk.so");
    fs::write(&junk, "not a library").unwrap();
    let (none, junk) = (format!("none={}", no_malloc.display()), format!("junk={}", junk.display()));
    let crash = "case $LD_PRELOAD in *libother*) echo because >&2; kill -SEGV $$;; esac";
    let output =
        compare(&["-n", "1", "--with", &other(), "--with", &none, "--with", &junk, "--", "sh", "-c", crash]);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(table.contains("\nglibc "), "{table}");
    assert!(table.contains("other: killed by signal 11 (SIGSEGV): because\n"), "{table}");
    assert!(table.contains("none: not served: ") && table.contains("defines no malloc\n"), "{table}");
    assert!(table.contains("junk: not served: ") && table.contains("did not load"), "{table}");
}

#[test]
fn what_cannot_be_measured_is_told_by_the_status() {
    let status = |arguments: &[&str]| {
        let output = compare(&[&["-n", "1"], arguments].concat());
        (output.status.code().unwrap(), text(&output.stderr))
    };
    assert_eq!(status(&["--", "no such program"]).0, 127);
    assert_eq!(status(&["--", "/dev/null"]).0, 126);
    let (code, message) = status(&["--", "sh", "-c", "echo why >&2; exit 3"]);
    assert_eq!((code, message.as_str()), (125, "specmalloc: nothing was measured: exit status 3: why\n"));
    assert_eq!(status(&["--ignore-failure", "--", "sh", "-c", "exit 3"]).0, 0);
    for wrong in
        [&["--reference", "nobody", "true"][..], &["--with", "x", "true"], &["--only", "x", "true"], &[]]
    {
        assert_eq!(status(wrong).0, 125, "{wrong:?}");
    }
    let unwritten = scratch().join("unwritten.json");
    assert_eq!(status(&["--export-json", unwritten.to_str().unwrap(), "--", "false"]).0, 125);
    assert!(!unwritten.exists(), "nothing was measured");
    let (code, message) = status(&["--export-json", "/no/such/folder/x", "true"]);
    assert!(code == 125 && message.contains("/no/such/folder/x: No such file"), "{message}");
    let (code, message) = status(&["--input", "/no/such/file", "true"]);
    assert!(code == 125 && message.contains("/no/such/file: No such file"), "{message}");
}

#[test]
fn shell_commands_run_before_and_after_and_the_last_one_also_after_a_failure() {
    let log = scratch().join("log");
    let note = |what: &str| format!("echo {what} >> '{}'", log.display());
    let (setup, prepare, cleanup) = (note("setup"), note("prepare"), note("cleanup"));
    let commands = ["-n", "2", "--setup", &setup, "--prepare", &prepare, "--cleanup", &cleanup];
    let output = compare(&[&commands[..], &["--with", &other(), "--", "true"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    // A trial and two runs of each.
    let expected = format!("setup\n{}cleanup\n", "prepare\n".repeat(6));
    assert_eq!(fs::read_to_string(&log).unwrap(), expected);
    fs::remove_file(&log).unwrap();
    let output = compare(&[&commands[..], &["--", "no such program"]].concat());
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(fs::read_to_string(&log).unwrap(), "setup\nprepare\ncleanup\n");
    let output = compare(&["--setup", "exit 9", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("--setup 'exit 9': exit status 9"));
}

/// The signals that a terminal sends end the process, though the tests may run where they are ignored: in the background.
fn hear_signals() -> std::io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGHUP] {
        // SAFETY: no memory is involved.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(())
}

#[test]
fn what_is_ended_by_a_signal_cleans_up_and_leaves_nothing() {
    // From a terminal it reaches everybody; from another process only the command. And while a shell command runs.
    let program = ["--", "sh", "-c"];
    for (case, signal, everybody) in
        [("run", libc::SIGINT, true), ("run", libc::SIGTERM, false), ("prepare", libc::SIGHUP, false)]
    {
        let (begun, cleaned, json) =
            (scratch().join("begun"), scratch().join("cleaned"), scratch().join("early.json"));
        let [_, _] = [&begun, &cleaned].map(fs::remove_file);
        // What it has started ends too, though a shell has that ignore SIGINT.
        let long = format!(
            "sleep 1000 & echo $! > '{0}.new'; sleep 1000 & echo $! >> '{0}.new'; mv '{0}.new' '{0}'; wait",
            begun.display()
        );
        let (prepare, run) = if case == "run" { ("true", &*long) } else { (&*long, "true") };
        let cleanup = format!("touch '{}'", cleaned.display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_specmalloc"));
        command.args(["compare", "--only", "glibc", "--prepare", prepare, "--cleanup", &cleanup]);
        command.arg("--export-json").arg(&json).args(program).arg(run);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: it makes system calls only.
        let mut compare = unsafe { command.pre_exec(hear_signals) }.spawn().unwrap();
        while !begun.exists() {
            assert!(compare.try_wait().unwrap().is_none(), "{case}: ended by itself");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let pid = compare.id() as i32;
        // SAFETY: no memory is involved; the process has not been waited for.
        assert_eq!(unsafe { libc::kill(if everybody { -pid } else { pid }, signal) }, 0);
        assert_eq!(compare.wait().unwrap().signal(), Some(signal), "{case}");
        assert!(cleaned.exists() && !json.exists(), "{case}");
        let programs = fs::read_to_string(&begun).unwrap();
        assert!(programs.lines().count() >= 2, "{programs}");
        // It may be waited for by nobody yet.
        let runs = || {
            let stat =
                |pid: &str| fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            programs.lines().map(stat).any(|stat| stat.contains("(sleep)") && !stat.contains(") Z "))
        };
        let mut looks = 0;
        while runs() {
            looks += 1;
            assert!(looks < 2000, "{case}: the program goes on");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[test]
fn peak_memory_is_the_programs_own() {
    let json = scratch().join("peak.json").display().to_string();
    let arguments = ["-n", "1", "--show-output", "--export-json", &json, "--", "cat", "/proc/self/status"];
    let output = text(&compare(&arguments).stdout);
    let told = output.lines().rev().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let told: u64 = told.trim().trim_end_matches(" kB").parse().unwrap();
    let document: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let measured = document["results"][0]["memory_usage_byte"][0].as_u64().unwrap() / 1024;
    // The kernel counts pages in batches for each processor.
    assert!(measured < told + 512, "{measured} KiB measured, {told} KiB told by the program itself");
}

#[test]
fn the_program_inherits_what_the_command_was_given() {
    let input = scratch().join("input");
    fs::write(&input, "what stands in the file\n").unwrap();
    let script = "cat; ls /proc/self/fd | wc -l; grep SigIgn /proc/self/status";
    let output =
        compare(&["-n", "1", "--show-output", "--input", input.to_str().unwrap(), "--", "sh", "-c", script]);
    let shown = text(&output.stdout);
    let mut direct = Command::new("sh");
    let direct = direct.args(["-c", script]).stdin(fs::File::open(&input).unwrap()).output().unwrap();
    let direct = text(&direct.stdout);
    // A trial and a run, each with the same input, as many descriptors, and the same signals ignored.
    assert!(
        shown.starts_with(&direct.repeat(2)) && direct.starts_with("what stands"),
        "{shown} not {direct}"
    );
}

/// As hyperfine has it: one bound alone is not held against the usual other, - is standard output, and null is no file.
#[test]
fn hyperfines_words_mean_what_they_mean_there() {
    let output = compare(&["-M", "1", "--input", "null", "--export-json", "-", "--", "true"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["results"][0]["times"].as_array().unwrap().len(), 1);
    assert!(text(&output.stderr).contains("one run under each"), "{}", text(&output.stderr));
    assert!(!Path::new("-").exists());
    let output = compare(&["-m", "3", "-M", "2", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("--max-runs is less than --min-runs"));
}

/// What a terminal writes for Ctrl-C comes behind what is on its line: if that is full, it is another that is cleared.
#[test]
fn the_line_of_progress_leaves_room_and_is_gone_when_ctrl_c_comes() {
    const COLUMNS: usize = 70;
    let size = libc::winsize { ws_row: 20, ws_col: COLUMNS as u16, ws_xpixel: 0, ws_ypixel: 0 };
    // With descriptors that no program of another test gets.
    let mut near =
        File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/ptmx").unwrap();
    // SAFETY: a descriptor that is open, places for a flag and for a number, and a size.
    let far = unsafe {
        let (descriptor, unlocked, mut number): (_, libc::c_int, libc::c_uint) = (near.as_raw_fd(), 0, 0);
        assert_eq!(libc::ioctl(descriptor, libc::TIOCSPTLCK, &raw const unlocked), 0);
        assert_eq!(libc::ioctl(descriptor, libc::TIOCGPTN, &raw mut number), 0);
        assert_eq!(libc::ioctl(descriptor, libc::TIOCSWINSZ, &raw const size), 0);
        File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(format!("/dev/pts/{number}"))
            .unwrap()
    };
    let begun = scratch().join("line");
    let _ = fs::remove_file(&begun);
    let long = format!("touch '{}'; exec sleep 1000", begun.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_specmalloc"));
    command.args(["compare", "--only", "glibc", "--", "sh", "-c", &long]);
    command.stdin(far.try_clone().unwrap()).stdout(Stdio::null()).stderr(far);
    let own_terminal = || {
        // SAFETY: no memory is involved.
        unsafe {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
        }
        hear_signals()
    };
    // SAFETY: it makes system calls only.
    let mut compare = unsafe { command.pre_exec(own_terminal) }.spawn().unwrap();
    drop(command);
    while !begun.exists() {
        assert!(compare.try_wait().unwrap().is_none(), "ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    near.write_all(b"\x03").unwrap();
    assert_eq!(compare.wait().unwrap().signal(), Some(libc::SIGINT));
    let mut told = Vec::new();
    // An error where nobody has the other end any more.
    let _ = near.read_to_end(&mut told);
    let told = text(&told);
    assert!(told.contains("glibc") && told.ends_with("\r\x1b[2K"), "{told:?}");
    let lines = told.split("\r\x1b[2K").flat_map(|part| part.split('\r'));
    assert!(lines.map(|line| line.chars().count()).max().unwrap() < COLUMNS, "{told:?}");
}
