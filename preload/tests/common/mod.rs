//! Builds the preload library and small C and C++ programs, and runs the programs with the library preloaded.
//!
//! Nothing here waits by the clock: a program that hangs is ended by the alarm that `programs/support.h` sets, and its
//! test fails by the signal.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod library;

pub use library::library;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// Where the tests may leave files.
pub fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// The folder of the programs' sources.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs")
}

/// Runs `command` and demands that it succeeds.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// What the dynamic linker has to do for the library, as readelf tells it: a line each.
pub fn relocations() -> String {
    let output = succeed(Command::new("readelf").args(["--relocs", "--wide"]).arg(library()));
    String::from_utf8(output.stdout).expect("text in ASCII")
}

/// Compiles `programs/source` with `flags`, unless that was done before with the same text, and returns the result.
/// The compiler is `cc`, or `c++` for a `.cpp` file.
pub fn compile(source: &str, flags: &[&str]) -> PathBuf {
    let path = sources().join(source);
    let header = sources().join("support.h");
    let mut hasher = DefaultHasher::new();
    for input in [&path, &header] {
        fs::read(input).unwrap_or_else(|error| panic!("{}: {error}", input.display())).hash(&mut hasher);
    }
    flags.hash(&mut hasher);
    let stem = path.file_stem().expect("a file").to_str().expect("an ASCII name");
    let result = scratch().join(format!("{stem}-{:016x}", hasher.finish()));
    if result.exists() {
        return result;
    }
    let cxx = source.ends_with(".cpp");
    let mut compiler = Command::new(if cxx { "c++" } else { "cc" });
    // Without -fno-builtin a compiler may remove an allocation that it can see is freed.
    static PARTIAL: AtomicUsize = AtomicUsize::new(0);
    let number = PARTIAL.fetch_add(1, Ordering::SeqCst);
    let partial = scratch().join(format!("{stem}-{}.{number}", std::process::id()));
    compiler
        .args([
            "-g",
            "-O1",
            "-fno-builtin",
            "-pthread",
            "-D_GNU_SOURCE",
            if cxx { "-std=c++17" } else { "-std=gnu11" },
        ])
        .arg("-I")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg(&path)
        .args(flags)
        .arg("-ldl")
        .arg("-o")
        .arg(&partial);
    succeed(&mut compiler);
    // Another thread or process may have done the same meanwhile; either result will do.
    fs::rename(&partial, &result).expect("a file that was just written");
    result
}

/// What became of a program.
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    /// The exit code, if it exited.
    pub code: Option<i32>,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
}

impl Outcome {
    /// Demands that the program exited with 0 and had nothing to complain about, and returns what it printed.
    #[track_caller]
    pub fn passed(self) -> String {
        assert!(
            self.code == Some(0) && self.stderr.is_empty(),
            "exit {:?}, signal {:?}\n{}{}",
            self.code,
            self.signal,
            self.stdout,
            self.stderr
        );
        self.stdout
    }
}

/// Runs `command` with the library preloaded.
pub fn run(command: &mut Command) -> Outcome {
    let mut preload = OsString::from(library());
    if let Some(others) = std::env::var_os("LD_PRELOAD") {
        preload.push(":");
        preload.push(others);
    }
    outcome(by_single_pages(command.env("LD_PRELOAD", preload)))
}

/// Has memory come page by page in the program and all that it starts, where they do not ask for more, whatever the machine
/// is set to.
pub fn by_single_pages(command: &mut Command) -> &mut Command {
    // Since Linux 6.18; libc does not know it. Before, all or nothing: on a machine that is set to huge pages for all, there
    // are none then, not even for who asks.
    const EXCEPT_ADVISED: libc::c_ulong = 1 << 1;
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let are_for_all = setting.is_ok_and(|text| text.starts_with("[always]"));
    let forbid = |but: libc::c_ulong| {
        // SAFETY: a setting of the process's own.
        unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1_u64, but, 0_u64, 0_u64) == 0 }
    };
    // SAFETY: system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let _may_fail = forbid(EXCEPT_ADVISED) || are_for_all && forbid(0);
            Ok(())
        })
    }
}

/// Runs `command` as it is.
pub fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Outcome {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
        signal: output.status.signal(),
    }
}

/// Runs the case `case` of `programs/source` with the library preloaded.
pub fn case(source: &str, case: &str) -> Outcome {
    run(Command::new(compile(source, &[])).arg(case))
}

/// Defines a test for each named case, which is what the function `passes` does with its name.
#[macro_export]
macro_rules! cases {
    ($passes:path: $($case:ident),* $(,)?) => {$(
        #[test]
        fn $case() {
            $passes(stringify!($case));
        }
    )*};
}

/// Defines a test for each named case of a program: it must exit with 0 and print no complaint.
#[macro_export]
macro_rules! passing_cases {
    ($source:literal: $($case:ident),* $(,)?) => {$(
        #[test]
        fn $case() {
            common::case($source, stringify!($case)).passed();
        }
    )*};
}

/// The same for cases that wait more than they work: whichever test comes first starts all of them, side by side.
#[macro_export]
macro_rules! waiting_cases {
    ($source:literal: $($case:ident),* $(,)?) => {
        static STARTED: std::sync::LazyLock<common::Started> =
            std::sync::LazyLock::new(|| common::Started::new($source, &[$(stringify!($case)),*]));
        $(
            #[test]
            fn $case() {
                STARTED.outcome(stringify!($case)).passed();
            }
        )*
    };
}

/// Cases of one program that run side by side.
pub struct Started(Mutex<HashMap<&'static str, JoinHandle<Outcome>>>);

impl Started {
    /// Starts `cases` of `programs/source` with the library preloaded.
    pub fn new(source: &'static str, cases: &[&'static str]) -> Started {
        compile(source, &[]);
        let start = |&case| (case, thread::spawn(move || self::case(source, case)));
        Started(Mutex::new(cases.iter().map(start).collect()))
    }

    /// What becomes of `case`: to be asked once.
    pub fn outcome(&self, case: &str) -> Outcome {
        let running =
            self.0.lock().expect("no test fails with it").remove(case).expect("one of those started");
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
