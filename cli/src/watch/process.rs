//! A process that publishes its figures, and the file that it publishes them into.

use super::sample::Sample;
use super::threads::Stacks;
use crate::Failure;
use crate::doctor::{Machine, memory_pressure};
use crate::library::demand_proc;
use crate::output::read_lossily;
use crate::text::printable;
use specmalloc::internals::api::shared_record::{StatisticsFile, VARIABLE};
use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::time::Instant;

/// What the kernel calls the mapping of such a file.
pub(crate) const MAPPING: &str = "/memfd:specmalloc statistics";

/// What the kernel tells of a process.
pub(crate) struct Told {
    pid: u32,
    /// Its number as it sees it itself: another one in a container.
    pub(crate) own_pid: u32,
    environment: Vec<u8>,
    maps: String,
}

impl Told {
    pub(crate) fn of(pid: u32) -> Result<Self, Failure> {
        demand_proc()?;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Failure::own(format!("there is no process {pid}")),
            io::ErrorKind::PermissionDenied => {
                Failure::own(format!("process {pid} is not ours to look at: ask as its user, or as root"))
            }
            // So the kernel says of its own threads, and of what has ended and is not waited for yet.
            _ if error.raw_os_error() == Some(libc::ESRCH) => {
                Failure::own(format!("process {pid} has no memory: it is the kernel's own, or has ended"))
            }
            _ => Failure::own(format!("process {pid}: {error}")),
        };
        let status = read_lossily(format!("/proc/{pid}/status")).map_err(failed)?;
        let environment = fs::read(format!("/proc/{pid}/environ")).map_err(failed)?;
        let maps = read_lossily(format!("/proc/{pid}/maps")).map_err(failed)?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let own_pid =
            numbers.and_then(|numbers| numbers.split_whitespace().last()?.parse().ok()).unwrap_or(pid);
        Ok(Self { pid, own_pid, environment, maps })
    }

    /// Where a file in memory may be that the process shares: by the name that it was given in `variable`, or, where that
    /// leads elsewhere from here, as the process has it mapped under the name `mapping`, which takes more rights.
    pub(crate) fn files(&self, variable: &CStr, mapping: &str) -> Vec<CString> {
        let prefix = [variable.to_bytes(), b"="].concat();
        let mut lines = self.environment.split(|byte| *byte == 0);
        let named = lines.find_map(|line| line.strip_prefix(prefix.as_slice())).map(<[u8]>::to_vec);
        let mapped =
            self.maps.lines().find(|line| line.contains(mapping)).and_then(|line| line.split(' ').next());
        let mapped = mapped.map(|range| format!("/proc/{}/map_files/{range}", self.pid).into_bytes());
        named.into_iter().chain(mapped).filter_map(|path| CString::new(path).ok()).collect()
    }

    /// Whether it has the library loaded.
    pub(crate) fn is_served(&self) -> bool {
        self.has("libspecmalloc.so")
    }

    /// Whether it has the library `name` loaded.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.maps.lines().any(|line| line.ends_with(&format!("/{name}")))
    }
}

/// A process that can be looked at.
pub(super) struct Watched {
    /// Its number.
    pub(super) pid: u32,
    /// Its number as it sees it itself: another one in a container.
    own_pid: u32,
    file: StatisticsFile,
    stacks: RefCell<Stacks>,
    machine: Machine,
}

impl Watched {
    /// Finds the file of a process.
    pub(super) fn open(pid: u32) -> Result<Self, Failure> {
        let told = Told::of(pid)?;
        for path in told.files(VARIABLE, MAPPING) {
            if let Ok(file) = StatisticsFile::open(&path)
                && file.records().any(|record| record.pid == told.own_pid)
            {
                let (own_pid, stacks) = (told.own_pid, RefCell::default());
                return Ok(Self { pid, own_pid, file, stacks, machine: Machine::this(Some(pid))? });
            }
        }
        let why = if told.is_served() { "publishes no figures" } else { "does not run under specmalloc" };
        Err(Failure::own(format!("process {pid} {why}: start it with specmalloc run --watch -- PROGRAM")))
    }

    /// What it has now.
    pub(super) fn look(&self) -> Result<Sample, Failure> {
        let gone = || Failure::own(format!("process {} has ended", self.pid));
        let status = read_lossily(format!("/proc/{}/status", self.pid)).map_err(|_| gone())?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        };
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or_default().trim();
        if state.starts_with(['Z', 'X']) {
            return Err(gone());
        }
        let record =
            self.file.records().filter(|record| record.pid == self.own_pid).last().ok_or_else(gone)?;
        Ok(Sample {
            at: Instant::now(),
            name: printable(String::from_utf8_lossy(&record.name).trim_end_matches('\0')),
            started_ns: record.started_ns,
            now_ns: monotonic_ns(),
            statistics: record.statistics.unwrap_or_default(),
            detail: self.file.detail(self.own_pid),
            resident_bytes: field("VmRSS:").unwrap_or(0) * 1024,
            threads: self.stacks.borrow_mut().look(self.pid),
            pressure: memory_pressure(&self.machine),
            processor_seconds: self.processor_seconds().unwrap_or(0.0),
        })
    }

    fn processor_seconds(&self) -> Option<f64> {
        let stat = read_lossily(format!("/proc/{}/stat", self.pid)).ok()?;
        // The name, in parentheses, may contain anything; user and system time are the 12th and 13th after it.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        // SAFETY: no memory is involved.
        Some(ticks as f64 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64)
    }
}

/// The clock that records are dated by.
fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for the write; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
