//! A server whose requests each have a heap of their own, built up by two threads and dropped as a whole: one that asks
//! for too much gets an error, and takes nobody else's memory.
//!
//! `cargo run --example requests --features heaps`

use allocator_api2::vec::Vec;
use specmalloc::heaps::{Heap, HeapOptions};
use std::thread;

/// What a request may hold.
const SHARE: usize = 8 << 20;

/// The primes below `limit`, by a sieve in the request's heap.
fn primes(heap: &Heap, limit: usize) -> Option<Vec<u32, &Heap>> {
    let mut is_composite = Vec::new_in(heap);
    is_composite.try_reserve_exact(limit).ok()?;
    is_composite.resize(limit, false);
    let mut primes = Vec::new_in(heap);
    for number in 2..limit {
        if is_composite[number] {
            continue;
        }
        primes.try_reserve(1).ok()?;
        primes.push(number as u32);
        for multiple in (number * number..limit).step_by(number) {
            is_composite[multiple] = true;
        }
    }
    Some(primes)
}

fn answer(limit: usize) -> Result<String, Box<dyn std::error::Error>> {
    let heap = HeapOptions::new().limit(SHARE).in_memory()?;
    let (all, half) = thread::scope(|scope| {
        let half = scope.spawn(|| primes(&heap, limit / 2));
        (primes(&heap, limit), half.join().unwrap())
    });
    let (Some(all), Some(half)) = (all, half) else {
        return Ok(format!("below {limit}: more than a request may have"));
    };
    let figures = heap.statistics();
    Ok(format!(
        "below {limit}: {} primes, {} in the first half; {} blocks, {} KiB, all of it gone at once",
        all.len(),
        half.len(),
        figures.live_blocks,
        figures.held_bytes >> 10,
    ))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for limit in [1000, 100_000, 2_000_000, 50_000_000] {
        println!("{}", answer(limit)?);
    }
    Ok(())
}
