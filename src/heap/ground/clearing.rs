//! Clearing memory that was used before.
//!
//! Of a block that was freed nobody knows which of its pages it touched. Writing zeros to all of them makes resident what
//! never was: a table of which a few entries are used, made and freed again and again, would be resident as a whole from
//! the second time on. So a page that is all zero is only read. Where it is not resident that maps the page of zeros that
//! all share, which is no memory and stays for the next time.

use core::ptr;

/// Bytes that are looked at together.
type Chunk = [u64; 16];

/// Makes the first `len` bytes of the run of pages at `block` zero. Pages that are not resident and read as zero stay so.
///
/// # Safety
/// The bytes are the caller's, readable and writable; `block` is a multiple of `page`, a power of two of at least 4096.
pub unsafe fn clear(block: *mut u8, len: usize, page: usize) {
    debug_assert!(page.is_multiple_of(size_of::<Chunk>()) && block.addr().is_multiple_of(page));
    // Pages that are not zero are written together with their neighbours that are not.
    let mut from = 0;
    for at in (0..len).step_by(page) {
        let bytes = page.min(len - at);
        // SAFETY: whole chunks among the caller's bytes, aligned as the page is.
        if bytes == page && unsafe { is_zero(block.add(at).cast_const(), page) } {
            // SAFETY: the caller's bytes.
            unsafe { block.add(from).write_bytes(0, at - from) };
            from = at + page;
        }
    }
    if from < len {
        // SAFETY: the caller's bytes.
        unsafe { block.add(from).write_bytes(0, len - from) };
    }
}

/// Whether the `len` bytes at `at` are zero.
///
/// # Safety
/// They may be read; both are multiples of a [`Chunk`]'s bytes.
unsafe fn is_zero(at: *const u8, len: usize) -> bool {
    let chunks = at.cast::<Chunk>();
    (0..len / size_of::<Chunk>()).all(|number| {
        // SAFETY: the caller's. What a program left there is some number.
        let chunk = unsafe { ptr::read(chunks.add(number)) };
        // Without an early end: what compilers make vectors of.
        chunk.iter().fold(0, |all, word| all | word) == 0
    })
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::pal::simulated::Simulated;
    use crate::pal::{Access, Platform};

    #[test]
    fn whatever_was_there_is_zero_and_what_is_behind_stays() {
        const PAGE: usize = 4096;
        const PAGES: usize = 6;
        let os = Simulated::new();
        let at = os.map(None, PAGES * PAGE, Access::ReadWrite).unwrap();
        let block = ptr::with_exposed_provenance_mut::<u8>(at);
        for pattern in 0..1u32 << PAGES {
            for (len, place) in
                [(PAGES * PAGE, 0), (PAGES * PAGE - 1, PAGE - 1), (5 * PAGE + 8, 7), (100, 4000), (0, 0)]
            {
                // SAFETY: the mapping is this test's.
                let bytes = unsafe { core::slice::from_raw_parts_mut(block, PAGES * PAGE) };
                bytes.fill(0);
                for page in (0..PAGES).filter(|page| pattern & 1 << page != 0) {
                    bytes[page * PAGE + place] = 1;
                }
                let mut wanted = bytes.to_vec();
                wanted[..len].fill(0);
                // SAFETY: as above.
                unsafe { clear(block, len, PAGE) };
                assert!(*bytes == wanted, "{len} bytes, {pattern:b}");
            }
        }
    }
}
