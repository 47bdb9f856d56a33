//! What a request's memory costs: a heap that is a value beside bumpalo's arena and the global allocator, by turns.
//!
//! ```text
//! cargo run --release --manifest-path compare/files/Cargo.toml --bin heaps -- [ROUNDS [REQUESTS]]
//! ```
//!
//! A request allocates a thousand blocks of 8 to 512 bytes, writes to each, and is over. Then its memory goes: as a whole
//! where the way can do that, block by block otherwise. Medians of the rounds, for 1, 2 and 4 threads that do as many
//! requests each. An arena is one thread's; that a heap is any thread's is what its blocks cost more.

use allocator_api2::alloc::{Allocator, Global, Layout};
use bumpalo::Bump;
use specmalloc::heaps::Heap;
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::time::Instant;

const BLOCKS: usize = 1000;
const THREADS: [usize; 3] = [1, 2, 4];

fn layout(state: &mut u64) -> Layout {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    Layout::from_size_align(8 + (*state >> 33) as usize % 505, 8).expect("a layout")
}

/// Allocates a request's blocks, and hands each to `each`.
fn request(from: &impl Allocator, seed: u64, mut each: impl FnMut(NonNull<u8>, Layout)) {
    let mut state = seed;
    for _ in 0..BLOCKS {
        let layout = layout(&mut state);
        let block = black_box(from.allocate(layout).expect("memory")).cast::<u8>();
        // SAFETY: the block is ours.
        unsafe { block.write(1) };
        each(block, layout);
    }
}

/// A request whose blocks are freed one by one.
fn one_by_one(from: &impl Allocator, seed: u64) {
    let mut blocks = Vec::with_capacity(BLOCKS);
    request(from, seed, |block, layout| blocks.push((block, layout)));
    for (block, layout) in blocks {
        // SAFETY: allocated there just now, and not used any more.
        unsafe { from.deallocate(block, layout) };
    }
}

/// A thread's requests, with what all threads share.
type Way = (&'static str, fn(&Heap, usize));

const WAYS: [Way; 7] = [
    ("global allocator, block by block", |_, requests| {
        (0..requests).for_each(|seed| one_by_one(&Global, seed as u64));
    }),
    ("specmalloc heap for each request", |_, requests| {
        (0..requests).for_each(|seed| request(&&Heap::new().expect("a heap"), seed as u64, |_, _| ()));
    }),
    ("specmalloc heap for each thread, block by block", |_, requests| {
        let heap = Heap::new().expect("a heap");
        (0..requests).for_each(|seed| one_by_one(&&heap, seed as u64));
    }),
    ("specmalloc heap for all threads, block by block", |heap, requests| {
        (0..requests).for_each(|seed| one_by_one(&heap, seed as u64));
    }),
    ("bumpalo arena for each request", |_, requests| {
        (0..requests).for_each(|seed| request(&&Bump::new(), seed as u64, |_, _| ()));
    }),
    ("bumpalo arena for each thread, reset", |_, requests| {
        let mut arena = Bump::new();
        for seed in 0..requests {
            request(&&arena, seed as u64, |_, _| ());
            arena.reset();
        }
    }),
    // What the others cost beside their blocks.
    ("nothing", |_, requests| {
        for seed in 0..requests {
            let mut state = seed as u64;
            (0..BLOCKS).for_each(|_| _ = black_box(layout(&mut state)));
        }
    }),
];

/// Nanoseconds for each block, as the slowest thread sees it.
fn run(way: &Way, threads: usize, requests: usize) -> f64 {
    let (heap, start) = (Heap::new().expect("a heap"), Barrier::new(threads));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let begun = Instant::now();
                    way.1(&heap, requests);
                    begun.elapsed().as_nanos() as f64 / (requests * BLOCKS) as f64
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("runs")).fold(0.0, f64::max)
    })
}

fn main() {
    let number = |nth, default| {
        std::env::args().nth(nth).map_or(default, |text| text.parse::<usize>().expect("a number"))
    };
    let (rounds, requests) = (number(1, 7).max(1), number(2, 500).max(1));
    println!("| threads | way | ns for each block |");
    println!("|--:|---|--:|");
    for threads in THREADS {
        let mut figures = vec![Vec::new(); WAYS.len()];
        for _ in 0..rounds {
            for (way, figures) in WAYS.iter().zip(&mut figures) {
                figures.push(run(way, threads, requests));
            }
        }
        for ((name, _), mut figures) in WAYS.iter().zip(figures) {
            figures.sort_by(f64::total_cmp);
            println!("| {threads} | {name} | {:.1} |", figures[rounds / 2]);
        }
    }
}
