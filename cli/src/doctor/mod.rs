//! `specmalloc doctor`: what about this machine, a process or a program makes an allocator slow or fail, and what to do.
//!
//! `machine` is the files that are read, so that a test can have others; `system`, `limits`, `groups` and `program` are
//! the checks, each of which tells findings; `show` writes them.

mod groups;
mod limits;
mod machine;
mod program;
mod show;
mod system;

use crate::Failure;
use crate::terminal::{Colour, Colours, is_terminal, width};
use clap::{Args, ValueHint};
pub(crate) use groups::{Pressure, memory_pressure};
pub(crate) use machine::Machine;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

const HELP: &str = "\
Examples:
  specmalloc doctor
  specmalloc doctor redis-server
  specmalloc doctor --pid 1234
  specmalloc doctor --json | jq '.findings[] | select(.state == \"act\")'

Exit status: 0 if there is nothing to do, 1 if there is, 125 if specmalloc itself failed or there is no
such process, 126 if the program could not be run, 127 if there is none.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Doctor {
    /// A program, of which to tell who serves malloc in it.
    #[arg(value_name = "PROGRAM", value_hint = ValueHint::CommandName)]
    program: Option<OsString>,
    /// A running process: its limits, its control group and its mappings, and who serves malloc in it.
    #[arg(long, value_name = "PID", conflicts_with = "program")]
    pid: Option<u32>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
    /// Whether the lines have colours.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    color: Colour,
}

/// How a thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// As it should be.
    Fine,
    /// Worth knowing; whether to do something depends on what is wanted.
    Note,
    /// Something is slow or fails because of it.
    Act,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    topic: &'static str,
    state: State,
    /// What is so.
    found: String,
    /// What it means, and what to do: sentences, and below them the commands, each on a line that begins with `$ `.
    /// Empty where there is nothing to do.
    advice: String,
}

impl Finding {
    fn new(topic: &'static str, state: State, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { topic, state, found: found.into(), advice: advice.into() }
    }

    fn fine(topic: &'static str, found: impl Into<String>) -> Self {
        Self::new(topic, State::Fine, found, "")
    }
}

/// Looks, and tells.
pub(crate) fn execute(arguments: &Doctor) -> Result<ExitCode, Failure> {
    let machine = Machine::this(arguments.pid)?;
    let mut findings = system::check(&machine);
    findings.extend(limits::check(&machine));
    findings.extend(groups::check(&machine));
    findings.push(program::check_library());
    match (&arguments.program, arguments.pid) {
        (Some(program), _) => findings.extend(program::check(program)?),
        (None, Some(_)) => findings.push(program::check_process(&machine)),
        (None, None) => {}
    }
    let text = if arguments.json {
        show::json(&findings)
    } else {
        show::lines(&findings, width(), Colours::new(arguments.color, is_terminal(&io::stdout())))
    };
    crate::output::print(text.as_bytes())?;
    Ok(ExitCode::from(u8::from(findings.iter().any(|finding| finding.state == State::Act))))
}
