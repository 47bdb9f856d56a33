//! `specmalloc compare`: a program under every allocator that is found, in turn, again and again.
//!
//! `allocators` are those that are there, `launcher` runs the program once and tells what it cost, `rounds` runs all of
//! it and keeps the `results`; `table`, `export` and `plot` show them.

pub(crate) mod allocators;
mod export;
pub(crate) mod launcher;
mod plot;
mod progress;
mod results;
mod rounds;
mod table;

use crate::output::{print, write_whole};
use crate::terminal::{Colour, Colours, is_terminal, width};
use crate::{Failure, child, interrupted, library};
use allocators::Allocator;
use clap::{Args, ValueHint};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

const HELP: &str = "\
Each allocator is first tried once, without being counted: what does not load, does not serve the
program or fails is named and left out. Then all of them run in turn, and whoever was first in a round
is last in the next. Figures are medians, with the spread from the least to the most. A ratio is that of two
medians; its interval holds 95 of 100 ratios that come out when the rounds are drawn again (bootstrap),
each as a whole, so that what disturbed both of a round does not count; of fewer than six rounds it is wider, as
they say less of others. A ratio whose interval holds 1 is
marked with a tilde: the difference is inside the noise. Peak memory is that of the largest process.

Examples:
  specmalloc compare -- python3 program.py
  specmalloc compare -n 20 --only glibc,specmalloc --plot plot.svg -- redis-benchmark -q
  specmalloc compare --with new=./libnew.so --reference new --prepare 'rm -rf out' -- make -j2
  specmalloc compare --export-json figures.json -- ./program && plot_whisker.py figures.json

Exit status: 0 if the program was measured under every allocator that was found, 1 if it failed or was
not served under one of them, 125 if specmalloc itself failed or nothing could be measured, 126 if the
program could not be run, 127 if it was not found.";

/// What hyperfine calls the same has its name.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Compare {
    /// Runs under each allocator; otherwise as many as take three seconds, within the two bounds below.
    #[arg(short = 'n', long, short_alias = 'r', value_name = "RUNS", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Runs under each allocator at least: 10, or as many as there may be at most.
    #[arg(short, long, value_name = "RUNS", conflicts_with = "runs", value_parser = clap::value_parser!(u32).range(1..))]
    min_runs: Option<u32>,
    /// Runs under each allocator at most: 100, or as many as there are to be at least.
    #[arg(short = 'M', long, value_name = "RUNS", conflicts_with = "runs", value_parser = clap::value_parser!(u32).range(1..))]
    max_runs: Option<u32>,
    /// Runs under each allocator that are not counted, before the others.
    #[arg(short, long, value_name = "RUNS", default_value_t = 0)]
    warmup: u32,
    /// Only these allocators: glibc, specmalloc, jemalloc, tcmalloc, mimalloc.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = allocators::names(), hide_possible_values = true)]
    only: Vec<String>,
    /// One more allocator, as a library to preload; of a name above, instead of the one that would be found.
    #[arg(long, value_name = "NAME=PATH.so", value_parser = allocators::parse)]
    with: Vec<Allocator>,
    /// The allocator that ratios are taken to; otherwise the first in the table.
    #[arg(long, value_name = "NAME")]
    reference: Option<String>,
    /// A shell command to run before each run.
    #[arg(short, long, value_name = "COMMAND")]
    prepare: Option<String>,
    /// A shell command to run before the first run of all.
    #[arg(short, long, value_name = "COMMAND")]
    setup: Option<String>,
    /// A shell command to run after the last run of all, also when something failed, or Ctrl-C ended it.
    #[arg(short, long, value_name = "COMMAND")]
    cleanup: Option<String>,
    /// Count runs that end with an exit status other than 0, too. (A signal is always a failure.)
    #[arg(short, long)]
    ignore_failure: bool,
    /// What the program reads as its standard input; null for nothing.
    #[arg(long, value_name = "FILE", default_value = "null")]
    input: PathBuf,
    /// Show what the program writes.
    #[arg(long)]
    show_output: bool,
    /// Write the figures in hyperfine's JSON, and more of them; - for standard output, as below. (The table goes to standard
    /// error then.)
    #[arg(long, value_name = "FILE")]
    export_json: Option<PathBuf>,
    /// Write the figures as CSV, with hyperfine's columns first.
    #[arg(long, value_name = "FILE")]
    export_csv: Option<PathBuf>,
    /// Write the table in Markdown.
    #[arg(long, value_name = "FILE")]
    export_markdown: Option<PathBuf>,
    /// Draw time and peak memory as SVG.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Whether the table has colours.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    color: Colour,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// Measures and shows it.
pub(crate) fn execute(arguments: &Compare) -> Result<ExitCode, Failure> {
    if arguments.min_runs.zip(arguments.max_runs).is_some_and(|(least, most)| most < least) {
        return Err(Failure::own("--max-runs is less than --min-runs".to_owned()));
    }
    library::demand_proc()?;
    let (found, missing) = allocators::find(&arguments.only, &arguments.with)?;
    if let Some(reference) = &arguments.reference
        && !found.iter().any(|one| one.name == *reference)
    {
        return Err(Failure::own(format!("{reference}, the reference, is not among the allocators found")));
    }
    // A file that cannot be written is told now, not after an hour's work.
    let exports =
        [&arguments.export_json, &arguments.export_csv, &arguments.export_markdown, &arguments.plot];
    for path in exports.into_iter().flatten().filter(|path| !is_output(path)) {
        let was_there = path.exists();
        let opened = fs::OpenOptions::new().append(true).create(true).open(path);
        opened.map_err(|error| unwritten(path, &error))?;
        if !was_there {
            // Until there is something to write nothing is left behind, however this ends.
            fs::remove_file(path).map_err(|error| unwritten(path, &error))?;
        }
    }
    interrupted::watch();
    let measured = rounds::measure(arguments, found, missing);
    if let Some(signal) = interrupted::signal() {
        return child::end_as(ExitStatus::from_raw(signal)).map(|never| match never {});
    }
    let results = measured?;
    // If the table cannot be written the files are all the same.
    let shown = if exports.into_iter().flatten().any(|path| is_output(path)) {
        let colours = Colours::new(arguments.color, is_terminal(&io::stderr()));
        let _nobody_hears = io::stderr().write_all(table::table(&results, width(), colours).as_bytes());
        Ok(())
    } else {
        let colours = Colours::new(arguments.color, is_terminal(&io::stdout()));
        print(table::table(&results, width(), colours).as_bytes())
    };
    let write = |path: &Option<PathBuf>, text: &dyn Fn() -> Result<String, Failure>| match path {
        None => Ok(()),
        Some(path) if is_output(path) => print(text()?.as_bytes()),
        Some(path) => write_whole(path, text()?.as_bytes()).map_err(|error| unwritten(path, &error)),
    };
    write(&arguments.export_json, &|| Ok(export::json(&results)))?;
    write(&arguments.export_csv, &|| Ok(export::csv(&results)))?;
    write(&arguments.export_markdown, &|| Ok(export::markdown(&results)))?;
    write(&arguments.plot, &|| plot::svg(&results))?;
    shown?;
    Ok(ExitCode::from(u8::from(results.rows.iter().any(|row| row.trouble.is_some()))))
}

/// Whether what is exported goes to standard output.
fn is_output(path: &Path) -> bool {
    path == Path::new("-")
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::own(format!("{}: {error}", path.display()))
}
