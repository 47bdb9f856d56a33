//! What becomes free in a heap goes back to the system by itself, by what is resident.

use allocator_api2::alloc::{Allocator, Layout};
use specmalloc::heaps::{Heap, HeapOptions};
use std::collections::HashSet;
use std::ptr::NonNull;
use std::thread;

const MIB: usize = 1 << 20;
/// What stays at most, if little is live: what a heap keeps by default, the slabs that blocks are taken from (a few for
/// each class), and its records.
const REST: usize = 7 * MIB;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

/// Allocates `bytes` in blocks of these sizes by turns, and writes to all of them.
fn fill(heap: &Heap, bytes: usize, sizes: &[usize]) -> Vec<(usize, usize)> {
    let mut blocks = Vec::new();
    let mut left = bytes as isize;
    for &size in sizes.iter().cycle() {
        if left <= 0 {
            break;
        }
        left -= size as isize;
        let block = heap.allocate(layout(size)).unwrap().cast::<u8>();
        // SAFETY: the block is ours.
        unsafe { block.write_bytes(7, size) };
        blocks.push((block.as_ptr().expose_provenance(), size));
    }
    blocks
}

fn free(heap: &Heap, blocks: impl IntoIterator<Item = (usize, usize)>) {
    for (at, size) in blocks {
        let block = NonNull::new(std::ptr::with_exposed_provenance_mut(at)).unwrap();
        // SAFETY: allocated by `fill`.
        unsafe { heap.deallocate(block, layout(size)) };
    }
}

/// Resident bytes of the pages in the granules (32 MiB) that these blocks lie in, where they lie in `heap`.
fn resident(heap: &Heap, blocks: &[(usize, usize)]) -> usize {
    const GRANULE: usize = 32 * MIB;
    let granules: HashSet<usize> = blocks.iter().map(|&(at, _)| at / GRANULE * GRANULE).collect();
    let mut pages = 0;
    for granule in granules {
        let mut present = vec![0_u8; GRANULE / 4096];
        let inside = |page: &usize| heap.contains((granule + page * 4096) as *const u8);
        let mapped: Vec<usize> = (0..present.len()).filter(inside).collect();
        let (Some(&first), Some(&last)) = (mapped.first(), mapped.last()) else { continue };
        let at = (granule + first * 4096) as *mut libc::c_void;
        // SAFETY: asks about memory of the heap's, and writes a byte for each page.
        let result = unsafe { libc::mincore(at, (last + 1 - first) * 4096, present.as_mut_ptr()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        pages += present.iter().filter(|&&byte| byte & 1 == 1).count();
    }
    pages * 4096
}

fn heaps() -> [Heap; 2] {
    [Heap::new().unwrap(), HeapOptions::new().in_memfd("giving back").unwrap()]
}

const SIZES: [&[usize]; 4] =
    [&[64], &[16, 200, 1000, 5000, 20_000], &[100_000, 33_000, 700_000, 2_000_000], &[100, 300_000]];

#[test]
fn what_is_freed_does_not_stay_resident() {
    for (heap, sizes) in heaps().iter().flat_map(|heap| SIZES.map(|sizes| (heap, sizes))) {
        let blocks = fill(heap, 50 * MIB, sizes);
        assert!(resident(heap, &blocks) >= 50 * MIB, "{sizes:?}: what was written to is resident");
        free(heap, blocks.iter().copied());
        let (rest, figures) = (resident(heap, &blocks), heap.statistics());
        assert_eq!(figures.live_blocks, 0);
        assert!(rest <= REST, "{sizes:?}: {rest} bytes are resident: {figures:?}");
        assert!(figures.held_bytes + figures.dirty_bytes <= REST, "{sizes:?}: {figures:?}");
    }
}

/// One block in fifty stays, all of them side by side: the others' slabs are free.
#[test]
fn what_little_is_live_keeps_little() {
    for heap in heaps() {
        let blocks = fill(&heap, 51 * MIB, &[48, 100, 400, 2000]);
        let kept = blocks.len() / 50;
        // (In the order of a program that frees at random: the numbers times a prime.)
        let count = blocks.len() - kept;
        free(&heap, (0..count).map(|number| blocks[kept + number * 7919 % count]));
        let (rest, figures) = (resident(&heap, &blocks), heap.statistics());
        assert_eq!(figures.live_blocks, kept);
        assert!(
            figures.live_bytes <= 2 * MIB && rest <= figures.live_bytes + REST,
            "{rest} resident: {figures:?}"
        );
    }
}

#[test]
fn threads_that_free_give_back() {
    let heap = Heap::new().unwrap();
    let all: Vec<_> = thread::scope(|scope| {
        let threads = [SIZES[0], SIZES[1], SIZES[1], SIZES[3]].map(|sizes| {
            let heap = &heap;
            scope.spawn(move || {
                let mut all = Vec::new();
                for _ in 0..3 {
                    let blocks = fill(heap, 20 * MIB, sizes);
                    free(heap, blocks.iter().copied());
                    all.extend(blocks);
                }
                all
            })
        });
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let (rest, figures) = (resident(&heap, &all), heap.statistics());
    assert_eq!(figures.live_blocks, 0);
    // (Four threads have their slabs.)
    assert!(rest <= 2 * REST, "{rest} resident: {figures:?}");
    assert!(heap.trim() >= figures.dirty_bytes);
    assert_eq!((heap.statistics().dirty_bytes, heap.held_bytes()), (0, 0));
}

/// What may stay does: blocks that come and go fault once.
#[test]
fn what_may_stay_stays() {
    for (heap, size, count) in [
        (Heap::new().unwrap(), 64, 30_000),
        (Heap::new().unwrap(), 300_000, 12),
        (HeapOptions::new().dirty_max(64 * MIB).in_memory().unwrap(), 3_000_000, 15),
        (HeapOptions::new().dirty_max(usize::MAX).in_memory().unwrap(), 20_000, 2000),
    ] {
        let round = || {
            let blocks = fill(&heap, size * count, &[size]);
            free(&heap, blocks.iter().copied());
            resident(&heap, &blocks)
        };
        let before = round();
        assert!(before >= size * count * 9 / 10, "{size}: {before} bytes stayed");
        assert!((0..10).all(|_| round() >= before * 9 / 10), "{size}");
    }
    let keeps_nothing = HeapOptions::new().dirty_max(0).in_memory().unwrap();
    let blocks = fill(&keeps_nothing, 20 * MIB, SIZES[3]);
    free(&keeps_nothing, blocks.iter().copied());
    let rest = resident(&keeps_nothing, &blocks);
    assert!(rest <= MIB, "{rest} bytes stayed");
}

/// What one call frees is looked at in that call, whatever makes it free.
#[test]
fn what_keeps_nothing_gives_back_in_the_call_that_frees() {
    let heap = HeapOptions::new().dirty_max(0).in_memory().unwrap();
    let dirty = || heap.statistics().dirty_bytes;
    // The end of a large block that becomes shorter. (Half of an eighth of what is held stays.)
    let large = fill(&heap, 3 * MIB, &[3 * MIB]);
    let block = NonNull::new(std::ptr::with_exposed_provenance_mut(large[0].0)).unwrap();
    // SAFETY: allocated by `fill`.
    let shorter = unsafe { heap.shrink(block, layout(3 * MIB), layout(MIB)) }.unwrap().cast::<u8>();
    assert!(shorter == block && dirty() <= MIB / 16, "{} bytes stayed", dirty());
    // The rest of it.
    free(&heap, [(large[0].0, MIB)]);
    assert_eq!((dirty(), heap.held_bytes()), (0, 0));
    // Slabs that blocks are taken from, and that have none.
    let small = fill(&heap, 100_000, &[16, 200, 1000, 5000, 20_000]);
    free(&heap, small.iter().copied());
    let large = fill(&heap, 3 * MIB, &[3 * MIB]);
    free(&heap, large.iter().copied());
    assert_eq!((dirty(), heap.held_bytes()), (0, 0));
    // A slab whose last block is freed, in the call that frees that.
    let small = fill(&heap, 600_000, &[20_000]);
    let held = heap.held_bytes();
    let last = (1..=small.len()).find(|&count| {
        free(&heap, [small[count - 1]]);
        heap.held_bytes() < held
    });
    let slab = held - heap.held_bytes();
    assert!(last.is_some_and(|count| count * 20_000 <= slab), "{last:?} blocks of a slab of {slab}");
    free(&heap, small[last.unwrap()..].iter().copied());
}
