//! Where a Rust program allocates: a sampler that is switched on and off while the program runs.
//!
//! The program has [`SpecMalloc`](crate::SpecMalloc) as its global allocator, and the feature `profile`. As long as nobody
//! calls [`start`] it pays one test on slow paths for that. From then on every byte that is allocated has the same chance
//! to make its allocation a sample, whose stack is noted; a profile is estimated from those.
//!
//! ```
//! use specmalloc::{SpecMalloc, profile};
//!
//! #[global_allocator]
//! static ALLOC: SpecMalloc = SpecMalloc::new();
//!
//! profile::start(16 << 10); // One sample for 16 KiB.
//! let kept: Vec<Vec<u8>> = (0..1000).map(|_| vec![0; 5000]).collect();
//!
//! let mut profile = profile::take().expect("something was sampled");
//! // 5 MB are live, give or take what chance does with some 300 samples.
//! let live: i64 = profile.leaks().iter().map(|leak| leak.bytes).sum();
//! assert!((3_000_000..8_000_000).contains(&live), "{live} bytes live");
//!
//! // As pprof reads it; names of functions are for those who have the program's file at hand, or found now:
//! let file = profile.bytes();
//! assert!(file.starts_with(&[0x1f, 0x8b]), "compressed by gzip");
//! specmalloc::profile::resolve(&mut profile);
//! print!("{}", profile.leaks()[0]);
//!
//! profile::stop(); // What was sampled is still known, and noted when it is freed.
//! drop(kept);
//! ```
//!
//! Functions of the program's own are called when a sample is allocated and when it is freed:
//!
//! ```
//! use specmalloc::{SpecMalloc, profile};
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! #[global_allocator]
//! static ALLOC: SpecMalloc = SpecMalloc::new();
//!
//! static SHORT_LIVED: AtomicU64 = AtomicU64::new(0);
//! static WATCHER: profile::Watcher = profile::Watcher {
//!     allocated: |_sample| {},
//!     freed: |sample| {
//!         if sample.age < 1_000_000_000 {
//!             SHORT_LIVED.fetch_add(sample.size as u64, Ordering::Relaxed);
//!         }
//!     },
//! };
//!
//! profile::watch(Some(&WATCHER));
//! profile::start(1); // Every allocation.
//! std::thread::spawn(|| drop(std::hint::black_box(vec![0_u8; 1_000_000]))).join().unwrap();
//! assert!(SHORT_LIVED.load(Ordering::Relaxed) >= 1_000_000);
//! # profile::stop();
//! ```
//!
//! The values of a profile are those of Go's heap profiles, `alloc_objects`, `alloc_space`, `inuse_objects` and
//! `inuse_space` (all that was allocated since the start, and what of it is live), `peak_objects` and `peak_space` (what was
//! live when most was), and `freed_objects` and `lifetime` (how many were freed, and how long they lived all together). Of blocks that were allocated before [`start`], nothing is known.
//!
//! A thread begins, and ends, with its next slow path: that is, with one of its next few hundred allocations. Each sample
//! that is live takes a page, and 64 KiB of addresses. Stacks are read by the unwind tables that Rust programs have, on
//! x86-64; elsewhere by frame pointers (`-C force-frame-pointers`).

use crate::global::{self, process};
use specmalloc_samples::pprof::Before;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use specmalloc_samples::pprof::{Leak, Line, Location, Mapping, Profile, Stack, resolve};
pub use specmalloc_samples::{Told, Watcher, watch};

/// When sampling was switched on for the first time, in nanoseconds since 1970; zero before that.
static START: AtomicU64 = AtomicU64::new(0);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Samples one allocation for `rate` bytes on average, from now on; every allocation, if that is 1. 512 KiB cost next to
/// nothing. Zero is as [`stop`].
pub fn start(rate: usize) {
    // Relaxed: a time for people to read.
    let _earlier = START.compare_exchange(0, now(), Ordering::Relaxed, Ordering::Relaxed);
    global::sample_at(rate);
}

/// Samples no allocations any more. What was noted stays, and frees of samples are noted as before.
pub fn stop() {
    global::sample_at(0);
}

/// Bytes for a sample on average; zero while there are none.
pub fn rate() -> usize {
    process().settings().sample_rate()
}

/// What was noted so far; `None` if nothing was sampled yet. [`Profile::bytes`] is the file for pprof, [`Profile::leaks`]
/// what is live.
pub fn take() -> Option<Profile> {
    let image = specmalloc_samples::noted()?;
    // Relaxed: as above.
    let took = Duration::from_nanos(now().saturating_sub(START.load(Ordering::Relaxed)));
    Some(specmalloc_samples::pprof::profile(image, &Before::new(), "inuse_space", took))
}

/// As it is noted.
pub(super) fn told(sample: &global::Sample) -> specmalloc_samples::Sample {
    let &global::Sample { block, size, usable, counted, caller } = sample;
    specmalloc_samples::Sample { block, size, usable, counted, rate: rate(), caller }
}
