//! What one read costs a thread that is alone, with nobody who maps the file anew: processor time, by turns.
//!
//! ```text
//! cargo run --release --manifest-path compare/files/Cargo.toml --bin reads -- [ROUNDS [READS [WAY]]]
//! ```
//!
//! WAY is a part of a way's name, for one way alone: a run of that under callgrind with twice as many reads tells the
//! instructions of one. The loop without a read, which is one of the ways, is in each figure.

#[path = "../ways.rs"]
mod ways;

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;
use std::{fs, io, mem};
use ways::{BYTES, Mapped, each_way};

/// What the thread has used of a processor.
fn processor() -> Duration {
    // SAFETY: a structure of numbers, which the call fills.
    let time = unsafe {
        let mut time = mem::zeroed::<libc::timespec>();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time);
        time
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// No file: the words are computed.
struct Nothing;

impl Mapped for Nothing {
    fn name() -> &'static str {
        "nothing"
    }
    fn open(_: &Path) -> io::Result<Self> {
        Ok(Nothing)
    }
    fn len(&self) -> usize {
        BYTES
    }
    #[inline]
    fn read(&self, at: usize) -> io::Result<u64> {
        Ok(black_box(at as u64 / 8))
    }
    fn remap(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Nanoseconds of processor time for a read. The words lie close together: what the caches lack is no way's cost.
fn run<M: Mapped>(path: &Path, reads: usize) -> f64 {
    let mapped = M::open(path).expect("is mapped");
    // Once, as whoever reads it would find it.
    mapped.remap().expect("is mapped anew");
    assert_eq!(mapped.len(), BYTES);
    let mut state = 1u64;
    let begun = processor();
    for _ in 0..reads {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let place = (state >> 33) as usize % 1024;
        assert_eq!(mapped.read(place * 8).expect("is read"), place as u64);
    }
    (processor() - begun).as_secs_f64() * 1e9 / reads as f64
}

type Run = fn(&Path, usize) -> f64;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number =
        |default| arguments.next().map_or(default, |text| text.parse::<usize>().expect("a number"));
    let (rounds, reads) = (number(9), number(2_000_000));
    let only = arguments.next().unwrap_or_default();
    let mut ways = vec![(Nothing::name(), run::<Nothing> as Run)];
    ways.extend(each_way!(run));
    ways.retain(|(name, _)| name.contains(&only));
    let path = std::env::temp_dir().join(format!("compare-reads-{}", std::process::id()));
    let contents: Vec<u8> = (0..BYTES / 8).flat_map(|word| (word as u64).to_ne_bytes()).collect();
    fs::write(&path, contents).expect("a file");
    let mut figures = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for (way, figures) in ways.iter().zip(&mut figures) {
            figures.push(way.1(&path, reads));
        }
    }
    println!("| way | ns of processor time for a read: least | median |");
    println!("|---|--:|--:|");
    for ((name, _), mut figures) in ways.iter().zip(figures) {
        figures.sort_by(f64::total_cmp);
        println!("| {name} | {:.2} | {:.2} |", figures[0], figures[rounds / 2]);
    }
    let _ = fs::remove_file(&path);
}
