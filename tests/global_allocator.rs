//! A Rust program on specmalloc: its own collections, threads that hand blocks to one another, and what is left after.

use specmalloc::SpecMalloc;
use std::collections::{BTreeMap, HashMap};

#[global_allocator]
static ALLOC: SpecMalloc = SpecMalloc::new();

#[test]
fn collections_keep_what_they_were_given() {
    let mut tree = BTreeMap::new();
    let mut map = HashMap::new();
    for number in 0..50_000u64 {
        tree.insert(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), format!("{number}"));
        map.insert(number, vec![number as u8; (number % 700) as usize]);
    }
    for number in 0..50_000u64 {
        assert_eq!(tree[&number.wrapping_mul(0x9e37_79b9_7f4a_7c15)], number.to_string());
        let bytes = &map[&number];
        assert!(bytes.len() == (number % 700) as usize && bytes.iter().all(|&byte| byte == number as u8));
    }
}

#[test]
fn a_vector_grows_through_every_kind_of_block() {
    let mut bytes = Vec::new();
    while bytes.len() < 64 << 20 {
        let from = bytes.len();
        bytes.resize((from * 2).max(1), (from % 251) as u8);
        assert!(bytes.capacity() >= bytes.len());
    }
    let mut from = 1;
    while from < bytes.len() {
        let filled = &bytes[from..from * 2];
        assert!(filled.iter().all(|&byte| byte == (from % 251) as u8), "after growing from {from}");
        from *= 2;
    }
    bytes.truncate(100);
    bytes.shrink_to_fit();
    assert_eq!(bytes[64..100], [64; 36]);
}

#[test]
fn blocks_freed_by_other_threads_come_home() {
    let rounds = 40;
    for round in 0..rounds {
        let (sender, receiver) = std::sync::mpsc::channel::<Vec<Box<[u8; 200]>>>();
        let consumer = std::thread::spawn(move || {
            receiver
                .iter()
                .map(|batch| batch.iter().filter(|block| block[199] == block[0]).count())
                .sum::<usize>()
        });
        for batch in 0..50 {
            sender.send((0..100).map(|_| Box::new([(round + batch) as u8; 200])).collect()).unwrap();
        }
        drop(sender);
        assert_eq!(consumer.join().unwrap(), 5000);
    }
}

#[test]
fn many_threads_allocate_of_all_sizes() {
    let threads: Vec<_> = (0..16u64)
        .map(|seed| {
            std::thread::spawn(move || {
                let mut state = seed + 1;
                let mut held: Vec<(Vec<u8>, u8)> = Vec::new();
                for step in 0..4000 {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let shift = (state >> 33) % 18;
                    let size = (state >> 40) as usize % (8 << shift) + 1;
                    held.push((vec![step as u8; size], step as u8));
                    if held.len() > 100 {
                        let (bytes, tag) = held.swap_remove((state >> 20) as usize % 100);
                        assert!(bytes.iter().all(|&byte| byte == tag));
                    }
                }
                held.iter().all(|(bytes, tag)| bytes.iter().all(|byte| byte == tag))
            })
        })
        .collect();
    for thread in threads {
        assert!(thread.join().unwrap());
    }
}

#[test]
fn alignments_up_to_a_gigabyte_are_met() {
    use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
    for shift in 0..=30 {
        for size in [1, 100, 5000, 70_000, 5 << 20] {
            let layout = Layout::from_size_align(size, 1 << shift).unwrap();
            // SAFETY: the layout is not of size zero; each block is freed with its own layout.
            unsafe {
                let block = if shift % 2 == 0 { alloc(layout) } else { alloc_zeroed(layout) };
                assert!(!block.is_null() && block.addr() % (1 << shift) == 0, "{size} at 2^{shift}");
                block.write(1);
                block.add(size - 1).write(1);
                dealloc(block, layout);
            }
        }
    }
}

#[test]
fn zeroed_memory_is_zero_whatever_was_there() {
    for size in [40, 4000, 40_000, 400_000, 8 << 20] {
        for round in 0..20u8 {
            let mut bytes = vec![0u8; size];
            assert!(bytes.iter().all(|&byte| byte == 0), "{size} bytes, round {round}");
            bytes.fill(round | 1);
        }
    }
}
