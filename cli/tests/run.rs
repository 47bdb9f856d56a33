//! `specmalloc run` as a user meets it: exit statuses, signals, notices, what a program inherits, statistics.
//!
//! The library is a stand-in that publishes known figures (examples/stand_in.rs), so nothing here depends on malloc.

#[path = "common/documented.rs"]
mod documented;
#[path = "common/stand_in.rs"]
mod stand_in;

use serde_json::Value;
use stand_in::stand_in;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The command at a place of its own, where no library lies beside it.
fn command_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let folder = scratch().join("bin");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("specmalloc");
        // A link, not a copy: nothing may have the file open for writing when another test runs it.
        fs::hard_link(env!("CARGO_BIN_EXE_specmalloc"), &path).unwrap();
        path
    })
}

fn scratch() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("run");
        // What an earlier run left.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    })
}

/// `specmalloc run` with `arguments`.
fn run(arguments: &[&str]) -> Command {
    let mut command = Command::new(command_path());
    command.arg("run").args(arguments).env("SPECMALLOC_LIB", stand_in()).env_remove("LD_PRELOAD");
    command
}

fn output(arguments: &[&str]) -> Output {
    run(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Writes `contents` to an executable file. Through a process of its own: a program that any process has open for
/// writing cannot be run, and a child that another test forks at the wrong moment would have it open.
fn executable(name: &str, contents: &[u8]) -> String {
    let path = scratch().join(name).to_str().unwrap().to_owned();
    let script = r#"cat > "$0" && chmod 755 "$0""#;
    let mut writer = Command::new("sh").args(["-c", script, &path]).stdin(Stdio::piped()).spawn().unwrap();
    writer.stdin.take().unwrap().write_all(contents).unwrap();
    assert!(writer.wait().unwrap().success());
    path
}

/// Starts `command` and waits until its program has printed a line.
fn started(command: &mut Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    assert!(lines.read_line(&mut line).unwrap() > 0, "the program printed nothing");
    (child, lines)
}

fn signal(process: u32, signal: i32) {
    // SAFETY: no memory is involved; the process is a child that was not waited for.
    assert_eq!(unsafe { libc::kill(process as i32, signal) }, 0);
}

#[test]
fn the_exit_status_is_the_programs() {
    for mode in [&["--stats"][..], &[]] {
        for status in [0, 1, 77, 255] {
            let script = format!("exit {status}");
            let arguments = [mode, &["--", "sh", "-c", &script]].concat();
            assert_eq!(output(&arguments).status.code(), Some(status), "{arguments:?}");
        }
        assert_eq!(output(&[mode, &["no such program"]].concat()).status.code(), Some(127));
        assert_eq!(output(&[mode, &["/dev/null"]].concat()).status.code(), Some(126));
    }
    assert_eq!(output(&["--no-such-option", "true"]).status.code(), Some(125));
    assert_eq!(output(&["--output", "/no/such/folder/file", "true"]).status.code(), Some(125));
}

#[test]
fn the_program_dies_and_so_does_the_command() {
    for mode in [&["--stats"][..], &[]] {
        for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV, libc::SIGPIPE, libc::SIGUSR1] {
            let script = format!("kill -{signal} $$");
            let status = output(&[mode, &["--", "sh", "-c", &script]].concat()).status;
            assert_eq!(status.signal(), Some(signal), "{mode:?}");
        }
    }
}

#[test]
fn a_signal_to_the_command_alone_reaches_the_program() {
    let signals = [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("TERM", libc::SIGTERM),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("WINCH", libc::SIGWINCH),
    ];
    for (name, number) in signals {
        let script = format!("trap 'exit 7' {name}; echo ready; while :; do sleep 0.02; done");
        let mut command = run(&["--stats", "sh", "-c", &script]);
        command.stderr(Stdio::null());
        // A shell cannot trap what was ignored before it: the tests may run under `nohup`.
        let obey = move || {
            // SAFETY: an async-signal-safe call without memory.
            unsafe { libc::signal(number, libc::SIG_DFL) };
            Ok(())
        };
        // SAFETY: `obey` makes one async-signal-safe call.
        let (mut child, _lines) = started(unsafe { command.pre_exec(obey) });
        signal(child.id(), number);
        assert_eq!(child.wait().unwrap().code(), Some(7), "SIG{name}");
    }
}

#[test]
fn a_program_that_stops_is_seen_to_stop_and_goes_on_with_the_command() {
    let mut command = run(&["--stats", "sh", "-c", "kill -STOP $$; exit 5"]);
    let mut child = command.stderr(Stdio::null()).process_group(0).spawn().unwrap();
    let pid = child.id() as i32;
    let mut status = 0;
    // SAFETY: `status` is valid for the write; the child is not reaped by a report that it has stopped.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, libc::WUNTRACED) }, pid);
    assert!(libc::WIFSTOPPED(status), "status {status:#x}");
    signal(child.id(), libc::SIGCONT);
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn masks_and_ignored_signals_are_inherited() {
    let signals = |command: &mut Command| {
        let ignore = || {
            // SAFETY: async-signal-safe calls; the set is initialised before it is used.
            unsafe {
                libc::signal(libc::SIGPIPE, libc::SIG_IGN);
                libc::signal(libc::SIGCHLD, libc::SIG_IGN);
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&mut set);
                libc::sigaddset(&mut set, libc::SIGUSR2);
                libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
            }
            Ok(())
        };
        // SAFETY: `ignore` only makes async-signal-safe calls.
        let output = unsafe { command.pre_exec(ignore) }.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let program = ["grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"];
    let direct = signals(Command::new(program[0]).args(&program[1..]));
    let ignored = direct.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(ignored & 0x11001, 0x11001, "HUP, PIPE and CHLD in {direct}");
    assert_eq!(signals(&mut run(&program)), direct);
    assert_eq!(signals(&mut run(&[&["--stats"], &program[..]].concat())), direct);
}

#[test]
fn a_program_inherits_no_descriptor_of_the_command() {
    let descriptors = |command: &mut Command| {
        let output = command.args(["sh", "-c", "ls /proc/$$/fd"]).stdin(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let file = scratch().join("statistics").to_str().unwrap().to_owned();
    let expected = descriptors(&mut Command::new("env"));
    assert_eq!(descriptors(&mut run(&["--output", &file])), expected);
}

#[test]
fn the_library_comes_before_what_is_preloaded_already() {
    let environment = |command: &mut Command| {
        let output = command.args(["--conf", "key:2", "/usr/bin/env"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let library = stand_in().display().to_string();
    // From an empty environment: no PATH, no LD_PRELOAD.
    let bare = environment(run(&[]).env_clear().env("SPECMALLOC_LIB", &library));
    assert!(bare.contains(&format!("LD_PRELOAD={library}")), "{bare:?}");
    assert!(bare.contains(&"SPECMALLOC_CONF=key:2".to_owned()), "{bare:?}");
    let more = environment(run(&[]).env("LD_PRELOAD", "libdl.so.2").env("SPECMALLOC_CONF", "key:1"));
    assert!(more.contains(&format!("LD_PRELOAD={library}:libdl.so.2")), "{more:?}");
    assert!(more.contains(&"SPECMALLOC_CONF=key:1,key:2".to_owned()), "{more:?}");
}

#[test]
fn without_the_library_the_build_command_is_named() {
    let mut command = Command::new(command_path());
    let output = command.args(["run", "true"]).env_remove("SPECMALLOC_LIB").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(
        stderr(&output).contains("cargo build --profile preload -p specmalloc-preload"),
        "{}",
        stderr(&output)
    );
}

/// A statically linked program that exits with status 42: an ELF header, one segment, a few instructions.
fn static_program() -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    const CODE: [u8; 12] = [0xb8, 60, 0, 0, 0, 0xbf, 42, 0, 0, 0, 0x0f, 0x05]; // eax = exit, edi = 42, syscall
    #[cfg(target_arch = "x86_64")]
    const MACHINE: u8 = 62;
    #[cfg(target_arch = "aarch64")]
    const CODE: [u8; 12] = [0xa8, 0x0b, 0x80, 0xd2, 0x40, 0x05, 0x80, 0xd2, 0x01, 0, 0, 0xd4]; // x8 = exit, x0 = 42, svc
    #[cfg(target_arch = "aarch64")]
    const MACHINE: u8 = 183;
    const BASE: u64 = 0x40_0000;
    let mut image =
        vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, MACHINE, 0, 1, 0, 0, 0];
    for word in [BASE + 120, 64, 0] {
        image.extend(word.to_le_bytes()); // entry, segments at, sections at
    }
    image.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    image.extend([1, 0, 0, 0, 5, 0, 0, 0]); // one segment to load, readable and executable
    for word in [0, BASE, BASE, 132, 132, 0x1_0000] {
        image.extend(u64::to_le_bytes(word));
    }
    image.extend(CODE);
    image
}

#[test]
fn a_program_that_is_not_served_is_named_and_run_all_the_same() {
    let program = executable("static", &static_program());
    let plain = output(&[&program]);
    assert_eq!(plain.status.code(), Some(42));
    assert!(stderr(&plain).contains("static is not served: it is statically linked"), "{}", stderr(&plain));
    let script = executable("script", format!("#!{program}\n").as_bytes());
    let counted = output(&["--stats", &script]);
    assert_eq!(counted.status.code(), Some(42));
    assert!(stderr(&counted).contains("statically linked"), "{}", stderr(&counted));
    assert!(stderr(&counted).contains("the program was not served (exit status 42)"), "{}", stderr(&counted));
    // glibc's own library is a program that defines malloc.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.split_whitespace().find(|word| word.contains("/libc.so.6")).unwrap();
    assert!(stderr(&output(&[libc])).contains("brings its own malloc (malloc)"));
    assert_eq!(stderr(&output(&["true"])), "", "a program that is served gets no notice");
}

fn document(arguments: &[&str]) -> Value {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let file = scratch().join(format!("document-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let options = ["--json", "--classes", "--output", file.to_str().unwrap()];
    let output = run(&options).args(arguments).output().unwrap();
    let text = fs::read(&file).unwrap();
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)))
}

#[test]
fn figures_survive_every_kind_of_end() {
    let ended = document(&["false"]);
    documented::documented(&ended);
    assert_eq!(ended["program"]["end"], "exit status 1");
    assert_eq!(ended["program"]["statistics"]["bytes"]["live"], 1001);
    assert_eq!(ended["program"]["statistics"]["classes"][0]["live_blocks"], 7);
    // Killed, with all its descriptors closed before.
    let killed = document(&["sh", "-c", "exec 0<&- 1>&- 2>&-; kill -KILL $$"]);
    assert_eq!(killed["program"]["end"], "killed by signal 9");
    assert_eq!(killed["program"]["statistics"]["bytes"]["live"], 1000);
    assert_eq!(killed["program"]["statistics"]["bets"]["lookup"]["taken"], 1);
}

#[test]
fn children_are_counted_and_added_up() {
    // A subshell that is killed, one that calls _exit (so the shell does), a child that runs a program, and a
    // program that replaces the shell.
    let script = "(kill -KILL $(sh -c 'echo $PPID')); (:); (/bin/true; :); exec false";
    let document = document(&["sh", "-c", script]);
    let processes = document["processes"].as_array().unwrap();
    let program = processes[0]["pid"].clone();
    let ends: Vec<_> = processes.iter().map(|process| process["end"].as_str().unwrap()).collect();
    assert_eq!((ends[0], ends[ends.len() - 1]), ("ran another program", "exit status 1"), "{ends:?}");
    assert!(ends.contains(&"killed or _exit") && ends.contains(&"exited"), "{ends:?}");
    assert!(processes.last().unwrap()["pid"] == program, "{ends:?}");
    assert!(processes.iter().any(|process| process["parent"] == program), "{document:#}");
    let live = |process: &Value| process["statistics"]["bytes"]["live"].as_u64().unwrap();
    assert_eq!(document["sum"]["bytes"]["live"], processes.iter().map(live).sum::<u64>());
    assert_eq!(live(processes.last().unwrap()), 1001);
}

#[test]
fn the_table_goes_where_it_is_told() {
    let file = scratch().join("table");
    let output =
        output(&["--stats", "--classes", "--output", file.to_str().unwrap(), "env", "echo", "hello"]);
    assert_eq!((output.stdout.as_slice(), stderr(&output).as_str()), (&b"hello\n"[..], ""));
    let table = fs::read_to_string(file).unwrap();
    for line in ["exit status 0", "live ", "1,001", "lookup", "16 bytes"] {
        assert!(table.contains(line), "{line} is missing in:\n{table}");
    }
}

/// What the file had stays until there is something else, and a program that has not run leaves none.
#[test]
fn a_file_is_written_as_a_whole_or_that_is_told() {
    let (old, new) = (scratch().join("old.json"), scratch().join("new.json"));
    fs::write(&old, "as it was").unwrap();
    for path in [&old, &new] {
        let output = output(&["--json", "--output", path.to_str().unwrap(), "--", "/no/such/program"]);
        assert_eq!(output.status.code(), Some(127), "{}", stderr(&output));
    }
    assert_eq!(fs::read_to_string(&old).unwrap(), "as it was");
    assert!(!new.exists());
    for (script, status) in [("true", 125), ("exit 3", 3)] {
        let output = output(&["--json", "--output", "/dev/full", "--", "sh", "-c", script]);
        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
        assert!(stderr(&output).contains("/dev/full: No space left"), "{}", stderr(&output));
    }
}
