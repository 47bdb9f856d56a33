//! Static probes (USDT) that fire for samples only: `specmalloc:sample_allocated` with the block's address, the bytes that
//! were asked for, those that may be used, and those that it counts as; `specmalloc:sample_freed` with the first three.
//!
//! ```console
//! # bpftrace -p PID -e 'usdt:libspecmalloc.so:specmalloc:sample_allocated { @[ustack] = sum(arg3); }'
//! ```
//!
//! Each is an instruction that does nothing, and a note in the file that says where it is and in which registers its
//! arguments are (version 3 of the notes of SystemTap, whose `sys/sdt.h` has the format). Tools put a breakpoint there.

use crate::global::Sample;

/// Where so many arguments are: in eight bytes each, in the registers that the compiler has chosen.
#[cfg(target_arch = "x86_64")]
macro_rules! places {
    (3) => {
        "8@%{0} 8@%{1} 8@%{2}"
    };
    (4) => {
        "8@%{0} 8@%{1} 8@%{2} 8@%{3}"
    };
}

#[cfg(not(target_arch = "x86_64"))]
macro_rules! places {
    (3) => {
        "8@{0} 8@{1} 8@{2}"
    };
    (4) => {
        "8@{0} 8@{1} 8@{2} 8@{3}"
    };
}

/// A probe called `$name`, with its arguments' places as `$places` has them.
macro_rules! probe {
    ($name:literal, $places:expr, $($argument:expr),+) => {
        // SAFETY: executes nothing, and writes to sections that are not loaded, but for a byte whose address tells whether
        // the file was moved.
        unsafe {
            core::arch::asm!(
                "990: nop",
                ".pushsection .note.stapsdt, \"\", \"note\"",
                ".balign 4",
                ".4byte 992f - 991f, 994f - 993f, 3",
                "991: .asciz \"stapsdt\"",
                "992: .balign 4",
                "993: .8byte 990b",
                ".8byte _.stapsdt.base",
                ".8byte 0",
                ".asciz \"specmalloc\"",
                concat!(".asciz \"", $name, "\""),
                concat!(".asciz \"", $places, "\""),
                "994: .balign 4",
                ".popsection",
                ".ifndef _.stapsdt.base",
                ".pushsection .stapsdt.base, \"aGR\", \"progbits\", .stapsdt.base, comdat",
                ".weak _.stapsdt.base",
                ".hidden _.stapsdt.base",
                "_.stapsdt.base: .space 1",
                ".size _.stapsdt.base, 1",
                ".popsection",
                ".endif",
                $(in(reg) $argument),+,
                options(readonly, nostack, preserves_flags)
            );
        }
    };
}

/// A sample has been allocated.
#[inline(never)]
pub(super) fn allocated(sample: &Sample) {
    let &Sample { block, size, usable, counted, .. } = sample;
    probe!("sample_allocated", places!(4), block, size, usable, counted);
}

/// A sample is about to be freed.
#[inline(never)]
pub(super) fn freed(sample: &Sample) {
    let &Sample { block, size, usable, .. } = sample;
    probe!("sample_freed", places!(3), block, size, usable);
}
