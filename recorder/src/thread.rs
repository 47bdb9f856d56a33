//! A word of each thread, zero at its start.
//!
//! In assembly, for stable Rust compiles thread-locals of a library to calls that may allocate.

use core::arch::{asm, global_asm};
use core::sync::atomic::AtomicU64;

global_asm!(
    ".section .tbss.specmalloc_record,\"awT\",@nobits",
    ".p2align 3",
    // Referred to from other codegen units, but never from outside.
    ".globl specmalloc_record_word",
    ".hidden specmalloc_record_word",
    ".type specmalloc_record_word, @object",
    ".size specmalloc_record_word, 8",
    "specmalloc_record_word:",
    ".zero 8",
    ".text",
);

/// The calling thread's word.
pub fn word() -> &'static AtomicU64 {
    let address: usize;
    // SAFETY: the thread pointer (on x86-64 the word that it points to) and an entry of the global offset table that
    // the dynamic linker filled in before anything ran.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("mov {0}, qword ptr fs:[0]",
             "add {0}, qword ptr [rip + specmalloc_record_word@GOTTPOFF]",
             out(reg) address, options(pure, readonly, nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("mrs {0}, tpidr_el0",
             "adrp {1}, :gottprel:specmalloc_record_word",
             "ldr {1}, [{1}, :gottprel_lo12:specmalloc_record_word]",
             "add {0}, {0}, {1}",
             out(reg) address, out(reg) _, options(pure, readonly, nostack, preserves_flags));
    }
    // SAFETY: aligned, and there for as long as the thread, which alone uses it.
    unsafe { &*core::ptr::with_exposed_provenance(address) }
}
