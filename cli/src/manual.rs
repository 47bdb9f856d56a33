//! The manual pages and the completions for shells, made from what the command says of itself.

use crate::{Arguments, Failure};
use clap::{Args, CommandFactory};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const MAN_HELP: &str = "\
Examples:
  specmalloc man | man -l -
  specmalloc man compare | man -l -
  specmalloc man profile record | man -l -
  specmalloc man --folder ~/.local/share/man/man1

Exit status: 0, or 125 if there is no such command or a file cannot be written.";

#[derive(Args)]
#[command(after_help = MAN_HELP)]
pub(crate) struct Man {
    /// The command whose page to print, in one word or two; otherwise that of all.
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write all pages to files in FOLDER.
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    folder: Option<PathBuf>,
}

const COMPLETIONS_HELP: &str = "\
Examples:
  specmalloc completions bash > ~/.local/share/bash-completion/completions/specmalloc
  specmalloc completions zsh > ~/.zfunc/_specmalloc
  specmalloc completions fish > ~/.config/fish/completions/specmalloc.fish

Exit status: 0, or 125 for a shell that is not known.";

#[derive(Args)]
#[command(after_help = COMPLETIONS_HELP)]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL", value_enum)]
    shell: clap_complete::Shell,
}

/// The whole command, and below it all others with their full names.
fn whole() -> clap::Command {
    let mut command = Arguments::command();
    command.build();
    command
}

/// The command itself and all below it, but for clap's own `help`.
fn all(command: &clap::Command) -> Vec<&clap::Command> {
    let below = command.get_subcommands().filter(|one| one.get_name() != "help");
    std::iter::once(command).chain(below.flat_map(all)).collect()
}

/// A page, with the name that its file has.
fn page(command: &clap::Command) -> io::Result<(String, Vec<u8>)> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    Ok((format!("{name}.1"), text))
}

/// Prints a manual page, or writes all.
pub(crate) fn man(arguments: &Man) -> Result<ExitCode, Failure> {
    let command = whole();
    if let Some(folder) = &arguments.folder {
        for command in all(&command) {
            page(command)
                .and_then(|(name, text)| std::fs::write(folder.join(name), text))
                .map_err(|error| failed(folder, &error))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut wanted = &command;
    for name in &arguments.command {
        let unknown =
            || format!("there is no command {}: see specmalloc --help", arguments.command.join(" "));
        wanted = wanted.find_subcommand(name).ok_or_else(|| Failure::own(unknown()))?;
    }
    let (_, text) = page(wanted).map_err(|error| Failure::own(error.to_string()))?;
    print(&text)
}

/// Prints the completions.
pub(crate) fn completions(arguments: &Completions) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut whole(), "specmalloc", &mut text);
    print(&text)
}

/// Prints `text`, and does not mind that nobody reads it to its end.
fn print(text: &[u8]) -> Result<ExitCode, Failure> {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::own(format!("standard output: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::own(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_put_together_well_and_each_part_has_examples_and_statuses() {
        Arguments::command().debug_assert();
        let command = whole();
        for one in all(&command).into_iter().skip(1) {
            let help = one.clone().render_long_help().to_string();
            assert!(help.contains("Examples:\n  specmalloc "), "{help}");
            assert!(help.contains("Exit status") || help.contains("exit status"), "{help}");
            let (name, text) = page(one).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(
                name.starts_with("specmalloc-") && name.ends_with(&format!("{}.1", one.get_name())),
                "{name}"
            );
            assert!(text.contains(".SH SYNOPSIS") && text.contains(".SH OPTIONS"), "{text}");
        }
    }
}
