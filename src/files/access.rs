//! Access that returns an error where a page is gone, instead of killing the process.

use super::error::{Error, Result};
use super::faults::caught;
use super::guard::Pin;
use super::region::FileRegion;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::ptr;

/// Bytes that are copied in one section.
const PIECE: usize = 64 << 10;

impl FileRegion {
    /// Runs `body` with the bytes. If a page of them is gone (the file was made shorter, or cannot be read), `body` sees
    /// zeros in its place and runs to its end, and what it returns is thrown away: do nothing in it that cannot be
    /// undone. From then on the region takes no more readers, until it is reopened.
    ///
    /// `body` runs inside a [`Guard`](super::Guard).
    ///
    /// ```
    /// # use specmalloc::files::{Cause, Error, FileRegion, memfd};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let file = memfd("example", 8192)?;
    /// // SAFETY: nobody else knows the file; it is made shorter below, and read with faults caught.
    /// let region = unsafe { FileRegion::map(&file)? };
    /// let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    /// assert_eq!(region.with_faults_caught(sum)?, 0);
    /// file.set_len(4096)?;
    /// match region.with_faults_caught(sum) {
    ///     Err(Error::Fault(fault)) => assert_eq!((fault.offset, fault.cause), (4096, Cause::Truncated)),
    ///     other => panic!("{other:?}"),
    /// }
    /// assert!(region.guard().is_err());
    /// assert_eq!(region.reopen()?.len, 4096);
    /// assert_eq!(region.with_faults_caught(sum)?, 0);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`FileRegion::guard`].
    pub fn with_faults_caught<T>(&self, body: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let guard = self.guard()?;
        caught(guard.region(), self.source(), || body(&guard))
    }

    /// Copies bytes from `offset` on, as many as there are and `to` has room for, and returns how many. Safe to use on
    /// bytes that are being changed: what is read then is a mixture.
    ///
    /// # Errors
    /// As for [`FileRegion::guard`].
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> Result<usize> {
        let guard = self.guard()?;
        let len = guard.len().saturating_sub(offset).min(to.len());
        // SAFETY: inside the bytes, which the guard holds; `to` is the caller's alone.
        caught(guard.region(), self.source(), || unsafe {
            ptr::copy_nonoverlapping(
                guard.as_mut_ptr().cast_const().add(offset.min(guard.len())),
                to.as_mut_ptr(),
                len,
            );
        })?;
        Ok(len)
    }

    /// As [`FileRegion::read_at`], and fills all of `to`.
    ///
    /// # Errors
    /// As there; [`Error::OutOfRange`] if there are fewer bytes.
    pub fn read_exact_at(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        let read = self.read_at(offset, to)?;
        let wanted = to.len();
        if read == wanted { Ok(()) } else { Err(self.beyond(offset, wanted)) }
    }

    /// Copies a range of the bytes to a writer, piece by piece, and returns how many. No guard is held while it writes.
    ///
    /// # Errors
    /// The writer's; and as for [`FileRegion::read_exact_at`].
    pub fn copy_to(&self, range: Range<usize>, to: &mut (impl Write + ?Sized)) -> io::Result<u64> {
        let mut piece = vec![0; PIECE.min(range.len())];
        let mut at = range.start;
        while at < range.end {
            let piece = &mut piece[..PIECE.min(range.end - at)];
            self.read_exact_at(at, piece)?;
            to.write_all(piece)?;
            at += piece.len();
        }
        Ok(range.len() as u64)
    }

    /// Copies `from` into the bytes at `offset`. The region is a writable one: of the file itself, or of a private copy.
    /// The bytes must not be borrowed by anybody at this time, as said when the region was made.
    ///
    /// # Errors
    /// As for [`FileRegion::guard`]; [`Error::ReadOnly`]; [`Error::OutOfRange`] if the bytes end before: see
    /// [`FileRegion::grow`].
    pub fn write_at(&self, offset: usize, from: &[u8]) -> Result<()> {
        if !self.is_writable() {
            return Err(Error::ReadOnly);
        }
        let guard = self.guard()?;
        if offset > guard.len() || from.len() > guard.len() - offset {
            drop(guard);
            return Err(self.beyond(offset, from.len()));
        }
        // SAFETY: inside the bytes, which are mapped writable; that nobody borrows them is the maker's promise.
        caught(guard.region(), self.source(), || unsafe {
            ptr::copy_nonoverlapping(from.as_ptr(), guard.as_mut_ptr().add(offset), from.len());
        })
    }

    /// The first byte, to write to or to make atomics of; null if the region cannot be written to, or is closed. It is
    /// there while the caller holds a guard or a pin that was taken before.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        match self.guard() {
            Ok(guard) if self.is_writable() => guard.as_mut_ptr(),
            _ => ptr::null_mut(),
        }
    }

    /// A cursor over the bytes that there are now, which it holds.
    ///
    /// # Errors
    /// As for [`FileRegion::pin`].
    pub fn cursor(&self) -> Result<Cursor> {
        Ok(Cursor { pin: self.pin()?, at: 0 })
    }

    fn beyond(&self, offset: usize, len: usize) -> Error {
        Error::OutOfRange { end: (offset as u64).saturating_add(len as u64), file: self.len() as u64 }
    }
}

/// Reads a region from one place on, with faults caught. Holds a pin, and sees the bytes that there were when it was
/// made.
///
/// ```
/// # use specmalloc::files::{FileRegion, memfd};
/// # use std::os::unix::fs::FileExt;
/// # use std::io::{BufRead, BufReader, Seek, SeekFrom};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let file = memfd("example", 0)?;
/// file.write_all_at(b"first\nsecond\n", 0)?;
/// // SAFETY: nobody changes the file while it is read.
/// let region = unsafe { FileRegion::map(&file)? };
/// let mut cursor = region.cursor()?;
/// cursor.seek(SeekFrom::Start(6))?;
/// assert_eq!(BufReader::new(cursor).lines().next().unwrap()?, "second");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Cursor {
    pin: Pin,
    at: usize,
}

impl Cursor {
    /// What it reads.
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// Where it is.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The next `N` bytes; a number by its `from_le_bytes`, say.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if there are fewer, [`Error::Fault`] if a page is gone. The cursor stays where it was.
    pub fn read_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.pin.with_faults_caught(|bytes| bytes.get(self.at..)?.first_chunk().copied())?;
        let end = self.at.saturating_add(N);
        let bytes = bytes.ok_or(Error::OutOfRange { end: end as u64, file: self.pin.len() as u64 })?;
        self.at = end;
        Ok(bytes)
    }
}

impl Read for Cursor {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let len = self.pin.with_faults_caught(|bytes| {
            let bytes = bytes.get(self.at..).unwrap_or_default();
            let len = bytes.len().min(to.len());
            to[..len].copy_from_slice(&bytes[..len]);
            len
        })?;
        self.at += len;
        Ok(len)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => i64::try_from(at).ok(),
            SeekFrom::End(by) => (self.pin.len() as i64).checked_add(by),
            SeekFrom::Current(by) => (self.at as i64).checked_add(by),
        };
        let at = at.and_then(|at| usize::try_from(at).ok());
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at as u64)
    }
}
