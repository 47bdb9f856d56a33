//! Clearing memory that was used before.
//!
//! Of a block that was freed nobody knows which of its pages it touched. Writing zeros to all of them makes resident what
//! never was: a table of which a few entries are used, made and freed again and again, would be resident as a whole from
//! the second time on. So a page that is all zero is only read. Where it is not resident that maps the page of zeros that
//! all share, which is no memory and stays for the next time.

use core::ptr;

/// Pages that tell whether a block is written in some places only.
const LOOKS: usize = 32;

/// Bytes that are looked at together.
type Chunk = [u64; 16];

/// Makes the first `len` bytes at `block` zero. Whole pages that are not resident and read as zero stay so.
///
/// # Safety
/// The bytes are the caller's, readable and writable; `page` is a power of two of at least 4096.
pub unsafe fn clear(block: *mut u8, len: usize, page: usize) {
    debug_assert!(page.is_multiple_of(size_of::<Chunk>()));
    // Pages that are not zero are written together with their neighbours that are not, and with a part of one before.
    let mut from = 0;
    for at in (block.addr().wrapping_neg() & (page - 1)..len).step_by(page) {
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

/// Whether hardly anything is written in the first `len` bytes at `block`, as far as a look at some pages tells: then it is
/// less work to give all of them back than to look at each.
///
/// # Safety
/// As for [`clear`].
pub unsafe fn is_sparse(block: *const u8, len: usize, page: usize) -> bool {
    let stride = (len / page.max(1) / LOOKS).max(1);
    // Not at equal distances: what is written may be.
    let page_of = |look: usize| look * stride + (look * 37 + 11) % stride;
    let is_written = |&look: &usize| {
        // SAFETY: a whole page of the caller's bytes.
        !unsafe { is_zero(block.add(page_of(look) * page), page) }
    };
    stride >= LOOKS && (0..LOOKS).filter(is_written).count() <= LOOKS / 8
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
    fn what_is_written_in_few_of_its_pages_is_sparse() {
        const PAGE: usize = 4096;
        const PAGES: usize = LOOKS * LOOKS * 4;
        let mut bytes = std::vec![0_u64; PAGES * PAGE / 8];
        let is_sparse = |bytes: &[u64], pages: usize| {
            // SAFETY: the vector's bytes, which need not begin with a page to be read.
            unsafe { is_sparse(bytes.as_ptr().cast(), pages * PAGE, PAGE) }
        };
        assert!(is_sparse(&bytes, PAGES) && !is_sparse(&bytes, LOOKS * LOOKS - 1), "a short one");
        for (every, sparse) in [(32, true), (16, true), (2, false), (1, false)] {
            (0..PAGES).step_by(every).for_each(|page| bytes[page * PAGE / 8 + 511] = 1);
            assert_eq!(is_sparse(&bytes, PAGES), sparse, "one in {every}");
        }
    }

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
