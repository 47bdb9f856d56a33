//! A signal handler that allocates at each look at, and each change of, what a thread keeps of its heap: whatever it
//! interrupts, the thread ends up with one heap, which it uses, and gives it up when it exits.

use specmalloc::internals::api::raw;
use specmalloc::internals::global::{NOBODY, Thread, exit_thread, is_own, process};
use specmalloc::internals::heap::{Checked, Heap, ThreadId};
use std::cell::Cell;
use std::ptr;

/// A thread whose heap is kept where each access can be interrupted.
struct Interrupted;

/// No handler is due.
const NEVER: usize = usize::MAX;

std::thread_local! {
    static HEAP: Cell<*const Heap> = const { Cell::new(&raw const NOBODY) };
    /// Accesses before the handler runs.
    static LEFT: Cell<usize> = const { Cell::new(NEVER) };
    /// What the handler has allocated.
    static HANDLERS: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

fn point() {
    match LEFT.get() {
        NEVER => {}
        0 => {
            LEFT.set(NEVER);
            let block = raw::malloc::<Interrupted>(48);
            assert!(!block.is_null());
            // SAFETY: a block of so many bytes, just allocated.
            unsafe { block.write_bytes(0xa5, 48) };
            HANDLERS.set(block);
        }
        left => LEFT.set(left - 1),
    }
}

// SAFETY: a cell of the thread's own, which starts as asked; the holder is its address.
unsafe impl Thread for Interrupted {
    type Checks = Checked;
    const GUARDED: bool = true;
    const ANNOUNCED: bool = false;

    fn heap() -> *const Heap {
        point();
        let heap = HEAP.get();
        point();
        heap
    }
    fn change_heap(before: *const Heap, heap: *const Heap) -> bool {
        point();
        let changes = HEAP.get() == before;
        if changes {
            HEAP.set(heap);
        }
        point();
        changes
    }
    fn id() -> ThreadId {
        HEAP.with(|heap| ThreadId::new(ptr::from_ref(heap).addr()))
    }
    fn call_at_exit(_counted: bool) -> bool {
        point();
        true
    }
}

/// Heaps that the calling thread possesses.
fn possessed() -> usize {
    let pool = process().pool();
    let heaps = (0..pool.made()).filter_map(|index| pool.get(index));
    heaps.filter(|heap| heap.possession().possessor() == Some(Interrupted::id())).count()
}

/// Frees what the handler has allocated, which must be as the handler left it.
fn free_handlers() {
    let block = HANDLERS.replace(ptr::null_mut());
    if !block.is_null() {
        // SAFETY: a live block of 48 bytes that nobody else frees.
        unsafe {
            assert_eq!(block.cast::<[u8; 48]>().read(), [0xa5; 48]);
            raw::free::<Interrupted>(block);
        }
    }
}

/// A thread's life, with the handler at the access number `at`; answers whether there were so many.
fn live(at: usize) -> bool {
    LEFT.set(at);
    let blocks = [40, 3000, 8192, 100_000].map(raw::malloc::<Interrupted>);
    for block in blocks {
        assert!(!block.is_null());
        // SAFETY: allocated above, freed once.
        unsafe { raw::free::<Interrupted>(block) };
    }
    let left = LEFT.replace(NEVER);
    assert!(is_own(HEAP.get()), "the thread has lost its heap");
    assert_eq!(possessed(), 1);
    free_handlers();
    LEFT.set(left);
    exit_thread::<Interrupted>(true);
    let left = LEFT.replace(NEVER);
    assert!(!is_own(HEAP.get()), "a thread that has exited allocates from a heap that it gave up");
    assert_eq!(possessed(), 0, "a heap is possessed by a thread that has exited");
    free_handlers();
    assert_eq!(possessed(), 0);
    left == NEVER
}

/// Tells a child process at which access the handler runs.
const AT: &str = "SPECMALLOC_TEST_AT";

/// What a child process does: its first allocation is interrupted, and another thread frees the block.
fn first_allocation(at: usize) {
    LEFT.set(at);
    let block = raw::malloc::<Interrupted>(40).expose_provenance();
    LEFT.set(NEVER);
    let other = std::thread::spawn(move || {
        let own = raw::malloc::<Interrupted>(40);
        for block in [ptr::with_exposed_provenance_mut(block), own] {
            // SAFETY: live blocks, freed once.
            unsafe { raw::free::<Interrupted>(block) };
        }
        exit_thread::<Interrupted>(true);
    });
    other.join().expect("no failure");
    // Takes what the other thread has sent, once its own blocks are used up.
    let blocks: Vec<_> = (0..1000).map(|_| raw::malloc::<Interrupted>(40)).collect();
    for block in blocks {
        // SAFETY: as above.
        unsafe { raw::free::<Interrupted>(block) };
    }
    free_handlers();
    exit_thread::<Interrupted>(true);
}

#[test]
fn a_handler_may_allocate_in_the_first_allocation_of_a_process() {
    if let Ok(at) = std::env::var(AT) {
        return first_allocation(at.parse().expect("a number"));
    }
    let name = "a_handler_may_allocate_in_the_first_allocation_of_a_process";
    for at in 0..40 {
        let mut child = std::process::Command::new(std::env::current_exe().expect("a name"));
        let output = child.args(["--exact", name]).env(AT, at.to_string()).output().expect("a child");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "interrupted at access {at}: {:?}: {said}", output.status);
    }
}

#[test]
fn a_handler_may_allocate_at_any_access_to_the_threads_heap() {
    let mut points = 0;
    while std::thread::spawn(move || live(points)).join().expect("no failure") {
        points += 1;
    }
    assert!(points > 25, "only {points} points were interrupted");
}
