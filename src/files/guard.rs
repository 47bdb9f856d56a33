//! What a reader holds: a guard for a moment, a pin for as long as it likes.

use super::error::Result;
use super::faults;
use super::mapping::bytes_of;
use super::section;
use super::source::Source;
use crate::global::process;
use crate::index;
use crate::pal::Linux;
use crate::rcu::Section;
use crate::region::Region;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, RangeBounds};
use std::slice;
use std::sync::Arc;

/// The bytes of a region, for a moment: while it is held, they stay where they are. Made by
/// [`FileRegion::guard`](super::FileRegion::guard), without a write that another thread could see the cost of.
///
/// It belongs to the thread that took it. Unmaps everywhere in the process wait for it, so it is for a look, not for
/// sleeping; who needs the bytes for longer takes a [`Pin`].
///
/// ```compile_fail
/// # fn example(region: specmalloc::files::FileRegion) {
/// let guard = region.guard().unwrap();
/// std::thread::scope(|scope| { scope.spawn(move || guard.len()); });
/// # }
/// ```
#[must_use = "a guard that is dropped at once holds nothing"]
pub struct Guard<'a> {
    start: *mut u8,
    len: usize,
    region: &'static Region,
    _section: Section<'static>,
    _of: PhantomData<&'a ()>,
}

impl<'a> Guard<'a> {
    #[inline(always)]
    pub(super) fn new(region: &'static Region, section: Section<'static>) -> Guard<'a> {
        let (start, len) = bytes_of(region);
        Guard { start, len, region, _section: section, _of: PhantomData }
    }

    /// The first byte, for reading or writing as the region allows.
    pub(super) fn as_mut_ptr(&self) -> *mut u8 {
        self.start
    }

    pub(super) fn region(&self) -> &'static Region {
        self.region
    }
}

impl Deref for Guard<'_> {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: mapped, and the section holds the region; that the bytes do not change is what the maker of the region
        // promised.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}

impl AsRef<[u8]> for Guard<'_> {
    #[inline(always)]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Guard<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Guard").field("start", &self.start).field("len", &self.len).finish()
    }
}

/// The bytes of a region, or some of them, for as long as it is held: by any thread, across reopening, and after the
/// region was closed. Made by [`FileRegion::pin`](super::FileRegion::pin); a clone is one more pin.
///
/// ```
/// # use specmalloc::files::{FileOptions, memfd};
/// # use std::os::unix::fs::FileExt;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let file = memfd("example", 0)?;
/// file.write_all_at(b"long lived", 0)?;
/// // SAFETY: nobody changes the file while it is read.
/// let region = unsafe { FileOptions::new().map(&file)? };
/// let word = region.pin()?.slice(5..);
/// let bytes = bytes::Bytes::from_owner(word.clone());
/// region.unmap_later()?;
/// assert_eq!(std::thread::spawn(move || word.to_vec()).join().unwrap(), b"lived");
/// assert_eq!(&bytes[..], b"lived");
/// # Ok(()) }
/// ```
pub struct Pin {
    start: *mut u8,
    len: usize,
    region: &'static Region,
    /// `None` while it is dropped.
    pin: Option<index::Pin<'static, Linux>>,
    source: Arc<Source>,
}

// SAFETY: the bytes are shared, and a pin is counted in a word that all threads may change.
unsafe impl Send for Pin {}
// SAFETY: as above.
unsafe impl Sync for Pin {}

impl Pin {
    pub(super) fn new(region: &'static Region, pin: index::Pin<'static, Linux>, source: Arc<Source>) -> Pin {
        let (start, len) = bytes_of(region);
        Pin { start, len, region, pin: Some(pin), source }
    }

    /// Some of the bytes, held in the same way.
    ///
    /// # Panics
    /// If the range does not lie in the pin, as slices do.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Pin {
        let bytes = &self[(range.start_bound().cloned(), range.end_bound().cloned())];
        let (from, len) = (bytes.as_ptr().addr() - self.start.addr(), bytes.len());
        let mut part = self.clone();
        // SAFETY: inside the pin's bytes, as the slice is.
        part.start = unsafe { self.start.add(from) };
        part.len = len;
        part
    }

    /// Runs `body` with the bytes: see [`FileRegion::with_faults_caught`](super::FileRegion::with_faults_caught).
    ///
    /// # Errors
    /// [`Error::Fault`](super::Error::Fault).
    pub fn with_faults_caught<T>(&self, body: impl FnOnce(&[u8]) -> T) -> Result<T> {
        faults::caught(self.region, &self.source, || body(self))
    }
}

impl Clone for Pin {
    /// # Panics
    /// If a billion pins are held.
    fn clone(&self) -> Pin {
        let pin = self.pin.as_ref().and_then(index::Pin::another);
        let Pin { start, len, region, .. } = *self;
        Pin {
            start,
            len,
            region,
            pin: Some(pin.expect("fewer than a billion pins")),
            source: self.source.clone(),
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pin = None;
        // It may have been the last thing that an unmap waited for.
        if process().space().has_retired() {
            process().space().reap(section::slot());
        }
    }
}

impl Deref for Pin {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: as for a guard; the pin holds the region.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}

impl AsRef<[u8]> for Pin {
    #[inline(always)]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Pin").field("start", &self.start).field("len", &self.len).finish()
    }
}
