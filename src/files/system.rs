//! What the system offers about the pages of a region.

use super::error::{Error, Result};
use super::guard::Pin;
use super::region::FileRegion;
use core::ffi::{c_int, c_void};
use memmap2::Advice;
use std::io;
use std::ops::{ControlFlow, Range};

/// Bytes that are read in between two reports.
const STEP: usize = 4 << 20;

/// Since Linux 5.14; the pages are read in, and an error says that one could not be.
const MADV_POPULATE_READ: c_int = 22;

impl FileRegion {
    /// Tells the system how the bytes are going to be used: see [`memmap2::Mmap::advise`].
    ///
    /// # Errors
    /// The system's; and as for [`FileRegion::pin`].
    pub fn advise(&self, advice: Advice) -> Result<()> {
        self.advise_range(advice, 0..usize::MAX)
    }

    /// The same, for the pages of a part of the bytes.
    ///
    /// # Errors
    /// As there.
    pub fn advise_range(&self, advice: Advice, range: Range<usize>) -> Result<()> {
        // SAFETY: none of the advices of this type takes contents away.
        self.on_pages(range, "madvise", |at, len| unsafe { libc::madvise(at, len, advice as c_int) })
    }

    /// Writes what was changed to the file, and waits until it is there: see [`memmap2::MmapMut::flush`].
    ///
    /// # Errors
    /// The system's; and as for [`FileRegion::pin`].
    pub fn flush(&self) -> Result<()> {
        self.flush_range(0..usize::MAX)
    }

    /// The same, for the pages of a part of the bytes.
    ///
    /// # Errors
    /// As there.
    pub fn flush_range(&self, range: Range<usize>) -> Result<()> {
        // SAFETY: changes no memory.
        self.on_pages(range, "msync", |at, len| unsafe { libc::msync(at, len, libc::MS_SYNC) })
    }

    /// Has what was changed written to the file, and does not wait.
    ///
    /// # Errors
    /// As for [`FileRegion::flush`].
    pub fn flush_async(&self) -> Result<()> {
        self.flush_async_range(0..usize::MAX)
    }

    /// The same, for the pages of a part of the bytes.
    ///
    /// # Errors
    /// As there.
    pub fn flush_async_range(&self, range: Range<usize>) -> Result<()> {
        // SAFETY: changes no memory.
        self.on_pages(range, "msync", |at, len| unsafe { libc::msync(at, len, libc::MS_ASYNC) })
    }

    /// Keeps the pages in memory until [`FileRegion::unlock`], or until the region is elsewhere: see
    /// [`memmap2::Mmap::lock`].
    ///
    /// # Errors
    /// The system's, `ENOMEM` where RLIMIT_MEMLOCK is too small; and as for [`FileRegion::pin`].
    pub fn lock(&self) -> Result<()> {
        // SAFETY: changes no contents.
        self.on_pages(0..usize::MAX, "mlock", |at, len| unsafe { libc::mlock(at, len) })
    }

    /// Undoes [`FileRegion::lock`].
    ///
    /// # Errors
    /// As there.
    pub fn unlock(&self) -> Result<()> {
        // SAFETY: changes no contents.
        self.on_pages(0..usize::MAX, "munlock", |at, len| unsafe { libc::munlock(at, len) })
    }

    /// Reads all pages in. `progress` is told how many bytes are there, and of how many; it may break off. Returns how
    /// many bytes were read in. No guard is held meanwhile.
    ///
    /// ```
    /// # use specmalloc::files::{FileRegion, memfd};
    /// # use std::ops::ControlFlow;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let file = memfd("example", 10 << 20)?;
    /// // SAFETY: nobody changes the file while it is read.
    /// let region = unsafe { FileRegion::map(&file)? };
    /// let read = region.prefault(|done, all| {
    ///     println!("{done} of {all}");
    ///     ControlFlow::Continue(())
    /// })?;
    /// assert_eq!(read, 10 << 20);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`FileRegion::with_faults_caught`], and as for [`FileRegion::pin`].
    pub fn prefault(&self, mut progress: impl FnMut(usize, usize) -> ControlFlow<()>) -> Result<usize> {
        let pin = self.pin()?;
        let mut done = 0;
        while done < pin.len() {
            let end = pin.len().min(done + STEP);
            // SAFETY: changes no contents.
            let populate =
                |at: *mut c_void, len: usize| unsafe { libc::madvise(at, len, MADV_POPULATE_READ) };
            if on_pages_of(&pin, done..end, "madvise", populate).is_err() {
                // An old kernel, or a page that is gone: whichever, a look at each page tells.
                pin.with_faults_caught(|bytes| {
                    bytes[done..end]
                        .iter()
                        .step_by(4096)
                        .fold(0, |sum, byte| sum ^ std::hint::black_box(*byte))
                })?;
            }
            done = end;
            if progress(done, pin.len()).is_break() {
                break;
            }
        }
        Ok(done)
    }

    fn on_pages(
        &self,
        range: Range<usize>,
        call: &'static str,
        body: impl FnOnce(*mut c_void, usize) -> c_int,
    ) -> Result<()> {
        on_pages_of(&self.pin()?, range, call, body)
    }
}

/// Calls `body` for the pages that hold a part of the bytes, if there are any.
fn on_pages_of(
    pin: &Pin,
    range: Range<usize>,
    call: &'static str,
    body: impl FnOnce(*mut c_void, usize) -> c_int,
) -> Result<()> {
    let end = range.end.min(pin.len());
    if range.start >= end {
        return Ok(());
    }
    let first = &raw const pin[range.start];
    // SAFETY: reads a constant of the system.
    let lead = first.addr() % unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize };
    let at = first.wrapping_sub(lead).cast_mut().cast();
    match body(at, end - range.start + lead) {
        0 => Ok(()),
        _ => Err(Error::System { call, error: io::Error::last_os_error() }),
    }
}
