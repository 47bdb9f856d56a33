//! `libspecmalloc_record.so`: notes the malloc calls of a program, and passes them on to whoever would have had them.
//!
//! Loaded with `LD_PRELOAD` by `specmalloc record-trace`, which has made the memory that they are noted in. Without that
//! memory the library passes calls on and does nothing else.
//!
//! - `family`: malloc and its relations, each noted where its place in the order is: an allocation when it is over, a
//!   free before it begins, a realloc at both ends;
//! - `next`: the same functions in the libraries behind this one, and blocks for whoever looks those up;
//! - `log`: the memory. A note is a number drawn from a counter that all share, and three stores where it points:
//!   nothing waits for anything, so threads, signal handlers and the ends of threads and processes may come as they
//!   like, and what was noted is there however the process ends;
//! - `thread`: a word of each thread;
//! - `layout`: how the memory lies, for both sides.

#![no_std]

// Nothing here panics, but a way to do it there must be: std's, or where panics abort, one without std.
#[cfg(panic = "unwind")]
extern crate std;

#[cfg(not(panic = "unwind"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: always sound, and does not return.
    unsafe { libc::abort() }
}

#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!("libspecmalloc_record.so is written for 64-bit Linux on x86-64 and aarch64");

mod family;
mod layout;
mod log;
mod next;
mod thread;
