//! Blocks of glibc's own malloc, which is still there, beside us: whoever finds it by a handle of libc, or was loaded
//! with RTLD_DEEPBIND while the option allows that, allocates from it, and the blocks may be freed by anybody.
//!
//! An address that is none of ours is taken for such a block when everything that glibc writes around a block is there
//! and fits together (the layout is that of malloc.c and arena.c for as long as there have been thread caches; another
//! one would not fit). Nothing is read before the kernel has said that it can be read. What does not fit is not a
//! block, and ends in our message.
//!
//! | flags in the size | the block | what must fit |
//! |---|---|---|
//! | mmapped | has a mapping of its own | begins and ends at pages, and both ends are there |
//! | not the main arena | lies in a heap of another arena, at a multiple of 64 MiB | the heap's record: arena, size; the next block |
//! | none | lies in the program's data segment | the blocks behind it, one after the other |
//! | none | the same in a libc of another namespace, from mmap | the same, where there is another namespace |

use crate::next;
use core::ffi::c_void;
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use specmalloc::internals::global::Stray;
use specmalloc::internals::pal::{Errno, system_call};

/// glibc's free; null before it is looked for, and without glibc.
static FREE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
/// Where the data segment ended before glibc's malloc can have been used; zero before that is known.
static SEGMENT: AtomicUsize = AtomicUsize::new(0);
/// Whether there is, or may be, a namespace beside the program's.
static NAMESPACES: AtomicBool = AtomicBool::new(false);

/// When the library is loaded.
extern "C" fn loaded() {
    // Relaxed: written once, before there are threads.
    SEGMENT.store(end_of_segment(), Ordering::Relaxed);
}

#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

/// glibc's free, if there is glibc. Looked for before a library is loaded, and else at the first need: not by every
/// program at its start, for the dynamic linker's search touches 80 KiB of memory that many never need.
pub fn find_free() -> Option<unsafe extern "C" fn(*mut c_void)> {
    // Relaxed (both): the address of what was there before this library.
    let mut free = FREE.load(Ordering::Relaxed);
    if free.is_null() {
        free = next::in_libc(c"free");
        FREE.store(free, Ordering::Relaxed);
    }
    // SAFETY: glibc's function of this name has this type.
    (!free.is_null()).then(|| unsafe { transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void)>(free) })
}

/// From now on there may be a libc in another namespace.
pub fn namespace_appears() {
    // Relaxed: the caller makes the namespace after this; what comes from it is handed over by somebody.
    NAMESPACES.store(true, Ordering::Relaxed);
}

/// The end of the data segment.
fn end_of_segment() -> usize {
    // SAFETY: to a request for the impossible end 0 the kernel returns the end as it is.
    unsafe { system_call(libc::SYS_brk, [0]) }.unwrap_or(0)
}

/// The block that starts at `address`, if it is one of glibc's.
pub fn block_at(address: usize) -> Option<Stray> {
    if !address.is_multiple_of(ALIGNMENT) || address < ALIGNMENT {
        return None;
    }
    find(&mut Memory::new(), address - HEADER)
}

/// Bytes that every block is aligned to.
const ALIGNMENT: usize = 16;
/// Bytes before a block: the size of the one before if that is free, and its own.
const HEADER: usize = 16;
/// Bytes of the smallest one.
const LEAST: usize = 32;
/// The flags in the size.
const BEFORE_IN_USE: usize = 1;
const MAPPED: usize = 2;
const OTHER_ARENA: usize = 4;
const FLAGS: usize = 7;
/// Heaps of other arenas start at multiples of this, which is the most that one can hold.
const HEAP_SPAN: usize = 64 << 20;
/// Where the arena may lie in its first heap: behind the record, which has grown over the years.
const ARENA_AT: core::ops::RangeInclusive<usize> = 32..=128;
/// How many blocks behind one are looked at.
const FOLLOWERS: usize = 4;

fn find(memory: &mut Memory, block: usize) -> Option<Stray> {
    let word = memory.word(block + 8)?;
    let size = word & !FLAGS;
    let end = block.checked_add(size)?;
    if size < LEAST || !size.is_multiple_of(ALIGNMENT) {
        return None;
    }
    // All but the next block's first word, which is the block's as long as it is in use; a mapping ends before that.
    let usable = size - 8;
    match word & (MAPPED | OTHER_ARENA) {
        0 => {
            // Relaxed: as in `loaded`.
            let segment = SEGMENT.load(Ordering::Relaxed)..end_of_segment();
            if segment.contains(&block) {
                let fits = has_followers(memory, block, size, |at| at == segment.end);
                return if fits { theirs(usable) } else { None };
            }
            // The free of that other libc is out of reach, and glibc's would not have it.
            // Relaxed: as in `namespace_appears`.
            (NAMESPACES.load(Ordering::Relaxed) && has_followers(memory, block, size, is_page))
                .then_some(Stray { usable, free: None })
        }
        MAPPED => {
            let ahead = memory.word(block)?;
            let fits = word & BEFORE_IN_USE == 0
                && ahead < block
                && is_page(block - ahead)
                && is_page(end)
                && memory.word(block - ahead).is_some()
                && memory.word(end - 8).is_some();
            if fits { theirs(size - HEADER) } else { None }
        }
        OTHER_ARENA => {
            let heap = block & !(HEAP_SPAN - 1);
            let [arena, previous, bytes] = [0, 8, 16].map(|at| memory.word(heap + at));
            let (arena, previous, bytes) = (arena?, previous?, bytes?);
            let is_first = previous == 0 && ARENA_AT.contains(&arena.wrapping_sub(heap));
            let is_later = previous != 0
                && previous.is_multiple_of(HEAP_SPAN)
                && memory.word(previous).is_some_and(|of| of == arena);
            let fits = (is_first || is_later)
                && is_page(bytes)
                && bytes <= HEAP_SPAN
                && end < heap + bytes
                && memory.word(end + 8)? & BEFORE_IN_USE != 0;
            if fits { theirs(usable) } else { None }
        }
        _ => None,
    }
}

/// A block that glibc's free takes back.
fn theirs(usable: usize) -> Option<Stray> {
    find_free().map(|free| Stray { usable, free: Some(free) })
}

/// Whether `address` is a multiple of the smallest page.
fn is_page(address: usize) -> bool {
    address.is_multiple_of(Memory::PAGE)
}

/// Whether there are blocks behind the one of `size` bytes at `block`, which is in use, as glibc would have them: up to
/// a few, or to the last, which ends where `is_end` says.
fn has_followers(
    memory: &mut Memory,
    mut block: usize,
    mut size: usize,
    is_end: impl Fn(usize) -> bool,
) -> bool {
    for follower in 0..FOLLOWERS {
        let next = block + size;
        let Some(word) = memory.word(next + 8) else { return false };
        let in_use = word & BEFORE_IN_USE != 0;
        // The first is in use: it is about to be freed. A free one has its size at its end, too.
        let fits =
            word & (MAPPED | OTHER_ARENA) == 0 && (in_use || follower > 0 && memory.word(next) == Some(size));
        let next_size = word & !FLAGS;
        if !fits || next_size < ALIGNMENT || !next_size.is_multiple_of(ALIGNMENT) {
            return false;
        }
        let Some(end) = next.checked_add(next_size) else { return false };
        if is_end(end) {
            return true;
        }
        (block, size) = (next, next_size);
    }
    true
}

/// Memory that may not be there.
struct Memory {
    /// The page that was asked about last, and could be read; no page's address before.
    page: usize,
}

impl Memory {
    /// The smallest page that there is.
    const PAGE: usize = 4096;

    fn new() -> Memory {
        Memory { page: usize::MAX }
    }

    /// The word at `address`; `None` if it cannot be read.
    fn word(&mut self, address: usize) -> Option<usize> {
        if !address.is_multiple_of(8) {
            return None;
        }
        let page = address & !(Self::PAGE - 1);
        if page != self.page {
            // No such way to change the mask, so nothing is changed; but the kernel reads the mask first.
            const NO_WAY: usize = usize::MAX;
            // SAFETY: the kernel reads eight bytes at the address if they are there, and has no place to write to.
            let asked = unsafe { system_call(libc::SYS_rt_sigprocmask, [NO_WAY, address, 0, 8]) };
            if asked != Err(Errno(libc::EINVAL)) {
                return None;
            }
            self.page = page;
        }
        // SAFETY: the kernel has just read there. Volatile: whose memory it is is not known.
        Some(unsafe { ptr::with_exposed_provenance::<usize>(address).read_volatile() })
    }
}
