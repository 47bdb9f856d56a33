//! Where a region's file comes from, each time that it is needed.

use super::error::{Cause, Error, Fault, Result};
use crate::global::process;
use crate::pal::Platform;
use std::ffi::CString;
use std::fs::{File, Metadata};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What the mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Read,
    Copy,
    Shared,
}

const HUGETLBFS_MAGIC: libc::__fsword_t = 0x9584_58f6;

/// A name, or a descriptor.
pub(super) enum Source {
    Path(PathBuf),
    File(File),
}

/// Which file it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Identity {
        Identity(metadata.dev(), metadata.ino())
    }
}

impl Source {
    pub(super) fn of(file: &File) -> Result<Source> {
        file.try_clone().map(Source::File).map_err(|error| Error::System { call: "dup", error })
    }

    pub(super) fn at(path: &Path) -> Source {
        Source::Path(path.to_owned())
    }

    /// What is wrong, as far as the file can tell as it is now: a fault alone does not say whether the page is behind the
    /// file's end.
    pub(super) fn explain(&self, fault: Fault) -> Fault {
        let look = |file: &File| Ok((metadata(file)?.len(), page_of(file)?));
        let cause = match (fault.cause, self.with(Mode::Read, look)) {
            (Cause::Io, Ok((len, _))) if fault.offset >= len => Cause::Truncated,
            (Cause::Io, Ok((_, page))) if page > process().space().os().page_size() => Cause::OutOfHugePages,
            (cause, _) => cause,
        };
        Fault { cause, ..fault }
    }

    /// Runs `body` with the file, opened for what `mode` needs.
    pub(super) fn with<T>(&self, mode: Mode, body: impl FnOnce(&File) -> Result<T>) -> Result<T> {
        match self {
            Source::File(file) => body(file),
            Source::Path(path) => {
                let mut options = File::options();
                // A pipe in the file's place is not waited for: it is an error.
                options.read(true).write(mode == Mode::Shared).custom_flags(libc::O_NONBLOCK);
                let opened = options.open(path);
                body(&opened.map_err(|error| Error::System { call: "open", error })?)
            }
        }
    }
}

/// What the system says of a file.
pub(crate) fn metadata(file: &File) -> Result<Metadata> {
    file.metadata().map_err(|error| Error::System { call: "fstat", error })
}

/// Has the file system reserve blocks for a range, and makes the file longer if it ends before. Where the file system
/// cannot reserve any, only the latter.
pub(super) fn reserve(file: &File, offset: u64, len: u64) -> Result<()> {
    let end = offset.checked_add(len).filter(|&end| i64::try_from(end).is_ok());
    let end = end.ok_or(Error::OutOfRange { end: u64::MAX, file: i64::MAX as u64 })?;
    if len == 0 {
        return Ok(());
    }
    loop {
        // SAFETY: changes the file, no memory.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, offset as i64, len as i64) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) if metadata(file)?.len() >= end => return Ok(()),
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => {
                return file.set_len(end).map_err(|error| Error::System { call: "ftruncate", error });
            }
            Some(libc::EBADF | libc::EPERM) => return Err(Error::ReadOnly),
            _ => return Err(Error::System { call: "fallocate", error }),
        }
    }
}

/// A file in memory, of `len` bytes, zero. `name` is seen in `/proc/PID/fd` only.
///
/// # Errors
/// The system's.
pub fn memfd(name: &str, len: u64) -> Result<File> {
    let name =
        CString::new(name).map_err(|error| Error::System { call: "memfd_create", error: error.into() })?;
    // SAFETY: the name is a string.
    let descriptor = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(Error::last("memfd_create"));
    }
    // SAFETY: made just now, and nobody else's.
    let file = unsafe { File::from_raw_fd(descriptor) };
    file.set_len(len).map_err(|error| Error::System { call: "ftruncate", error })?;
    Ok(file)
}

/// Bytes in a page of the file's: larger than the system's on hugetlbfs.
pub(crate) fn page_of(file: &File) -> Result<usize> {
    let mut about = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the call writes no more than the structure.
    if unsafe { libc::fstatfs(file.as_raw_fd(), about.as_mut_ptr()) } != 0 {
        return Err(Error::last("fstatfs"));
    }
    // SAFETY: written by the call, which succeeded.
    let about = unsafe { about.assume_init() };
    let is_huge = about.f_type == HUGETLBFS_MAGIC;
    Ok(if is_huge { about.f_bsize as usize } else { process().space().os().page_size() })
}
