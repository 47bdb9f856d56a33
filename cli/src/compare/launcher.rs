//! The small process between the command and a program that is measured.
//!
//! The kernel counts a process's peak memory from before it runs its program: a child starts with what it has of its
//! parent's. So the program is not a child of the command, which is large, but of a copy of the command that has done
//! nothing yet and forks; what the child has of that is less than any program needs. Time runs from the fork to the end
//! of the program, and is taken here, where nothing else happens.
//!
//! The launcher writes what it found as lines of words to a pipe, whose number is its first argument.

use crate::child::Inherited;
use crate::interrupted;
use specmalloc_measure::usage::Usage;
use std::ffi::{CString, OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

/// What the command calls itself when it is the launcher: no user's argument can be taken for this.
const NAME: &str = "specmalloc-launcher";
/// The launcher's second argument if it is to look at the program when that ends.
const WATCH: &str = "watch";

/// A program to be run once.
pub(crate) struct Job<'a> {
    /// The program and its arguments.
    pub(crate) command: &'a [OsString],
    /// What LD_PRELOAD is to be; nothing if empty.
    pub(crate) preload: OsString,
    /// Whether to look at what the program has loaded when it ends.
    pub(crate) watched: bool,
    /// Its standard input, output and error.
    pub(crate) streams: [Stdio; 3],
}

/// How a run went.
pub(crate) struct Outcome {
    /// How the program ended.
    pub(crate) status: ExitStatus,
    /// Wall-clock time in seconds.
    pub(crate) seconds: f64,
    /// What it cost.
    pub(crate) usage: Usage,
    /// What it had loaded at its end, if it was watched and the system allows that.
    pub(crate) seen: Option<Seen>,
}

/// What a process had loaded.
pub(crate) struct Seen {
    /// The program: of a script, its interpreter.
    pub(crate) executable: PathBuf,
    /// The files that are mapped.
    pub(crate) objects: Vec<PathBuf>,
}

/// Runs a program once. An error means that it was not started.
pub(crate) fn launch(job: Job<'_>) -> io::Result<Outcome> {
    let (mut reader, writer) = io::pipe()?;
    let fd = writer.as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    let [input, output, error] = job.streams;
    command
        .arg0(NAME)
        .args([fd.to_string().as_str(), if job.watched { WATCH } else { "" }])
        .arg(&job.preload)
        .args(job.command)
        .env_remove("LD_PRELOAD")
        .stdin(input)
        .stdout(output)
        .stderr(error);
    Inherited::read().hand_down(&mut command);
    let inherit = move || {
        // SAFETY: async-signal-safe calls without memory; the descriptor is open until the command is dropped. The
        // launcher ends with the command.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::fcntl(fd, libc::F_SETFD, 0);
        }
        Ok(())
    };
    // SAFETY: `inherit` only makes async-signal-safe calls and allocates nothing.
    let mut child = unsafe { command.pre_exec(inherit) }.spawn()?;
    drop(writer);
    let mut text = Vec::new();
    {
        let _taken_along = interrupted::take_along(child.id());
        reader.read_to_end(&mut text)?;
    }
    child.wait()?;
    read(&text).unwrap_or_else(|| Err(io::Error::other("the launcher was killed")))
}

/// Reads what the launcher wrote; nothing if that is not whole.
fn read(text: &[u8]) -> Option<io::Result<Outcome>> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let head = std::str::from_utf8(lines.next()?).ok()?;
    let numbers: Vec<u64> = head.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [errno, status, wall, user, system, peak_kib, minor_faults, major_faults] = numbers[..] else {
        return None;
    };
    if errno != 0 {
        return Some(Err(io::Error::from_raw_os_error(errno as i32)));
    }
    let path = |line: &[u8]| PathBuf::from(OsString::from_vec(line.to_vec()));
    let paths: Vec<_> = lines.filter(|line| !line.is_empty()).map(path).collect();
    let seen = paths
        .split_first()
        .map(|(executable, objects)| Seen { executable: executable.clone(), objects: objects.to_vec() });
    let seconds = |nanoseconds: u64| nanoseconds as f64 * 1e-9;
    let usage = Usage { user: seconds(user), system: seconds(system), peak_kib, minor_faults, major_faults };
    let status = ExitStatus::from_raw(status as i32);
    Some(Ok(Outcome { status, seconds: seconds(wall), usage, seen }))
}

/// In the launcher: runs the program, tells, and exits. In the command: nothing.
pub(crate) fn launch_if_asked() {
    let mut arguments = std::env::args_os();
    if arguments.next().is_none_or(|name| name != NAME) {
        return;
    }
    let told = run(arguments);
    std::process::exit(i32::from(told.is_none()));
}

fn run(mut arguments: std::env::ArgsOs) -> Option<()> {
    let fd = arguments.next()?.to_str()?.parse().ok()?;
    let watched = arguments.next()? == WATCH;
    let preload = arguments.next()?;
    let words: Vec<CString> =
        arguments.map(|word| CString::new(word.into_vec())).collect::<Result<_, _>>().ok()?;
    let mut argv: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(std::ptr::null());
    // SAFETY: the command made the descriptor for this and nobody else has it here. The program gets none of it.
    let mut told = unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        fs::File::from_raw_fd(fd)
    };
    if !preload.is_empty() {
        // SAFETY: there is one thread.
        unsafe { std::env::set_var("LD_PRELOAD", preload) };
    }
    let inherited = Inherited::read();
    // From before there is a program: it ends in order if the command asks for that, or the terminal.
    let held = interrupted::Held::new();
    let (mut failure, failed) = io::pipe().ok()?;
    let start = Instant::now();
    // SAFETY: the process has one thread. The child makes async-signal-safe calls only, and ends in `become_program`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        become_program(&inherited, &argv, watched, failed.as_raw_fd());
    }
    if child < 0 {
        return None;
    }
    let (status, usage, seen) = wait(child, &held).ok()?;
    let wall = start.elapsed();
    drop(failed);
    let mut errno = [0; 4];
    let errno = failure.read_exact(&mut errno).map_or(0, |()| i32::from_ne_bytes(errno));
    let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
    let (user, system) = (nanoseconds(usage.user), nanoseconds(usage.system));
    let Usage { peak_kib, minor_faults, major_faults, .. } = usage;
    let mut head = String::new();
    writeln!(
        head,
        "{errno} {status} {} {user} {system} {peak_kib} {minor_faults} {major_faults}",
        wall.as_nanos()
    )
    .ok()?;
    told.write_all(head.as_bytes()).ok()?;
    let Some(Seen { executable, objects }) = seen else { return Some(()) };
    for path in std::iter::once(&executable).chain(&objects) {
        told.write_all(path.as_os_str().as_bytes()).ok()?;
        told.write_all(b"\n").ok()?;
    }
    Some(())
}

/// In the child: runs the program, or tells by the descriptor `failed` why not.
fn become_program(inherited: &Inherited, argv: &[*const libc::c_char], watched: bool, failed: i32) -> ! {
    inherited.restore();
    // SAFETY: async-signal-safe calls; `argv` is a list of strings with a null pointer at its end.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if watched {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
        }
        libc::execvp(argv[0], argv.as_ptr());
        let errno = *libc::__errno_location();
        libc::write(failed, (&raw const errno).cast(), size_of_val(&errno));
        libc::_exit(127)
    }
}

/// Waits for the child's end. If it is traced, it stops when it runs a program and when it ends: there one looks at it.
fn wait(child: i32, held: &interrupted::Held) -> io::Result<(i32, Usage, Option<Seen>)> {
    let (mut seen, mut armed) = (None, false);
    held.wait(child as u32, || {
        while let Some((status, usage)) = Usage::look(child, libc::__WALL)? {
            if !libc::WIFSTOPPED(status) {
                return Ok(Some((status, usage, seen.take())));
            }
            let event = status >> 16;
            let mut signal = if event == 0 { libc::WSTOPSIG(status) } else { 0 };
            if !armed {
                // The stop behind the first exec.
                (armed, signal) = (true, 0);
                let options = libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_EXITKILL;
                // SAFETY: the child is stopped and traced by this process; no memory is involved.
                unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, options) };
            } else if event == libc::PTRACE_EVENT_EXIT {
                seen = look(child).ok();
            }
            // SAFETY: as above.
            unsafe { libc::ptrace(libc::PTRACE_CONT, child, 0, signal) };
        }
        Ok(None)
    })
}

fn look(process: i32) -> io::Result<Seen> {
    let executable = fs::read_link(format!("/proc/{process}/exe"))?;
    let maps = fs::read(format!("/proc/{process}/maps"))?;
    let mut objects: Vec<PathBuf> = Vec::new();
    for line in maps.split(|byte| *byte == b'\n') {
        // The path is the rest of the line from the first slash on: nothing before it has one.
        let Some(at) = line.iter().position(|byte| *byte == b'/') else { continue };
        let path = PathBuf::from(OsStr::from_bytes(&line[at..]));
        if objects.last() != Some(&path) {
            objects.push(path);
        }
    }
    Ok(Seen { executable, objects })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_launcher_tells_is_read_and_what_is_not_whole_is_not() {
        let text = b"0 256 1500000000 1000000000 250000000 4096 70 2\n/bin/sh\n/lib/a b.so\n/lib/c.so\n";
        let outcome = read(text).unwrap().unwrap();
        assert_eq!((outcome.status.code(), outcome.seconds), (Some(1), 1.5));
        assert_eq!((outcome.usage.user, outcome.usage.system, outcome.usage.peak_kib), (1.0, 0.25, 4096));
        assert_eq!(outcome.usage.faults(), 72);
        let seen = outcome.seen.unwrap();
        assert_eq!(seen.executable, PathBuf::from("/bin/sh"));
        assert_eq!(seen.objects, [PathBuf::from("/lib/a b.so"), PathBuf::from("/lib/c.so")]);
        assert!(read(b"0 9 1 2 3 4 5 6\n").unwrap().unwrap().seen.is_none());
        assert_eq!(read(b"2 0 0 0 0 0 0 0\n").unwrap().err().unwrap().kind(), io::ErrorKind::NotFound);
        assert!(read(b"").is_none() && read(b"0 1 2\n").is_none());
    }

    #[test]
    fn a_process_shows_what_it_has_loaded() {
        let seen = look(std::process::id() as i32).unwrap();
        assert_eq!(seen.executable, std::env::current_exe().unwrap());
        assert!(seen.objects.contains(&seen.executable));
        assert!(seen.objects.iter().any(|path| path.to_string_lossy().contains("/libc.so")));
    }
}
