//! `specmalloc run`: a program with specmalloc as its malloc, and its statistics at the end.

use crate::output::{Output, tell};
use crate::{Failure, child, library, profile, report, target};
use clap::{Args, ValueHint};
use specmalloc::internals::api::shared_record::{CAPACITY, StatisticsFile, VARIABLE};
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;

const HELP: &str = "\
Examples:
  specmalloc run --stats -- python3 program.py
  specmalloc run --json --classes --output figures.json -- make
  specmalloc run --watch -- ./server & sleep 1; specmalloc top $(pgrep -n server)
  specmalloc run --profile -- ./server & sleep 1; specmalloc profile attach $(pgrep -n server)
  specmalloc run --guarded -- ./server
  specmalloc run --conf dirty_max:64M,names:on -- redis-server

Ends as the program ends: with its exit status, or by its signal. 125: specmalloc itself failed,
126: the program could not be run, 127: it was not found. Processes of other users and in containers
of their own run under specmalloc too, but their figures are not counted.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Run {
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
    /// Let `specmalloc top` and `maps` look at the program while it runs. (With statistics they can, too.)
    #[arg(long)]
    watch: bool,
    /// Let `specmalloc profile attach` note where the program allocates: loads libspecmalloc_profile.so, switched off.
    #[arg(long)]
    profile: bool,
    /// Guard some blocks: an overflow of one, or a use after its free, ends the program with a report of where it was
    /// allocated and freed. Loads libspecmalloc_profile.so.
    #[arg(long)]
    guarded: bool,
    /// Options of the allocator, after those that SPECMALLOC_CONF already has.
    #[arg(long, value_name = "KEY:VALUE,...")]
    conf: Option<OsString>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// Runs the program; returns only if that failed.
pub(crate) fn execute(run: &Run) -> Result<Infallible, Failure> {
    let tells = run.stats || run.json || run.classes || run.output.is_some();
    if tells || run.watch || run.profile {
        library::demand_proc()?;
    }
    let library = library::find()?;
    let (name, arguments) = run.command.split_first().expect("clap demands a program");
    for notice in target::notices(name) {
        tell!("{notice}");
    }
    let mut command = Command::new(name);
    let images = if run.profile { Some(profile::load(&mut command, &library)?) } else { None };
    if images.is_none() {
        let mut preload = std::env::var_os("LD_PRELOAD");
        if run.guarded {
            preload = Some(library::preload(&library::profiler(&library)?, preload)?);
        }
        command.env("LD_PRELOAD", library::preload(&library, preload)?);
    }
    command.args(arguments);
    let guarded = run.guarded.then(|| OsStr::new("guarded:on"));
    for conf in guarded.into_iter().chain(run.conf.as_deref()) {
        let before = command.get_envs().find(|(name, _)| *name == "SPECMALLOC_CONF");
        let before = before.and_then(|(_, value)| value).map(OsStr::to_owned);
        let before = before.or_else(|| std::env::var_os("SPECMALLOC_CONF"));
        command.env("SPECMALLOC_CONF", joined(before, conf));
    }
    if !tells && !run.watch && images.is_none() {
        return Err(Failure::start(name, &child::exec(&mut command)));
    }

    let output = run.output.as_deref().map(Output::new).transpose()?;
    let file = StatisticsFile::create(CAPACITY).map_err(|errno| {
        let error = io::Error::from_raw_os_error(errno.0);
        Failure::own(format!("no memory file for the statistics: {error}"))
    })?;
    let variable = VARIABLE.to_str().expect("a constant in ASCII");
    command.env(variable, format!("/proc/{}/fd/{}", std::process::id(), file.fd()));
    let (pid, status) = child::run(&mut command).map_err(|error| Failure::start(name, &error))?;
    if !tells {
        return child::end_as(status);
    }
    let report = report::Report::new(&file, pid, status);
    let text = if run.json { report.json(run.classes) } else { report.table(run.classes) };
    let written = match &output {
        Some(output) => output.write(text.as_bytes()),
        // Who does not want to hear of it need not.
        None => io::stderr().write_all(text.as_bytes()).or(Ok(())),
    };
    match written {
        // What the program ends with comes first.
        Err(failure) if status.success() => return Err(failure),
        Err(failure) => tell!("{}", failure.message),
        Ok(()) => {}
    }
    child::end_as(status)
}

/// `first` and `second` with a comma between, if there is a first.
pub(crate) fn joined(first: Option<OsString>, second: &OsStr) -> OsString {
    match first.filter(|first| !first.is_empty()) {
        None => second.to_owned(),
        Some(mut first) => {
            first.push(",");
            first.push(second);
            first
        }
    }
}
