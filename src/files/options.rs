//! How a file is mapped.

/// How a file is to be mapped: which part of it, and with how much room behind it. The names are those of
/// [`memmap2::MmapOptions`] where the meaning is the same.
///
/// ```
/// # use specmalloc::files::{FileOptions, memfd};
/// # use std::os::unix::fs::FileExt;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = memfd("example", 10_000)?;
/// file.write_all_at(b"found", 5000)?;
/// // SAFETY: nobody changes the file while it is read.
/// let part = unsafe { FileOptions::new().offset(5000).len(5).map(&file)? };
/// assert_eq!(&*part.guard()?, b"found");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct FileOptions {
    pub(super) offset: u64,
    pub(super) len: Option<usize>,
    pub(super) headroom: Option<usize>,
    pub(super) populate: bool,
    pub(super) reserve: bool,
}

impl Default for FileOptions {
    fn default() -> FileOptions {
        FileOptions::new()
    }
}

impl FileOptions {
    /// The whole of a file.
    pub const fn new() -> FileOptions {
        FileOptions { offset: 0, len: None, headroom: None, populate: false, reserve: true }
    }

    /// Where in the file the region begins. Need not be a multiple of anything. Default: at its start.
    pub const fn offset(mut self, offset: u64) -> FileOptions {
        self.offset = offset;
        self
    }

    /// How long the region is. Default: to the end of the file, wherever that is at the time.
    pub const fn len(mut self, len: usize) -> FileOptions {
        self.len = Some(len);
        self
    }

    /// Bytes of address space behind the file's end, into which it can grow without another mapping. Default: as many
    /// as the file has, between 64 KiB and 1 GiB; none where a length is given, and none for private copies.
    pub const fn headroom(mut self, bytes: usize) -> FileOptions {
        self.headroom = Some(bytes);
        self
    }

    /// Has the pages read in before the call returns. Default: they are when they are first touched.
    pub const fn populate(mut self) -> FileOptions {
        self.populate = true;
        self
    }

    /// Whether a writable region's blocks are reserved on the disk before it is mapped, so that a full disk is an error
    /// of the call, not of a later write. Default: yes, where the file system can.
    pub const fn reserve(mut self, on: bool) -> FileOptions {
        self.reserve = on;
        self
    }
}
