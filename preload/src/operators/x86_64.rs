//! The bodies of the operators on x86-64 (System V calling convention: arguments in rdi, rsi, rdx, result in rax).
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
            // Size and alignment, kept for the next attempt; for the form without alignment the second is not read.
            "sub rsp, 24",
            ".cfi_adjust_cfa_offset 24",
            "mov [rsp], rdi",
            "mov [rsp + 8], rsi",
            "2:",
            "call {allocate}",
            "test rax, rax",
            "je 3f",
            "add rsp, 24",
            ".cfi_adjust_cfa_offset -24",
            "ret",
            ".cfi_adjust_cfa_offset 24",
            "3:",
            "mov rdi, [rsp + 8]",
            "call {handler}",
            "test rax, rax",
            "je 4f",
            "call rax",
            "mov rdi, [rsp]",
            "mov rsi, [rsp + 8]",
            "jmp 2b",
            "4:",
            "call {thrower}",
            "add rsp, 24",
            ".cfi_adjust_cfa_offset -24",
            "jmp rax",
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
            "sub rsp, 24",
            ".cfi_adjust_cfa_offset 24",
            "mov [rsp], rdi",
            "mov [rsp + 8], rsi",
            "mov [rsp + 16], rdx",
            concat!("mov rax, [rip + ", $throwing, "@GOTPCREL]"),
            concat!("lea rcx, [rip + specmalloc_own", $throwing, "]"),
            "cmp rax, rcx",
            "jne 3f",
            "call {allocate}",
            "test rax, rax",
            "je 3f",
            "add rsp, 24",
            ".cfi_adjust_cfa_offset -24",
            "ret",
            ".cfi_adjust_cfa_offset 24",
            "3:",
            concat!("mov rdi, [rip + ", $throwing, "@GOTPCREL]"),
            concat!("lea rsi, [rip + specmalloc_own", $throwing, "]"),
            "call {next}",
            "mov rdi, [rsp]",
            "mov rsi, [rsp + 8]",
            "mov rdx, [rsp + 16]",
            "add rsp, 24",
            ".cfi_adjust_cfa_offset -24",
            "test rax, rax",
            "je 4f",
            "jmp rax",
            "4:",
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
            concat!("mov rax, [rip + ", $throwing, "@GOTPCREL]"),
            concat!("lea rcx, [rip + specmalloc_own", $throwing, "]"),
            "cmp rax, rcx",
            "jne 3f",
            concat!("jmp [rip + ", $single, "@GOTPCREL]"),
            "3:",
            "sub rsp, 24",
            ".cfi_adjust_cfa_offset 24",
            "mov [rsp], rdi",
            "mov [rsp + 8], rsi",
            "mov [rsp + 16], rdx",
            "mov rdi, rax",
            "mov rsi, rcx",
            "call {next}",
            "mov rdi, [rsp]",
            "mov rsi, [rsp + 8]",
            "mov rdx, [rsp + 16]",
            "add rsp, 24",
            ".cfi_adjust_cfa_offset -24",
            "test rax, rax",
            "je 4f",
            "jmp rax",
            "4:",
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
            concat!("jmp [rip + ", $target, "@GOTPCREL]"),
            ".cfi_endproc",
        )
    };
}

/// [`forward_body`] from `(block, size, align)` to `(block, align)`.
macro_rules! drop_size_body {
    ($target:literal) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "mov rsi, rdx",
            concat!("jmp [rip + ", $target, "@GOTPCREL]"),
            ".cfi_endproc",
        )
    };
}

pub(super) use {drop_size_body, forward_body, nothrow_array_body, nothrow_body, throwing_body};
