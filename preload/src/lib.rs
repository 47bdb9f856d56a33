//! `libspecmalloc.so`: specmalloc behind the allocation functions of C and C++.
//!
//! Loaded with `LD_PRELOAD`, or linked before libc, it serves every caller of malloc and operator new in the process.
//! The functions here add to the library what C, POSIX, glibc and the C++ standard say about arguments and failure,
//! and nothing else: what a block is and whether a pointer may be freed is the library's business.
//!
//! - `family`: malloc, free and their relations, under the names that glibc lets a replacement define;
//! - `operators`: C++ operator new and delete in every form;
//! - `tuning`: mallopt, mallinfo, malloc_info and the other functions of glibc that report or adjust;
//! - `control`: the functions of `specmalloc.h`;
//! - `loader`: dlopen and dlmopen, whose libraries are to use this malloc, too;
//! - `glibc`: blocks of the malloc beside this one, and `next`: functions under names that this library takes over;
//! - `launch`: the functions that make threads, so that a thread's start and end are known;
//! - `process`: those by which a process changes what it is, for which there is something to do before or after;
//! - `locking`: mlockall, which is not to make memory of address space that holds nothing;
//! - `guarded`: samples that lie against guard pages, which another library has;
//! - `samples`: who wants to know of the allocations that are samples;
//! - `thread`: where a thread keeps its heap, and `raw`: the library's C interface for such threads;
//! - `errno` and `line`: the error number, and text without allocation.
//!
//! Each file imports those below it only: `tests/layering` has the order.
//!
//! Nothing here allocates, except by the program's own wish. The exported names are exactly those listed in
//! `tests/exports.rs`.

#![no_std]

#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!("libspecmalloc.so is written for 64-bit Linux on x86-64 and aarch64");

specmalloc::panic_handler!();

mod control;
mod errno;
mod family;
mod glibc;
mod guarded;
mod launch;
mod line;
mod loader;
mod locking;
mod next;
mod operators;
mod process;
mod raw;
mod samples;
mod thread;
mod tuning;
