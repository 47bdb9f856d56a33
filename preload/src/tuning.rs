//! The functions of glibc that report on malloc or adjust it: mallinfo, mallinfo2, malloc_info, malloc_stats,
//! malloc_trim and mallopt, with this allocator's figures in glibc's terms.
//!
//! glibc's "mmapped" blocks are here those with slices of their own, large and huge ones; its heaps' chunks are the
//! blocks of slabs. Figures count the whole process and are taken without stopping it.

use crate::line::Line;
use crate::raw::{self, Statistics};
use core::ffi::{c_int, c_void};
use specmalloc::internals::pal::to_stderr;

/// `struct mallinfo2` of glibc; sizes in bytes.
#[repr(C)]
pub struct MallInfo2 {
    /// `uordblks + fordblks`.
    arena: usize,
    /// Zero: free blocks are not counted one by one.
    ordblks: usize,
    /// Zero: there are no fast bins.
    smblks: usize,
    /// Live large and huge blocks.
    hblks: usize,
    /// Bytes in them.
    hblkhd: usize,
    /// Zero, as in glibc.
    usmblks: usize,
    /// Zero: there are no fast bins.
    fsmblks: usize,
    /// Bytes in the other live blocks.
    uordblks: usize,
    /// Bytes that are free and not given back.
    fordblks: usize,
    /// Bytes of them that lie in whole free slices.
    keepcost: usize,
}

/// `struct mallinfo` of glibc: [`MallInfo2`] in the types of 1990; what does not fit is `INT_MAX`.
#[repr(C)]
pub struct MallInfo([c_int; 10]);

/// Blocks, and the bytes in them.
#[derive(Clone, Copy, Default)]
struct Blocks {
    count: u64,
    bytes: u64,
}

/// The live blocks of slabs, and those with slices of their own.
fn live(now: &Statistics) -> (Blocks, Blocks) {
    let mut small = Blocks::default();
    for class in &now.classes {
        small.count += class.live_blocks;
        small.bytes += class.live_blocks * class.block_bytes;
    }
    // The figures are not of one instant: a block may be in the one and not yet in the other.
    let own = Blocks {
        count: now.live_blocks.saturating_sub(small.count),
        bytes: now.live_bytes.saturating_sub(small.bytes),
    };
    (small, own)
}

/// Figures of the process in glibc's terms.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> MallInfo2 {
    figures()
}

/// What both names do: neither calls the other by a name that a program can take over.
fn figures() -> MallInfo2 {
    let now = raw::statistics();
    let (small, own) = live(&now);
    let free = now.cached_bytes + now.dirty_bytes;
    MallInfo2 {
        arena: (small.bytes + free) as usize,
        ordblks: 0,
        smblks: 0,
        hblks: own.count as usize,
        hblkhd: own.bytes as usize,
        usmblks: 0,
        fsmblks: 0,
        uordblks: small.bytes as usize,
        fordblks: free as usize,
        keepcost: now.dirty_bytes as usize,
    }
}

/// [`mallinfo2`] for old programs.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> MallInfo {
    let wide = figures();
    let fields = [
        wide.arena,
        wide.ordblks,
        wide.smblks,
        wide.hblks,
        wide.hblkhd,
        wide.usmblks,
        wide.fsmblks,
        wide.uordblks,
        wide.fordblks,
        wide.keepcost,
    ];
    MallInfo(fields.map(|field| c_int::try_from(field).unwrap_or(c_int::MAX)))
}

/// Gives memory that is free back to the system; returns 1 if there was any. Nothing is kept, whatever the padding asks
/// for.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_pad: usize) -> c_int {
    raw::trim().into()
}

/// Prints the main figures to standard error.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    let now = raw::statistics();
    let text = Line::<1024>::of(format_args!(
        "specmalloc: live     {:>14} bytes in {} blocks, at most {}\n\
         specmalloc: cached   {:>14} bytes\n\
         specmalloc: dirty    {:>14} bytes\n\
         specmalloc: resident {:>14} bytes\n\
         specmalloc: reserved {:>14} bytes, at most {}; {} arenas, {} huge regions, {} mappings\n",
        now.live_bytes,
        now.live_blocks,
        now.peak_live_bytes,
        now.cached_bytes,
        now.dirty_bytes,
        now.resident_bytes,
        now.reserved_bytes,
        now.peak_reserved_bytes,
        now.arenas,
        now.huge,
        now.mappings,
    ));
    to_stderr(text.as_bytes());
}

unsafe extern "C" {
    fn fwrite(from: *const c_void, size: usize, count: usize, to: *mut libc::FILE) -> usize;
}

/// Writes the figures to `to` as XML, in the elements that glibc writes where there is a counterpart, and one
/// element for each size class in use. Returns 0, or EINVAL for `options` other than 0, or EIO if `to` takes no more.
///
/// # Safety
/// `to` is an open stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, to: *mut libc::FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    let mut failed = false;
    let mut put = |text: core::fmt::Arguments<'_>| {
        let text = Line::<1024>::of(text);
        let bytes = text.as_bytes();
        // SAFETY: `bytes` is readable for its length and `to` is the caller's open stream.
        failed |= unsafe { fwrite(bytes.as_ptr().cast(), 1, bytes.len(), to) } != bytes.len();
    };
    let now = raw::statistics();
    let (small, own) = live(&now);
    let free = now.cached_bytes + now.dirty_bytes;
    put(format_args!("<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n"));
    for class in now.classes.iter().filter(|class| class.slabs > 0) {
        put(format_args!(
            "<class size=\"{}\" live=\"{}\" slabs=\"{}\"/>\n",
            class.block_bytes, class.live_blocks, class.slabs
        ));
    }
    put(format_args!(
        "</sizes>\n\
         <total type=\"live\" count=\"{}\" size=\"{}\"/>\n\
         <total type=\"rest\" count=\"0\" size=\"{free}\"/>\n\
         <system type=\"current\" size=\"{}\"/>\n\
         </heap>\n",
        small.count,
        small.bytes,
        small.bytes + free,
    ));
    put(format_args!(
        "<total type=\"fast\" count=\"0\" size=\"0\"/>\n\
         <total type=\"rest\" count=\"0\" size=\"{free}\"/>\n\
         <total type=\"mmap\" count=\"{}\" size=\"{}\"/>\n\
         <total type=\"live\" count=\"{}\" size=\"{}\"/>\n\
         <total type=\"cached\" size=\"{}\"/>\n\
         <total type=\"dirty\" size=\"{}\"/>\n\
         <system type=\"current\" size=\"{}\"/>\n\
         <aspace type=\"total\" size=\"{}\"/>\n\
         <aspace type=\"max\" size=\"{}\"/>\n\
         </malloc>\n",
        own.count,
        own.bytes,
        now.live_blocks,
        now.live_bytes,
        now.cached_bytes,
        now.dirty_bytes,
        now.resident_bytes,
        now.reserved_bytes,
        now.peak_reserved_bytes,
    ));
    if failed { libc::EIO } else { 0 }
}

// The parameters of mallopt, from glibc's malloc.h.
const M_MXFAST: c_int = 1;
const M_NLBLKS: c_int = 2;
const M_GRAIN: c_int = 3;
const M_KEEP: c_int = 4;
const M_TRIM_THRESHOLD: c_int = -1;
const M_TOP_PAD: c_int = -2;
const M_MMAP_THRESHOLD: c_int = -3;
const M_MMAP_MAX: c_int = -4;
const M_CHECK_ACTION: c_int = -5;
const M_ARENA_TEST: c_int = -7;
const M_ARENA_MAX: c_int = -8;

/// Adjusts a parameter; returns 1 if `parameter` is known, 0 if not, as glibc does.
///
/// `M_TRIM_THRESHOLD` bounds the bytes that are free and not given back. The others describe the mechanics of glibc's
/// heap; they are accepted as hints and have no effect. `M_PERTURB` promises to overwrite memory and is refused.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(parameter: c_int, value: c_int) -> c_int {
    match parameter {
        M_TRIM_THRESHOLD => {
            let bytes = Line::<16>::of(format_args!("{}", value.max(0)));
            let text = core::str::from_utf8(bytes.as_bytes()).unwrap_or("0");
            c_int::from(raw::set_option("dirty_max", text).is_ok())
        }
        M_MXFAST | M_NLBLKS | M_GRAIN | M_KEEP | M_TOP_PAD | M_MMAP_THRESHOLD | M_MMAP_MAX
        | M_CHECK_ACTION | M_ARENA_TEST | M_ARENA_MAX => 1,
        _ => 0,
    }
}
