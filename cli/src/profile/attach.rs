//! `specmalloc profile attach`: a process that runs is asked for samples through the file that it publishes its figures
//! into; what it notes lies in another, as for `record`. Nothing is put into the process: what notes samples has to be
//! there already.

use super::record::{rate, save};
use crate::Failure;
use crate::output::{Output, read_lossily, tell};
use crate::watch::process::{MAPPING, Told};
use clap::Args;
use specmalloc::internals::api::shared_record::{StatisticsFile, VARIABLE};
use specmalloc_samples::{Image, ProfileFile, pprof};
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const HELP: &str = "\
The process has to have libspecmalloc_profile.so loaded: start it with specmalloc run --profile -- PROGRAM. Until
somebody attaches that costs next to nothing. It follows from its slow paths: one that sleeps begins, and ends, when it
goes on. Of what was allocated before, nothing is known, but for what an earlier attach has noted and is live.

Examples:
  specmalloc run --profile -- redis-server & sleep 1; specmalloc profile attach $(pgrep -n redis-server)
  specmalloc profile attach --duration 30 --rate 64K -o heap.pb.gz 1234

Ends by Ctrl-C, after --duration, or with the process, and writes the profile.
Exit status: 0, or 125 if there is no such process, it cannot be asked, or another attach asks it.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct Attach {
    /// The process.
    #[arg(value_name = "PID")]
    pid: u32,
    /// The file to write.
    #[arg(short, long, value_name = "FILE", default_value = super::FILE)]
    output: PathBuf,
    /// Bytes for a sample on average, with K, M or G; 1 for every allocation.
    #[arg(long, value_name = "BYTES", default_value = "512K", value_parser = rate)]
    rate: String,
    /// Seconds until the end; without it, until Ctrl-C.
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<f64>,
    #[command(flatten)]
    first: super::First,
}

/// A time that one may wait for.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number")?;
    if (0.0..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("not from 0 to 86400".to_owned()) }
}

/// A process that can be asked for samples.
struct Asked {
    own_pid: u32,
    /// Its file of figures.
    figures: CString,
    notes: ProfileFile,
}

/// What the kernel calls the file of what it notes.
const NOTES: &str = "/memfd:specmalloc profile";

impl Asked {
    fn open(pid: u32) -> Result<Self, Failure> {
        let told = Told::of(pid)?;
        let own_pid = told.own_pid;
        let mut figures = told.files(VARIABLE, MAPPING).into_iter().filter(|path| {
            StatisticsFile::open(path).is_ok_and(|file| file.records().any(|record| record.pid == own_pid))
        });
        let mut notes = told
            .files(specmalloc_samples::VARIABLE, NOTES)
            .into_iter()
            .filter_map(|path| ProfileFile::open(&path).filter(|file| last(file, own_pid).is_some()));
        if let (Some(figures), Some(notes)) = (figures.next(), notes.next()) {
            return Ok(Self { own_pid, figures, notes });
        }
        let why = match (told.is_served(), told.has("libspecmalloc_profile.so")) {
            (false, _) => "does not run under specmalloc",
            (true, false) => {
                "runs under specmalloc without libspecmalloc_profile.so, and nothing is put into it"
            }
            (true, true) => "cannot be asked for samples",
        };
        Err(Failure::own(format!("process {pid} {why}: start it with specmalloc run --profile -- PROGRAM")))
    }

    /// Keeps others from asking it until the file is closed: they would end each other's samples.
    fn alone(&self) -> Result<File, Failure> {
        let failed = |error: std::io::Error| Failure::own(format!("process {}: {error}", self.own_pid));
        let path = OsStr::from_bytes(self.figures.to_bytes());
        let file = File::options().read(true).write(true).open(path).map_err(failed)?;
        // Its number stands for it: several processes have their figures in one file.
        // SAFETY: the record is valid and initialised; of plain numbers.
        let locked = unsafe {
            let mut place: libc::flock = std::mem::zeroed();
            place.l_type = libc::F_WRLCK as libc::c_short;
            place.l_start = self.own_pid.into();
            place.l_len = 1;
            libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const place) == 0
        };
        let error = std::io::Error::last_os_error();
        match (locked, error.kind()) {
            (true, _) => Ok(file),
            (false, std::io::ErrorKind::WouldBlock) => Err(Failure::own(format!(
                "process {} is asked by another specmalloc profile attach: wait until that ends",
                self.own_pid
            ))),
            (false, _) => Err(failed(error)),
        }
    }

    /// Zero for no samples any more.
    fn ask(&self, rate: usize) -> Result<(), Failure> {
        StatisticsFile::ask_rate(&self.figures, self.own_pid, rate).map_err(|error| {
            let error = std::io::Error::from_raw_os_error(error.0);
            Failure::own(format!("process {}: {error}", self.own_pid))
        })
    }
}

/// What the process has noted: its last program, if it ran several.
fn last(file: &ProfileFile, pid: u32) -> Option<&'static Image> {
    file.claimed().filter(|image| image.pid() == u64::from(pid)).last()
}

/// Whether the process is still there.
fn runs(pid: u32) -> bool {
    let stat = read_lossily(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may contain some.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The signals that ask for the end, which wait from now on: who has asked for samples takes that back.
fn hold_ends() -> libc::sigset_t {
    // SAFETY: a set of this function's own, which is initialised before it is used.
    unsafe {
        let mut ends = std::mem::zeroed();
        libc::sigemptyset(&raw mut ends);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut ends, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const ends, std::ptr::null_mut());
        ends
    }
}

/// Waits until a signal of `ends` comes, the time is over, or the process is gone.
fn wait(pid: u32, ends: &libc::sigset_t, end: Option<Instant>) {
    const STEP: Duration = Duration::from_millis(100);
    // SAFETY: sets and times of this process's own.
    unsafe {
        while runs(pid) {
            let left = end.map_or(STEP, |end| end.saturating_duration_since(Instant::now()).min(STEP));
            let left = libc::timespec { tv_sec: 0, tv_nsec: left.as_nanos() as i64 };
            let signal = libc::sigtimedwait(ends, std::ptr::null_mut(), &raw const left);
            if signal > 0 || end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
        }
    }
}

/// The root of its files, held open: it may have one of its own, as in a container. `None` if it is this one's, or not told.
fn root_of(pid: u32) -> Option<File> {
    let root = File::open(format!("/proc/{pid}/root")).ok()?;
    let place = |about: fs::Metadata| (about.dev(), about.ino());
    let mounts = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let is_this = root.metadata().map(place).ok() == fs::metadata("/").map(place).ok()
        && mounts(&pid.to_string()) == mounts("self");
    (!is_this).then_some(root)
}

/// The rate as a number.
fn number(rate: &str) -> usize {
    let digits = rate.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match rate.as_bytes().last() {
        Some(b'k' | b'K') => 10,
        Some(b'm' | b'M') => 20,
        Some(b'g' | b'G') => 30,
        _ => 0,
    };
    digits.parse::<usize>().expect("clap has read it") << shift
}

pub(super) fn execute(attach: &Attach) -> Result<ExitCode, Failure> {
    let asked = Asked::open(attach.pid)?;
    let _alone = asked.alone()?;
    let output = Output::new(&attach.output)?;
    let image = last(&asked.notes, asked.own_pid).expect("it was there before");
    let root = root_of(attach.pid);
    let (before, start, ends) = (pprof::before(image), Instant::now(), hold_ends());
    if let Err(failure) = asked.ask(number(&attach.rate)) {
        output.discard();
        return Err(failure);
    }
    if attach.duration.is_none() {
        tell!("process {} is sampled: Ctrl-C ends that", attach.pid);
    }
    wait(attach.pid, &ends, attach.duration.map(|seconds| start + Duration::from_secs_f64(seconds)));
    let (first, took) = (attach.first.kind(), start.elapsed());
    let profile = match &root {
        None => pprof::profile(image, &before, first, took),
        Some(root) => {
            let root = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
            let mut profile = pprof::profile_below(&root, image, &before, first, took);
            // Now, for a report would look for these files here.
            let _others = pprof::resolve_below(&root, &mut profile);
            profile
        }
    };
    // It may have gone.
    let _gone = asked.ask(0);
    if !save(output.path, &profile) {
        output.discard();
        return Err(Failure::own("no profile is written".to_owned()));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        assert_eq!(["1", "64K", "3m", "2G"].map(number), [1, 64 << 10, 3 << 20, 2 << 30]);
    }

    #[test]
    fn processes_that_cannot_be_asked_are_told_why() {
        let own = Asked::open(std::process::id()).err().unwrap().message;
        assert!(own.contains("does not run under specmalloc") && own.contains("run --profile"), "{own}");
        assert!(Asked::open(u32::MAX).err().unwrap().message.contains("there is no process"));
        assert!(runs(std::process::id()) && !runs(u32::MAX));
    }
}
