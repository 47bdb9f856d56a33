//! What Rust programs ask of a global allocator, measured inside a program built once per allocator (`benches/rust_*`),
//! with fat LTO, so that an allocator that can be inlined is.
//!
//! Each program prints one JSON line per benchmark: nanoseconds per operation, the median and the best of its samples.

mod boxes;
mod collections;
mod documents;
mod tasks;

use std::time::{Duration, Instant};

/// A benchmark: `run` carries out `ops` operations, and checks what it computed.
struct Bench {
    name: &'static str,
    ops: u64,
    run: fn(),
}

const BENCHES: &[&[Bench]] = &[boxes::BENCHES, collections::BENCHES, documents::BENCHES, tasks::BENCHES];

/// The body of a bench program. Heeds `--quick` (a tenth of the time) and one word that names must contain; other
/// arguments starting with a dash are cargo's and are passed over.
pub fn main(allocator: &str) {
    let (mut quick, mut wanted) = (false, String::new());
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => quick = true,
            other if !other.starts_with('-') => wanted = other.to_owned(),
            _ => {}
        }
    }
    let (samples, duration) =
        if quick { (5, Duration::from_millis(4)) } else { (15, Duration::from_millis(20)) };
    for bench in BENCHES.iter().copied().flatten().filter(|bench| bench.name.contains(&wanted)) {
        let (median, best) = measure(bench, samples, duration);
        println!(
            "{}",
            serde_json::json!({ "allocator": allocator, "bench": bench.name, "median_ns": median, "best_ns": best })
        );
    }
}

/// Nanoseconds per operation, median and best of so many samples, each at least so long.
fn measure(bench: &Bench, samples: usize, duration: Duration) -> (f64, f64) {
    (bench.run)();
    let once = Instant::now();
    (bench.run)();
    let calls = duration.as_nanos() / once.elapsed().as_nanos().max(1) + 1;
    let mut times: Vec<f64> = (0..samples)
        .map(|_| {
            let start = Instant::now();
            (0..calls).for_each(|_| (bench.run)());
            start.elapsed().as_nanos() as f64 / (calls as f64 * bench.ops as f64)
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    (times[samples / 2], times[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_benchmark_runs_and_checks_itself() {
        for bench in BENCHES.iter().copied().flatten() {
            let (median, best) = measure(bench, 1, Duration::ZERO);
            assert!(best > 0.0 && median >= best, "{}", bench.name);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = BENCHES.iter().copied().flatten().map(|bench| bench.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
