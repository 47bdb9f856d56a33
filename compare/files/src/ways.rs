//! The ways to read a file that is mapped anew meanwhile.

use arc_swap::ArcSwap;
use memmap2::Mmap;
use mmap_sync::locks::LockDisabled;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

/// Bytes of the file.
pub const BYTES: usize = 16 << 20;

/// The names of all ways, ours first, and for each the function `$run` of it.
macro_rules! each_way {
    ($run:ident) => {
        each_way!($run, Guards, Caught, StdLock, ParkingLot, Swap, Copies, Pread)
    };
    ($run:ident, $($way:ident),*) => {
        [$((<$crate::ways::$way as Mapped>::name(), $run::<$crate::ways::$way> as Run)),*]
    };
}
pub(crate) use each_way;

/// A file that many threads read and one maps anew.
pub trait Mapped: Send + Sync + Sized {
    /// What the table calls it.
    fn name() -> &'static str;
    /// Maps the file of this name.
    fn open(path: &Path) -> io::Result<Self>;
    /// How long the file was when it was mapped last.
    fn len(&self) -> usize;
    /// The eight bytes at a place before the end, each way as its users would.
    fn read(&self, at: usize) -> io::Result<u64>;
    /// Maps the file that has the name now. Readers go on; what nobody reads any more is to be unmapped.
    fn remap(&self) -> io::Result<()>;
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn map(path: &Path) -> io::Result<Arc<Mmap>> {
    // SAFETY: files are replaced here, not changed.
    unsafe { Mmap::map(&File::open(path)?) }.map(Arc::new)
}

/// specmalloc's regions, by short guards.
pub struct Guards(specmalloc::files::FileRegion);

impl Mapped for Guards {
    fn name() -> &'static str {
        "specmalloc, guards"
    }
    fn open(path: &Path) -> io::Result<Self> {
        // SAFETY: as above.
        Ok(Guards(unsafe { specmalloc::files::FileRegion::open(path) }?))
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    #[inline]
    fn read(&self, at: usize) -> io::Result<u64> {
        Ok(word(&self.0.guard()?, at))
    }
    fn remap(&self) -> io::Result<()> {
        Ok(self.0.reopen().map(drop)?)
    }
}

/// specmalloc's regions, with faults caught.
pub struct Caught(Guards);

impl Mapped for Caught {
    fn name() -> &'static str {
        "specmalloc, faults caught"
    }
    fn open(path: &Path) -> io::Result<Self> {
        Guards::open(path).map(Caught)
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn read(&self, at: usize) -> io::Result<u64> {
        Ok(self.0.0.with_faults_caught(|bytes| word(bytes, at))?)
    }
    fn remap(&self) -> io::Result<()> {
        self.0.remap()
    }
}

/// A lock of std's around a counted mapping, cloned for each read: the remapper never waits for a read.
pub struct StdLock(PathBuf, RwLock<Arc<Mmap>>);

impl Mapped for StdLock {
    fn name() -> &'static str {
        "memmap2, std RwLock<Arc>"
    }
    fn open(path: &Path) -> io::Result<Self> {
        Ok(StdLock(path.into(), RwLock::new(map(path)?)))
    }
    fn len(&self) -> usize {
        self.1.read().unwrap().len()
    }
    fn read(&self, at: usize) -> io::Result<u64> {
        let mapping = self.1.read().unwrap().clone();
        Ok(word(&mapping, at))
    }
    fn remap(&self) -> io::Result<()> {
        let new = map(&self.0)?;
        let old = std::mem::replace(&mut *self.1.write().unwrap(), new);
        drop(old);
        Ok(())
    }
}

/// The same with parking_lot's, read under the lock.
pub struct ParkingLot(PathBuf, parking_lot::RwLock<Arc<Mmap>>);

impl Mapped for ParkingLot {
    fn name() -> &'static str {
        "memmap2, parking_lot RwLock"
    }
    fn open(path: &Path) -> io::Result<Self> {
        Ok(ParkingLot(path.into(), parking_lot::RwLock::new(map(path)?)))
    }
    fn len(&self) -> usize {
        self.1.read().len()
    }
    fn read(&self, at: usize) -> io::Result<u64> {
        Ok(word(&self.1.read(), at))
    }
    fn remap(&self) -> io::Result<()> {
        let new = map(&self.0)?;
        let old = std::mem::replace(&mut *self.1.write(), new);
        drop(old);
        Ok(())
    }
}

/// arc-swap around a counted mapping.
pub struct Swap(PathBuf, ArcSwap<Mmap>);

impl Mapped for Swap {
    fn name() -> &'static str {
        "memmap2, arc-swap"
    }
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Swap(path.into(), ArcSwap::new(map(path)?)))
    }
    fn len(&self) -> usize {
        self.1.load().len()
    }
    fn read(&self, at: usize) -> io::Result<u64> {
        Ok(word(&self.1.load(), at))
    }
    fn remap(&self) -> io::Result<()> {
        self.1.store(map(&self.0)?);
        Ok(())
    }
}

/// mmap-sync: the contents are copied to one of two files of its own, which alternate; a word in a third says which is to
/// be read, and how many read each. What it promises is less: the writer waits for those who read for a time that it is
/// given, and then writes under them. And it is more: readers may be other processes. A reader is one thread's.
pub struct Copies {
    number: usize,
    source: PathBuf,
    copies: PathBuf,
    writer: Mutex<Synchronizer>,
}

/// The writer looks every so many nanoseconds whether readers have gone; and waits for them so long.
const LOOKS: u64 = 50_000;
const WAITS: Duration = Duration::from_secs(5);

type Synchronizer = mmap_sync::synchronizer::Synchronizer<wyhash::WyHash, LockDisabled, 1024, LOOKS>;
/// What is read, as it lies in the file.
type Words = [u64; BYTES / 8];

impl Copies {
    fn copy(&self) -> io::Result<()> {
        let contents = std::fs::read(&self.source)?;
        let written = self.writer.lock().unwrap().write_raw::<Words>(&contents, WAITS);
        let (_, late) = written.map_err(io::Error::other)?;
        if late { Err(io::Error::other("a reader was overtaken")) } else { Ok(()) }
    }
}

impl Mapped for Copies {
    fn name() -> &'static str {
        "mmap-sync"
    }
    fn open(path: &Path) -> io::Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let copies = path.with_file_name(format!("sync-{number}"));
        let writer = Mutex::new(Synchronizer::with_params(copies.as_os_str()));
        let copied = Copies { number, source: path.into(), copies, writer };
        copied.copy()?;
        Ok(copied)
    }
    fn len(&self) -> usize {
        BYTES
    }
    fn read(&self, at: usize) -> io::Result<u64> {
        thread_local! {
            static READER: RefCell<Option<(usize, Synchronizer)>> = const { RefCell::new(None) };
        }
        READER.with_borrow_mut(|reader| {
            if reader.as_ref().is_none_or(|(number, _)| *number != self.number) {
                *reader = Some((self.number, Synchronizer::with_params(self.copies.as_os_str())));
            }
            let Some((_, reader)) = reader else { unreachable!() };
            // SAFETY: the files are as long as that, and any bytes are words; the writer waits for long enough.
            let words = unsafe { reader.read::<Words>(false) }.map_err(io::Error::other)?;
            Ok(words[at / 8])
        })
    }
    fn remap(&self) -> io::Result<()> {
        self.copy()
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        for end in ["_state", "_data_0", "_data_1"] {
            let mut name = self.copies.clone().into_os_string();
            name.push(end);
            let _ = std::fs::remove_file(name);
        }
    }
}

/// No mapping: a system call for each read, on a file that arc-swap holds.
pub struct Pread(PathBuf, ArcSwap<File>);

impl Mapped for Pread {
    fn name() -> &'static str {
        "pread, arc-swap"
    }
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Pread(path.into(), ArcSwap::from_pointee(File::open(path)?)))
    }
    fn len(&self) -> usize {
        self.1.load().metadata().map_or(0, |metadata| metadata.len() as usize)
    }
    fn read(&self, at: usize) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.1.load().read_exact_at(&mut bytes, at as u64)?;
        Ok(u64::from_ne_bytes(bytes))
    }
    fn remap(&self) -> io::Result<()> {
        self.1.store(Arc::new(File::open(&self.0)?));
        Ok(())
    }
}
