//! A server's day: a burst of requests on several threads, then quiet. Shows how much memory the process holds at the
//! peak, right after the burst, and once the quiet has lasted a moment; and what a trim adds.
//!
//! ```text
//! cargo run --release --example give_back
//! ```

use specmalloc::SpecMalloc;
use std::thread;
use std::time::Duration;

// Up to 16 MiB may stay dirty beside a share of what is live.
#[global_allocator]
static ALLOC: SpecMalloc = SpecMalloc::new().dirty_max(16 << 20);

/// Resident bytes of this process, as the kernel counts them.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") << 10
}

fn show(moment: &str) {
    let figures = ALLOC.statistics();
    println!(
        "{moment:22} live {:6.1} MiB   dirty {:6.1} MiB   resident {:6.1} MiB",
        figures.live_bytes as f64 / 1048576.0,
        figures.dirty_bytes as f64 / 1048576.0,
        resident() as f64 / 1048576.0,
    );
}

fn main() {
    show("at the start");
    // All of them at once: an iterator is lazy, so the threads are collected before the first is waited for.
    let handlers: Vec<_> = (0..4)
        .map(|_| thread::spawn(|| (0..400_000usize).map(|n| vec![n as u8; 16 + n % 300]).collect::<Vec<_>>()))
        .collect();
    let burst: Vec<_> =
        handlers.into_iter().map(|handler| handler.join().expect("a request handler")).collect();
    show("at the peak");
    drop(burst);
    show("after the burst");
    thread::sleep(Duration::from_secs(1));
    show("a second later");
    ALLOC.trim();
    show("after a trim");
}
