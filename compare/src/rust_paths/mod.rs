//! What Rust programs ask of a global allocator, measured inside a program built once per allocator (`../peers`),
//! with fat LTO, so that an allocator that can be inlined is.
//!
//! Each program prints one JSON line per benchmark: nanoseconds per operation by the wall clock (median and best of its
//! samples) and in processor time of all threads (median), which does not count what other programs took.

mod boxes;
mod collections;
mod documents;
mod tasks;

use std::time::{Duration, Instant};

use crate::harness::{processor_time, resident_peak_kib};

/// A benchmark: `run` carries out `ops` operations, and checks what it computed.
struct Bench {
    name: &'static str,
    ops: u64,
    run: fn(),
}

const BENCHES: &[&[Bench]] = &[boxes::BENCHES, collections::BENCHES, documents::BENCHES, tasks::BENCHES];

/// The names of all benchmarks.
pub fn names() -> Vec<&'static str> {
    BENCHES.iter().copied().flatten().map(|bench| bench.name).collect()
}

/// The body of a bench program. Heeds `--quick` (a tenth of the time), and `--exact NAME` or one word that names must
/// contain.
pub fn main(allocator: &str) {
    let (mut quick, mut exact, mut wanted) = (false, false, String::new());
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => quick = true,
            "--exact" => exact = true,
            other => wanted = other.to_owned(),
        }
    }
    let is_wanted = |name: &str| if exact { name == wanted } else { name.contains(&wanted) };
    let (samples, duration) =
        if quick { (5, Duration::from_millis(4)) } else { (15, Duration::from_millis(20)) };
    for bench in BENCHES.iter().copied().flatten().filter(|bench| is_wanted(bench.name)) {
        let figures = measure(bench, samples, duration);
        println!(
            "{}",
            serde_json::json!({
                "allocator": allocator,
                "bench": bench.name,
                "median_ns": figures.median,
                "best_ns": figures.best,
                "cpu_ns": figures.cpu,
                "peak_rss_kib": resident_peak_kib(),
            })
        );
    }
}

/// Nanoseconds per operation.
struct Figures {
    median: f64,
    best: f64,
    cpu: f64,
}

/// Takes so many samples, each at least so long.
fn measure(bench: &Bench, samples: usize, duration: Duration) -> Figures {
    (bench.run)();
    let once = Instant::now();
    (bench.run)();
    let calls = duration.as_nanos() / once.elapsed().as_nanos().max(1) + 1;
    let ops = calls as f64 * bench.ops as f64;
    let (mut wall, mut cpu) = (Vec::with_capacity(samples), Vec::with_capacity(samples));
    for _ in 0..samples {
        let (start, cpu_start) = (Instant::now(), processor_time());
        (0..calls).for_each(|_| (bench.run)());
        wall.push(start.elapsed().as_nanos() as f64 / ops);
        cpu.push((processor_time() - cpu_start).as_nanos() as f64 / ops);
    }
    wall.sort_unstable_by(f64::total_cmp);
    cpu.sort_unstable_by(f64::total_cmp);
    Figures { median: wall[samples / 2], best: wall[0], cpu: cpu[samples / 2] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_benchmark_runs_and_checks_itself() {
        for bench in BENCHES.iter().copied().flatten() {
            let figures = measure(bench, 3, Duration::ZERO);
            let ordered = figures.best > 0.0 && figures.median >= figures.best && figures.cpu > 0.0;
            assert!(ordered, "{}", bench.name);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names = names();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
