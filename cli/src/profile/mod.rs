//! `specmalloc profile`: where a program allocates.
//!
//! `record` runs a program with libspecmalloc_profile.so beside the allocator and, when it has ended, makes a profile of
//! what that has counted; `attach` has a process that runs so counted for a while. Profiles are pprof's
//! (`specmalloc_samples::pprof`). `report` finds the names of functions, and shows a `view`: as `text`, a flame graph
//! (`flame`), or as the Firefox Profiler has it (`firefox`).

mod attach;
mod firefox;
mod flame;
mod record;
mod report;
mod text;
mod view;

use crate::{Failure, library};
use clap::{Args, Subcommand};
use specmalloc_samples::{IMAGES, ProfileFile, VARIABLE};
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};
use view::What;

/// The file, if none is named.
const FILE: &str = "specmalloc.pb.gz";

const HELP: &str = "\
Examples:
  specmalloc profile record -- python3 program.py
  specmalloc profile report
  specmalloc profile report --leaks
  specmalloc profile attach --duration 60 $(pgrep -n server)
  specmalloc profile report --format flamegraph -o heap.svg

A profile is one in pprof's format, which others read, too: pprof -http=: PROGRAM specmalloc.pb.gz

Exit status: that of the program for record, else 0, or 125 on failure.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Profile {
    #[command(subcommand)]
    action: Action,
}

/// What reports show unless they are told otherwise; else what is live at the end.
#[derive(Args)]
struct First {
    /// Have reports show what was live when most was, unless they are told otherwise; else what is live at the end.
    #[arg(long, conflicts_with = "lifetimes")]
    peak: bool,
    /// Have reports show how long blocks lived that were freed, unless they are told otherwise.
    #[arg(long)]
    lifetimes: bool,
}

impl First {
    /// The kind of values.
    fn kind(&self) -> &'static str {
        match (self.peak, self.lifetimes) {
            (true, _) => What::Peak.bytes(),
            (_, true) => What::Lifetimes.bytes(),
            _ => What::Live.bytes(),
        }
    }
}

#[derive(Subcommand)]
enum Action {
    /// Run a program, and note where it allocates.
    Record(record::Record),
    /// Note where a running process allocates, for a while.
    Attach(attach::Attach),
    /// Show a profile.
    Report(report::Report),
}

/// Has `command` run with the library that notes samples, switched off, and returns the file for what it notes.
pub(crate) fn load(command: &mut Command, library: &Path) -> Result<ProfileFile, Failure> {
    let profiler = library::profiler(library)?;
    let preload = library::preload(&profiler, std::env::var_os("LD_PRELOAD"))?;
    let file = ProfileFile::create(IMAGES).map_err(|error| {
        let error = io::Error::from_raw_os_error(error);
        Failure::own(format!("no memory file for the profile: {error}"))
    })?;
    command.env("LD_PRELOAD", library::preload(library, Some(preload))?).env(
        VARIABLE.to_str().expect("a constant in ASCII"),
        format!("/proc/{}/fd/{}", std::process::id(), file.fd()),
    );
    Ok(file)
}

pub(crate) fn execute(profile: &Profile) -> Result<ExitCode, Failure> {
    match &profile.action {
        Action::Record(record) => record::execute(record).map(|never| match never {}),
        Action::Attach(attach) => attach::execute(attach),
        Action::Report(report) => report::execute(report),
    }
}
