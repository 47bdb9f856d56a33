//! Page faults in a mapped file: will-it-scale's *page_fault2* and *page_fault3*, through a region of specmalloc's, through
//! memmap2 and through bare mmap, by turns.
//!
//! ```text
//! cargo run --release --manifest-path compare/files/Cargo.toml --bin faults -- [ROUNDS [MAPPINGS]]
//! ```
//!
//! Each thread maps 128 MiB of a file of its own (the same for all ways) that has no name, writes one byte of each page,
//! and unmaps it, again and again. *page_fault2* maps it privately, so each page is copied; *page_fault3* maps it shared.
//! Faults per second, of the clock and of the processor (in user and system together); medians of the rounds, and what
//! they are of bare mmap's.

use memmap2::MmapOptions;
use specmalloc::files::FileOptions;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Barrier;
use std::time::{Duration, Instant};
use std::{io, ptr};

const BYTES: usize = 128 << 20;
const THREADS: [usize; 3] = [1, 2, 4];

/// Writes one byte of each page.
fn touch(start: *mut u8, page: usize) {
    for at in (0..BYTES).step_by(page) {
        // SAFETY: inside of the mapping, which is the caller's.
        unsafe { start.add(at).write_volatile(1) };
    }
}

type Once = fn(&File, bool, usize) -> io::Result<()>;

fn bare(file: &File, is_shared: bool, page: usize) -> io::Result<()> {
    let kind = if is_shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    // SAFETY: a new mapping, which is unmapped below.
    let start = unsafe {
        libc::mmap(ptr::null_mut(), BYTES, libc::PROT_READ | libc::PROT_WRITE, kind, file.as_raw_fd(), 0)
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    touch(start.cast(), page);
    // SAFETY: as above.
    if unsafe { libc::munmap(start, BYTES) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn memmap2(file: &File, is_shared: bool, page: usize) -> io::Result<()> {
    let mut options = MmapOptions::new();
    options.len(BYTES);
    // SAFETY: nobody else has the file.
    let mut mapping = unsafe { if is_shared { options.map_mut(file)? } else { options.map_copy(file)? } };
    touch(mapping.as_mut_ptr(), page);
    Ok(())
}

fn region(file: &File, is_shared: bool, page: usize) -> io::Result<()> {
    let options = FileOptions::new();
    // SAFETY: nobody else has the file.
    let region = unsafe { if is_shared { options.map_mut(file)? } else { options.map_copy(file)? } };
    // For longer than a moment: whoever unmaps any region would wait for a guard.
    let pin = region.pin()?;
    touch(region.as_mut_ptr(), page);
    drop(pin);
    region.unmap()?;
    Ok(())
}

/// User and system time of the process.
fn processor() -> Duration {
    // SAFETY: a structure of numbers, which the call fills.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|time| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000))
        .sum()
}

/// Faults per second of the clock, and of the processor. A thread for each file.
fn run(once: Once, is_shared: bool, files: &[File], mappings: usize) -> [f64; 2] {
    let threads = files.len();
    // SAFETY: reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize };
    let (before, after) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    std::thread::scope(|scope| {
        for file in files {
            let (before, after) = (&before, &after);
            scope.spawn(move || {
                // The first time what is clean becomes dirty.
                once(file, is_shared, page).expect("is mapped");
                before.wait();
                for _ in 0..mappings {
                    once(file, is_shared, page).expect("is mapped");
                }
                after.wait();
            });
        }
        before.wait();
        let (clock, used) = (Instant::now(), processor());
        after.wait();
        let faults = (threads * mappings * BYTES / page) as f64;
        [clock.elapsed(), processor() - used].map(|time| faults / time.as_secs_f64())
    })
}

/// A file of that length, of which nobody knows, with all its pages in memory.
fn unnamed() -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    let file = options.read(true).write(true).custom_flags(libc::O_TMPFILE).open(std::env::temp_dir())?;
    let piece = vec![1; 1 << 20];
    for at in (0..BYTES as u64).step_by(piece.len()) {
        file.write_all_at(&piece, at)?;
    }
    assert_eq!(file.metadata()?.size(), BYTES as u64);
    Ok(file)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let number = |nth, default| {
        std::env::args().nth(nth).map_or(default, |text| text.parse::<usize>().expect("a number"))
    };
    let (rounds, mappings) = (number(1, 5), number(2, 5));
    let ways: [(&str, Once); 3] = [("mmap", bare), ("memmap2", memmap2), ("specmalloc, region", region)];
    println!("| workload | threads | way | faults/s | of mmap | faults per processor second | of mmap |");
    println!("|---|--:|---|--:|--:|--:|--:|");
    for (workload, is_shared) in [("page_fault2", false), ("page_fault3", true)] {
        for threads in THREADS {
            // The same for all: which pages a file has is worth more than what is to be seen here.
            let files: Vec<File> = (0..threads).map(|_| unnamed().expect("a file")).collect();
            let mut figures = [const { Vec::new() }; 3];
            for _ in 0..rounds {
                for (way, figures) in ways.iter().zip(&mut figures) {
                    figures.push(run(way.1, is_shared, &files, mappings));
                }
            }
            let medians = figures.map(|figures| {
                [0, 1].map(|kind| median(figures.iter().map(|figure: &[f64; 2]| figure[kind]).collect()))
            });
            for ((name, _), figure) in ways.iter().zip(&medians) {
                println!(
                    "| {workload} | {threads} | {name} | {:.0} | {:.3} | {:.0} | {:.3} |",
                    figure[0],
                    figure[0] / medians[0][0],
                    figure[1],
                    figure[1] / medians[0][1],
                );
            }
        }
    }
}
