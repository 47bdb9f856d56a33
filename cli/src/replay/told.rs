//! What a replay cost, and what a trace has in it, as text and as JSON.

use super::Replay;
use crate::terminal::width;
use crate::text::{bytes, counted, duration, grouped, joined};
use serde_json::{Map, Value, json};
use specmalloc_measure::usage::Usage;
use specmalloc_trace::{Call, Trace};
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

/// What this process has cost so far.
pub(super) struct Cost {
    at: Instant,
    usage: Usage,
}

impl Cost {
    pub(super) fn now() -> Cost {
        // SAFETY: a record of plain numbers, which the call fills in.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
            usage.into()
        };
        Cost { at: Instant::now(), usage }
    }
}

/// The figures of a replay that began at `before`.
pub(super) fn told(trace: &Trace, arguments: &Replay, before: &Cost, allocator: &Path) -> String {
    let after = Cost::now();
    let seconds = (after.at - before.at).as_secs_f64();
    let times = u64::from(arguments.times);
    let counts = trace.counts().map(|count| count * times);
    let made: u64 = counts.iter().sum();
    let each = seconds * 1e9 / made.max(1) as f64;
    let (user, system) = (after.usage.user - before.usage.user, after.usage.system - before.usage.system);
    let faults = after.usage.faults() - before.usage.faults();
    let kinds = Call::NAMES.iter().zip(counts).filter(|kind| kind.1 > 0);
    if arguments.json {
        let kinds: Map<_, _> = kinds.map(|(name, count)| ((*name).to_owned(), Value::from(count))).collect();
        let document = json!({
            "program": trace.program,
            "allocator": allocator.to_string_lossy(),
            "calls": made,
            "calls_by_kind": kinds,
            "threads": trace.threads(),
            "blocks": trace.blocks(),
            "skipped": trace.skipped,
            "seconds": seconds,
            "nanoseconds_per_call": each,
            "user_seconds": user,
            "system_seconds": system,
            "peak_live_bytes": trace.peak_live(),
            "peak_resident_bytes": after.usage.peak_kib * 1024,
            "resident_bytes_before": before.usage.peak_kib * 1024,
            "page_faults": faults,
        });
        return format!("{document:#}\n");
    }
    let kinds = kinds.map(|(name, count)| format!("{} {name}", grouped(count))).collect();
    let threads = counted(trace.threads() as u64, "thread");
    let mut lines: Vec<Vec<String>> = vec![
        vec![
            format!("{} calls by {threads} in {}: {each:.1} ns each", grouped(made), duration(seconds)),
            format!("{} user", duration(user)),
            format!("{} system", duration(system)),
        ],
        kinds,
        vec![
            format!("peak live {}", bytes(trace.peak_live())),
            format!(
                "peak resident {} ({} of it were there before, with the trace)",
                bytes(after.usage.peak_kib * 1024),
                bytes(before.usage.peak_kib * 1024)
            ),
            format!("{} page faults", grouped(faults)),
        ],
        vec![format!("served by {}", allocator.display())],
    ];
    if trace.skipped > 0 {
        lines.push(vec![format!(
            "{} calls were about blocks that the trace does not know",
            grouped(trace.skipped)
        )]);
    }
    let width = width();
    lines.iter().flat_map(|facts| joined(facts, width)).map(|line| line + "\n").collect()
}

/// A line for each call: `0 malloc 24 = 7`, `1 free 7`, `0 aligned 100 64 = 8`, `0 realloc 8 200`, after the thread.
pub(super) fn print(trace: &Trace, to: impl Write) -> io::Result<()> {
    let mut to = io::BufWriter::new(to);
    let mut blocks = 0;
    for entry in trace.calls() {
        let name = Call::NAMES[entry.call.kind()];
        write!(to, "{} {name} ", entry.thread)?;
        match entry.call {
            Call::Malloc { size } | Call::Calloc { size } => writeln!(to, "{size} = {blocks}")?,
            Call::Aligned { size, shift } => writeln!(to, "{size} {} = {blocks}", 1_u64 << shift)?,
            Call::Realloc { block, size } => writeln!(to, "{block} {size}")?,
            Call::Free { block } => writeln!(to, "{block}")?,
        }
        blocks += u32::from(!matches!(entry.call, Call::Realloc { .. } | Call::Free { .. }));
    }
    to.flush()
}
