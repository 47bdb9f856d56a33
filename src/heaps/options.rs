//! What a heap is made of, and how much it may hold.

use super::backing::Backing;
use super::heap::{Heap, LimitReached, OnLimit};
use super::memory::{DIRTY_MAX, Memory};
use crate::files::{Error, Result, memfd};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// How a heap is to be: how much it may hold, and, by the last call, what its pages are pages of.
///
/// ```
/// use allocator_api2::vec::Vec;
/// use specmalloc::heaps::HeapOptions;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let heap = HeapOptions::new().limit(1 << 20).in_memory()?;
/// let mut bytes: Vec<u8, _> = Vec::new_in(&heap);
/// assert!(bytes.try_reserve(500_000).is_ok());
/// assert!(bytes.try_reserve(5_000_000).is_err(), "more than the heap may hold");
/// # Ok(()) }
/// ```
#[must_use]
pub struct HeapOptions {
    limit: usize,
    dirty_max: usize,
    on_limit: Option<OnLimit>,
}

impl Default for HeapOptions {
    fn default() -> HeapOptions {
        HeapOptions::new()
    }
}

impl HeapOptions {
    /// No limit.
    pub const fn new() -> HeapOptions {
        HeapOptions { limit: usize::MAX, dirty_max: DIRTY_MAX, on_limit: None }
    }

    /// Bytes that the heap may hold, whole slabs and runs of 64 KiB counted as a whole: see
    /// [`HeapStatistics::held_bytes`](super::HeapStatistics::held_bytes). A request that would make it more is refused.
    pub fn limit(mut self, bytes: usize) -> HeapOptions {
        self.limit = bytes;
        self
    }

    /// Bytes that may be free and stay resident for the heap's next blocks, beside an eighth of what the heap holds: 4 MiB
    /// if this is not called. When more is free, whoever frees gives half of that back. A heap that is emptied and filled
    /// by turns is quicker with more; with `usize::MAX` it keeps all that it ever had, until [`Heap::trim`].
    ///
    /// ```
    /// # use allocator_api2::vec::Vec;
    /// # use specmalloc::heaps::HeapOptions;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let heap = HeapOptions::new().dirty_max(0).in_memory()?;
    /// let mut bytes = Vec::new_in(&heap);
    /// bytes.resize(3 << 20, 1u8);
    /// drop(bytes);
    /// assert_eq!(heap.statistics().dirty_bytes, 0);
    /// # Ok(()) }
    /// ```
    pub fn dirty_max(mut self, bytes: usize) -> HeapOptions {
        self.dirty_max = bytes;
        self
    }

    /// What is called when a request meets the limit, by the thread that makes the request: if it says `true` the
    /// request is made again. It may free blocks of the heap, raise the limit, or count. What it allocates from the heap
    /// itself is refused if that meets the limit, without another call. If it panics the process ends.
    ///
    /// ```
    /// use allocator_api2::vec::Vec;
    /// use specmalloc::heaps::HeapOptions;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = HeapOptions::new().limit(1 << 20).on_limit(|heap, reached| {
    ///     heap.set_limit(reached.held + reached.wanted);
    ///     heap.limit() <= 8 << 20
    /// });
    /// let heap = options.in_memory()?;
    /// assert!(Vec::<u8, _>::new_in(&heap).try_reserve(5_000_000).is_ok());
    /// assert!(Vec::<u8, _>::new_in(&heap).try_reserve(50_000_000).is_err());
    /// # Ok(()) }
    /// ```
    pub fn on_limit(
        mut self,
        asks: impl Fn(&Heap, &LimitReached) -> bool + Send + Sync + 'static,
    ) -> HeapOptions {
        self.on_limit = Some(Box::new(asks));
        self
    }

    /// A heap in memory.
    ///
    /// # Errors
    /// The system's.
    pub fn in_memory(self) -> Result<Heap> {
        self.with(Backing::Anonymous)
    }

    /// A heap in a file in memory. `name` is seen in `/proc/PID/fd` and in `/proc/PID/maps`.
    ///
    /// # Errors
    /// The system's.
    pub fn in_memfd(self, name: &str) -> Result<Heap> {
        self.with(Backing::behind(memfd(name, 0)?)?)
    }

    /// A heap in a file without a name, in a directory: on the disk that has room for it. What was written back can be
    /// taken from memory ([`Heap::flush`]). The file goes with the heap, whatever becomes of the process.
    ///
    /// ```
    /// use allocator_api2::vec::Vec;
    /// use specmalloc::heaps::HeapOptions;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let heap = HeapOptions::new().in_directory(std::env::temp_dir())?;
    /// let mut numbers = Vec::new_in(&heap);
    /// numbers.extend(0..100_000u64);
    /// heap.flush()?;
    /// assert_eq!(numbers.iter().sum::<u64>(), 4_999_950_000);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The system's: among others where the file system has no files without names, or cannot reserve blocks.
    pub fn in_directory(self, directory: impl AsRef<Path>) -> Result<Heap> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .mode(0o600)
            .open(directory);
        let file = opened.map_err(|error| Error::System { call: "open", error })?;
        self.with(Backing::behind(file)?)
    }

    /// A heap in a file, behind what the file holds: which it is cut down to again when the heap is dropped.
    ///
    /// ```
    /// # use specmalloc::heaps::HeapOptions;
    /// # use specmalloc::files::memfd;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let file = memfd("mine", 0)?;
    /// // SAFETY: nobody else has the file.
    /// let heap = unsafe { HeapOptions::new().in_file(&file)? };
    /// let number = allocator_api2::boxed::Box::new_in(7, &heap);
    /// assert!(file.metadata()?.len() >= 1 << 16);
    /// drop(number);
    /// drop(heap);
    /// assert_eq!(file.metadata()?.len(), 0);
    /// # Ok(()) }
    /// ```
    ///
    /// # Safety
    /// While the heap is there nobody changes the file: neither its length nor what lies behind its present end. Nor is
    /// another heap made in it.
    ///
    /// # Errors
    /// The system's: among others where the file system cannot reserve blocks.
    pub unsafe fn in_file(self, file: &File) -> Result<Heap> {
        let file = file.try_clone().map_err(|error| Error::System { call: "dup", error })?;
        self.with(Backing::behind(file)?)
    }

    fn with(self, backing: Backing) -> Result<Heap> {
        let memory = Memory::new(backing, self.dirty_max)?;
        memory.set_limit(self.limit);
        Ok(Heap::with(memory, self.on_limit))
    }
}

impl fmt::Debug for HeapOptions {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("HeapOptions").field("limit", &self.limit).finish_non_exhaustive()
    }
}
