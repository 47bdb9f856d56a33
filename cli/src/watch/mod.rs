//! `specmalloc top` and `maps`: what a process has, while it runs and without stopping it.
//!
//! The process publishes its figures into a file in memory (`process` finds it); `sample` is a look at them and, of two
//! looks, the rates, and `threads` who holds which heap; `tables` puts them into columns, `view` is which of them are
//! shown and how they are sorted, `screen` the terminal.

pub(crate) mod maps;
pub(crate) mod process;
mod sample;
mod screen;
mod tables;
mod threads;
mod view;

use crate::Failure;
use crate::terminal::{is_dumb, is_terminal, width};
use clap::Args;
use process::Watched;
use sample::Looks;
use std::io;
use std::process::ExitCode;
use std::time::Duration;
use tables::Tab;

const HELP: &str = "\
The process has to publish its figures: start it with specmalloc run --watch -- PROGRAM, or with --stats
and the like. It publishes from its slow paths, at most fifty times a second: the figures of a process
that sleeps are those of its last such moment, whose age is shown. Heaps are held by a thread, shown
with its name, number and state (R runs, S waits), where the kernel tells us where its stack is.
\"Waits for memory\" is how much of the last ten seconds something in the process's control group, or
on the machine, waited for memory.

docs/json.md names the fields of the JSON and their units.

Keys: Tab and 1 to 5 choose a table, < and > the column to sort by, R turns the order, / filters, d sets
the delay, Space stops and goes on, the arrows scroll, q leaves.

Examples:
  specmalloc run --watch -- redis-server & sleep 1; specmalloc top $(pgrep -n redis-server)
  specmalloc top 1234 --delay 0.5
  specmalloc top 1234 --once
  specmalloc top 1234 --once --json | jq .bytes.live

Exit status: 0, or 125 if there is no such process, or none that publishes its figures.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Top {
    /// The process.
    #[arg(value_name = "PID")]
    pid: u32,
    /// Seconds between two looks; with --once, between the two that the rates are of.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    delay: f64,
    /// Print all tables once instead of showing them in the terminal.
    #[arg(long)]
    once: bool,
    /// Print them as JSON.
    #[arg(long, requires = "once")]
    json: bool,
}

/// A time that one may wait for.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number")?;
    if (0.0..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("not from 0 to 86400".to_owned()) }
}

/// Looks at the process until it ends or the user has seen enough.
pub(crate) fn top(arguments: &Top) -> Result<ExitCode, Failure> {
    let watched = Watched::open(arguments.pid)?;
    if !arguments.once {
        if !is_terminal(&io::stdout()) || !is_terminal(&io::stdin()) {
            let message = "there is no terminal to show it in: use --once, with --json if you like";
            return Err(Failure::own(message.to_owned()));
        }
        if is_dumb() {
            let message = "TERM is dumb, and nothing can be drawn on such a terminal: use --once";
            return Err(Failure::own(message.to_owned()));
        }
        return screen::show(&watched, arguments.delay);
    }
    let mut looks = Looks::new(watched.look()?);
    if arguments.delay > 0.0 {
        std::thread::sleep(Duration::from_secs_f64(arguments.delay));
        // It may have ended meanwhile: then there are no rates.
        if let Ok(sample) = watched.look() {
            looks.add(sample);
        }
    }
    let text = if arguments.json { tables::json(&watched, &looks) } else { plain(&watched, &looks) };
    crate::output::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Everything, one table below the other.
fn plain(watched: &Watched, looks: &Looks) -> String {
    let mut text = tables::head(watched, looks, width()).join("\n");
    text.push('\n');
    for tab in Tab::ALL {
        text += &format!("\n{}\n{}", tab.name(), tables::table(tab, looks).text());
    }
    text
}
