//! `specmalloc replay`: the malloc calls of a program, made again under any allocator.
//!
//! They are read from a file before the first is made: a trace of our own, or one of those that `foreign` knows. `play`
//! makes them, `told` says what that cost.

mod foreign;
mod play;
mod told;

use crate::compare::allocators::{self, Allocator};
use crate::output::{print, printed};
use crate::{Failure, child};
use clap::Args;
use play::Player;
use specmalloc_trace::steps::Steps;
use specmalloc_trace::{Trace, file};
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
FILE is what specmalloc record-trace writes, a trace as malloc-bench has them (protocol buffers), or what
valgrind --trace-malloc=yes writes; each may be compressed by gzip. Each block is written to at its start
and once in each page, and what was written is looked at before the block is freed. Each thread of the
trace is one here: calls on a block keep their order, threads stay within 8,192 calls of each other, and
one that began when others had ended does so again.

Examples:
  specmalloc replay python3.trace
  specmalloc replay --allocator jemalloc --json firefox.trace.gz
  specmalloc replay --print python3.trace | head
  specmalloc compare -- specmalloc replay --times 10 program.trace

Exit status: 0, 1 if the allocator had no memory or a block was overwritten by another, 125 if the file is
no trace or the allocator is not there.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Replay {
    /// The trace.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How often it is gone through.
    #[arg(short, long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// The allocator, by a name that `compare` knows; otherwise the one that is preloaded, or the C library's.
    #[arg(long, value_name = "NAME", value_parser = allocators::one())]
    allocator: Option<Allocator>,
    /// The allocator, as a library to preload.
    #[arg(long, value_name = "PATH.so", value_parser = allocators::at, conflicts_with = "allocator")]
    library: Option<Allocator>,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Print the calls instead of making them: thread, call, bytes, and the number of the block.
    #[arg(long, conflicts_with_all = ["json", "times", "allocator", "library"])]
    print: bool,
}

/// Reads the trace, goes through it, and tells what that cost.
pub(crate) fn execute(arguments: &Replay) -> Result<ExitCode, Failure> {
    if let Some(allocator) = arguments.allocator.as_ref().or(arguments.library.as_ref()) {
        serve(allocator)?;
    }
    let shown = arguments.file.display();
    let mut trace = read(&arguments.file).map_err(|error| Failure::own(format!("{shown}: {error}")))?;
    if arguments.print {
        printed(told::print(&trace, io::stdout().lock()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let steps = Steps::take(&mut trace);
    let mut player = Player::new(steps).map_err(|why| Failure::own(format!("{shown}: {why}")))?;
    let before = told::Cost::now();
    for _ in 0..arguments.times {
        player.play().map_err(|why| Failure { status: 1, message: format!("{shown}: {why}") })?;
    }
    let text = told::told(&trace, arguments, &before, &served_by());
    print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> io::Result<Trace> {
    let contents = file::unpack(std::fs::read(path)?)?;
    if file::is_ours(&contents) { file::read(&contents) } else { foreign::read(&contents) }
}

/// The object that malloc is from.
fn served_by() -> PathBuf {
    // SAFETY: the address of a function; the name is a string that stays while the object is loaded.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(libc::malloc as *const _, &raw mut info) == 0 || info.dli_fname.is_null() {
            return PathBuf::new();
        }
        let name = Path::new(OsStr::from_bytes(CStr::from_ptr(info.dli_fname).to_bytes()));
        name.canonicalize().unwrap_or_else(|_| name.to_owned())
    }
}

/// Sees to it that malloc is the allocator's: if it is not yet, becomes this command again, with the library preloaded.
fn serve(allocator: &Allocator) -> Result<(), Failure> {
    /// Says that this was done.
    const DONE: &str = "SPECMALLOC_REPLAY";
    let library = allocator.library.as_path();
    if served_by() == library {
        return Ok(());
    }
    if std::env::var_os(DONE).is_some_and(|done| done == *library) {
        return Err(Failure::own(format!("{} did not load, or defines no malloc", library.display())));
    }
    let own = Path::new("/proc/self/exe");
    let mut command = Command::new(own);
    command.args(std::env::args_os().skip(1)).env("LD_PRELOAD", allocator.preload()?).env(DONE, library);
    Err(Failure::start(own.as_os_str(), &child::exec(&mut command)))
}
