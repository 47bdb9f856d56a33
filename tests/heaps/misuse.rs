//! Pointers that do not belong where they are given: each is one line, and an abort.

use allocator_api2::alloc::{Allocator, Layout};
use specmalloc::heaps::Heap;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::ptr::NonNull;

/// What a child says that does this, before it is aborted.
fn said(misuse: impl FnOnce()) -> String {
    let mut ends = [0; 2];
    // SAFETY: makes two descriptors, of which the child keeps one, as its standard error, and the parent the other.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        let child = libc::fork();
        if child == 0 {
            libc::dup2(ends[1], 2);
            misuse();
            libc::_exit(0);
        }
        libc::close(ends[1]);
        let mut said = String::new();
        std::fs::File::from_raw_fd(ends[0]).read_to_string(&mut said).unwrap();
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT, "{status}: {said}");
        said
    }
}

#[test]
fn a_wrong_pointer_is_told() {
    let (heap, other) = (Heap::new().unwrap(), Heap::new().unwrap());
    for size in [24, 100_000, 9 << 20] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        let block: NonNull<u8> = heap.allocate(layout).unwrap().cast();
        let _beside = heap.allocate(layout).unwrap();
        let at = format!("{block:?}");
        // SAFETY: none is needed: each of these ends in a message.
        unsafe {
            let twice = said(|| {
                heap.deallocate(block, layout);
                heap.deallocate(block, layout);
            });
            assert!(twice.contains(&at) && twice.starts_with("specmalloc: "), "{twice}");
            assert!(twice.contains("double free") || twice.contains("no live block is there"), "{twice}");
            let inside = said(|| heap.deallocate(block.add(8), layout));
            assert!(inside.contains("not the start of a block"), "{inside}");
            let foreign = said(|| other.deallocate(block, layout));
            assert!(foreign.contains("not in the memory of this allocator"), "{foreign}");
            let global = said(|| std::alloc::dealloc(block.as_ptr(), layout));
            assert!(global.contains("it belongs to a heap of its own"), "{global}");
            let of_global = NonNull::new(std::alloc::alloc(layout)).unwrap();
            let of_global = said(|| heap.deallocate(of_global, layout));
            assert!(of_global.contains("not in the memory of this allocator"), "{of_global}");
        }
    }
}

#[test]
fn no_block_lies_where_a_heap_keeps_its_records() {
    let heap = Heap::new().unwrap();
    let layout = Layout::new::<[u64; 3]>();
    let block: NonNull<u8> = heap.allocate(layout).unwrap().cast();
    // Areas begin at multiples of 32 MiB.
    let begin = block.addr().get() % (32 << 20);
    for at in [0, 24, 70_000, 1 << 16] {
        // SAFETY: in the same area; it ends in a message.
        let records = said(|| unsafe { heap.deallocate(block.sub(begin - at), layout) });
        assert!(records.contains("no live block is there"), "{records}");
    }
}

#[test]
fn nothing_is_where_a_block_was_longer() {
    let heap = Heap::new().unwrap();
    let [long, short] = [300_000, 100_000].map(|size| Layout::from_size_align(size, 8).unwrap());
    let block: NonNull<u8> = heap.allocate(long).unwrap().cast();
    // SAFETY: the block is the heap's; what ends in a message needs nothing.
    unsafe {
        heap.shrink(block, long, short).unwrap();
        let beyond = said(|| heap.deallocate(block.add(200_000), short));
        assert!(beyond.contains("no live block is there"), "{beyond}");
    }
}
