//! The command `specmalloc`: runs any program under the allocator, and shows what the allocator did.
//!
//! `run` is a program with its statistics at the end, `compare` one under every allocator that is found, `profile` tells
//! where one allocates, `record` and `replay` are its malloc calls, `top` and
//! `maps` (in `watch`) look at one that runs, `doctor` at what stands in an allocator's way; `manual` is their manual.
//! Below them `library` finds libspecmalloc.so; `target` and `elf` tell whether a program will be served; `child` runs
//! it and ends as it ended; `interrupted` has the command itself end in order, with `descendants`; `output` is what
//! it writes; `report` shows the statistics. Uses of `specmalloc` its statistics and the record that
//! processes share, and nothing else.

mod child;
mod compare;
mod descendants;
mod doctor;
mod elf;
mod interrupted;
mod library;
mod manual;
mod output;
mod profile;
mod record;
mod replay;
mod report;
mod run;
mod target;
mod terminal;
mod text;
mod watch;

use clap::{FromArgMatches, Parser, Subcommand};
use std::ffi::OsStr;
use std::io;
use std::process::ExitCode;

/// Exit status when the command itself fails, as `env` and `timeout` have it.
const OWN_FAILURE: u8 = 125;
/// Exit status when the program was found and could not be run.
const NOT_RUNNABLE: u8 = 126;
/// Exit status when the program was not found.
const NOT_FOUND: u8 = 127;

const HELP: &str = "\
Each command tells its options, examples and exit statuses: specmalloc COMMAND --help.

Exit status of all commands: 125 if specmalloc itself failed or was called wrongly, 126 if a program
could not be run, 127 if it was not found.";

/// A general-purpose memory allocator for Linux.
#[derive(Parser)]
#[command(name = "specmalloc", version, after_help = HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run a program with specmalloc as its malloc.
    Run(run::Run),
    /// Measure a program under every allocator that is found.
    Compare(Box<compare::Compare>),
    /// Note where a program allocates, and show it.
    Profile(profile::Profile),
    /// Record the malloc calls of a program.
    RecordTrace(record::RecordTrace),
    /// Make the malloc calls of a trace again.
    Replay(replay::Replay),
    /// Show what a running process does with its memory, again and again.
    Top(watch::Top),
    /// Show the mappings of a running process, with what the allocator has in them.
    Maps(watch::maps::Maps),
    /// Tell what about this machine makes an allocator slow or fail, and what to do.
    Doctor(doctor::Doctor),
    /// Print the manual page.
    Man(manual::Man),
    /// Print the completions for a shell.
    Completions(manual::Completions),
}

fn main() -> ExitCode {
    compare::launcher::launch_if_asked();
    // clap's own status for wrong usage is 2, which could be the program's.
    let parsed =
        manual::command().try_get_matches().and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = parsed.unwrap_or_else(|error| {
        // Nothing is left to tell if even this fails.
        let _ = error.print();
        std::process::exit(if error.use_stderr() { i32::from(OWN_FAILURE) } else { 0 })
    });
    let done = match arguments.action {
        Action::Run(run) => run::execute(&run).map(|never| match never {}),
        Action::Compare(compare) => compare::execute(&compare),
        Action::Profile(profile) => profile::execute(&profile),
        Action::RecordTrace(record) => record::execute(&record).map(|never| match never {}),
        Action::Replay(replay) => replay::execute(&replay),
        Action::Top(top) => watch::top(&top),
        Action::Maps(maps) => watch::maps::execute(&maps),
        Action::Doctor(doctor) => doctor::execute(&doctor),
        Action::Man(man) => manual::man(&man),
        Action::Completions(completions) => manual::completions(&completions),
    };
    done.unwrap_or_else(|failure| {
        output::tell!("{}", failure.message);
        ExitCode::from(failure.status)
    })
}

/// Why the command ends without having done what it was asked for.
pub(crate) struct Failure {
    pub(crate) status: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn own(message: String) -> Self {
        Self { status: OWN_FAILURE, message }
    }

    /// The program at `name` could not be started.
    pub(crate) fn start(name: &OsStr, error: &io::Error) -> Self {
        let status = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE };
        Self { status, message: format!("{}: {error}", name.display()) }
    }
}
