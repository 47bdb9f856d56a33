//! `specmalloc profile report`.

use super::view::{View, What};
use super::{firefox, flame, text};
use crate::Failure;
use crate::output::{print, tell, write_whole};
use crate::terminal::{is_terminal, width};
use crate::text::printable;
use clap::{Args, ValueEnum};
use specmalloc_samples::pprof::{self, Profile};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
Formats:
  table       functions, by what they allocated themselves and with those that they called
  tree        who called whom, from the outermost function on
  flamegraph  an SVG picture of the stacks, which any browser shows by itself
  collapsed   a line for each stack, as flamegraph.pl and speedscope read them
  pprof       the profile with the names of its functions, for pprof and others that read its format
  firefox     JSON for profiler.firefox.com, with all kinds of values as threads

Names of functions are found in the program's files, in those of debug information under /usr/lib/debug, and,
where a program makes code at run time and says so to perf, in what it said when the profile was taken.
Figures are estimates from samples: of what is allocated often, good ones.

Examples:
  specmalloc profile report
  specmalloc profile report --format tree --what allocated heap.pb.gz
  specmalloc profile report --leaks heap.pb.gz
  specmalloc profile report --what lifetimes heap.pb.gz
  specmalloc profile report --format flamegraph -o heap.svg heap.pb.gz
  specmalloc profile report --format pprof -o named.pb.gz heap.pb.gz && pprof -http=: named.pb.gz

Exit status: 0, or 125 if the file is no profile or the output cannot be written.";

/// How a profile is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Tree,
    Flamegraph,
    Collapsed,
    Pprof,
    Firefox,
}

#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct Report {
    /// The profile; any in pprof's format that has the values of a heap will do.
    #[arg(value_name = "FILE", default_value = super::FILE)]
    file: PathBuf,
    /// How to show it.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Which blocks: live at the end (if record was not told otherwise), all, those live when most was, or those that were
    /// freed, by how long they lived.
    #[arg(long, value_enum)]
    what: Option<What>,
    /// Show what is live at the end by whole stacks, with the lines of the source.
    #[arg(long, conflicts_with_all = ["format", "what", "objects"])]
    leaks: bool,
    /// Count blocks instead of bytes, or nanoseconds, in a flame graph or collapsed stacks.
    #[arg(long)]
    objects: bool,
    /// Functions in the table, or stacks with --leaks, at most; 0 for all.
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 40)]
    lines: usize,
    /// Leave out of a tree what has less than so much of the whole.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.5, value_parser = percent)]
    least: f64,
    /// Write to FILE instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| "not a number")?;
    if (0.0..=100.0).contains(&percent) { Ok(percent) } else { Err("not from 0 to 100".to_owned()) }
}

pub(super) fn execute(report: &Report) -> Result<ExitCode, Failure> {
    let shown = report.file.display();
    let mut profile =
        Profile::read(&report.file).map_err(|error| Failure::own(format!("{shown}: {error}")))?;
    let what = report.what.unwrap_or_else(|| What::first(&profile));
    // Before the work of finding names.
    what.columns(&profile)?;
    let is_binary = report.format == Format::Pprof && report.output.is_none() && is_terminal(&io::stdout());
    if is_binary {
        return Err(Failure::own("this is not for a terminal: say where to with --output FILE".to_owned()));
    }
    for notice in pprof::resolve(&mut profile) {
        tell!("{notice}");
    }
    let mut text = contents(report, &mut profile, what)?;
    if report.output.is_none() && is_terminal(&io::stdout()) {
        let is_table = matches!(report.format, Format::Table | Format::Tree) && !report.leaks;
        let width = if is_table { width() } else { usize::MAX };
        text = for_terminal(&String::from_utf8_lossy(&text), width).into_bytes();
    }
    match &report.output {
        Some(path) => {
            let failed = |error| Failure::own(format!("{}: {error}", path.display()));
            write_whole(path, &text).map_err(failed)?;
        }
        None => print(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Each line in its row, and nothing that the terminal would obey: names are anybody's.
fn for_terminal(text: &str, width: usize) -> String {
    let mut shown = String::new();
    for line in text.lines() {
        let is_cut = line.chars().count() > width;
        let kept = if is_cut { width.saturating_sub(1) } else { width };
        shown += &printable(&line.chars().take(kept).collect::<String>());
        shown.push_str(if is_cut { "…\n" } else { "\n" });
    }
    shown
}

fn contents(report: &Report, profile: &mut Profile, what: What) -> Result<Vec<u8>, Failure> {
    let most = if report.lines == 0 { usize::MAX } else { report.lines };
    if report.leaks {
        let view = View::new(profile, What::Live)?;
        return Ok((text::head(profile, &view) + "\n" + &text::leaks(profile, most)?).into_bytes());
    }
    if report.format == Format::Pprof {
        what.bytes().clone_into(&mut profile.first_kind);
        return Ok(profile.bytes());
    }
    if report.format == Format::Firefox {
        if what == What::Lifetimes {
            return Err(Failure::own("the Firefox Profiler knows no lifetimes: pprof does".to_owned()));
        }
        return Ok(firefox::json(profile, what)?.into_bytes());
    }
    let view = View::new(profile, what)?;
    if let Some(hint) = hint(profile, &view) {
        tell!("{hint}");
    }
    let head = text::head(profile, &view);
    Ok(match report.format {
        Format::Tree => (head + "\n" + &text::tree(&view, report.least)).into_bytes(),
        Format::Collapsed => text::collapsed(&view, report.objects).into_bytes(),
        Format::Flamegraph => flame::svg(&view, report.objects, head.trim_end())?,
        _ => (head + "\n" + &text::table(&view, most)).into_bytes(),
    })
}

/// What else to look at, where there is nothing to be seen.
fn hint(profile: &Profile, view: &View) -> Option<String> {
    let is_more = |what| View::new(profile, what).is_ok_and(|other| other.sum().0 > 0);
    (view.sum().0 == 0 && is_more(What::Allocated))
        .then(|| format!("nothing was {}: --what allocated shows all that there was", view.what.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_empty_it_is_said_where_the_rest_is() {
        let mut profile = specmalloc_samples::pprof::example();
        let hint_of = |profile: &Profile, what| hint(profile, &View::new(profile, what).ok().unwrap());
        assert_eq!(hint_of(&profile, What::Live), None);
        profile.stacks.iter_mut().for_each(|stack| stack.values[2..4].fill(0));
        let told = hint_of(&profile, What::Live).unwrap();
        assert!(told.contains("nothing was live at the end: --what allocated"), "{told}");
        profile.stacks.clear();
        assert_eq!(hint_of(&profile, What::Live), None);
    }

    #[test]
    fn lines_fit_the_terminal_and_say_nothing_to_it() {
        assert_eq!(for_terminal("abcdef\nabcdé\n\x1b[2J\n", 5), "abcd…\nabcdé\n?[2J\n");
    }
}
