//! The runs: each allocator is tried once, then all of them are measured in turn.

use super::Compare;
use super::allocators::{Allocator, Missing};
use super::launcher::{Job, Outcome, launch};
use super::progress;
use super::results::{Results, Row, Run};
use crate::{Failure, child, interrupted, target};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// As many runs as take so long, unless the user says how many.
const SECONDS: f64 = 3.0;

/// Rounds at least and at most, unless the user says how many.
const USUAL: (u32, u32) = (10, 100);

/// The option whose command runs whatever happens.
const CLEANUP: &str = "cleanup";

/// Measures the program under each of `found`.
pub(super) fn measure(
    arguments: &Compare,
    found: Vec<Allocator>,
    missing: Missing,
) -> Result<Results, Failure> {
    let rows = found.into_iter().map(|allocator| Row { allocator, runs: Vec::new(), trouble: None });
    let mut results =
        Results { command: shown(&arguments.command), rows: rows.collect(), missing, reference: 0 };
    shell(arguments.setup.as_deref(), "setup")?;
    let done = all_runs(arguments, &mut results);
    // Whatever became of the runs.
    let cleaned = shell(arguments.cleanup.as_deref(), CLEANUP);
    done.and(cleaned)?;
    let measured = |row: &Row| row.trouble.is_none();
    let wanted = |row: &&Row| arguments.reference.as_ref().is_none_or(|name| row.allocator.name == *name);
    let first = results.rows.iter().position(measured);
    let reference = results.rows.iter().position(|row| measured(row) && wanted(&row)).or(first);
    results.reference = reference.ok_or_else(|| nothing(&results))?;
    Ok(results)
}

/// No allocator has figures: why not, once if it is for all alike.
fn nothing(results: &Results) -> Failure {
    let whys: Vec<_> = results.rows.iter().map(|row| row.trouble.as_deref().unwrap_or_default()).collect();
    let all = match whys[..] {
        [] => "no allocator was found".to_owned(),
        [first, ref others @ ..] if others.iter().all(|why| *why == first) => first.to_owned(),
        _ => {
            let rows = results.rows.iter().zip(whys);
            rows.map(|(row, why)| format!("\n  {}: {why}", row.allocator.name)).collect()
        }
    };
    Failure::own(format!("nothing was measured: {all}"))
}

fn all_runs(arguments: &Compare, results: &mut Results) -> Result<(), Failure> {
    let bar = progress::bar(arguments.show_output);
    let tried = results.rows.len() as u64;
    bar.set_length(tried);
    let mut times = Vec::new();
    for row in &mut results.rows {
        bar.set_message(row.allocator.name.clone());
        match one_run(arguments, &row.allocator, true)? {
            Ok(run) => times.push(run.seconds),
            Err(trouble) => row.trouble = Some(trouble),
        }
        bar.inc(1);
    }
    let rounds = u64::from(match arguments.runs {
        Some(runs) => runs,
        None => {
            let mean = times.iter().sum::<f64>() / times.len().max(1) as f64;
            let (least, most) = bounds(arguments.min_runs, arguments.max_runs);
            ((SECONDS / mean) as u32).clamp(least, most)
        }
    });
    let warm_up = u64::from(arguments.warmup);
    bar.set_length(tried + (warm_up + rounds) * times.len() as u64);
    for round in 0..warm_up + rounds {
        let count = results.rows.len();
        for place in 0..count {
            // Another one begins each round: whatever comes from the place in it reaches all alike.
            let row = &mut results.rows[(place + round as usize) % count];
            if row.trouble.is_some() {
                continue;
            }
            bar.set_message(row.allocator.name.clone());
            match one_run(arguments, &row.allocator, false)? {
                Ok(run) if round >= warm_up => row.runs.push(run),
                Ok(_) => {}
                Err(trouble) => row.trouble = Some(format!("{trouble}, in run {}", round + 1)),
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// How many rounds there are at least and at most: what the user says of one is more than what nobody says of the other.
fn bounds(least: Option<u32>, most: Option<u32>) -> (u32, u32) {
    let (usual_least, usual_most) = USUAL;
    (
        least.unwrap_or(usual_least.min(most.unwrap_or(usual_least))),
        most.unwrap_or(usual_most.max(least.unwrap_or(usual_most))),
    )
}

/// Runs the program once; what went wrong under this allocator, if anything, is the inner error. One that is `tried`
/// is looked at more closely.
fn one_run(arguments: &Compare, allocator: &Allocator, tried: bool) -> Result<Result<Run, String>, Failure> {
    shell(arguments.prepare.as_deref(), "prepare")?;
    ended_early()?;
    let is_nothing = arguments.input == Path::new("null");
    let input = if is_nothing { Path::new("/dev/null") } else { arguments.input.as_path() };
    let input = File::open(input).map_err(|error| Failure::own(format!("{}: {error}", input.display())))?;
    let mut errors = tried.then(memory_file).transpose().map_err(|error| Failure::own(error.to_string()))?;
    let (output, error) = if arguments.show_output {
        (Stdio::inherit(), Stdio::inherit())
    } else {
        let copy = errors.as_ref().and_then(|file| file.try_clone().ok());
        (Stdio::null(), copy.map_or_else(Stdio::null, Stdio::from))
    };
    let job = Job {
        command: &arguments.command,
        preload: allocator.preload()?,
        watched: tried,
        streams: [input.into(), output, error],
    };
    let outcome = launch(job).map_err(|error| Failure::start(&arguments.command[0], &error));
    ended_early()?;
    let outcome = outcome?;
    let Outcome { status, seconds, usage, seen } = outcome;
    // That it was not served comes before that it failed, which may be why.
    let unserved = match seen {
        Some(seen) => allocator.unserved(&seen).map(|why| format!("not served: {why}")),
        // It could not be looked at when it ended: then by its file.
        None if tried => target::notices(&arguments.command[0]).into_iter().next(),
        None => None,
    };
    if let Some(why) = unserved {
        return Ok(Err(why));
    }
    if status.signal().is_some() || !status.success() && !arguments.ignore_failure {
        let said = errors.as_mut().map(last_line).unwrap_or_default();
        return Ok(Err(ended(status) + &said));
    }
    Ok(Ok(Run { seconds, usage, exit: status.code().unwrap_or(0) }))
}

/// Whether a signal asked for the end: whoever asked for the runs ends by it.
fn ended_early() -> Result<(), Failure> {
    interrupted::signal().map_or(Ok(()), |signal| Err(Failure::own(format!("ended by signal {signal}"))))
}

fn ended(status: ExitStatus) -> String {
    match status.signal() {
        None => format!("exit status {}", status.code().unwrap_or(0)),
        Some(signal) => {
            let name = match signal {
                libc::SIGSEGV => " (SIGSEGV)",
                libc::SIGABRT => " (SIGABRT)",
                libc::SIGBUS => " (SIGBUS)",
                libc::SIGILL => " (SIGILL)",
                libc::SIGFPE => " (SIGFPE)",
                libc::SIGKILL => " (SIGKILL)",
                libc::SIGSYS => " (SIGSYS)",
                _ => "",
            };
            format!("killed by signal {signal}{name}")
        }
    }
}

/// A file that is gone with its last user.
fn memory_file() -> io::Result<File> {
    // SAFETY: the name ends in a zero byte; the descriptor is nobody else's.
    unsafe {
        let fd = libc::memfd_create(c"standard error".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(std::os::fd::FromRawFd::from_raw_fd(fd)) }
    }
}

/// The last line of what the program wrote to standard error, behind a colon.
fn last_line(file: &mut File) -> String {
    const MOST: usize = 200;
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    let mut text = Vec::new();
    let read =
        file.seek(io::SeekFrom::Start(len.saturating_sub(4096))).and_then(|_| file.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    // What a terminal would act on stays out of ours.
    let line: String = line.chars().filter(|char| !char.is_control()).take(MOST).collect();
    if read.is_err() || line.is_empty() { String::new() } else { format!(": {line}") }
}

/// Runs a shell command of the user's, which has to succeed.
fn shell(command: Option<&str>, what: &str) -> Result<(), Failure> {
    let Some(command) = command else { return Ok(()) };
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null());
    child::Inherited::read().hand_down(&mut shell);
    let failed = |error: io::Error| Failure::own(format!("/bin/sh: {error}"));
    let mut shell = shell.spawn().map_err(failed)?;
    // What cleans up is needed all the more then.
    let waited = if what == CLEANUP { shell.wait() } else { interrupted::wait(&mut shell) };
    let status = waited.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::own(format!("--{what} '{command}': {}", ended(status))))
}

/// The words of a command as a shell would read them.
fn shown(command: &[std::ffi::OsString]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&byte);
    let word = |word: &std::ffi::OsString| {
        let text = word.to_string_lossy().into_owned();
        if !text.is_empty() && text.bytes().all(plain) {
            text
        } else {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
    };
    command.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_command_is_shown_as_a_shell_reads_it() {
        let words = ["sh", "-c", "echo 'x' $1", ""].map(std::ffi::OsString::from);
        assert_eq!(shown(&words), r"sh -c 'echo '\''x'\'' $1' ''");
    }

    #[test]
    fn who_bounds_the_rounds_on_one_side_is_not_bound_by_the_usual_on_the_other() {
        assert_eq!(bounds(None, None), (10, 100));
        assert_eq!([bounds(None, Some(3)), bounds(Some(300), None)], [(3, 3), (300, 300)]);
        assert_eq!([bounds(None, Some(30)), bounds(Some(2), Some(4))], [(10, 30), (2, 4)]);
    }

    #[test]
    fn the_last_line_is_told_and_cannot_act_on_a_terminal() {
        let mut file = memory_file().unwrap();
        assert_eq!(last_line(&mut file), "");
        write!(file, "first\n\x1b[31msecond\x07\n\n").unwrap();
        assert_eq!(last_line(&mut file), ": [31msecond");
        assert_eq!(ended(ExitStatus::from_raw(11)), "killed by signal 11 (SIGSEGV)");
        assert_eq!(ended(ExitStatus::from_raw(256)), "exit status 1");
    }
}
