//! The bodies of the operators on aarch64 (AAPCS64: arguments in x0, x1, x2, result in x0; x16 and x17 are scratch).
//!
//! Each body has its unwind data, for exceptions pass through the frame of whatever calls a new handler. Each form has
//! a second, hidden name, `specmalloc_own` and its symbol: the plain symbol may be another library's definition.

/// Allocates; on failure asks `$handler` what to call before the next attempt, and with no answer jumps to what
/// `$thrower` names, with the stack as the caller left it.
macro_rules! throwing_body {
    ($symbol:literal, $allocate:path, $handler:path, $thrower:path) => {
        core::arch::naked_asm!(
            concat!(".globl specmalloc_own", $symbol),
            concat!(".hidden specmalloc_own", $symbol),
            concat!("specmalloc_own", $symbol, ":"),
            ".cfi_startproc",
            "stp x29, x30, [sp, #-32]!",
            ".cfi_def_cfa_offset 32",
            ".cfi_offset w29, -32",
            ".cfi_offset w30, -24",
            "mov x29, sp",
            // Size and alignment, kept for the next attempt; for the form without alignment the second is not read.
            "stp x0, x1, [sp, #16]",
            "2:",
            "bl {allocate}",
            "cbz x0, 3f",
            "ldp x29, x30, [sp], #32",
            ".cfi_remember_state",
            ".cfi_def_cfa_offset 0",
            ".cfi_restore w29",
            ".cfi_restore w30",
            "ret",
            ".cfi_restore_state",
            "3:",
            "ldr x0, [sp, #24]",
            "bl {handler}",
            "cbz x0, 4f",
            "blr x0",
            "ldp x0, x1, [sp, #16]",
            "b 2b",
            "4:",
            "bl {thrower}",
            "ldp x29, x30, [sp], #32",
            ".cfi_def_cfa_offset 0",
            ".cfi_restore w29",
            ".cfi_restore w30",
            "mov x16, x0",
            "br x16",
            ".cfi_endproc",
            allocate = sym $allocate,
            handler = sym $handler,
            thrower = sym $thrower,
        )
    };
}

/// Allocates if `$throwing` is this library's; otherwise, and on failure, goes where `$next` says with the arguments
/// as they came, or returns null.
macro_rules! nothrow_body {
    ($throwing:literal, $allocate:path, $next:path) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "stp x29, x30, [sp, #-48]!",
            ".cfi_def_cfa_offset 48",
            ".cfi_offset w29, -48",
            ".cfi_offset w30, -40",
            "mov x29, sp",
            "stp x0, x1, [sp, #16]",
            "str x2, [sp, #32]",
            concat!("adrp x16, :got:", $throwing),
            concat!("ldr x16, [x16, :got_lo12:", $throwing, "]"),
            concat!("adrp x17, specmalloc_own", $throwing),
            concat!("add x17, x17, :lo12:specmalloc_own", $throwing),
            "cmp x16, x17",
            "b.ne 3f",
            "bl {allocate}",
            "cbz x0, 3f",
            "ldp x29, x30, [sp], #48",
            ".cfi_remember_state",
            ".cfi_def_cfa_offset 0",
            ".cfi_restore w29",
            ".cfi_restore w30",
            "ret",
            ".cfi_restore_state",
            "3:",
            concat!("adrp x0, :got:", $throwing),
            concat!("ldr x0, [x0, :got_lo12:", $throwing, "]"),
            concat!("adrp x1, specmalloc_own", $throwing),
            concat!("add x1, x1, :lo12:specmalloc_own", $throwing),
            "bl {next}",
            "mov x16, x0",
            "ldp x0, x1, [sp, #16]",
            "ldr x2, [sp, #32]",
            "ldp x29, x30, [sp], #48",
            ".cfi_def_cfa_offset 0",
            ".cfi_restore w29",
            ".cfi_restore w30",
            "cbz x16, 4f",
            "br x16",
            "4:",
            "mov x0, xzr",
            "ret",
            ".cfi_endproc",
            allocate = sym $allocate,
            next = sym $next,
        )
    };
}

/// [`nothrow_body`] for `new[]`: where that would allocate, this jumps to the form `$single`.
macro_rules! nothrow_array_body {
    ($throwing:literal, $single:literal, $next:path) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            concat!("adrp x16, :got:", $throwing),
            concat!("ldr x16, [x16, :got_lo12:", $throwing, "]"),
            concat!("adrp x17, specmalloc_own", $throwing),
            concat!("add x17, x17, :lo12:specmalloc_own", $throwing),
            "cmp x16, x17",
            "b.ne 3f",
            concat!("adrp x16, :got:", $single),
            concat!("ldr x16, [x16, :got_lo12:", $single, "]"),
            "br x16",
            "3:",
            "stp x29, x30, [sp, #-48]!",
            ".cfi_def_cfa_offset 48",
            ".cfi_offset w29, -48",
            ".cfi_offset w30, -40",
            "mov x29, sp",
            "stp x0, x1, [sp, #16]",
            "str x2, [sp, #32]",
            "mov x0, x16",
            "mov x1, x17",
            "bl {next}",
            "mov x16, x0",
            "ldp x0, x1, [sp, #16]",
            "ldr x2, [sp, #32]",
            "ldp x29, x30, [sp], #48",
            ".cfi_def_cfa_offset 0",
            ".cfi_restore w29",
            ".cfi_restore w30",
            "cbz x16, 4f",
            "br x16",
            "4:",
            "mov x0, xzr",
            "ret",
            ".cfi_endproc",
            next = sym $next,
        )
    };
}

/// Jumps to the process's `$target` with the arguments as they are.
macro_rules! forward_body {
    ($symbol:literal, $target:literal) => {
        core::arch::naked_asm!(
            concat!(".globl specmalloc_own", $symbol),
            concat!(".hidden specmalloc_own", $symbol),
            concat!("specmalloc_own", $symbol, ":"),
            ".cfi_startproc",
            concat!("adrp x16, :got:", $target),
            concat!("ldr x16, [x16, :got_lo12:", $target, "]"),
            "br x16",
            ".cfi_endproc",
        )
    };
}

/// [`forward_body`] from `(block, size, align)` to `(block, align)`.
macro_rules! drop_size_body {
    ($target:literal) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "mov x1, x2",
            concat!("adrp x16, :got:", $target),
            concat!("ldr x16, [x16, :got_lo12:", $target, "]"),
            "br x16",
            ".cfi_endproc",
        )
    };
}

pub(super) use {drop_size_body, forward_body, nothrow_array_body, nothrow_body, throwing_body};
