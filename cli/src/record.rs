//! `specmalloc record-trace`: a program's malloc calls, as a trace that can be replayed.
//!
//! The program runs with a library that notes its calls in memory which this command has made; when the program has
//! ended, however it did, traces are made of the notes.

use crate::compare::allocators::{self, Allocator};
use crate::output::{Output, tell, write_whole};
use crate::text::{counted, grouped};
use crate::{Failure, child, library, target};
use clap::{Args, ValueHint};
use specmalloc_trace::file;
use specmalloc_trace::recording::layout::{self, Head, MAGIC, NAME, Record, VARIABLE};
use specmalloc_trace::recording::{self, Contents, Recorded};
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::null_mut;

const HELP: &str = "\
A trace has the sizes, lives and threads of blocks, the name of the program, and nothing else of it:
no arguments, no contents, no addresses. What is in the file is described in docs/traces.md. Calls of
C++ operators are seen where they come down to malloc, as those of the C++ library do; an allocator's
own do not. Of a process that runs one program after another (exec), the last one counts.

While the program runs, the notes take 24 bytes of memory for each call, 48 for a realloc.

Examples:
  specmalloc record-trace -- python3 program.py
  specmalloc record-trace -o make.trace --follow-fork -- make
  specmalloc record-trace --process cc1plus -o compiler.trace -- g++ -O2 -c program.cpp
  specmalloc replay python3.trace

Ends as the program ends: with its exit status, or by its signal. 125: specmalloc itself failed, or the
program succeeded and its trace could not be written, 126: the program could not be run, 127: it was not
found.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct RecordTrace {
    /// The file; otherwise PROGRAM.trace in this folder.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Record children, too, each in a file FILE.PID of its own.
    #[arg(long)]
    follow_fork: bool,
    /// Record the first process that is called NAME, instead of the one that is started.
    #[arg(long, value_name = "NAME")]
    process: Option<OsString>,
    /// Record no more than so many calls. (A realloc counts twice.)
    #[arg(long, value_name = "CALLS", default_value_t = 10_000_000,
          value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    limit: u64,
    /// The allocator that serves the program meanwhile: a name that `compare` knows, or a library's path.
    #[arg(long, value_name = "NAME|PATH.so", value_parser = allocators::one())]
    under: Option<Allocator>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// Runs the program; returns only if that failed.
pub(crate) fn execute(record: &RecordTrace) -> Result<Infallible, Failure> {
    library::demand_proc()?;
    let recorder = library::recorder()?;
    let (name, arguments) = record.command.split_first().expect("clap demands a program");
    for notice in target::notices(name) {
        tell!("{notice}");
    }
    let path = record.output.clone().unwrap_or_else(|| {
        let mut file = Path::new(name).file_name().unwrap_or(name).to_owned();
        file.push(".trace");
        file.into()
    });
    let output = Output::new(&path)?;
    let notes =
        Notes::new(record).map_err(|error| Failure::own(format!("no memory for the notes: {error}")))?;
    let mut preload = std::env::var_os("LD_PRELOAD");
    if let Some(allocator) = &record.under {
        preload = Some(library::preload(&allocator.library, preload)?);
    }
    let mut command = Command::new(name);
    command.args(arguments).env("LD_PRELOAD", library::preload(&recorder, preload)?);
    let variable = VARIABLE.to_str().expect("a constant in ASCII");
    command.env(variable, format!("/proc/{}/fd/{}", std::process::id(), notes.file.as_raw_fd()));
    let (_, status) = child::run(&mut command).map_err(|error| Failure::start(name, &error))?;
    match notes.read().and_then(|contents| write(&contents, output.path)) {
        // What the program ends with comes first.
        Err(why) if status.success() => return Err(Failure::own(why)),
        Err(why) => tell!("{why}"),
        Ok(true) => {}
        Ok(false) => tell!(
            "no call was recorded: the program does not load libraries that are preloaded, makes no calls, or \
             was started with another environment"
        ),
    }
    child::end_as(status)
}

/// Writes a file for each process that was recorded. Says whether the one that is wanted was.
fn write(contents: &Contents, path: &Path) -> Result<bool, String> {
    if contents.lost > 0 {
        let lost = grouped(contents.lost);
        tell!("the last {lost} calls are not in the trace: see --limit");
    }
    if contents.unseen > 0 {
        tell!("{} programs more were not recorded", contents.unseen);
    }
    let mut is_there = false;
    for recorded in &contents.processes {
        let Recorded { process, first, trace } = recorded;
        let mut path = path.as_os_str().to_owned();
        if is_there || !*first {
            path.push(format!(".{process}"));
        } else {
            is_there = true;
        }
        let (path, mut packed) = (PathBuf::from(path), Vec::new());
        let bytes = file::write(trace, &mut packed)
            .and_then(|bytes| write_whole(&path, &packed).map(|()| bytes))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let calls = trace.calls().len() as u64;
        tell!(
            "{}: {} calls of {} by {}, {:.2} bytes each",
            path.display(),
            grouped(calls),
            trace.program,
            counted(trace.threads() as u64, "thread"),
            bytes as f64 / calls as f64,
        );
    }
    Ok(is_there)
}

/// The memory that the program's calls are noted in.
struct Notes {
    file: File,
    start: *mut Head,
    records: u64,
}

impl Notes {
    fn new(record: &RecordTrace) -> io::Result<Notes> {
        // SAFETY: the name is a string; the descriptor is nobody else's.
        let file = unsafe {
            let file = libc::memfd_create(c"specmalloc-notes".as_ptr(), libc::MFD_CLOEXEC);
            if file < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from_raw_fd(file)
        };
        let bytes = layout::bytes(record.limit);
        // Memory is taken only where it is written to.
        file.set_len(bytes)?;
        // SAFETY: a fresh mapping of a file of this size, which nobody makes shorter.
        let start = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(null_mut(), bytes as usize, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = start.cast::<Head>();
        // SAFETY: nobody else has it yet, and zeros are values of all of it.
        let head = unsafe { &mut *start };
        (head.magic, head.records, head.follow) = (MAGIC, record.limit, record.follow_fork.into());
        // The kernel keeps no more of a process's name, and a zero behind it.
        let name = record.process.as_deref().map_or(&b""[..], OsStr::as_bytes);
        head.name.iter_mut().zip(&name[..name.len().min(NAME - 1)]).for_each(|(to, from)| *to = *from);
        Ok(Notes { file, start, records: record.limit })
    }

    fn read(&self) -> Result<Contents, String> {
        // SAFETY: the mapping has a head and so many records behind it, which others change only by atomic stores.
        let contents = unsafe {
            let records = self.start.add(1).cast::<Record>();
            recording::read(&*self.start, std::slice::from_raw_parts(records, self.records as usize))
        };
        contents.map_err(|fault| format!("the notes make no trace: a call {fault}"))
    }
}
