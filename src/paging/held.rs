//! What a reader holds: bytes that are there, or the region with whatever comes.

use super::pages::Pages;
use std::fmt;
use std::ops::{Deref, Range};
use std::slice;
use std::sync::Arc;

/// Bytes of a region that are there, and stay as they are, for as long as it is held: by any thread, after the region
/// was closed, and while its units are evicted, which go then when nobody holds them. Made by
/// [`PagedRegion::hold`](super::PagedRegion::hold).
///
/// ```
/// # use specmalloc::paging::{Error, PagedRegion, PagerError};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let squares = |offset: usize, to: &mut [u8]| -> Result<(), PagerError> {
///     (offset..).zip(to).for_each(|(at, byte)| *byte = (at * at) as u8);
///     Ok(())
/// };
/// let region = match PagedRegion::new(1 << 20, squares) {
///     Err(Error::NotAllowed { .. }) => return Ok(()),
///     region => region?,
/// };
/// let held = region.hold(1000..1003)?;
/// region.evict(0..region.len())?;
/// drop(region);
/// let bytes = bytes::Bytes::from_owner(held);
/// assert_eq!(&bytes[..], [64, 17, 228]);
/// # Ok(()) }
/// ```
#[must_use = "bytes that are let go of at once are not held"]
pub struct Held {
    pages: Arc<Pages>,
    range: Range<usize>,
    /// Those that are held.
    units: Range<usize>,
}

impl Held {
    /// Nothing yet, of a range that lies in the region.
    pub(super) fn nothing(pages: Arc<Pages>, range: Range<usize>, first: usize) -> Held {
        Held { pages, range, units: first..first }
    }

    /// The next unit is held, too.
    pub(super) fn add(&mut self) {
        self.units.end += 1;
    }

    /// Where in the region they lie.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.units.clone().for_each(|unit| self.pages.release(unit));
    }
}

impl Deref for Held {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: inside the region, whose units in the range are there and stay until they are released; nobody writes
        // there, for the memory is not writable.
        unsafe { slice::from_raw_parts(self.pages.start().add(self.range.start), self.range.len()) }
    }
}

impl AsRef<[u8]> for Held {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Held").field("range", &self.range).finish_non_exhaustive()
    }
}

/// A region of which nothing is fetched until it is touched: the memory stays where it is for as long as this is held,
/// and touches are served, also after the region was closed. A clone is one more. Made by
/// [`PagedRegion::pin`](super::PagedRegion::pin).
#[derive(Clone)]
pub struct Pin(pub(super) Arc<Pages>);

impl Pin {
    /// The first byte. Reading is fine while this is held, and the thread that reads waits for the pager. What it
    /// cannot fetch is a SIGBUS: see [the module's documentation](super). What is evicted meanwhile may be other bytes
    /// afterwards.
    pub fn as_ptr(&self) -> *const u8 {
        self.0.start()
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All the bytes.
    ///
    /// # Safety
    /// While they are borrowed, the pager makes the same bytes of a unit each time that it is asked, or nothing is
    /// evicted.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: memory of the region's, which this holds; that it does not change is the caller's promise.
        unsafe { slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Pin").field("start", &self.as_ptr()).field("len", &self.len()).finish()
    }
}
