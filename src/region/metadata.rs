//! Immortal memory for the allocator's own structures: descriptors, index nodes, heaps.
//!
//! A bump allocator over chunks that are never unmapped. Lock-free: a thread that finds the chunk used up maps one of
//! its own and offers it; the loser of that race gives its chunk back to the system and goes on in the winner's.
//! Nothing is held between two steps, so a signal handler or a forked child may allocate at any moment.

use crate::base::align_up;
use crate::pal::{Access, Errno, Platform};
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Counter, Exchange, ZERO_IS_VALID, acquire, release};
use core::ptr::NonNull;

/// Bytes in the first chunk, which is enough for a program of a few threads: what is not touched costs addresses only. (The
/// models' systems have few.) Each further one is twice as large, up to [`LAST_CHUNK`].
const FIRST_CHUNK: usize = if cfg!(any(loom, shuttle)) { 64 << 10 } else { 256 << 10 };
const LAST_CHUNK: usize = 1 << 20;

/// What can be made in zeroed memory.
///
/// # Safety
/// Where [`ZERO_IS_VALID`], memory that is all zero is a valid value, the one that `construct` makes.
pub unsafe trait InPlace: Sync + Sized + 'static {
    /// Makes a value at `at`, field by field.
    ///
    /// # Safety
    /// `at` points to writable memory of the size and alignment of `Self`, which nobody else uses.
    unsafe fn construct(at: *mut Self);
}

/// The head of a chunk, at its base. Where zero is valid, the memory behind it is untouched.
struct Chunk {
    /// Bytes in the chunk; constant once the chunk is published.
    len: AtomicUsize,
    /// Bytes used, this head included.
    used: AtomicUsize,
}

/// Bytes that the head takes.
const HEAD: usize = size_of::<Chunk>().next_multiple_of(64);

impl Chunk {
    /// Makes the head of a chunk that nobody knows yet.
    ///
    /// # Safety
    /// `len` bytes are mapped at `at`, zeroed, a multiple of a page, and used by nobody.
    unsafe fn begin(at: usize, len: usize) {
        let at = core::ptr::with_exposed_provenance_mut::<Chunk>(at);
        if !ZERO_IS_VALID {
            // SAFETY: passed on.
            unsafe { at.write(Chunk { len: AtomicUsize::new(0), used: AtomicUsize::new(0) }) };
        }
        // SAFETY: made above, or zero where that is valid.
        let head = unsafe { &*at };
        // Relaxed, both: published by the Release that offers the chunk.
        head.len.store(len, Relaxed);
        head.used.store(HEAD, Relaxed);
    }
}

/// A bump allocator of immortal zeroed memory.
pub struct Metadata {
    /// Address of the chunk to allocate from, 0 before the first.
    current: AtomicUsize,
    /// Bytes mapped in all chunks.
    mapped: Counter,
    /// Bytes handed out, heads and padding included.
    used: Counter,
    /// Number of mappings.
    chunks: Counter,
}

impl Metadata {
    crate::const_unless_model! {
        /// An allocator without a chunk: the first request maps one.
        pub fn new() -> Metadata {
            Metadata {
                current: AtomicUsize::new(0),
                mapped: Counter::new(),
                used: Counter::new(),
                chunks: Counter::new(),
            }
        }
    }

    /// `size` bytes of zeroed memory at a multiple of `align` (a power of two, at most a page), for good.
    ///
    /// # Errors
    /// The system's, when it was asked for a chunk; nothing is lost by that.
    pub fn allocate<P: Platform>(&self, os: &P, size: usize, align: usize) -> Result<NonNull<u8>, Errno> {
        debug_assert!(align.is_power_of_two() && align <= os.page_size());
        loop {
            // Acquire: partner is the Release that published the chunk: its head is complete.
            let current = self.current.load(acquire("region.chunk_acquire"));
            if let Some(at) = self.bump(current, size, align) {
                return Ok(at);
            }
            let doubled = FIRST_CHUNK << self.chunks.get().min(8);
            let len = align_up(size + HEAD.max(align), os.page_size()).ok_or(Errno(libc::ENOMEM))?;
            let len = len.max(doubled.min(LAST_CHUNK)).next_multiple_of(os.page_size());
            let fresh = os.map(None, len, Access::ReadWrite)?;
            // SAFETY: the chunk has just been mapped, is page-aligned and larger than its head.
            unsafe { Chunk::begin(fresh, len) };
            // Release: partner is the Acquire above. Relaxed on failure: the loop reads the word again.
            if self.current.compare_exchange(current, fresh, release("region.chunk_publish"), Relaxed).is_ok()
            {
                self.mapped.add(len);
                self.chunks.add(1);
            } else {
                // SAFETY: nobody has learnt of this chunk. If the system refuses, the memory stays mapped, unused.
                let _ = unsafe { os.unmap(fresh, len) };
            }
        }
    }

    /// Takes `size` bytes off the chunk at `chunk`, if it has them.
    fn bump(&self, chunk: usize, size: usize, align: usize) -> Option<NonNull<u8>> {
        // SAFETY: `current` is 0 or the address of a chunk with a complete head, and chunks are never unmapped.
        let head = unsafe { core::ptr::with_exposed_provenance::<Chunk>(chunk).as_ref() }?;
        // Relaxed: constant, and published with the chunk.
        let len = head.len.load(Relaxed);
        // Relaxed: only the guess for the exchange below.
        let mut used = head.used.load(Relaxed);
        loop {
            let start = align_up(used, align)?;
            let end = start.checked_add(size).filter(|&end| end <= len)?;
            let at = NonNull::new(core::ptr::with_exposed_provenance_mut(chunk + start));
            // Relaxed: the memory behind `used` is untouched; the exchange alone decides whose it is.
            match head.used.exchange(used, end, Relaxed, Relaxed, "region.bump_two_steps") {
                Ok(_) => {
                    self.used.add(end - used);
                    return at;
                }
                Err(now) => used = now,
            }
        }
    }

    /// A new immortal value.
    ///
    /// # Errors
    /// As [`Metadata::allocate`].
    pub fn create<T: InPlace, P: Platform>(&self, os: &P) -> Result<&'static T, Errno> {
        let at = self.allocate(os, size_of::<T>(), align_of::<T>())?.cast::<T>();
        if !ZERO_IS_VALID {
            // SAFETY: the memory was just handed out, with the size and alignment of `T`.
            unsafe { T::construct(at.as_ptr()) };
        }
        // SAFETY: the value is valid (made above, or zero where zero is valid), immortal, and shared from now on.
        Ok(unsafe { at.as_ref() })
    }

    /// Bytes mapped for metadata.
    pub fn mapped(&self) -> usize {
        self.mapped.get()
    }

    /// Bytes handed out.
    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// Number of mappings made for metadata.
    pub fn chunks(&self) -> usize {
        self.chunks.get()
    }
}

impl Default for Metadata {
    fn default() -> Metadata {
        Metadata::new()
    }
}
