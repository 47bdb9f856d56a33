//! A child process with a time limit, and what it cost with all its own children.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use specmalloc_measure::usage::Usage;

use super::Failure;

/// How a child ended.
pub struct Ended {
    /// What it wrote to standard output.
    pub output: String,
    /// Wall-clock time from start to end.
    pub elapsed: Duration,
    /// Processor time, user and system, in seconds, with its children.
    pub cpu_seconds: f64,
    /// Page faults, with its children.
    pub faults: f64,
}

/// Runs the command in a process group of its own, which is killed after `limit`. What does not end well is a failure
/// with what it wrote to standard error.
pub fn run(command: &mut Command, limit: Duration) -> Result<Ended, Failure> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let start = Instant::now();
    let mut child =
        command.spawn().map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
    let group = child.id() as i32;
    let (ended, watched) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if late {
            // SAFETY: the group's first process is not waited for before this thread has been told.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        late
    });
    let mut errors = child.stderr.take().expect("is piped");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = errors.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut output = Vec::new();
    let _ = child.stdout.take().expect("is piped").read_to_end(&mut output);
    let errors = reader.join().expect("only reads");
    let (status, usage) = wait(group, &ended);
    let elapsed = start.elapsed();
    if watchdog.join().expect("only waits") {
        return Err(format!("no end within {} s", limit.as_secs()));
    }
    if status != 0 {
        let how = if libc::WIFSIGNALED(status) {
            format!("ended by signal {}", libc::WTERMSIG(status))
        } else {
            format!("exit status {}", libc::WEXITSTATUS(status))
        };
        let last: Vec<&str> = errors.trim().lines().rev().take(3).collect();
        return Err(format!("{how}: {}", last.into_iter().rev().collect::<Vec<_>>().join(" / ")));
    }
    Ok(Ended {
        output: String::from_utf8_lossy(&output).into_owned(),
        elapsed,
        cpu_seconds: usage.processor(),
        faults: usage.faults() as f64,
    })
}

/// Waits for the process without giving its number free, tells the watchdog, and then takes its status.
fn wait(process: i32, ended: &std::sync::mpsc::Sender<()>) -> (i32, Usage) {
    // SAFETY: the record is plain numbers that the call fills in; the process is our child and not waited for yet.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        while libc::waitid(libc::P_PID, process as u32, &raw mut info, libc::WEXITED | libc::WNOWAIT) != 0 {}
    }
    // The watchdog may be gone already.
    let _ = ended.send(());
    Usage::wait(process, 0).expect("our child, which has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Result<Ended, Failure> {
        run(Command::new("sh").args(["-c", script]), limit)
    }

    #[test]
    fn output_and_cost_come_back() {
        let ended = shell("echo fine", Duration::from_secs(60)).expect("succeeds");
        assert_eq!(ended.output, "fine\n");
        assert!(ended.faults > 1.0 && !ended.elapsed.is_zero());
    }

    #[test]
    fn failures_say_how_and_why() {
        let failure = |script| shell(script, Duration::from_secs(60)).err().expect("fails");
        assert_eq!(failure("echo because >&2; exit 3"), "exit status 3: because");
        assert!(failure("kill -9 $$").starts_with("ended by signal 9"));
        assert!(run(&mut Command::new("/no/such/program"), Duration::from_secs(1)).is_err());
    }

    #[test]
    fn what_does_not_end_is_killed_with_its_children() {
        let failure = shell("sleep 1000 & sleep 1000", Duration::from_millis(200)).err().expect("is killed");
        assert_eq!(failure, "no end within 0 s");
    }
}
