//! What a process cost, as the kernel tells whoever waits for it.

use std::io;

/// What a process cost, with those of its children that it waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time in the program, in seconds.
    pub user: f64,
    /// Processor time in the kernel, in seconds.
    pub system: f64,
    /// The highest resident memory of any one of them, in KiB. What it was before the process ran its program counts,
    /// too: the memory that a forked child has of its parent, and all of the parent's after vfork.
    pub peak_kib: u64,
    /// Page faults that read nothing from a disk.
    pub minor_faults: u64,
    /// Page faults that did.
    pub major_faults: u64,
}

impl Usage {
    /// Page faults of both kinds.
    pub fn faults(&self) -> u64 {
        self.minor_faults + self.major_faults
    }

    /// Processor time of both kinds, in seconds.
    pub fn processor(&self) -> f64 {
        self.user + self.system
    }

    /// Waits as `wait4` does, again if a signal comes between: the status of `process` and, once it has ended, what it
    /// cost.
    pub fn wait(process: i32, options: i32) -> io::Result<(i32, Usage)> {
        loop {
            match Usage::wait4(process, options) {
                Ok(Some(told)) => return Ok(told),
                Ok(None) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// The same without waiting: nothing if nothing has become of it.
    pub fn look(process: i32, options: i32) -> io::Result<Option<(i32, Usage)>> {
        Usage::wait4(process, options | libc::WNOHANG)
    }

    fn wait4(process: i32, options: i32) -> io::Result<Option<(i32, Usage)>> {
        let mut status = 0;
        // SAFETY: a record of plain numbers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both are valid for the writes.
        match unsafe { libc::wait4(process, &raw mut status, options, &raw mut usage) } {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(None),
            _ => Ok(Some((status, usage.into()))),
        }
    }
}

impl From<libc::rusage> for Usage {
    fn from(usage: libc::rusage) -> Self {
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
        Self {
            user: seconds(usage.ru_utime),
            system: seconds(usage.ru_stime),
            peak_kib: usage.ru_maxrss as u64,
            minor_faults: usage.ru_minflt as u64,
            major_faults: usage.ru_majflt as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_cost_is_told_once() {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "read wait; exit 3"]).stdin(std::process::Stdio::piped());
        #[allow(clippy::zombie_processes, reason = "it is waited for by its number")]
        let mut child = command.spawn().unwrap();
        assert!(Usage::look(child.id() as i32, 0).unwrap().is_none());
        drop(child.stdin.take());
        let (status, usage) = Usage::wait(child.id() as i32, 0).unwrap();
        assert_eq!(libc::WEXITSTATUS(status), 3);
        assert!(usage.faults() > 0 && usage.peak_kib > 100 && usage.processor() >= 0.0, "{usage:?}");
        assert!(Usage::wait(child.id() as i32, 0).is_err());
    }
}
