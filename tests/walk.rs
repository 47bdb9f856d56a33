//! `SpecMalloc::walk` in a Rust program: what is told of blocks that the program knows, at rest and beside threads.

use specmalloc::{BlockKind, SpecMalloc, WalkedBlock};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

#[global_allocator]
static ALLOC: SpecMalloc = SpecMalloc::new();

/// What a walk tells, in memory that it does not grow.
fn told() -> Vec<WalkedBlock> {
    let mut told = Vec::with_capacity(1 << 16);
    ALLOC.walk(|block| {
        assert!(told.len() < told.capacity(), "too many blocks");
        told.push(block);
    });
    assert!(told.is_sorted_by(|one, next| one.address < next.address));
    told
}

/// Demands that each block is told once, or where blocks cannot be told apart its slab.
fn demand_told(blocks: &BTreeMap<usize, usize>) {
    let told = told();
    for (&address, &size) in blocks {
        let below = told.partition_point(|block| block.address <= address);
        let block = told[below - 1];
        let is_alone = cfg!(debug_assertions) || !matches!(block.kind, BlockKind::Small(_));
        assert!(block.size >= size, "{block:x?} for {size} bytes");
        assert!(block.blocks >= 1 && (!is_alone || (block.address, block.blocks) == (address, 1)));
    }
}

/// Blocks of many sizes, the large and the huge among them.
fn blocks() -> Vec<Vec<u8>> {
    let sizes = (0..400usize).map(|number| 1 + number * number).chain([1 << 20, 5 << 20, 30 << 20]);
    sizes.map(|size| vec![7; size]).collect()
}

fn addresses(blocks: &[Vec<u8>]) -> BTreeMap<usize, usize> {
    blocks.iter().map(|block| (block.as_ptr().addr(), block.len())).collect()
}

#[test]
fn each_live_block_is_told_at_rest_and_beside_threads() {
    static OVER: AtomicBool = AtomicBool::new(false);
    let kept = blocks();
    let known = addresses(&kept);
    demand_told(&known);
    let threads = [(); 3].map(|()| {
        std::thread::spawn(|| {
            while !OVER.load(Ordering::Relaxed) {
                let some = blocks();
                let other = std::thread::spawn(|| drop(some));
                let mut grown = Vec::new();
                (0..100_000u32).for_each(|number| grown.push(number));
                other.join().expect("no panic");
                ALLOC.trim();
            }
        })
    });
    (0..100).for_each(|_| demand_told(&known));
    OVER.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    demand_told(&known);
}

/// Its blocks are this thread's, which it has just freed: no walk tells them.
#[test]
#[cfg(debug_assertions)]
fn what_is_free_is_not_told() {
    let mut freed: Vec<usize> = Vec::with_capacity(1000);
    let kept: Vec<_> = (0..1000).map(|_| Box::new([0u8; 4000])).collect();
    for (number, block) in kept.into_iter().enumerate() {
        if number % 2 == 0 {
            std::mem::forget(block);
        } else {
            freed.push((&raw const *block).addr());
        }
    }
    let mut told = Vec::with_capacity(1 << 16);
    ALLOC.walk(|block| told.push(block.address));
    assert!(freed.iter().all(|address| told.binary_search(address).is_err()));
}

#[test]
fn who_is_told_may_allocate_and_walk() {
    let (mut outer, mut inner) = (0, 0);
    let mut kept = Vec::new();
    ALLOC.walk(|block| {
        outer += 1;
        assert!(block.size >= 16);
        if outer % 50 == 1 && kept.len() < 20 {
            kept.push(vec![0u8; 3000]);
            ALLOC.walk(|_| inner += 1);
        }
    });
    assert!(outer > 1 && inner > 1);
}
