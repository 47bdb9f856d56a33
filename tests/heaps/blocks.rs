//! What a heap hands out: disjoint, aligned, as long as asked, zero where that is asked for, and counted.

use allocator_api2::alloc::{Allocator, Layout};
use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use proptest::prelude::*;
use specmalloc::heaps::Heap;
use std::ptr::NonNull;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// A block, the layout that it goes back with, and the byte that it is full of.
struct Held {
    at: NonNull<u8>,
    layout: Layout,
    usable: usize,
    byte: u8,
}

impl Held {
    fn new(block: NonNull<[u8]>, layout: Layout, byte: u8) -> Held {
        let at = block.cast::<u8>();
        assert!(block.len() >= layout.size() && at.addr().get().is_multiple_of(layout.align()), "{layout:?}");
        // All that was handed out may be used; of long blocks the ends are enough.
        let held = Held { at, layout, usable: block.len(), byte };
        held.ends().for_each(|index| held.write(index));
        held
    }

    /// Some bytes of it: all of a short block, of a long one one here and there, and the last.
    fn ends(&self) -> impl Iterator<Item = usize> + use<> {
        let step = if self.usable < 1 << 16 { 1 } else { 4093 };
        (0..self.usable).step_by(step).chain(self.usable.checked_sub(1))
    }

    fn write(&self, index: usize) {
        // SAFETY: the block is held, and longer than that.
        unsafe { self.at.add(index).write(self.byte) };
    }

    fn check(&self, upto: usize) {
        for index in self.ends().filter(|&index| index < upto) {
            // SAFETY: as above; it was written.
            assert_eq!(unsafe { self.at.add(index).read() }, self.byte, "byte {index} of {:?}", self.layout);
        }
    }
}

/// Whether all of it is zero. Quick also without optimisation.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|&first| first == 0 && bytes[1..] == bytes[..bytes.len() - 1])
}

fn give(heap: &Heap, held: Held) {
    held.check(held.usable);
    // SAFETY: the block is the heap's, and not used any more.
    unsafe { heap.deallocate(held.at, held.layout) };
}

#[test]
fn blocks_of_every_size_and_alignment_are_what_was_asked_for() {
    let heap = Heap::new().unwrap();
    let mut held = std::vec::Vec::new();
    for shift in 0..=25 {
        let align = 1usize << shift;
        for size in [1, 7, 16, 100, 1000, 5000, 32 << 10, 40_000, 1 << 20, 5 << 20] {
            let layout = layout(size, align);
            held.push(Held::new(heap.allocate(layout).unwrap(), layout, held.len() as u8));
        }
    }
    let figures = heap.statistics();
    assert_eq!(figures.live_blocks, held.len());
    assert_eq!(figures.live_bytes, held.iter().map(|held| held.usable).sum::<usize>());
    assert!(figures.held_bytes >= figures.live_bytes && figures.mapped_bytes >= figures.held_bytes);
    held.into_iter().for_each(|held| give(&heap, held));
    let figures = heap.statistics();
    assert_eq!((figures.live_blocks, figures.live_bytes), (0, 0));
    heap.trim();
    assert_eq!(heap.held_bytes(), 0);
}

#[test]
fn hundreds_of_megabytes_and_nothing_at_all() {
    let heap = Heap::new().unwrap();
    let large = layout(600 << 20, 4096);
    let block = Held::new(heap.allocate(large).unwrap(), large, 7);
    assert_eq!(heap.statistics().live_bytes, 600 << 20);
    give(&heap, block);
    let nothing = heap.allocate(layout(0, 64)).unwrap();
    assert!(nothing.is_empty() && nothing.cast::<u8>().addr().get().is_multiple_of(64));
    // SAFETY: as it was allocated.
    unsafe {
        let some = heap.grow(nothing.cast(), layout(0, 64), layout(100, 64)).unwrap();
        assert_eq!(heap.statistics().live_blocks, 1);
        let nothing = heap.shrink(some.cast(), layout(100, 64), layout(0, 1)).unwrap();
        heap.deallocate(nothing.cast(), layout(0, 1));
    }
    assert_eq!(heap.statistics().live_blocks, 0);
    assert!(heap.allocate(layout(isize::MAX as usize - 4096, 1)).is_err());
}

#[test]
fn nothing_takes_nothing() {
    let heap = Heap::new().unwrap();
    for align in [1, 4096] {
        assert_eq!(heap.allocate(layout(0, align)).unwrap().len(), 0);
        assert_eq!(heap.allocate_zeroed(layout(0, align)).unwrap().len(), 0);
    }
    assert_eq!((heap.statistics().live_blocks, heap.held_bytes()), (0, 0));
}

/// A heap goes at once; one that goes while somebody is inside a section, with the next one that is made. In a child,
/// where nobody else maps anything.
#[test]
fn memory_goes_with_its_heap_or_with_the_next_that_is_made() {
    let file = specmalloc::files::memfd("read", 4096).unwrap();
    // SAFETY: nobody changes the file.
    let file = unsafe { specmalloc::files::FileRegion::map(&file).unwrap() };
    // SAFETY: the child uses what the library promises after a fork, and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let make = || {
            let heap = Heap::new().unwrap();
            let at = heap.allocate(layout(1 << 20, 1 << 16)).unwrap().cast::<u8>();
            // SAFETY: the block is the heap's.
            unsafe { at.write(7) };
            (heap, at)
        };
        // SAFETY: a look at pages that may not be there.
        let is_there = |at: NonNull<u8>| unsafe {
            libc::msync(at.as_ptr().cast(), 4096, libc::MS_ASYNC) == 0 && at.read() == 7
        };
        let (heap, at) = make();
        drop(heap);
        let mut is_fine = !is_there(at);
        let (heap, at) = make();
        let guard = file.guard().unwrap();
        drop(heap);
        is_fine &= is_there(at);
        drop(guard);
        is_fine &= is_there(at);
        let _next = Heap::new().unwrap();
        is_fine &= !is_there(at);
        // What another thread has held up goes with the next that goes, and that itself.
        let [(first, first_at), (second, second_at)] = [make(), make()];
        let door = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let guard = file.guard().unwrap();
                door.wait();
                door.wait();
                drop(guard);
                door.wait();
                // It ends after all of that: its end would give memory back, too.
                door.wait();
            });
            door.wait();
            drop(first);
            is_fine &= is_there(first_at);
            door.wait();
            door.wait();
            drop(second);
            // The helper, which this thread's partner has brought up, may be a reader at that moment, or be at it itself.
            let mut tries = 0;
            while (is_there(first_at) || is_there(second_at)) && tries < 1_000 {
                std::thread::sleep(std::time::Duration::from_millis(1));
                drop(Heap::new());
                tries += 1;
            }
            is_fine &= tries < 1_000;
            door.wait();
        });
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!is_fine)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
}

/// Threads take blocks in places of their own, and each always in the same.
#[test]
fn a_thread_fills_one_slab_after_the_other() {
    let heap = Heap::new().unwrap();
    for _ in 0..64 {
        heap.allocate(layout(16, 1)).unwrap();
    }
    assert_eq!(heap.held_bytes(), 64 << 10);
}

#[test]
fn what_is_given_back_is_counted_for_the_process() {
    let heap = Heap::new().unwrap();
    for size in [1 << 20, 9 << 20] {
        let block = heap.allocate(layout(size, 1)).unwrap();
        let before = crate::ALLOC.statistics().purged_bytes;
        // SAFETY: allocated above.
        unsafe { heap.deallocate(block.cast(), layout(size, 1)) };
        heap.trim();
        assert!(crate::ALLOC.statistics().purged_bytes >= before + size as u64);
    }
}

#[test]
fn zeroed_blocks_are_zero_whatever_was_there_before() {
    let heap = Heap::new().unwrap();
    for size in [10, 1000, 30_000, 100_000, 3 << 20, 20 << 20] {
        for _ in 0..3 {
            let layout = layout(size, 1);
            let block = heap.allocate_zeroed(layout).unwrap();
            // SAFETY: the block is as long as it says, and initialised.
            let bytes = unsafe { block.as_ref() };
            assert!(is_zero(bytes), "{size}");
            give(&heap, Held { at: block.cast(), layout, usable: 0, byte: 0 });
            let dirty = Held::new(heap.allocate(layout).unwrap(), layout, 0xff);
            give(&heap, dirty);
        }
    }
}

/// Faults of this thread so far.
fn faults() -> i64 {
    // SAFETY: the call fills the structure.
    unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
        usage.ru_minflt
    }
}

#[test]
fn fresh_memory_is_not_written_to_be_zero() {
    let heap = Heap::new().unwrap();
    heap.allocate(layout(1, 1)).unwrap();
    for size in [1 << 20, 64 << 20] {
        let before = faults();
        let block = heap.allocate_zeroed(layout(size, 1)).unwrap();
        assert!(faults() - before < 16, "{size}: {} faults", faults() - before);
        // SAFETY: the block is held, and zero.
        assert_eq!(unsafe { block.cast::<u8>().add(size / 2).read() }, 0);
    }
}

#[test]
fn blocks_grow_and_shrink_where_they_are() {
    let heap = Heap::new().unwrap();
    for (from, to) in [(20, 30), (70_000, 130_000), (100_000, 3 << 20), (10 << 20, 19 << 20)] {
        let (small, large) = (layout(from, 8), layout(to, 8));
        let held = Held::new(heap.allocate(small).unwrap(), small, 3);
        // SAFETY: the block is the heap's, and goes on in what is returned.
        let grown = unsafe { heap.grow_zeroed(held.at, small, large).unwrap() };
        assert_eq!(grown.cast(), held.at, "{from} to {to}");
        held.check(from);
        // SAFETY: zero, or as it was.
        let bytes = unsafe { grown.as_ref() };
        assert!(is_zero(&bytes[held.usable.max(from)..]));
        Held::new(grown, large, 3);
        // SAFETY: as above.
        let shrunk = unsafe { heap.shrink(held.at, large, small).unwrap() };
        assert_eq!((shrunk.cast(), shrunk.len()), (held.at, held.usable), "{to} to {from}");
        held.check(from);
        assert_eq!(heap.statistics().live_bytes, held.usable);
        // And what was given up is zero again, or written to be.
        // SAFETY: as above.
        let again = unsafe { heap.grow_zeroed(held.at, small, large).unwrap() };
        // SAFETY: as above.
        assert!(is_zero(&unsafe { again.as_ref() }[held.usable..]));
        // SAFETY: as above.
        unsafe { heap.deallocate(again.cast(), large) };
    }
    assert_eq!(heap.statistics().live_blocks, 0);
}

#[test]
fn a_block_that_has_to_lie_better_moves() {
    let heap = Heap::new().unwrap();
    let (before, after) = (layout(100, 1), layout(200, 1 << 21));
    let held = Held::new(heap.allocate(before).unwrap(), before, 9);
    // SAFETY: the block is the heap's.
    let moved = unsafe { heap.grow(held.at, before, after).unwrap() };
    let moved = Held { at: moved.cast(), layout: after, usable: 100, byte: 9 };
    assert!(moved.at.addr().get().is_multiple_of(1 << 21));
    give(&heap, moved);
    let (before, after) = (layout(10 << 20, 1), layout(100, 1 << 12));
    let held = Held::new(heap.allocate(before).unwrap(), before, 9);
    // SAFETY: as above.
    let moved = unsafe { heap.shrink(held.at, before, after).unwrap() };
    give(&heap, Held { at: moved.cast(), layout: after, usable: 1, byte: 9 });
    assert_eq!(heap.statistics().live_blocks, 0);
}

#[test]
fn collections_live_in_it() {
    let heap = Heap::new().unwrap();
    let mut map = hashbrown::HashMap::<u64, Vec<u8, &Heap>, _, &Heap>::new_in(&heap);
    for key in 0..20_000u64 {
        let mut value = Vec::new_in(&heap);
        value.extend_from_slice(&key.to_le_bytes());
        map.insert(key, value);
    }
    map.retain(|key, _| key % 3 == 0);
    for (key, value) in &map {
        assert_eq!(value.as_slice(), key.to_le_bytes());
        assert!(heap.contains(value.as_ptr()));
    }
    assert!(heap.statistics().live_blocks > map.len());
    drop(map);
    let value = Box::new_in([1u64; 100], &heap);
    assert_eq!((value.iter().sum::<u64>(), heap.statistics().live_blocks), (100, 1));
    drop(value);
    // A collection may own its heap, too.
    let mut owns = Vec::new_in(Heap::new().unwrap());
    owns.extend(0..1000);
    assert_eq!(owns.iter().sum::<i32>(), 499_500);
}

#[derive(Clone, Debug)]
enum Step {
    Take { size: usize, align: usize, zeroed: bool },
    Give(usize),
    Resize { which: usize, size: usize, zeroed: bool },
    Trim,
}

fn steps() -> impl Strategy<Value = std::vec::Vec<Step>> {
    let size =
        || prop_oneof![4 => 1..200usize, 3 => 1..40_000usize, 2 => 1..600_000usize, 1 => 1..9_000_000usize];
    let take = (size(), 0..23u32, any::<bool>()).prop_map(|(size, shift, zeroed)| Step::Take {
        size,
        align: 1 << shift.saturating_sub(6),
        zeroed,
    });
    let resize = (any::<usize>(), size(), any::<bool>()).prop_map(|(which, size, zeroed)| Step::Resize {
        which,
        size,
        zeroed,
    });
    let step =
        prop_oneof![5 => take, 4 => any::<usize>().prop_map(Step::Give), 3 => resize, 1 => Just(Step::Trim)];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn whatever_is_done_every_block_keeps_its_contents_and_is_counted(steps in steps()) {
        let heap = Heap::new().unwrap();
        let mut held: std::vec::Vec<Held> = std::vec::Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Take { size, align, zeroed } => {
                    let layout = layout(size, align);
                    let block = if zeroed { heap.allocate_zeroed(layout) } else { heap.allocate(layout) };
                    let block = block.unwrap();
                    // SAFETY: zero, all of it.
                    assert!(!zeroed || is_zero(unsafe { block.as_ref() }));
                    held.push(Held::new(block, layout, number as u8 | 1));
                }
                Step::Give(which) if !held.is_empty() => {
                    let which = which % held.len();
                    give(&heap, held.swap_remove(which));
                }
                Step::Resize { which, size, zeroed } if !held.is_empty() => {
                    let which = which % held.len();
                    let old = held.swap_remove(which);
                    old.check(old.usable);
                    let new = layout(size, old.layout.align());
                    // SAFETY: the block is the heap's.
                    let block = unsafe {
                        if size < old.layout.size() {
                            heap.shrink(old.at, old.layout, new)
                        } else if zeroed {
                            heap.grow_zeroed(old.at, old.layout, new)
                        } else {
                            heap.grow(old.at, old.layout, new)
                        }
                    };
                    let block = block.unwrap();
                    let kept = Held { at: block.cast(), layout: new, usable: old.usable, byte: old.byte };
                    kept.check(size.min(old.layout.size()));
                    if zeroed && size >= old.layout.size() {
                        // SAFETY: kept, or zero.
                        let bytes = unsafe { block.as_ref() };
                                                assert!(is_zero(&bytes[old.usable.min(bytes.len())..]));
                    }
                    held.push(Held::new(block, new, number as u8 | 1));
                }
                Step::Trim => _ = heap.trim(),
                Step::Give(_) | Step::Resize { .. } => {}
            }
        }
        let figures = heap.statistics();
        prop_assert_eq!(figures.live_blocks, held.len());
        prop_assert_eq!(figures.live_bytes, held.iter().map(|held| held.usable).sum::<usize>());
        held.into_iter().for_each(|held| give(&heap, held));
        heap.trim();
        prop_assert_eq!(heap.held_bytes(), 0);
    }
}

/// A block of the bytes that it is long.
fn get(heap: &Heap, layout: Layout) -> NonNull<u8> {
    heap.allocate(layout).unwrap().cast()
}

#[test]
fn a_block_that_lies_badly_moves_though_it_is_long_enough() {
    let heap = Heap::new().unwrap();
    for (size, align) in [(100, 1 << 12), (5 << 20, 1 << 30)] {
        for _ in 0..4 {
            let (before, after) = (layout(size, 1), layout(size + 1, align));
            let at = get(&heap, before);
            // SAFETY: the block is the heap's.
            let grown = unsafe { heap.grow(at, before, after).unwrap() };
            assert!(grown.cast::<u8>().addr().get().is_multiple_of(align), "{grown:?}");
        }
    }
}

#[test]
fn what_waits_for_the_next_huge_block_serves_one_that_it_suits() {
    let heap = Heap::new().unwrap();
    let (small, large) = (layout(5 << 20, 1), layout(600 << 20, 1));
    let give = |at, layout| {
        // SAFETY: the block is the heap's, and used no more.
        unsafe { heap.deallocate(at, layout) };
    };
    for at in [(); 4].map(|()| get(&heap, small)) {
        give(at, small);
    }
    // One that comes and goes is served again and again.
    for size in [5 << 20, 9 << 20, 20 << 20, 40 << 20] {
        give(get(&heap, layout(size, 1)), layout(size, 1));
        let before = heap.statistics().mapped_bytes;
        give(get(&heap, layout(size, 1)), layout(size, 1));
        assert_eq!(heap.statistics().mapped_bytes, before, "{size}");
    }
    let aligned = layout(5 << 20, 1 << 30);
    assert!(get(&heap, aligned).addr().get().is_multiple_of(1 << 30));
    // What is much longer stays for those that need it.
    give(get(&heap, large), large);
    let blocks = [(); 8].map(|()| get(&heap, small));
    let before = heap.statistics().mapped_bytes;
    give(get(&heap, large), large);
    assert_eq!(heap.statistics().mapped_bytes, before);
    blocks.into_iter().for_each(|at| give(at, small));
}

/// That no run is left that lies as one request asks says nothing of others.
#[test]
fn an_area_without_a_run_that_lies_well_has_room_for_others() {
    let heap = Heap::new().unwrap();
    let (block, aligned) = (layout(1 << 20, 1), layout(1 << 20, 2 << 20));
    let mapped = || heap.statistics().mapped_bytes;
    let first = mapped();
    while mapped() == first {
        get(&heap, aligned);
    }
    let both = mapped();
    let mut held = 0;
    while mapped() == both {
        held = heap.held_bytes();
        get(&heap, block);
    }
    assert!(held + (4 << 20) > both, "{held} of {both}");
}
