//! From a file, or its name, to a region.

use super::error::Result;
use super::options::FileOptions;
use super::region::FileRegion;
use super::source::{Mode, Source};
use std::fs::File;
use std::path::Path;

impl FileOptions {
    /// Maps a file to be read. A second descriptor of the file is kept.
    ///
    /// # Safety
    /// As for [`memmap2::MmapOptions::map`]: bytes that are borrowed, from a guard or a pin, must not be changed
    /// meanwhile: in this process or another, through this region or in another way. (They may be appended to, and the
    /// file may be replaced by another one of the same name. It should not be made shorter; what happens then is told
    /// in [the module's documentation](super).)
    ///
    /// # Errors
    /// The system's; or the range does not lie in the file.
    pub unsafe fn map(&self, file: &File) -> Result<FileRegion> {
        FileRegion::new(Source::of(file)?, self, Mode::Read)
    }

    /// Maps a file to be read, and written without a trace: what is written is seen in this region only.
    ///
    /// # Safety
    /// As for [`FileOptions::map`].
    ///
    /// # Errors
    /// As for [`FileOptions::map`].
    pub unsafe fn map_copy(&self, file: &File) -> Result<FileRegion> {
        FileRegion::new(Source::of(file)?, self, Mode::Copy)
    }

    /// Maps a file to be read and written. The file must have been opened for both.
    ///
    /// # Safety
    /// As for [`FileOptions::map`].
    ///
    /// # Errors
    /// As for [`FileOptions::map`].
    pub unsafe fn map_mut(&self, file: &File) -> Result<FileRegion> {
        FileRegion::new(Source::of(file)?, self, Mode::Shared)
    }

    /// As [`FileOptions::map`], for the file of this name, whichever that is when the region is reopened. No descriptor
    /// is kept.
    ///
    /// # Safety
    /// As for [`FileOptions::map`].
    ///
    /// # Errors
    /// As for [`FileOptions::map`].
    pub unsafe fn open(&self, path: impl AsRef<Path>) -> Result<FileRegion> {
        FileRegion::new(Source::at(path.as_ref()), self, Mode::Read)
    }

    /// As [`FileOptions::map_copy`], for the file of this name.
    ///
    /// # Safety
    /// As for [`FileOptions::map`].
    ///
    /// # Errors
    /// As for [`FileOptions::map`].
    pub unsafe fn open_copy(&self, path: impl AsRef<Path>) -> Result<FileRegion> {
        FileRegion::new(Source::at(path.as_ref()), self, Mode::Copy)
    }

    /// As [`FileOptions::map_mut`], for the file of this name.
    ///
    /// # Safety
    /// As for [`FileOptions::map`].
    ///
    /// # Errors
    /// As for [`FileOptions::map`].
    pub unsafe fn open_mut(&self, path: impl AsRef<Path>) -> Result<FileRegion> {
        FileRegion::new(Source::at(path.as_ref()), self, Mode::Shared)
    }
}

impl FileRegion {
    /// As [`FileOptions::map`], the whole of a file.
    ///
    /// # Safety
    /// As there.
    ///
    /// # Errors
    /// As there.
    pub unsafe fn map(file: &File) -> Result<FileRegion> {
        // SAFETY: the caller's.
        unsafe { FileOptions::new().map(file) }
    }

    /// As [`FileOptions::open`], the whole of a file.
    ///
    /// # Safety
    /// As there.
    ///
    /// # Errors
    /// As there.
    pub unsafe fn open(path: impl AsRef<Path>) -> Result<FileRegion> {
        // SAFETY: the caller's.
        unsafe { FileOptions::new().open(path) }
    }
}
