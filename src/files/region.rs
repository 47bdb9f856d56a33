//! A region of a file, and how it changes under those who read it.

use super::error::{Error, Result};
use super::faults::fault_of;
use super::guard::{Guard, Pin};
use super::mapping;
use super::options::FileOptions;
use super::section;
use super::source::{Identity, Mode, Source, metadata, reserve};
use crate::global::process;
use crate::index::{Current, UnmapError};
use crate::rcu::{ReaderSlot, Section};
use crate::region::{Phase, Pinning, Region};
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A mapped file, or a part of one. Readers take a [`Guard`] for a moment or a [`Pin`] for longer; whatever else is done
/// with the region is done under them, by `&self`, from any thread.
///
/// Dropping it is [`FileRegion::unmap_later`].
///
/// ```
/// use specmalloc::files::{FileOptions, memfd};
/// use std::os::unix::fs::FileExt;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = memfd("example", 0)?;
/// file.write_all_at(b"one", 0)?;
/// // SAFETY: what was written is not changed.
/// let region = unsafe { FileOptions::new().map(&file)? };
/// let before = region.pin()?;
/// file.write_all_at(b", two", 3)?;
/// assert!(!region.reopen()?.moved, "there was room behind it");
/// assert_eq!(&*region.guard()?, b"one, two");
/// assert_eq!(&*before, b"one");
/// drop(before);
/// println!("readers kept it for {:?}", region.unmap()?.waited);
/// assert!(region.guard().is_err());
/// # Ok(()) }
/// ```
pub struct FileRegion {
    current: Current,
    mode: Mode,
    source: Arc<Source>,
    manager: Mutex<Manager>,
}

/// What it takes to map the file again. Its lock is held by those who do, never by readers.
struct Manager {
    options: FileOptions,
    identity: Identity,
}

/// What [`FileRegion::reopen`] and [`FileRegion::grow`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reopened {
    /// How long the region is now.
    pub len: usize,
    /// Whether it lies elsewhere: another file, or no room behind the old place. Guards and pins that were there before
    /// go on with the old mapping.
    pub moved: bool,
}

/// What [`FileRegion::unmap`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// How long that took: mostly, how long readers were there.
    pub waited: Duration,
}

impl FileRegion {
    pub(super) fn new(source: Source, options: &FileOptions, mode: Mode) -> Result<FileRegion> {
        // The thread's slot comes first: it starts the allocator, and allocates.
        let own = section::slot();
        process().space().reap(own);
        let (region, identity) = source.with(mode, |file| {
            let metadata = metadata(file)?;
            let bytes = mapping::bytes(options, metadata.len())?;
            Ok((mapping::map(file, options, mode, bytes)?, Identity::of(&metadata)))
        })?;
        let manager = Mutex::new(Manager { options: options.clone(), identity });
        Ok(FileRegion { current: Current::new(region), mode, source: Arc::new(source), manager })
    }

    /// The bytes, for a moment: whoever unmaps a region, this one or another, waits for each guard that is held. To work
    /// for longer, as on bytes that must be read from a disk first, take a [`FileRegion::pin`].
    ///
    /// # Errors
    /// [`Error::Closed`], or [`Error::Fault`] if a page was found missing since the region was opened.
    #[inline(always)]
    pub fn guard(&self) -> Result<Guard<'_>> {
        let section = section::enter();
        match self.current.get(&section) {
            Some(region) if region.file().fault() == 0 => Ok(Guard::new(region, section)),
            refused => {
                drop(section);
                Err(self.refusal(refused))
            }
        }
    }

    /// Why there is neither a guard nor a pin.
    #[cold]
    fn refusal(&self, region: Option<&'static Region>) -> Error {
        let fault = region.and_then(fault_of).map(|fault| self.source.explain(fault));
        fault.map_or(Error::Closed, Error::Fault)
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// The bytes, for as long as the caller likes.
    ///
    /// # Errors
    /// As for [`FileRegion::guard`]; [`Error::Busy`] if a billion pins are held.
    pub fn pin(&self) -> Result<Pin> {
        loop {
            let section = section::enter();
            let current = self.current.get(&section);
            let Some(region) = current.filter(|region| region.file().fault() == 0) else {
                drop(section);
                return Err(self.refusal(current));
            };
            match process().space().pin_region(region, &section) {
                Ok(pin) => return Ok(Pin::new(region, pin, self.source.clone())),
                Err(Pinning::Full) => return Err(Error::Busy),
                // It is being closed; or it was superseded just now, and there is another one.
                Err(_) if self.is_current(region, &section) => return Err(Error::Closed),
                Err(_) => {}
            }
        }
    }

    /// How many bytes there are now; none when it is closed.
    pub fn len(&self) -> usize {
        let section = section::enter();
        self.current.get(&section).map_or(0, |region| region.file().bytes())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it was unmapped.
    pub fn is_closed(&self) -> bool {
        self.current.region().is_none()
    }

    pub(super) fn is_writable(&self) -> bool {
        self.mode != Mode::Read
    }

    pub(super) fn is_shared(&self) -> bool {
        self.mode == Mode::Shared
    }

    fn is_current(&self, region: &'static Region, section: &Section<'_>) -> bool {
        self.current.get(section).is_some_and(|current| std::ptr::eq(current, region))
    }

    fn manager(&self) -> MutexGuard<'_, Manager> {
        self.manager.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the file again: it has grown, or shrunk, or another one has its name. From then on new readers see what
    /// it is now; those who are there go on with what they hold. A private copy begins anew. A region in which a page
    /// was missing is sound again.
    ///
    /// # Errors
    /// [`Error::Closed`], or what opening the file says: then nothing has changed.
    pub fn reopen(&self) -> Result<Reopened> {
        let manager = &mut *self.manager();
        self.refresh(manager, |_, _| Ok(()))
    }

    /// Makes the file longer, if need be, so that the region is `len` bytes long, and the blocks are reserved. If the
    /// region was given a length, this is its length from now on.
    ///
    /// # Errors
    /// As for [`FileRegion::reopen`]; [`Error::ReadOnly`] if the region is not a writable one of the file itself; the
    /// system's if the disk is full. The region is as before then.
    pub fn grow(&self, len: usize) -> Result<Reopened> {
        if !self.is_shared() {
            return Err(Error::ReadOnly);
        }
        let manager = &mut *self.manager();
        self.refresh(manager, |options, file| {
            let ends = metadata(file)?.len();
            let end = options.offset.saturating_add(len as u64);
            let from = if options.reserve { options.offset } else { ends.min(end) };
            reserve(file, from, end.saturating_sub(from))?;
            options.len = options.len.map(|_| len);
            Ok(())
        })
    }

    /// Maps the file anew, or says of the region that it is longer or shorter. `first` may change the file.
    fn refresh(
        &self,
        manager: &mut Manager,
        first: impl FnOnce(&mut FileOptions, &File) -> Result<()>,
    ) -> Result<Reopened> {
        let old = self.current.region().ok_or(Error::Closed)?;
        let mut options = manager.options.clone();
        let (reopened, identity) = self.source.with(self.mode, |file| {
            first(&mut options, file)?;
            let metadata = metadata(file)?;
            let (identity, ends) = (Identity::of(&metadata), metadata.len());
            // A part that the file no longer has as a whole is what it has of it.
            let wanted = options.len.unwrap_or(usize::MAX);
            let bytes = ends.checked_sub(options.offset).map(|left| wanted.min(left as usize));
            let bytes = bytes.ok_or(Error::OutOfRange { end: options.offset, file: ends })?;
            let same = identity == manager.identity && self.mode != Mode::Copy;
            let moved = !(same && self.resize(old, bytes));
            if moved {
                let new = mapping::map(file, &options, self.mode, bytes)?;
                if !process().space().supersede(&self.current, old, Some(new)) {
                    // It was closed meanwhile, and stays closed.
                    process().space().retire_region(new);
                    return Err(Error::Closed);
                }
            }
            Ok((Reopened { len: bytes, moved }, identity))
        })?;
        (manager.options, manager.identity) = (options, identity);
        process().space().reap(section::slot());
        Ok(reopened)
    }

    /// Says of a region how long its file is now. `false` if it has no room for that, is not sound, or is not the
    /// current one.
    fn resize(&self, region: &'static Region, bytes: usize) -> bool {
        // In a section, in which the descriptor stays this region's.
        let section = section::enter();
        let stays = self.is_current(region, &section)
            && region.file().fault() == 0
            && bytes <= mapping::room_of(region);
        if stays {
            region.file().set_bytes(bytes);
        }
        stays
    }

    /// Closes the region, waits until the last reader is gone, and unmaps it. Readers that come get [`Error::Closed`]
    /// from the beginning on.
    ///
    /// A thread that holds a [`Pin`] of its own waits for itself, for pins belong to no thread: who may hold one takes
    /// [`FileRegion::unmap_within`].
    ///
    /// # Errors
    /// [`Error::InsideGuard`] if the calling thread holds a [`Guard`], of whatever region: nothing has changed then.
    /// [`Error::Closed`].
    pub fn unmap(&self) -> Result<Unmapped> {
        let (own, begun) = (Self::outside()?, Instant::now());
        loop {
            let old = self.current.region().ok_or(Error::Closed)?;
            match process().space().close(&self.current, old, Some(own)) {
                Ok(()) => return Ok(Unmapped { waited: begun.elapsed() }),
                // Superseded: once more.
                Err(UnmapError::NotThere) => {}
                Err(UnmapError::InsideSection) => return Err(Error::InsideGuard),
                Err(UnmapError::NoBarrier) => {
                    let error = io::Error::from_raw_os_error(libc::ENOSYS);
                    return Err(Error::System { call: "membarrier", error });
                }
                Err(UnmapError::Kept(errno)) => {
                    let error = io::Error::from_raw_os_error(errno.0);
                    return Err(Error::System { call: "munmap", error });
                }
            }
        }
    }

    /// As [`FileRegion::unmap`], but waits no longer than `limit`.
    ///
    /// # Errors
    /// As there; [`Error::TimedOut`] if readers were still there then: the region is closed, and goes after the last.
    pub fn unmap_within(&self, limit: Duration) -> Result<Unmapped> {
        let (own, begun) = (Self::outside()?, Instant::now());
        let gone = self.close()?;
        let mut pause = Duration::from_micros(20);
        loop {
            process().space().reap(Some(own));
            let waited = begun.elapsed();
            if gone() {
                return Ok(Unmapped { waited });
            }
            let left = limit.checked_sub(waited).ok_or(Error::TimedOut { waited })?;
            sleep(pause.min(left));
            pause = (2 * pause).min(Duration::from_millis(2));
        }
    }

    /// Closes the region and waits for nobody. It is unmapped after the last reader: when that one's pin is dropped, or
    /// at the next mapping or unmapping of any region.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn unmap_later(&self) -> Result<()> {
        let _gone = self.close()?;
        process().space().reap(section::slot());
        Ok(())
    }

    /// Closes the region unless it is pinned, and waits for nobody. Returns whether it is unmapped: it is not yet where
    /// any thread of the process holds a guard at this moment.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is pinned, or being reopened; [`Error::Closed`].
    pub fn try_unmap(&self) -> Result<bool> {
        let _manager = self.manager.try_lock().map_err(|_| Error::Busy)?;
        let old = self.current.region().ok_or(Error::Closed)?;
        let life = old.generation();
        if !process().space().close_unpinned(&self.current, old) {
            return Err(if self.is_closed() { Error::Closed } else { Error::Busy });
        }
        // One move of the reclaimer's begins the grace period, another ends it.
        let own = section::slot();
        process().space().reap(own);
        process().space().reap(own);
        Ok(old.generation() != life)
    }

    /// The calling thread's slot, if it holds no guard.
    fn outside() -> Result<&'static ReaderSlot> {
        section::slot().filter(|slot| !slot.is_inside()).ok_or(Error::InsideGuard)
    }

    /// Takes the region out. Returns what tells whether its memory is gone.
    fn close(&self) -> Result<impl Fn() -> bool + use<>> {
        loop {
            let old = self.current.region().ok_or(Error::Closed)?;
            let life = old.generation();
            if process().space().supersede(&self.current, old, None) {
                return Ok(move || old.generation() != life);
            }
        }
    }
}

impl Drop for FileRegion {
    fn drop(&mut self) {
        // Closed already is as good.
        let _ = self.unmap_later();
    }
}

impl fmt::Debug for FileRegion {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_there = |region: &&Region| region.state().phase() == Phase::Attached;
        let region = self.current.region().filter(is_there);
        to.debug_struct("FileRegion")
            .field("mode", &self.mode)
            .field("len", &region.map(|region| region.file().bytes()))
            .finish_non_exhaustive()
    }
}
