//! Moving the pages of a region into a longer one, which stays one mapping.
//!
//! To the system moved pages are a mapping of their own, whatever they come to lie beside: it numbers the pages of a
//! mapping by the address that they were first mapped at. Such a region could not be moved again in one call, and each
//! move would add one mapping more. So the rest of the new region is unmapped, and the moved pages' mapping grows in
//! its place.
//!
//! The rest is a hole in between. No region of ours comes there, for the addresses are held; but the system may, when
//! it is short of addresses, place something of the program's there. Then the pages go back, and the new region is
//! given up.

use super::Space;
use crate::pal::{Access, Platform};
use crate::region::Region;
use core::ptr;

/// Bytes that are copied at a time, and given back behind.
const CHUNK: usize = 2 << 20;

/// What became of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Move {
    /// The pages are in the new region.
    Done,
    /// The system does not move pages: all is as it was.
    Refused,
    /// The pages are where they were. The new region is of no use: it is to be retired.
    Undone,
}

impl<P: Platform> Space<P> {
    /// Moves the first `len` bytes of pages of `from` to the start of `to`. What they leave behind reads as zero.
    ///
    /// # Safety
    /// The caller owns both, `to` is longer than `len` and has not been used, and nobody uses `from` meanwhile.
    pub unsafe fn move_pages(&self, from: &Region, to: &Region, len: usize) -> Move {
        let rest = to.len() - len;
        let os = self.os();
        // SAFETY: the caller's; both are one mapping, but for a guard, and `len` is whole pages of each.
        if unsafe { os.move_pages(from.base(), to.base(), len) }.is_err() {
            return Move::Refused;
        }
        // SAFETY: the caller's: nobody uses the rest.
        if unsafe { os.unmap(to.base() + len, rest) }.is_ok() {
            // SAFETY: what was moved is one mapping, and the caller's.
            if unsafe { os.resize(to.base(), len, to.len()) }.is_ok() {
                return Move::Done;
            }
            if os.map(Some(to.base() + len), rest, Access::ReadWrite).is_err() {
                // Somebody else's now. The guard behind it goes at once, so that what is left is one range.
                // SAFETY: as above. If the system refuses, the guard stays.
                let _ = unsafe { os.unmap(to.base() + to.len(), to.mapped() - to.len()) };
                to.cut(len);
            }
        }
        // SAFETY: the caller's; `from` is still mapped as it was.
        if unsafe { os.move_pages(to.base(), from.base(), len) }.is_err() {
            // SAFETY: as above.
            unsafe { self.copy_away(to, from, len) };
        }
        Move::Undone
    }

    /// Copies the first `len` bytes of `from` to `to`, and gives each part back when it has been copied: the two are
    /// never resident as a whole at once.
    ///
    /// # Safety
    /// The caller owns both, they are as long as that, and nobody uses either meanwhile.
    pub unsafe fn copy_away(&self, from: &Region, to: &Region, len: usize) {
        let at = |region: &Region, offset| ptr::with_exposed_provenance_mut::<u8>(region.base() + offset);
        for start in (0..len).step_by(CHUNK) {
            let part = CHUNK.min(len - start);
            // SAFETY: the caller's; two regions do not overlap.
            unsafe { ptr::copy_nonoverlapping(at(from, start), at(to, start), part) };
            // If the system refuses, the part stays until the region goes.
            // SAFETY: the caller's.
            if unsafe { self.os().purge(from.base() + start, part) }.is_ok() {
                self.count_purged(part);
            }
        }
    }
}
