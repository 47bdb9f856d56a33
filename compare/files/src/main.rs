//! Reads per second of a mapped file under a remapper, each way by turns.
//!
//! ```text
//! cargo run --release --manifest-path compare/files/Cargo.toml -- [ROUNDS [MILLISECONDS [THREADS ...]]]
//! ```
//!
//! For 1, 2, 4 and 16 reader threads, or those numbers that are named: each reads words at random places for the time, while one more thread puts another
//! file in the old one's place and maps it anew every millisecond. Medians of the rounds, in which the ways take turns.
//! mmap-sync copies the file each time, and so does that far less often: see `ways.rs`. The longest read is of one in 64 that is timed; in brackets, without the remapper.

mod ways;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use ways::{BYTES, Mapped, each_way};

const THREADS: [usize; 4] = [1, 2, 4, 16];

/// What a run came to.
#[derive(Clone, Copy)]
struct Figures {
    per_second: f64,
    longest: Duration,
    remaps: usize,
}

fn run<M: Mapped>(folder: &Path, threads: usize, time: Duration, remaps: bool) -> Figures {
    let path = folder.join("data");
    let contents: Vec<u8> = (0..BYTES / 8).flat_map(|word| (word as u64).to_ne_bytes()).collect();
    fs::write(&path, &contents).expect("a file");
    let spare = folder.join("spare");
    fs::write(&spare, &contents).expect("a file");
    let mapped = M::open(&path).expect("is mapped");
    let words = mapped.len() / 8;
    let (stop, start) = (AtomicBool::new(false), Barrier::new(threads + 1));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads)
            .map(|reader| {
                let (mapped, stop, start) = (&mapped, &stop, &start);
                scope.spawn(move || {
                    let (mut state, mut reads, mut longest) = (reader as u64 + 1, 0usize, Duration::ZERO);
                    start.wait();
                    let begun = Instant::now();
                    while !stop.load(Ordering::Relaxed) {
                        for nth in 0..64 {
                            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                            let place = (state >> 33) as usize % words;
                            let timed = (nth == 0).then(Instant::now);
                            assert_eq!(mapped.read(place * 8).expect("is read"), place as u64);
                            if let Some(timed) = timed {
                                longest = longest.max(timed.elapsed());
                            }
                        }
                        reads += 64;
                    }
                    (reads as f64 / begun.elapsed().as_secs_f64(), longest)
                })
            })
            .collect();
        start.wait();
        let (begun, mut done, third) = (Instant::now(), 0, folder.join("third"));
        while begun.elapsed() < time {
            std::thread::sleep(Duration::from_millis(1));
            if remaps {
                fs::rename(&path, &third).and_then(|()| fs::rename(&spare, &path)).expect("is replaced");
                fs::rename(&third, &spare).expect("is renamed");
                mapped.remap().expect("is mapped anew");
                done += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let figures = readers.into_iter().map(|reader| reader.join().expect("reads"));
        figures.fold(
            Figures { per_second: 0.0, longest: Duration::ZERO, remaps: done },
            |sum, (reads, longest)| Figures {
                per_second: sum.per_second + reads,
                longest: sum.longest.max(longest),
                ..sum
            },
        )
    })
}

type Run = fn(&Path, usize, Duration, bool) -> Figures;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let number = |nth, default| {
        std::env::args().nth(nth).map_or(default, |text| text.parse::<u64>().expect("a number"))
    };
    let (rounds, time) = (number(1, 3), Duration::from_millis(number(2, 500)));
    let named: Vec<usize> =
        std::env::args().skip(3).map(|text| text.parse().expect("a number of threads")).collect();
    let ways = each_way!(run);
    let folder: PathBuf = std::env::temp_dir().join(format!("compare-files-{}", std::process::id()));
    fs::create_dir(&folder).expect("a folder");
    println!(
        "| threads | way | million reads/s | of the first | longest read, µs (without remapper) | remaps |"
    );
    println!("|--:|---|--:|--:|--:|--:|");
    for threads in if named.is_empty() { THREADS.to_vec() } else { named } {
        let mut figures = vec![Vec::new(); ways.len()];
        for _ in 0..rounds {
            for (way, figures) in ways.iter().zip(&mut figures) {
                let quiet = way.1(&folder, threads, time, false);
                figures.push((way.1(&folder, threads, time, true), quiet));
            }
        }
        let reads = |of: &[(Figures, Figures)]| median(of.iter().map(|(run, _)| run.per_second).collect());
        let first = reads(&figures[0]);
        for ((name, _), figures) in ways.iter().zip(&figures) {
            let micros = |time: Duration| time.as_secs_f64() * 1e6;
            println!(
                "| {threads} | {name} | {:.2} | {:.2} | {:.0} ({:.0}) | {} |",
                reads(figures) / 1e6,
                reads(figures) / first,
                median(figures.iter().map(|(run, _)| micros(run.longest)).collect()),
                median(figures.iter().map(|(_, quiet)| micros(quiet.longest)).collect()),
                figures[0].0.remaps,
            );
        }
    }
    let _ = fs::remove_dir_all(&folder);
}
