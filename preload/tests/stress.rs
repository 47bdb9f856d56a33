//! Stress of the C interface: this test runs itself with the library preloaded, so that everything in `storm`, the Rust
//! runtime and the C library allocate from it. Signal handlers allocate, too.

mod common;
#[path = "../../tests/stress/storm.rs"]
mod storm;

use std::ffi::CStr;
use std::process::Command;
use std::ptr;
use storm::{Memory, Storm};

struct C;

unsafe extern "C" {
    fn memalign(align: usize, size: usize) -> *mut libc::c_void;
    fn reallocarray(block: *mut libc::c_void, count: usize, size: usize) -> *mut libc::c_void;
}

// SAFETY: what the C standard says of these functions.
unsafe impl Memory for C {
    const HANDLERS: bool = true;

    fn allocate(size: usize, align: usize, zero: bool, choice: usize) -> *mut u8 {
        // SAFETY: any arguments will do, but for alignments, which are powers of two above the size of a pointer.
        let block = unsafe {
            match choice % 3 {
                _ if align <= 16 && zero => return libc::calloc(1, size).cast(),
                _ if align <= 16 => libc::malloc(size),
                0 => memalign(align, size),
                1 => libc::aligned_alloc(align, size),
                _ => {
                    let mut block = ptr::null_mut();
                    if libc::posix_memalign(&mut block, align, size) == 0 { block } else { ptr::null_mut() }
                }
            }
        };
        if zero && !block.is_null() {
            // SAFETY: the block holds so many bytes.
            unsafe { block.cast::<u8>().write_bytes(0, size) };
        }
        block.cast()
    }

    unsafe fn resize(block: *mut u8, old: usize, _align: usize, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            if old.is_multiple_of(2) {
                libc::realloc(block.cast(), size).cast()
            } else {
                reallocarray(block.cast(), 1, size).cast()
            }
        }
    }

    unsafe fn free(block: *mut u8, _size: usize, _align: usize) {
        // SAFETY: the caller's.
        unsafe { libc::free(block.cast()) }
    }

    unsafe fn usable(block: *mut u8, _size: usize, _align: usize) -> usize {
        // SAFETY: the caller's.
        unsafe { libc::malloc_usable_size(block.cast()) }
    }

    fn trim() {
        // SAFETY: no condition.
        let _gave_back = unsafe { libc::malloc_trim(0) };
    }
}

/// The object that serves malloc in this process.
fn server_of_malloc() -> String {
    // SAFETY: the structure is filled in if dladdr succeeds; names of objects are strings.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let malloc = libc::dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr());
        assert!(libc::dladdr(malloc, &mut info) != 0);
        CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned()
    }
}

#[test]
fn the_c_interface_withstands_a_storm() {
    const INSIDE: &str = "SPECMALLOC_STRESS_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        assert!(server_of_malloc().contains("specmalloc"), "{} serves malloc", server_of_malloc());
        return Storm::from_environment().run::<C>();
    }
    let this = std::env::current_exe().unwrap();
    let outcome = common::run(Command::new(this).env(INSIDE, "1").arg("--nocapture"));
    assert_eq!((outcome.code, outcome.signal), (Some(0), None), "{}\n{}", outcome.stdout, outcome.stderr);
}
