//! Several threads in one heap: each block is one thread's, wherever it was allocated and wherever it is freed.

use allocator_api2::alloc::{Allocator, Layout};
use specmalloc::heaps::{Heap, HeapOptions};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

/// A block on its way to another thread.
struct Sent {
    at: NonNull<u8>,
    layout: Layout,
    usable: usize,
    byte: u8,
}

// SAFETY: blocks of a heap are any thread's to free.
unsafe impl Send for Sent {}

impl Sent {
    fn check(&self) {
        // SAFETY: the block is held, and was written as a whole.
        let bytes = unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.usable) };
        assert!(bytes.iter().all(|&byte| byte == self.byte), "somebody else wrote here");
    }
}

fn storm(heap: &Heap, threads: usize, steps: usize) {
    let live = AtomicUsize::new(0);
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..threads).map(|_| crossbeam_channel::unbounded::<Sent>()).unzip();
    thread::scope(|scope| {
        for (number, receiver) in receivers.into_iter().enumerate() {
            let (senders, live) = (senders.clone(), &live);
            scope.spawn(move || {
                let mut state = number as u64 + 1;
                let mut own = Vec::new();
                let give = |sent: Sent| {
                    sent.check();
                    live.fetch_sub(sent.usable, Relaxed);
                    // SAFETY: the block is the heap's, and nobody uses it any more.
                    unsafe { heap.deallocate(sent.at, sent.layout) };
                };
                for step in 0..steps {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let random = (state >> 33) as usize;
                    let size = match random % 64 {
                        0 => 1 + random % 300_000,
                        1..8 => 1 + random % 20_000,
                        _ => 1 + random % 300,
                    };
                    let layout = Layout::from_size_align(size, 1 << (random % 7)).unwrap();
                    let block = heap.allocate(layout).unwrap();
                    let byte = (number * 31 + step) as u8;
                    // SAFETY: the block is this thread's.
                    unsafe { block.cast::<u8>().write_bytes(byte, block.len()) };
                    live.fetch_add(block.len(), Relaxed);
                    let sent = Sent { at: block.cast(), layout, usable: block.len(), byte };
                    match random % 3 {
                        0 => own.push(sent),
                        _ => senders[random % senders.len()].send(sent).unwrap_or_else(|error| give(error.0)),
                    }
                    while own.len() > 200 {
                        give(own.swap_remove(random % own.len()));
                    }
                    receiver.try_iter().take(3).for_each(give);
                }
                own.into_iter().for_each(give);
                receiver.try_iter().for_each(give);
                drop(senders);
                receiver.iter().for_each(give);
            });
        }
        drop(senders);
    });
    let figures = heap.statistics();
    assert_eq!((figures.live_blocks, figures.live_bytes, live.load(Relaxed)), (0, 0, 0));
    heap.trim();
    assert_eq!(heap.held_bytes(), 0);
}

#[test]
fn blocks_that_go_from_thread_to_thread_keep_what_is_in_them() {
    storm(&Heap::new().unwrap(), 4, 40_000);
    // More than there are places to take blocks in.
    storm(&Heap::new().unwrap(), 20, 4_000);
}

#[test]
fn the_same_in_a_file_in_memory() {
    storm(&HeapOptions::new().in_memfd("storm").unwrap(), 4, 10_000);
}

#[test]
fn what_is_live_is_counted_to_the_byte_while_threads_are_still() {
    let heap = Heap::new().unwrap();
    let sum = AtomicUsize::new(0);
    for round in 1..10usize {
        thread::scope(|scope| {
            for number in 0..4 {
                let (heap, sum) = (&heap, &sum);
                scope.spawn(move || {
                    for size in (1..2000 * round).step_by(97 + number) {
                        let block = heap.allocate(Layout::from_size_align(size, 1).unwrap()).unwrap();
                        sum.fetch_add(block.len(), Relaxed);
                    }
                });
            }
        });
        assert_eq!(heap.statistics().live_bytes, sum.load(Relaxed));
    }
}

#[test]
fn a_thread_past_its_destructors_allocates_and_frees() {
    static HEAP: std::sync::OnceLock<Heap> = std::sync::OnceLock::new();
    struct Late(Option<NonNull<u8>>);
    impl Drop for Late {
        fn drop(&mut self) {
            let (heap, layout) = (HEAP.get().unwrap(), Layout::new::<[u64; 9]>());
            // SAFETY: allocated below, with this layout.
            self.0.take().inspect(|&at| unsafe { heap.deallocate(at, layout) });
            let block = heap.allocate(Layout::new::<[u8; 100_000]>()).unwrap().cast();
            // SAFETY: as above.
            unsafe { heap.deallocate(block, Layout::new::<[u8; 100_000]>()) };
        }
    }
    std::thread_local! { static LATE: std::cell::RefCell<Late> = const { std::cell::RefCell::new(Late(None)) }; }
    let heap = HEAP.get_or_init(|| Heap::new().unwrap());
    for _ in 0..20 {
        thread::spawn(move || {
            LATE.with_borrow_mut(|late| {
                late.0 = Some(heap.allocate(Layout::new::<[u64; 9]>()).unwrap().cast());
            });
        })
        .join()
        .unwrap();
    }
    assert_eq!(heap.statistics().live_blocks, 0);
}

/// What one thread gives back, in whole or in part, is another's at once: runs, and slabs of other sizes.
#[test]
fn runs_and_slabs_go_round_among_threads() {
    // Room for fewer than there are threads that want them.
    let heap = &HeapOptions::new().limit(6 << 16).in_memory().unwrap();
    let [one, three] = [60_000, 180_000].map(|size| Layout::from_size_align(size, 1).unwrap());
    thread::scope(|scope| {
        for number in 1..5usize {
            scope.spawn(move || {
                for round in 0..20_000 {
                    let layout = match (round + number) % 5 {
                        0 => three,
                        1 => one,
                        class => Layout::from_size_align(16 << (class + number), 1).unwrap(),
                    };
                    let Ok(block) = heap.allocate(layout) else { continue };
                    let (mut at, mut its) = (block.cast::<u8>(), layout);
                    let ends = |len: usize| [0, len - 1].map(|index| at.as_ptr().wrapping_add(index));
                    // SAFETY: the block is this thread's, and as long.
                    unsafe {
                        ends(block.len()).iter().for_each(|end| end.write(number as u8));
                        if layout == three && round.is_multiple_of(2) {
                            (at, its) = (heap.shrink(at, three, one).unwrap().cast(), one);
                        }
                        assert_eq!(at.read(), number as u8, "somebody else wrote here");
                        heap.deallocate(at, its);
                    }
                }
            });
        }
    });
    heap.trim();
    assert_eq!((heap.held_bytes(), heap.statistics().live_blocks), (0, 0));
}

/// What is behind a block that has become shorter is another thread's as soon as that may hold more.
#[test]
fn the_end_of_a_run_goes_round_among_threads() {
    let heap = &HeapOptions::new().limit(6 << 16).in_memory().unwrap();
    let [one, three] = [60_000, 180_000].map(|size| Layout::from_size_align(size, 1).unwrap());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                for round in 0..20_000 {
                    let layout = if round % 2 == 0 { three } else { one };
                    let Ok(block) = heap.allocate(layout) else { continue };
                    let mut at = block.cast::<u8>();
                    // SAFETY: the block is the heap's.
                    unsafe {
                        if layout == three {
                            at = heap.shrink(at, three, one).unwrap().cast();
                        }
                        heap.deallocate(at, one);
                    }
                }
            });
        }
    });
    assert_eq!((heap.held_bytes(), heap.statistics().live_blocks), (0, 0));
}

/// A slab that is closed is gone before others have its slices.
#[test]
fn slabs_are_closed_beside_others_that_begin() {
    let heap = &Heap::new().unwrap();
    let stop = &AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..2 {
            scope.spawn(move || {
                for round in 0..40_000 {
                    let layout = Layout::from_size_align(16 << ((round + number) % 12), 1).unwrap();
                    let block = heap.allocate(layout).unwrap();
                    // SAFETY: the block is this thread's.
                    unsafe {
                        block.cast::<u8>().write_bytes(number as u8, layout.size());
                        heap.deallocate(block.cast(), layout);
                    }
                }
                stop.fetch_add(1, Relaxed);
            });
        }
        while stop.load(Relaxed) < 2 {
            heap.trim();
        }
    });
    heap.trim();
    assert_eq!((heap.held_bytes(), heap.statistics().live_blocks), (0, 0));
}

/// Who may hold a slice more finds one free, however many threads take them and give them back.
#[test]
fn what_is_free_is_found() {
    // As many as an area has that is mapped first.
    let heap = &HeapOptions::new().limit(62 << 16).in_memory().unwrap();
    let mapped = heap.statistics().mapped_bytes;
    let layout = Layout::from_size_align(60_000, 1).unwrap();
    thread::scope(|scope| {
        for number in 1..5usize {
            scope.spawn(move || {
                let mut held = Vec::new();
                for round in 0..20_000 {
                    match heap.allocate(layout) {
                        Ok(block) => held.push(block),
                        Err(_) => {
                            for block in held.drain(..held.len().min(1 + round % number)) {
                                // SAFETY: allocated above.
                                unsafe { heap.deallocate(block.cast(), layout) };
                            }
                        }
                    }
                }
                for block in held {
                    // SAFETY: as above.
                    unsafe { heap.deallocate(block.cast(), layout) };
                }
            });
        }
    });
    assert_eq!((heap.held_bytes(), heap.statistics().mapped_bytes), (0, mapped));
}

/// In an area that was found full, too, what is given back is found.
#[test]
fn what_is_given_back_where_nothing_was_is_found() {
    let heap = Heap::new().unwrap();
    let layout = Layout::from_size_align(60_000, 1).unwrap();
    // The first area, and one of another.
    let blocks: Vec<_> = (0..63).map(|_| heap.allocate(layout).unwrap()).collect();
    let mapped = heap.statistics().mapped_bytes;
    // SAFETY: allocated above.
    unsafe { heap.deallocate(blocks[17].cast(), layout) };
    heap.set_limit((62 + 504) << 16);
    while heap.allocate(layout).is_ok() {}
    let figures = heap.statistics();
    assert_eq!((figures.live_blocks, figures.mapped_bytes), (62 + 504, mapped));
}

/// While pages of what is free go back nobody can have them; afterwards whoever wants them can.
#[test]
fn what_was_trimmed_is_found() {
    let layout = Layout::from_size_align(60_000, 1).unwrap();
    for _ in 0..20 {
        let heap = &Heap::new().unwrap();
        let take = || {
            let block = heap.allocate(layout).unwrap().cast::<u8>();
            // SAFETY: the block is this thread's.
            unsafe { block.write_bytes(1, layout.size()) };
            block
        };
        // All of the area that is mapped first.
        let all: Vec<_> = (0..62).map(|_| take()).collect();
        let first = heap.statistics().mapped_bytes;
        // SAFETY: allocated above.
        all.into_iter().for_each(|block| unsafe { heap.deallocate(block, layout) });
        let trims = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while trims.load(Relaxed) == 0 {
                    std::hint::spin_loop();
                }
                (0..8).for_each(|_| _ = take());
            });
            trims.store(1, Relaxed);
            heap.trim();
        });
        // Where another area was mapped meanwhile there is room for so many more.
        let mapped = heap.statistics().mapped_bytes;
        let room = if mapped == first { 62 } else { 62 + 504 };
        heap.set_limit(room << 16);
        while heap.allocate(layout).is_ok() {}
        let figures = heap.statistics();
        assert_eq!((figures.live_blocks, figures.mapped_bytes), (room, mapped));
    }
}

/// While what was in a huge block goes back to the system nobody else has its memory.
#[test]
fn huge_blocks_go_round_among_threads() {
    let heap = &Heap::new().unwrap();
    let layout = Layout::from_size_align(5 << 20, 1).unwrap();
    thread::scope(|scope| {
        for number in 128..132 {
            scope.spawn(move || {
                for _ in 0..60 {
                    let at = heap.allocate(layout).unwrap().cast::<u8>();
                    let pages = || (0..5 << 20).step_by(4096).map(|page| at.as_ptr().wrapping_add(page));
                    // SAFETY: the block is this thread's, and as long.
                    unsafe {
                        pages().for_each(|page| page.write(number));
                        assert!(pages().all(|page| page.read() == number), "somebody else took it away");
                        heap.deallocate(at, layout);
                    }
                }
            });
        }
    });
    assert_eq!(heap.held_bytes(), 0);
}
