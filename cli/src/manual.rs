//! The manual pages, the help and the completions for shells, made from what the command says of itself.
//!
//! The texts below the options stand in the source in lines; those that begin with a space stay lines, and the others are
//! paragraphs, which are broken where the reader's terminal ends.

use crate::{Arguments, Failure};
use clap::builder::Resettable;
use clap::{Args, CommandFactory};
use std::io;
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

/// For bash: what follows `--` is completed as the command that it is.
const BASH: &str = r#"
_specmalloc_or_program() {
    local place
    for (( place = 2; place < COMP_CWORD; place++ )); do
        if [[ ${COMP_WORDS[place]} == -- ]]; then
            COMPREPLY=()
            if declare -F _command_offset >/dev/null; then
                _command_offset $(( place + 1 ))
            elif (( COMP_CWORD == place + 1 )); then
                COMPREPLY=( $(compgen -c -- "${COMP_WORDS[COMP_CWORD]}" | sort -u) )
            fi
            return
        fi
    done
    _specmalloc "$@"
}
complete -F _specmalloc_or_program -o bashdefault -o default specmalloc
"#;

/// Columns that lines of help have at most.
const WIDEST: usize = 100;

/// The command as it reads its arguments and shows its help.
pub(crate) fn command() -> clap::Command {
    flowing(Arguments::command())
}

fn flowing(command: clap::Command) -> clap::Command {
    let text = command.get_after_help().map(|text| joined(&text.to_string()));
    let command = command.max_term_width(WIDEST).mut_subcommands(flowing);
    match text {
        Some(text) => command.after_help(text),
        None => command,
    }
}

/// Whether a line of a text is part of a paragraph.
fn flows(line: &str) -> bool {
    !line.is_empty() && !line.starts_with(' ')
}

/// The text with each of its paragraphs in one line.
fn joined(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    let mut before = None;
    for line in text.lines() {
        let goes_on = before.is_some_and(flows) && flows(line);
        if before.is_some() {
            joined.push(if goes_on { ' ' } else { '\n' });
        }
        joined.push_str(line);
        before = Some(line);
    }
    joined
}

/// The text below the options as sections of a manual page.
fn sections(text: &str) -> String {
    let (mut page, mut heading) = (String::new(), "");
    for part in text.split("\n\n") {
        let of_part = match part {
            _ if part.starts_with("Examples:") => "EXAMPLES",
            _ if part.starts_with("Exit status") || part.starts_with("Ends ") => "EXIT STATUS",
            _ => "NOTES",
        };
        if heading != of_part {
            heading = of_part;
            page += &format!(".SH \"{heading}\"\n");
        }
        page += ".PP\n";
        // Commands and tables are not to be filled up with spaces, nor broken at hyphens; what goes on in another line
        // is indented.
        let mut lines = part.lines().filter(|line| *line != "Examples:").peekable();
        while let Some(line) = lines.next() {
            if flows(line) {
                page += &format!("{}\n", escaped(line));
                continue;
            }
            page += &format!(".na\n.nh\n.in +8n\n.ti -4n\n{}\n", escaped(line.trim_start()));
            while let Some(line) = lines.next_if(|line| !flows(line)) {
                page += &format!(".br\n.ti -4n\n{}\n", escaped(line.trim_start()));
            }
            page += ".in\n.hy\n.ad\n";
        }
    }
    page
}

/// A line as roff shows it.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}

/// The whole command, and below it all others with their full names.
fn whole() -> clap::Command {
    let mut command = command();
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
    let below = command.get_after_help().map(|text| sections(&text.to_string())).unwrap_or_default();
    let mut text = Vec::new();
    let man = clap_mangen::Man::new(command.clone().after_help(Resettable::Reset));
    man.source(concat!("specmalloc ", env!("CARGO_PKG_VERSION"))).manual("specmalloc").render(&mut text)?;
    text.extend(below.into_bytes());
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
    crate::output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the completions.
pub(crate) fn completions(arguments: &Completions) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut whole(), "specmalloc", &mut text);
    if arguments.shell == clap_complete::Shell::Bash {
        text.extend(BASH.bytes());
    }
    crate::output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::own(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_flow_and_what_is_indented_stays_in_its_lines() {
        let text = "One\ntwo\n\nExamples:\n  a -b \\\n  c\n\nExit status: 0,\nor 1.\n";
        let joined = joined(text);
        assert_eq!(joined, "One two\n\nExamples:\n  a -b \\\n  c\n\nExit status: 0, or 1.");
        let page = sections(&joined);
        for part in [
            ".SH \"NOTES\"\n.PP\nOne two\n",
            ".SH \"EXAMPLES\"\n.PP\n.na\n.nh\n.in +8n\n.ti -4n\na \\-b \\e\n.br\n.ti -4n\nc\n.in\n.hy\n.ad\n",
            ".SH \"EXIT STATUS\"\n.PP\nExit status: 0, or 1.\n",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert_eq!((escaped(".x"), escaped("'x")), ("\\&.x".to_owned(), "\\&'x".to_owned()));
    }

    #[test]
    fn help_is_broken_between_words() {
        for one in all(&whole()) {
            let help = one.clone().term_width(80).render_long_help().to_string();
            let long: Vec<_> = help.lines().filter(|line| line.chars().count() > 80).collect();
            assert!(long.is_empty(), "{long:?}");
        }
    }

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
