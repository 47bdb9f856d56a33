//! Stress of the Rust interface: this program's global allocator is specmalloc, and everything in `storm` goes through
//! it, as the collections and threads of the test itself do.
//!
//! A few seconds by default; `SPECMALLOC_STRESS_SECONDS` runs longer (see `ci/stress.sh`).

mod storm;

use specmalloc::SpecMalloc;
use std::alloc::{GlobalAlloc, Layout};
use storm::{Memory, Storm};

#[global_allocator]
static ALLOC: SpecMalloc = SpecMalloc::new();

/// What may be live when the storm is over, for the test harness and the C library.
const REST: u64 = 1 << 20;

struct Rust;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("sizes and alignments are small")
}

// SAFETY: the global allocator's own contract.
unsafe impl Memory for Rust {
    const HANDLERS: bool = false;

    fn allocate(size: usize, align: usize, zero: bool, _choice: usize) -> *mut u8 {
        let layout = layout(size, align);
        // SAFETY: no size is zero.
        unsafe { if zero { ALLOC.alloc_zeroed(layout) } else { ALLOC.alloc(layout) } }
    }

    unsafe fn resize(block: *mut u8, old: usize, align: usize, size: usize) -> *mut u8 {
        // SAFETY: the caller's; the layout is the block's.
        unsafe { ALLOC.realloc(block, layout(old, align), size) }
    }

    unsafe fn free(block: *mut u8, size: usize, align: usize) {
        // SAFETY: as above.
        unsafe { ALLOC.dealloc(block, layout(size, align)) }
    }

    unsafe fn usable(block: *mut u8, size: usize, align: usize) -> usize {
        // SAFETY: as above.
        unsafe { ALLOC.usable_size(block, layout(size, align)) }
    }

    fn trim() {
        ALLOC.trim();
    }
}

#[test]
fn the_rust_interface_withstands_a_storm() {
    let live = || {
        ALLOC.trim();
        ALLOC.statistics().live_bytes
    };
    let before = live();
    Storm::from_environment().run::<Rust>();
    let after = live();
    assert!(after <= before + REST, "{before} bytes were live before, {after} are after");
}
