//! `specmalloc replay`: the malloc calls of a program, made again under whatever allocator is preloaded.
//!
//! `trace` reads them from a file before the first is made. They are made by one thread, in the order of the file.

mod trace;

use crate::Failure;
use crate::text::{bytes, duration, grouped};
use clap::Args;
use serde_json::json;
use specmalloc_measure::usage::Usage;
use std::ffi::c_void;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::ptr::null_mut;
use std::time::Instant;
use trace::{Call, Trace};

const HELP: &str = "\
FILE is a trace as malloc-bench has them (protocol buffers), or what valgrind --trace-malloc=yes writes; either may
be compressed by gzip. Each block is written to at its start and once in each page, and what was written is looked
at before the block is freed.

Examples:
  specmalloc replay firefox.trace.gz
  valgrind --trace-malloc=yes ./program 2> program.trace
  specmalloc compare -- specmalloc replay --times 10 program.trace

Exit status: 0, 1 if the allocator had no memory or a block was overwritten by another, 125 if the file is no trace.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Replay {
    /// The trace.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How often it is gone through.
    #[arg(short, long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

/// Reads the trace, goes through it, and tells what that cost.
pub(crate) fn execute(arguments: &Replay) -> Result<ExitCode, Failure> {
    let shown = arguments.file.display();
    let trace = trace::read(&arguments.file).map_err(|error| Failure::own(format!("{shown}: {error}")))?;
    let mut blocks = vec![Block { start: null_mut(), size: 0 }; trace.blocks];
    let start = Instant::now();
    for _ in 0..arguments.times {
        let gone = trace.calls.iter().try_for_each(|call| make(*call, &mut blocks));
        let ended =
            gone.and_then(|()| (0..blocks.len()).try_for_each(|block| free(&mut blocks[block], block)));
        if let Err(why) = ended {
            return Err(Failure { status: 1, message: format!("{shown}: {why}") });
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let text = told(&trace, arguments, seconds);
    // Whoever reads it may have gone.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// A block that is handed out, if its start is not null.
#[derive(Clone, Copy)]
struct Block {
    start: *mut u8,
    size: usize,
}

const PAGE: usize = 4096;
const MARK: usize = size_of::<usize>();

/// Makes one call of the trace.
fn make(call: Call, blocks: &mut [Block]) -> Result<(), String> {
    match call {
        Call::Allocate { block, size, align, zero } => {
            // A trace may hand out a block twice where it lost a free.
            free(&mut blocks[block as usize], block as usize)?;
            // SAFETY: any sizes may be asked for; the alignment is a power of two, as the reader has seen to.
            let start = unsafe {
                match (zero, align) {
                    (true, _) => libc::calloc(1, size),
                    (false, 0..=16) => libc::malloc(size),
                    (false, align) => aligned(align, size),
                }
            };
            note(&mut blocks[block as usize], block as usize, start.cast(), size)
        }
        Call::Resize { block, size } => {
            let own = &mut blocks[block as usize];
            look(own, block as usize)?;
            // SAFETY: null, or a block of malloc's that nobody has freed.
            let start = unsafe { libc::realloc(own.start.cast(), size) };
            note(own, block as usize, start.cast(), size)
        }
        Call::Free { block } => free(&mut blocks[block as usize], block as usize),
    }
}

/// # Safety
/// `align` is a power of two.
unsafe fn aligned(align: usize, size: usize) -> *mut c_void {
    let mut start = null_mut();
    // SAFETY: the caller's; `start` is valid for the write.
    let error = unsafe { libc::posix_memalign(&raw mut start, align, size) };
    if error == 0 { start } else { null_mut() }
}

fn note(own: &mut Block, block: usize, start: *mut u8, size: usize) -> Result<(), String> {
    if start.is_null() && size > 0 {
        return Err(format!("the allocator had no {} for a block", bytes(size as u64)));
    }
    *own = Block { start, size };
    // SAFETY: the block has `size` bytes, which are this program's.
    unsafe {
        (0..size).step_by(PAGE).skip(1).for_each(|at| start.add(at).write_volatile(1));
        if size >= MARK {
            start.cast::<usize>().write_unaligned(block);
        }
    }
    Ok(())
}

/// Looks at what was written to the block.
fn look(own: &Block, block: usize) -> Result<(), String> {
    if own.start.is_null() || own.size < MARK {
        return Ok(());
    }
    // SAFETY: a block that is handed out has `size` bytes, and these were written.
    let found = unsafe { own.start.cast::<usize>().read_unaligned() };
    if found == block {
        Ok(())
    } else {
        Err(format!("the block at {:p} was overwritten by another", own.start))
    }
}

fn free(own: &mut Block, block: usize) -> Result<(), String> {
    look(own, block)?;
    // SAFETY: null, or a block of malloc's that nobody has freed.
    unsafe { libc::free(own.start.cast()) };
    *own = Block { start: null_mut(), size: 0 };
    Ok(())
}

fn told(trace: &Trace, arguments: &Replay, seconds: f64) -> String {
    // SAFETY: a record of plain numbers, which the call fills in.
    let usage: Usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage.into()
    };
    let made = trace.calls.len() as u64 * u64::from(arguments.times);
    let each = seconds * 1e9 / made.max(1) as f64;
    if arguments.json {
        let document = json!({
            "calls": made,
            "skipped": trace.skipped,
            "seconds": seconds,
            "nanoseconds_per_call": each,
            "peak_live_bytes": trace.peak_live,
            "peak_resident_bytes": usage.peak_kib * 1024,
            "page_faults": usage.faults(),
        });
        return format!("{document:#}\n");
    }
    let mut text = format!(
        "{} calls in {}: {each:.1} ns each\npeak live {}, peak resident {} with the trace itself, {} page faults\n",
        grouped(made),
        duration(seconds),
        bytes(trace.peak_live),
        bytes(usage.peak_kib * 1024),
        grouped(usage.faults()),
    );
    if trace.skipped > 0 {
        text += &format!("{} calls were about blocks that the trace does not know\n", grouped(trace.skipped));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_made_and_an_overwritten_block_is_found() {
        let mut blocks = [Block { start: null_mut(), size: 0 }; 2];
        let allocate = |block, size, align, zero| Call::Allocate { block, size, align, zero };
        for call in [
            allocate(0, 100_000, 0, false),
            allocate(1, 100, 64, false),
            Call::Resize { block: 0, size: 10 },
            allocate(1, 0, 0, true),
            Call::Free { block: 0 },
        ] {
            make(call, &mut blocks).unwrap();
        }
        assert!(blocks[0].start.is_null());
        make(allocate(0, 64, 0, false), &mut blocks).unwrap();
        // SAFETY: the block has 64 bytes.
        unsafe { blocks[0].start.write(77) };
        assert!(make(Call::Free { block: 0 }, &mut blocks).unwrap_err().contains("overwritten"));
        assert!(
            make(allocate(0, usize::MAX / 4, 0, false), &mut [Block { start: null_mut(), size: 0 }]).is_err()
        );
    }
}
