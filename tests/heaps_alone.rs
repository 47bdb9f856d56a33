//! Heaps as values in a program whose allocator is the system's: what they leave behind, which is nothing. One test,
//! for it counts what the process has.

use allocator_api2::alloc::{Allocator, Layout};
use allocator_api2::vec::Vec;
use specmalloc::files::{FileRegion, memfd};
use specmalloc::heaps::{Heap, HeapOptions};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Mappings, descriptors, resident kilobytes.
fn had() -> [usize; 3] {
    let text = |name: &str| std::fs::read_to_string(name).unwrap();
    let resident = text("/proc/self/statm").split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4;
    [text("/proc/self/maps").lines().count(), std::fs::read_dir("/proc/self/fd").unwrap().count(), resident]
}

/// Whether anything is mapped at an address.
fn is_mapped(address: usize) -> bool {
    // SAFETY: asks about a page.
    unsafe { libc::msync((address & !4095) as *mut _, 1, libc::MS_ASYNC) == 0 }
}

/// Fills a heap with blocks of all kinds. Returns where some of them lie.
fn fill(heap: &Heap) -> std::vec::Vec<usize> {
    let mut at = std::vec::Vec::new();
    for size in [10, 1000, 20_000, 100_000, 3 << 20, 5 << 20, 40 << 20] {
        for _ in 0..3 {
            let block = heap.allocate(Layout::from_size_align(size, 8).unwrap()).unwrap();
            // SAFETY: the block is ours.
            unsafe { block.cast::<u8>().write(1) };
            at.push(block.cast::<u8>().addr().get());
        }
    }
    at
}

fn makers() -> [fn() -> Heap; 2] {
    [|| Heap::new().unwrap(), || HeapOptions::new().in_memfd("alone").unwrap()]
}

fn dropped_all_at_once() {
    for make in makers() {
        let heap = make();
        let at = fill(&heap);
        assert!(at.iter().all(|&at| is_mapped(at)));
        drop(heap);
        assert!(at.iter().all(|&at| !is_mapped(at)), "something is still mapped");
    }
}

/// The same beside a thread that has read and reads no more.
fn dropped_beside_a_thread_that_looked() {
    let kept = Heap::new().unwrap();
    std::thread::scope(|scope| {
        let (asks, asked) = std::sync::mpsc::channel::<()>();
        let (looked, has_looked) = std::sync::mpsc::channel();
        let kept = &kept;
        scope.spawn(move || {
            let file = memfd("read", 4096).unwrap();
            // SAFETY: nobody changes the file.
            let region = unsafe { FileRegion::map(&file).unwrap() };
            drop(region.guard().unwrap());
            looked.send(kept.contains(&raw const file)).unwrap();
            asked.recv().unwrap_err();
        });
        assert!(!has_looked.recv().unwrap());
        dropped_all_at_once();
        drop(asks);
    });
}

/// A reader of any region of the process holds up what is unmapped, and the heap's end does not wait for it.
fn dropped_under_a_reader() {
    let file = memfd("read", 4096).unwrap();
    // SAFETY: nobody changes the file.
    let region = unsafe { FileRegion::map(&file).unwrap() };
    for make in makers() {
        let heap = make();
        let at = fill(&heap);
        let guard = region.guard().unwrap();
        drop(heap);
        assert!(at.iter().all(|&at| is_mapped(at)), "unmapped under a reader");
        drop(guard);
        // Whoever maps or unmaps anything next goes on.
        drop(make());
        assert!(at.iter().all(|&at| !is_mapped(at)), "something is still mapped");
    }
}

/// Threads look up addresses in heaps that come and go.
fn dropped_while_others_look() {
    let (kept, stop) = (Heap::new().unwrap(), AtomicBool::new(false));
    let number = allocator_api2::boxed::Box::new_in(1, &kept);
    std::thread::scope(|scope| {
        let (looked, looks) = std::sync::mpsc::channel::<usize>();
        scope.spawn(|| {
            for at in looks {
                if stop.load(Relaxed) {
                    break;
                }
                assert!(!kept.contains(at as *const u8) && kept.contains(&*number));
            }
        });
        for round in 0..500 {
            let heap = makers()[round % 2]();
            let block = heap.allocate(Layout::new::<u64>()).unwrap();
            looked.send(block.cast::<u8>().addr().get()).unwrap();
        }
        stop.store(true, Relaxed);
        drop(looked);
    });
}

fn ten_thousand_leave_nothing() {
    let round = |count: usize| {
        for number in 0..count {
            let heap = makers()[number % 2]();
            let mut numbers = Vec::new_in(&heap);
            numbers.extend(0..1000);
            let _large = heap.allocate(Layout::new::<[u8; 200_000]>()).unwrap();
            if number % 100 == 0 {
                fill(&heap);
            }
        }
    };
    round(200);
    let before = had();
    round(10_000);
    let after = had();
    let grown = |which: usize| after[which].saturating_sub(before[which]);
    assert!(grown(0) <= 2 && grown(1) == 0 && grown(2) < 512, "{before:?} {after:?}");
}

fn thousands_at_once() {
    let before = had();
    let heaps: std::vec::Vec<Heap> = (0..3000).map(|_| Heap::new().unwrap()).collect();
    let numbers: std::vec::Vec<_> =
        heaps.iter().map(|heap| allocator_api2::boxed::Box::new_in(7, heap)).collect();
    assert_eq!(numbers.iter().map(|number| **number).sum::<i32>(), 21_000);
    let each = (had()[2] - before[2]) / heaps.len();
    assert!(each < 64, "{each} KiB for a heap with one block");
    drop(numbers);
    drop(heaps);
    assert!(had()[0] <= before[0] + 2);
}

/// A child of a process whose threads are busy in a heap goes on with it.
fn forked() {
    let (heap, stop) = (Heap::new().unwrap(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for number in 0..3usize {
            let (heap, stop) = (&heap, &stop);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    let mut numbers = Vec::new_in(heap);
                    numbers.extend(0..100 << (number * 3));
                    assert_eq!(numbers.len(), 100 << (number * 3));
                }
            });
        }
        // Also where a check fails: the scope waits for the threads first.
        scopeguard::defer!(stop.store(true, Relaxed));
        for _ in 0..100 {
            // SAFETY: the child uses what the library promises after a fork, and exits.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let at = fill(&heap);
                let mut numbers = Vec::new_in(&heap);
                numbers.extend(0..10_000u64);
                let mut fine = numbers.iter().sum::<u64>() == 49_995_000;
                heap.trim();
                drop(numbers);
                fine &= at.iter().all(|&at| is_mapped(at));
                // SAFETY: the child has one thread, and the heap is not used after this.
                drop(unsafe { std::ptr::read(&heap) });
                fine &= at.iter().all(|&at| !is_mapped(at));
                // SAFETY: ends the child.
                unsafe { libc::_exit(i32::from(!fine)) };
            }
            let mut status = 0;
            // SAFETY: waits for the child.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0);
        }
    });
}

#[test]
fn what_heaps_leave_behind_is_nothing() {
    dropped_all_at_once();
    dropped_beside_a_thread_that_looked();
    dropped_under_a_reader();
    dropped_while_others_look();
    thousands_at_once();
    forked();
    ten_thousand_leave_nothing();
}
