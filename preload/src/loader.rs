//! `dlopen` and `dlmopen` without `RTLD_DEEPBIND`.
//!
//! That flag lets a library find libc's functions before anybody else's, and malloc and free are among them: it would
//! free with the one allocator what came from the other, for much of what libc hands out is made by the malloc that the
//! process uses. So the flag is taken out, unless the option `deepbind` says otherwise. Only in the program's own
//! namespace: in another a library has a libc of its own, flag or not.
//!
//! Both jump on to libc's function with the stack as the caller left it: from its return address libc knows who asks,
//! hence in which namespace and along which RUNPATH to look, and what `$ORIGIN` is.

use crate::next::{DLOPEN, Next};
use crate::{glibc, raw};
use core::ffi::{c_char, c_int, c_long, c_void};

/// Where to jump, and with which flags: two words, which are returned in two registers.
#[repr(C)]
struct Jump {
    to: *const c_void,
    flags: usize,
}

static DLMOPEN: Next = Next::new(c"dlmopen");

fn jump(next: &Next, flags: c_int) -> Jump {
    // What is loaded now may be the first to allocate from glibc, and its blocks may come back where others hold what a
    // search waits for.
    let _without_glibc = glibc::find_free();
    let found: *const c_void = next.get();
    Jump { to: if found.is_null() { nothing as *const c_void } else { found }, flags: flags as u32 as usize }
}

/// Stands in for a function that libc does not have.
extern "C" fn nothing() -> *mut c_void {
    core::ptr::null_mut()
}

/// `flags` as they are to be in the program's own namespace.
fn cleared(flags: c_int) -> c_int {
    if flags & libc::RTLD_DEEPBIND == 0 || raw::honours_deepbind() {
        flags
    } else {
        flags & !libc::RTLD_DEEPBIND
    }
}

extern "C" fn open(_file: *const c_char, flags: c_int) -> Jump {
    jump(&DLOPEN, cleared(flags))
}

extern "C" fn open_in(namespace: c_long, _file: *const c_char, flags: c_int) -> Jump {
    /// `LM_ID_BASE` of `dlfcn.h`: the program's own.
    const BASE: c_long = 0;
    if namespace != BASE {
        glibc::namespace_appears();
        return jump(&DLMOPEN, flags);
    }
    jump(&DLMOPEN, cleared(flags))
}

/// Asks `$decide` with the arguments as they came, and jumps where it says with the flags that it says: in the register
/// that is named for each architecture.
#[cfg(target_arch = "x86_64")]
macro_rules! jump_on {
    ($decide:path, $x86_64:literal, $aarch64:literal) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "sub rsp, 24",
            ".cfi_adjust_cfa_offset 24",
            "mov [rsp], rdi",
            "mov [rsp + 8], rsi",
            "call {decide}",
            "mov rdi, [rsp]",
            "mov rsi, [rsp + 8]",
            "add rsp, 24",
            ".cfi_adjust_cfa_offset -24",
            concat!("mov ", $x86_64, ", edx"),
            "jmp rax",
            ".cfi_endproc",
            decide = sym $decide,
        )
    };
}

/// As above.
#[cfg(target_arch = "aarch64")]
macro_rules! jump_on {
    ($decide:path, $x86_64:literal, $aarch64:literal) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "stp x29, x30, [sp, #-32]!",
            ".cfi_def_cfa_offset 32",
            ".cfi_offset w29, -32",
            ".cfi_offset w30, -24",
            "stp x0, x1, [sp, #16]",
            "bl {decide}",
            "mov x16, x0",
            "mov w17, w1",
            "ldp x0, x1, [sp, #16]",
            "ldp x29, x30, [sp], #32",
            ".cfi_def_cfa_offset 0",
            ".cfi_restore w29",
            ".cfi_restore w30",
            concat!("mov ", $aarch64, ", w17"),
            "br x16",
            ".cfi_endproc",
            decide = sym $decide,
        )
    };
}

/// Loads a library, as libc's function of this name does, except that its symbols are found after the program's.
///
/// # Safety
/// As for libc's.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlopen(_file: *const c_char, _flags: c_int) -> *mut c_void {
    jump_on!(open, "esi", "w1")
}

/// [`dlopen`] in a namespace.
///
/// # Safety
/// As for libc's.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlmopen(_namespace: c_long, _file: *const c_char, _flags: c_int) -> *mut c_void {
    jump_on!(open_in, "edx", "w2")
}
