//! The command `specmalloc`: runs any program under the allocator, and shows what the allocator did.
//!
//! `library` finds libspecmalloc.so; `target` and `elf` tell whether the program will be served; `child` runs it and
//! ends as it ended; `report` shows the statistics. Uses of `specmalloc` its statistics and the record that processes
//! share, and nothing else.

mod child;
mod elf;
mod library;
mod report;
mod target;

use clap::{Args, Parser, Subcommand};
use specmalloc::internals::api::shared_record::{CAPACITY, StatisticsFile, VARIABLE};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Exit status when the command itself fails, as `env` and `timeout` have it.
const OWN_FAILURE: u8 = 125;
/// Exit status when the program was found and could not be run.
const NOT_RUNNABLE: u8 = 126;
/// Exit status when the program was not found.
const NOT_FOUND: u8 = 127;

const STATUSES: &str = "\
Ends as the program ends: with its exit status, or by its signal. 125: specmalloc itself failed,
126: the program could not be run, 127: it was not found. Processes of other users and in containers
of their own run under specmalloc too, but their figures are not counted.";

/// A general-purpose memory allocator for Linux.
#[derive(Parser)]
#[command(name = "specmalloc", version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run a program with specmalloc as its malloc.
    Run(Run),
}

#[derive(Args)]
#[command(after_help = STATUSES)]
struct Run {
    /// Print a table of statistics to standard error when the program has ended.
    #[arg(long)]
    stats: bool,
    /// Print the statistics as JSON.
    #[arg(long)]
    json: bool,
    /// Show the statistics of each size class too.
    #[arg(long)]
    classes: bool,
    /// Write the statistics to FILE instead of standard error.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Options of the allocator, after those that SPECMALLOC_CONF already has.
    #[arg(long, value_name = "KEY:VALUE,...")]
    conf: Option<OsString>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    // clap's own status for wrong usage is 2, which could be the program's.
    let arguments = Arguments::try_parse().unwrap_or_else(|error| {
        // Nothing is left to tell if even this fails.
        let _ = error.print();
        std::process::exit(if error.use_stderr() { i32::from(OWN_FAILURE) } else { 0 })
    });
    let Action::Run(run) = arguments.action;
    match execute(&run) {
        Ok(never) => match never {},
        Err(failure) => {
            eprintln!("specmalloc: {}", failure.message);
            ExitCode::from(failure.status)
        }
    }
}

/// Why the command ends without having run the program to its end.
pub(crate) struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    pub(crate) fn own(message: String) -> Self {
        Self { status: OWN_FAILURE, message }
    }

    /// The program at `name` could not be started.
    fn start(name: &OsStr, error: &io::Error) -> Self {
        let status = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE };
        Self { status, message: format!("{}: {error}", name.display()) }
    }
}

fn execute(run: &Run) -> Result<std::convert::Infallible, Failure> {
    let library = library::find()?;
    let (name, arguments) = run.command.split_first().expect("clap demands a program");
    for notice in target::notices(name) {
        eprintln!("specmalloc: {notice}");
    }
    let mut command = Command::new(name);
    command.args(arguments).env("LD_PRELOAD", library::preload(&library, std::env::var_os("LD_PRELOAD"))?);
    if let Some(conf) = &run.conf {
        command.env("SPECMALLOC_CONF", joined(std::env::var_os("SPECMALLOC_CONF"), conf));
    }
    if !(run.stats || run.json || run.classes || run.output.is_some()) {
        return Err(Failure::start(name, &child::exec(&mut command)));
    }

    // Opened before the program runs: a file that cannot be written is told now, not after an hour's work.
    let mut output = match &run.output {
        None => None,
        Some(path) => {
            Some(File::create(path).map_err(|error| Failure::own(format!("{}: {error}", path.display())))?)
        }
    };
    let file = StatisticsFile::create(CAPACITY).map_err(|errno| {
        let error = io::Error::from_raw_os_error(errno.0);
        Failure::own(format!("no memory file for the statistics: {error}"))
    })?;
    let variable = VARIABLE.to_str().expect("a constant in ASCII");
    command.env(variable, format!("/proc/{}/fd/{}", std::process::id(), file.fd()));
    let (pid, status) = child::run(&mut command).map_err(|error| Failure::start(name, &error))?;

    let report = report::Report::new(&file, pid, status);
    let text = if run.json { report.json(run.classes) } else { report.table(run.classes) };
    let written = match &mut output {
        Some(file) => file.write_all(text.as_bytes()),
        None => io::stderr().write_all(text.as_bytes()),
    };
    if let (Err(error), Some(path)) = (written, &run.output) {
        eprintln!("specmalloc: {}: {error}", path.display());
    }
    child::end_as(status)
}

/// `first` and `second` with a comma between, if there is a first.
fn joined(first: Option<OsString>, second: &OsStr) -> OsString {
    match first.filter(|first| !first.is_empty()) {
        None => second.to_owned(),
        Some(mut first) => {
            first.push(",");
            first.push(second);
            first
        }
    }
}
