//! How much a heap may hold, and what is asked when it would hold more.

use allocator_api2::alloc::{Allocator, Layout};
use allocator_api2::vec::Vec;
use specmalloc::heaps::{Heap, HeapOptions, LimitReached};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 1).unwrap()
}

#[test]
fn a_heap_never_holds_more_than_it_may() {
    for size in [24, 1000, 50_000, 6 << 20] {
        let limit = 20 << 20;
        let heap = HeapOptions::new().limit(limit).in_memory().unwrap();
        let blocks = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while heap.allocate(layout(size)).is_ok() {
                        blocks.fetch_add(1, Relaxed);
                        assert!(heap.held_bytes() <= limit);
                    }
                });
            }
        });
        let figures = heap.statistics();
        assert_eq!(figures.live_blocks, blocks.load(Relaxed), "{size}");
        // All of it was had, but for what slabs and runs are longer than blocks, and a last slab for each thread.
        assert!(figures.live_bytes > limit * 8 / 10, "{size}: {figures:?}");
    }
}

#[test]
fn what_becomes_free_serves_blocks_of_other_sizes() {
    let heap = HeapOptions::new().limit(4 << 20).in_memory().unwrap();
    for size in [16, 100_000, 700, 30_000, 3 << 20, 64] {
        let mut blocks = std::vec::Vec::new();
        while let Ok(block) = heap.allocate(layout(size)) {
            blocks.push(block);
        }
        assert!(blocks.len() * size > 2 << 20, "{size}: {}", blocks.len());
        for block in blocks {
            // SAFETY: allocated above.
            unsafe { heap.deallocate(block.cast(), layout(size)) };
        }
    }
}

#[test]
fn who_is_asked_may_make_room() {
    let kept = Arc::new(Mutex::new(std::vec::Vec::<usize>::new()));
    let seen = Arc::new(Mutex::new(std::vec::Vec::<LimitReached>::new()));
    let asked = (kept.clone(), seen.clone());
    let heap = HeapOptions::new().limit(1 << 20).on_limit(move |heap, reached| {
        let (kept, seen) = &asked;
        seen.lock().unwrap().push(*reached);
        // Nested, and refused: nobody is asked again.
        assert!(heap.allocate(layout(2 << 20)).is_err());
        let Some(at) = kept.lock().unwrap().pop() else { return false };
        let at = std::ptr::NonNull::new(std::ptr::with_exposed_provenance_mut(at)).unwrap();
        // SAFETY: allocated below.
        unsafe { heap.deallocate(at, layout(256 << 10)) };
        true
    });
    let heap = heap.in_memory().unwrap();
    for _ in 0..4 {
        let block = heap.allocate(layout(256 << 10)).unwrap();
        kept.lock().unwrap().push(block.cast::<u8>().as_ptr().expose_provenance());
    }
    let large = heap.allocate(layout(700 << 10)).unwrap();
    assert_eq!(kept.lock().unwrap().len(), 1);
    let first = seen.lock().unwrap()[0];
    assert_eq!(first, LimitReached { wanted: 704 << 10, held: 1 << 20, limit: 1 << 20 });
    // SAFETY: allocated above.
    unsafe { heap.deallocate(large.cast(), layout(700 << 10)) };
    assert!(heap.allocate(layout(2 << 20)).is_err(), "it may say no");
}

#[test]
fn a_limit_can_be_changed_at_any_time() {
    let heap = Heap::new().unwrap();
    assert_eq!(heap.limit(), usize::MAX);
    let mut bytes: Vec<u8, _> = Vec::new_in(&heap);
    bytes.try_reserve_exact(8 << 20).unwrap();
    heap.set_limit(1 << 20);
    assert!(heap.allocate(layout(100)).is_err() && heap.limit() == 1 << 20);
    drop(bytes);
    assert!(heap.allocate(layout(100)).is_ok());
}

#[test]
fn what_blocks_are_taken_from_is_given_up_for_others() {
    let (small, all) = (layout(1000), layout(3 << 20));
    let heap = HeapOptions::new().limit(all.size()).in_memory().unwrap();
    let block = heap.allocate(small).unwrap();
    // SAFETY: allocated above.
    unsafe { heap.deallocate(block.cast(), small) };
    assert!(heap.held_bytes() > 0 && heap.allocate(all).is_ok());
}

#[test]
fn a_block_that_another_thread_left_free_serves_where_there_is_no_more() {
    let small = layout(1000);
    let heap = HeapOptions::new().in_memory().unwrap();
    thread::scope(|scope| _ = scope.spawn(|| _ = heap.allocate(small).unwrap()));
    heap.set_limit(heap.held_bytes());
    assert!(heap.allocate(small).is_ok());
}

/// What is held is what huge blocks have, however they came to be that long; and who is refused has nothing.
#[test]
fn huge_blocks_count_as_long_as_they_are() {
    let [short, long] = [5 << 20, 9 << 20].map(layout);
    let heap = HeapOptions::new().limit(10 << 20).in_memory().unwrap();
    let block = heap.allocate(long).unwrap();
    assert!(heap.allocate(short).is_err() && heap.held_bytes() == long.size());
    // SAFETY: the block is the heap's.
    let block = unsafe { heap.shrink(block.cast(), long, short).unwrap() };
    assert_eq!((block.len(), heap.held_bytes()), (short.size(), short.size()));
    let other = heap.allocate(short).unwrap();
    assert_eq!(heap.held_bytes(), 10 << 20);
    // SAFETY: allocated above.
    unsafe { heap.deallocate(other.cast(), short) };
    // What waits for a block waits on while none may be had.
    heap.set_limit(short.size());
    assert!(heap.allocate(short).is_err());
    heap.set_limit(10 << 20);
    let mapped = heap.statistics().mapped_bytes;
    assert_eq!((heap.allocate(short).unwrap(), heap.statistics().mapped_bytes), (other, mapped));
    // SAFETY: allocated above.
    unsafe { heap.deallocate(block.cast(), short) };
    assert_eq!(heap.held_bytes(), short.size());
}

/// Who may not grow leaves what lies behind to others, and may grow later.
#[test]
fn a_run_that_was_refused_more_has_no_more() {
    let [one, two] = [60_000, 130_000].map(layout);
    let heap = HeapOptions::new().limit(1 << 16).in_memory().unwrap();
    let block = heap.allocate(one).unwrap().cast();
    // SAFETY: the block is the heap's.
    unsafe {
        assert!(heap.grow(block, one, two).is_err());
        heap.set_limit(3 << 16);
        assert_eq!(heap.grow(block, one, two).unwrap().cast(), block);
    }
}

#[test]
fn a_block_that_cannot_move_to_shrink_stays_as_it_is() {
    let (large, small) = (layout(1 << 20), layout(100));
    let heap = HeapOptions::new().limit(1 << 20).in_memory().unwrap();
    let block = heap.allocate(large).unwrap();
    // SAFETY: the block is the heap's.
    let shrunk = unsafe { heap.shrink(block.cast(), large, small).unwrap() };
    assert_eq!(shrunk, block);
}
