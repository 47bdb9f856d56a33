//! What a heap's pages are pages of: nothing but memory, or a file, whose blocks are reserved before they are touched.

use crate::files::{Error, Result, metadata, page_of};
use crate::global::process;
use crate::pal::{Errno, Platform};
use core::ptr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Where pages come from.
pub(super) enum Backing {
    Anonymous,
    File(Backed),
}

/// A file that a heap lies in, from some place on.
pub(super) struct Backed {
    file: File,
    begin: u64,
    /// Where the next region will lie: no two lie in the same place.
    next: AtomicU64,
    /// How many forks there were, from the first process on to this one, when the heap was made.
    forks: usize,
}

/// Forks that lie between the process that noticed first and this one.
static FORKS: AtomicUsize = AtomicUsize::new(0);
static NOTICES_FORKS: Once = Once::new();

extern "C" fn in_child() {
    // Relaxed: the child has one thread.
    FORKS.fetch_add(1, Relaxed);
}

impl Backing {
    /// The file behind what it holds now.
    pub(super) fn behind(file: File) -> Result<Backing> {
        NOTICES_FORKS.call_once(|| {
            // SAFETY: the handler is a function of this library.
            let _no_memory = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        });
        let page = process().space().os().page_size();
        if page_of(&file)? != page {
            let error = io::Error::from_raw_os_error(libc::EINVAL);
            return Err(Error::System { call: "fallocate", error });
        }
        let begin = metadata(&file)?.len().next_multiple_of(page as u64);
        // Relaxed: written by `in_child` alone.
        let backed = Backed { file, begin, next: AtomicU64::new(begin), forks: FORKS.load(Relaxed) };
        // Where the file system cannot reserve blocks there is no heap.
        backed.reserve(begin, page).map_err(|errno| match errno {
            Errno(libc::EBADF) => Error::ReadOnly,
            Errno(code) => Error::System { call: "fallocate", error: io::Error::from_raw_os_error(code) },
        })?;
        Ok(Backing::File(backed))
    }

    /// Whether this process made the heap, or what lies in it is the process's alone. A file is one for a child of fork
    /// and its parent, but each has its own idea of what is free in it.
    #[inline]
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Backing::Anonymous => true,
            Backing::File(backed) => backed.is_ours(),
        }
    }

    /// Puts pages of the file into `len` bytes of a region, from `from` bytes behind its `base` on. Returns where in the
    /// file the base would lie.
    ///
    /// # Safety
    /// The range is mapped, and the caller's alone.
    pub(super) unsafe fn lay_under(
        &self,
        base: usize,
        from: usize,
        len: usize,
    ) -> std::result::Result<u64, Errno> {
        let Backing::File(backed) = self else { return Ok(0) };
        // Relaxed: takes a part of the file, and nothing else hangs on it.
        let offset = backed.next.fetch_add((from + len) as u64, Relaxed);
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
        let at = ptr::with_exposed_provenance_mut(base + from);
        let place = (offset + from as u64) as i64;
        // SAFETY: the caller's: nothing is replaced that anybody uses.
        let mapped = unsafe { libc::mmap(at, len, access, flags, backed.file.as_raw_fd(), place) };
        if mapped == libc::MAP_FAILED { Err(errno()) } else { Ok(offset) }
    }

    /// Has the file's blocks reserved for what lies at `offset`.
    pub(super) fn reserve(&self, offset: usize, len: usize) -> bool {
        match self {
            Backing::Anonymous => true,
            Backing::File(backed) => backed.reserve(offset as u64, len).is_ok(),
        }
    }

    /// Gives pages and blocks back: what lies there is zero afterwards, and to be reserved before it is touched.
    ///
    /// # Safety
    /// Nobody uses the range.
    #[must_use]
    pub(super) unsafe fn purge(&self, at: usize, offset: usize, len: usize) -> bool {
        let purged = match self {
            // SAFETY: the caller's; whole pages of one mapping.
            Backing::Anonymous => unsafe { process().purge_pages(at, len) }.is_ok(),
            Backing::File(backed) => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                backed.allocate(mode, offset as u64, len).is_ok()
            }
        };
        if purged {
            process().space().count_purged(len);
        }
        purged
    }

    /// Whether there is a file.
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Backing::File(_))
    }
}

impl Backed {
    fn is_ours(&self) -> bool {
        // Relaxed: written in a child before it has a second thread.
        self.forks == FORKS.load(Relaxed)
    }

    fn reserve(&self, offset: u64, len: usize) -> std::result::Result<(), Errno> {
        self.allocate(0, offset, len)
    }

    fn allocate(&self, mode: i32, offset: u64, len: usize) -> std::result::Result<(), Errno> {
        loop {
            // SAFETY: changes the file: what lies there is the caller's.
            if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as i64, len as i64) } == 0 {
                return Ok(());
            }
            match errno() {
                Errno(libc::EINTR) => {}
                error => return Err(error),
            }
        }
    }
}

impl Drop for Backed {
    fn drop(&mut self) {
        if self.is_ours() {
            // What the file held before is what it holds again. If the system refuses, it stays longer.
            let _ = self.file.set_len(self.begin);
        }
    }
}

fn errno() -> Errno {
    Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL))
}
