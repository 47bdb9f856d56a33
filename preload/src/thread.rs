//! Where a thread of a preloaded program keeps its heap: a word of initial-exec thread-local memory.
//!
//! Stable Rust compiles thread-locals of a cdylib to calls of `__tls_get_addr`, which may allocate. So the word is
//! defined here in assembly, and read with the two instructions that a library loaded at start may use. It starts as
//! the address of [`NOBODY`], so that the fast paths need no test for a thread's first allocation. The word behind it
//! counts the steps that a thread takes before it possesses a heap.

use crate::next::Next;
use crate::{guarded, samples};
use core::arch::{asm, global_asm};
use core::ffi::{c_int, c_void};
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use specmalloc::internals::api::rest_shared;
use specmalloc::internals::global::{
    ExitKey, Main, NOBODY, Sample, Stray, Thread, end_thread, exit_value, was_counted,
};
use specmalloc::internals::heap::{Checked, Heap, ThreadId};

/// The threads of a preloaded program.
pub struct PreloadThread;

global_asm!(
    ".section .tdata.specmalloc,\"awT\",@progbits",
    ".p2align 3",
    // Referred to from other codegen units, but never from outside.
    ".globl specmalloc_thread",
    ".hidden specmalloc_thread",
    ".type specmalloc_thread, @object",
    ".size specmalloc_thread, 16",
    "specmalloc_thread:",
    ".quad {nobody}",
    ".quad 0",
    ".text",
    nobody = sym NOBODY,
);

/// Bytes from the thread pointer to the calling thread's word: the same for all threads.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn offset() -> usize {
    let offset: usize;
    // SAFETY: reads an entry of the global offset table that the dynamic linker filled in before anything ran.
    unsafe {
        asm!("mov {0}, qword ptr [rip + specmalloc_thread@GOTTPOFF]", out(reg) offset,
             options(pure, nomem, nostack, preserves_flags));
    }
    offset
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn get() -> *const Heap {
    let value: *const Heap;
    // SAFETY: the word lies at this offset from the thread pointer in every thread.
    unsafe {
        asm!("mov {0}, qword ptr fs:[{1}]", out(reg) value, in(reg) offset(),
             options(readonly, nostack, preserves_flags));
    }
    value
}

/// Address of the calling thread's word.
#[cfg(target_arch = "x86_64")]
fn word() -> *mut *const Heap {
    let base: usize;
    // SAFETY: by the ABI the word at the thread pointer holds the thread pointer itself.
    unsafe {
        asm!("mov {0}, qword ptr fs:[0]", out(reg) base, options(pure, readonly, nostack, preserves_flags));
    }
    ptr::with_exposed_provenance_mut(base.wrapping_add(offset()))
}

/// Address of the calling thread's word.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn word() -> *mut *const Heap {
    let (base, offset): (usize, usize);
    // SAFETY: reads the thread pointer and an entry of the global offset table, both set before anything ran.
    unsafe {
        asm!("mrs {0}, tpidr_el0",
             "adrp {1}, :gottprel:specmalloc_thread",
             "ldr {1}, [{1}, :gottprel_lo12:specmalloc_thread]",
             out(reg) base, out(reg) offset, options(pure, nomem, nostack, preserves_flags));
    }
    ptr::with_exposed_provenance_mut(base + offset)
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn get() -> *const Heap {
    // SAFETY: the calling thread's own word. Volatile: a signal handler may have changed it.
    unsafe { word().read_volatile() }
}

// SAFETY: a word of the thread's own, which starts as asked.
unsafe impl Thread for PreloadThread {
    type Checks = Checked;
    const GUARDED: bool = true;
    const ANNOUNCED: bool = true;

    #[inline(always)]
    fn heap() -> *const Heap {
        get()
    }
    fn change_heap(before: *const Heap, heap: *const Heap) -> bool {
        // SAFETY: the thread's own word, which nobody else writes.
        let word = unsafe { AtomicPtr::from_ptr(word().cast::<*mut Heap>()) };
        // Relaxed: only this thread and its signal handlers read it.
        word.compare_exchange(before.cast_mut(), heap.cast_mut(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
    fn id() -> ThreadId {
        ThreadId::new(word().addr())
    }

    fn set_guest_steps(steps: usize) {
        // SAFETY: the second of the thread's own words. Volatile: a signal handler may change it, too.
        unsafe { word().cast::<usize>().add(1).write_volatile(steps) };
    }

    fn guest_steps() -> usize {
        // SAFETY: as above.
        unsafe { word().cast::<usize>().add(1).read_volatile() }
    }

    fn stray(address: usize, is_free: bool) -> Option<Stray> {
        guarded::block_at(address, is_free).or_else(|| crate::glibc::block_at(address))
    }

    fn guarded(size: usize, align: usize, counted: usize) -> *mut u8 {
        guarded::allocate(size, align, counted)
    }

    fn allocated(sample: &Sample) -> u32 {
        samples::allocated(sample)
    }

    fn freed(number: u32, sample: &Sample) {
        samples::freed(number, sample);
    }

    fn rest() {
        rest_shared::<PreloadThread>();
    }
    fn call_at_exit(counted: bool) -> bool {
        EXIT.arm(counted)
    }

    /// Where the program has left no key: by the function that registers destructors of C++ thread-locals. The first
    /// that is registered runs last; the destructors of keys come later, and allocate from borrowed heaps.
    fn call_at_exit_with_locks(counted: bool) -> bool {
        unsafe extern "C" {
            fn __cxa_thread_atexit_impl(
                function: unsafe extern "C" fn(*mut c_void),
                argument: *mut c_void,
                object: *const c_void,
            ) -> c_int;
        }
        // SAFETY: the function and the address that stands for the object are this library's, which stays in memory.
        unsafe { __cxa_thread_atexit_impl(at_exit, exit_value(counted), (&raw const EXIT).cast()) == 0 }
    }

    unsafe fn create_thread(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        main: Main,
    ) -> c_int {
        // SAFETY: the caller's.
        unsafe { create(thread, attributes, main as *const c_void, ptr::null_mut()) }
    }
}

/// Made when the library is loaded, while there are keys: see `launch`.
pub static EXIT: ExitKey = ExitKey::new(at_exit);

unsafe extern "C" fn at_exit(counted: *mut c_void) {
    end_thread::<PreloadThread>(was_counted(counted));
}

type Create = unsafe extern "C" fn(
    *mut libc::pthread_t,
    *const libc::pthread_attr_t,
    *const c_void,
    *mut c_void,
) -> c_int;

/// The C library's.
pub static PTHREAD_CREATE: Next = Next::new(c"pthread_create");

/// Makes a thread of the C library's by its own function: one that is not known to be the program's, unless `start` says
/// so.
///
/// # Safety
/// As for `pthread_create`.
pub unsafe fn create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: *const c_void,
    argument: *mut c_void,
) -> c_int {
    let next = PTHREAD_CREATE.get();
    if next.is_null() {
        return libc::EAGAIN;
    }
    // SAFETY: the C library's function of this name has this type; the rest is the caller's.
    unsafe { transmute::<*mut c_void, Create>(next)(thread, attributes, start, argument) }
}
