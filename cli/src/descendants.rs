//! Whatever a process has started, and what that has: how all of it ends with the process.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// A process and all that descend from it, each held by a descriptor, so that no later one of its number is meant. (Who
/// is nobody's child any more is not found.)
pub(crate) struct Descendants(Vec<OwnedFd>);

impl Descendants {
    pub(crate) fn of(process: u32) -> Self {
        let mut numbers = BTreeSet::new();
        let (mut held, mut next) = (Vec::new(), vec![process]);
        while let Some(number) = next.pop() {
            if !numbers.insert(number) {
                continue;
            }
            // SAFETY: no memory is involved; the descriptor is nobody else's.
            let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
            if descriptor >= 0 {
                // SAFETY: as above.
                held.push(unsafe { OwnedFd::from_raw_fd(descriptor as i32) });
            }
            next.extend(children(number));
        }
        Self(held)
    }

    pub(crate) fn send(&self, signal: libc::c_int) {
        for process in &self.0 {
            // SAFETY: no memory is involved.
            unsafe {
                libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, 0, 0);
            }
        }
    }

    /// Waits until all have ended, or else kills them then.
    pub(crate) fn end_by(&self, end: Instant) {
        for process in &self.0 {
            let left = end.saturating_duration_since(Instant::now());
            if !has_ended(process, left) {
                return self.send(libc::SIGKILL);
            }
        }
    }
}

/// Whether a process ends within `time`.
fn has_ended(process: &OwnedFd, time: Duration) -> bool {
    let mut look = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `look` is one valid record.
    unsafe { libc::poll(&raw mut look, 1, time.as_millis() as libc::c_int) > 0 }
}

/// What the threads of a process have started.
fn children(process: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let lists =
        threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split(' ').filter_map(|word| word.parse().ok()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_a_process_has_started_ends_too_whatever_it_ignores() {
        let script = "trap '' TERM; (sleep 1000 & wait) & sleep 1000";
        let mut shell = Command::new("sh").args(["-c", script]).stdout(Stdio::null()).spawn().unwrap();
        let all = loop {
            let all = Descendants::of(shell.id());
            if all.0.len() == 4 {
                break all;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        all.send(libc::SIGTERM);
        assert!(!has_ended(&all.0[0], Duration::from_millis(20)));
        all.end_by(Instant::now());
        assert_eq!(shell.wait().unwrap().code(), None);
        assert!(all.0.iter().all(|process| has_ended(process, Duration::from_secs(10))));
        assert!(Descendants::of(shell.id()).0.is_empty());
    }
}
