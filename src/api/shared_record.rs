//! Figures in memory shared with another process, so that they outlive the process that they are about.
//! Imports `pal` (for system calls and their errors) and its neighbours here.
//!
//! A reader (the command `specmalloc`) makes a [`StatisticsFile`]; every process that finds its path in the environment
//! as `SPECMALLOC_STATS` opens it as a [`SharedRecord`]: it maps the file, closes the descriptor, claims one record and
//! publishes into it from time to time. The file is a header and an array of records; a record is claimed by stepping a
//! counter and never given back. Processes beyond the capacity are counted and have no figures.
//!
//! Nothing is trusted by its path: what is not a file of exactly this layout and size is refused before it is mapped,
//! and the maker seals the size, so that no access can run past the end.

use super::detail::{DETAIL_WORDS, Detail, DetailWriter};
use super::publication::Publication;
use super::statistics::{Statistics, WORDS};
use crate::pal::{Errno, system_call};
use core::ffi::{CStr, c_int};
use core::mem::{MaybeUninit, offset_of};
use core::ptr::NonNull;

use crate::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The environment variable that carries the path of the file.
pub const VARIABLE: &CStr = c"SPECMALLOC_STATS";

/// Records in a file unless its maker asks otherwise: 48 MiB of address space, of which only used records have memory.
pub const CAPACITY: usize = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"specstat");
const VERSION: u64 = 4;

/// How those map the file that write to it.
const BOTH: c_int = libc::PROT_READ | libc::PROT_WRITE;

const RUNNING: u64 = 1;
const FINISHED: u64 = 2;

#[repr(C)]
struct Header {
    magic: u64,
    version: u64,
    record_bytes: u64,
    capacity: u64,
    /// Records claimed, those beyond the capacity included.
    claimed: AtomicU64,
    _pad: [u64; 3],
}

#[repr(C)]
struct Record {
    /// Process id in the low half, parent's in the high half. Zero until the fields below it are written.
    process: AtomicU64,
    started_ns: AtomicU64,
    state: AtomicU64,
    name: [AtomicU64; 2],
    /// The sample rate that another process asks for, and one more; zero for none.
    asked_rate: AtomicU64,
    figures: Publication<WORDS>,
    detail: Publication<DETAIL_WORDS>,
}

const _: () = assert!(size_of::<Header>() == 64 && offset_of!(Record, figures) == 48);

/// What one process wrote: the reader's view of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessRecord {
    /// Process id, as the process itself sees it.
    pub pid: u32,
    /// Parent's process id when the record was claimed.
    pub parent: u32,
    /// CLOCK_MONOTONIC in nanoseconds when the record was claimed.
    pub started_ns: u64,
    /// Program name as the kernel has it: at most 15 bytes, then zeros.
    pub name: [u8; 16],
    /// Whether the process said that it is ending. Not said by one that was killed, called `_exit` or ran `exec`.
    pub finished: bool,
    /// The last complete figures, if there were any.
    pub statistics: Option<Statistics>,
}

/// A mapped file. Never unmapped: the processes that write keep it to their end, and a reader has few.
#[derive(Clone, Copy)]
struct Mapped {
    base: NonNull<Header>,
}

// SAFETY: `base` leads to a mapping that is never undone, whose only mutable contents are atomics.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

/// A file descriptor that nobody else knows; closed when dropped.
struct Descriptor(c_int);

impl Descriptor {
    /// What a system call that makes one has returned.
    fn new(made: Result<usize, Errno>) -> Result<Descriptor, Errno> {
        made.map(|number| Descriptor(number as c_int))
    }

    /// Opens the file at `path`.
    fn open(path: &CStr, how: c_int) -> Result<Descriptor, Errno> {
        let how = (how | libc::O_CLOEXEC | libc::O_NONBLOCK) as usize;
        // SAFETY: `path` ends in a zero byte.
        Descriptor::new(unsafe {
            let path = path.as_ptr().expose_provenance();
            system_call(libc::SYS_openat, [libc::AT_FDCWD as usize, path, how])
        })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open, and nobody else's.
        let _closed = unsafe { system_call(libc::SYS_close, [self.0 as usize]) };
    }
}

impl Mapped {
    fn new(fd: &Descriptor, bytes: usize, access: c_int) -> Result<Self, Errno> {
        let how = [0, bytes, access as usize, libc::MAP_SHARED as usize, fd.0 as usize, 0];
        // SAFETY: a new mapping at an address that the system chooses touches nothing that exists.
        let base = unsafe { system_call(libc::SYS_mmap, how) }?;
        let base = NonNull::new(core::ptr::with_exposed_provenance_mut(base));
        base.map(|base| Self { base }).ok_or(Errno(libc::ENOMEM))
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping is page-aligned and at least a header long (both makers check the size); it lives as long
        // as the process, and only its atomic field changes after the maker wrote it.
        unsafe { self.base.as_ref() }
    }

    /// Claims a record for the calling process under `name`; `None` when all are taken.
    fn claim(&self, name: [u64; 2]) -> Option<NonNull<Record>> {
        // Relaxed: the counter only deals out distinct indices; a record is published by its own `process` field.
        let index = self.header().claimed.fetch_add(1, Ordering::Relaxed);
        let record = self.record(index)?;
        // SAFETY: no arguments, no memory; they always succeed.
        let [pid, parent] = [libc::SYS_getpid, libc::SYS_getppid]
            .map(|number| unsafe { system_call(number, []) }.unwrap_or(0));
        // Relaxed, all three: ordered by the store of `process` below.
        record.started_ns.store(monotonic_ns(), Ordering::Relaxed);
        record.state.store(RUNNING, Ordering::Relaxed);
        for (shared, word) in record.name.iter().zip(name) {
            shared.store(word, Ordering::Relaxed);
        }
        // Release: partner is the acquire load in `StatisticsFile::records`, which sees the fields above.
        record.process.store(u64::from(pid as u32) | u64::from(parent as u32) << 32, Ordering::Release);
        Some(NonNull::from(record))
    }

    fn record(&self, index: u64) -> Option<&'static Record> {
        if index >= self.header().capacity {
            return None;
        }
        // SAFETY: the file is `file_bytes(capacity)` long, so records below the capacity lie inside the mapping, which
        // is never undone. A record is atomics only, for which zero is valid and shared access is allowed.
        Some(unsafe { &*self.base.as_ptr().add(1).cast::<Record>().add(index as usize) })
    }
}

/// One process's place in the file: what the allocator writes to.
pub struct SharedRecord {
    file: Mapped,
    /// The record of this process, null when there was none left.
    own: AtomicPtr<Record>,
}

impl SharedRecord {
    /// Opens the file at `path` and claims a record for this process. No descriptor stays open; allocates nothing.
    ///
    /// `EPERM` in a process that runs with more rights than its caller (setuid), `EINVAL` for a file of another layout.
    pub fn open(path: &CStr) -> Result<Self, Errno> {
        // SAFETY: reads the auxiliary vector; no memory of ours is involved.
        if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
            return Err(Errno(libc::EPERM));
        }
        let fd = Descriptor::open(path, libc::O_RDWR)?;
        let file = Mapped::new(&fd, check(&fd)?, BOTH)?;
        let record = Self { file, own: AtomicPtr::new(core::ptr::null_mut()) };
        record.claim(process_name());
        Ok(record)
    }

    /// Claims a record of its own for a child that came out of fork with its parent's. Call it in the child, before
    /// anything publishes. Async-signal-safe.
    pub fn after_fork(&self) {
        let name = self.own().map(|parent| {
            // Relaxed: written before the fork.
            [parent.name[0].load(Ordering::Relaxed), parent.name[1].load(Ordering::Relaxed)]
        });
        self.claim(name.unwrap_or_else(process_name));
    }

    /// Publishes figures. Costs a copy of some 2 KiB, no system call; async-signal-safe, never waits.
    ///
    /// Returns `false` if another thread is publishing, which is as good, or if the process has no record.
    pub fn publish(&self, statistics: &Statistics) -> bool {
        self.own().is_some_and(|record| record.figures.publish(statistics.words()))
    }

    /// Publishes the detail that `write` tells. As [`SharedRecord::publish`], but without a copy.
    pub fn publish_detail(&self, write: impl FnOnce(&mut DetailWriter<'_>)) -> bool {
        let by = |words: &_| write(&mut DetailWriter::new(words, monotonic_ns()));
        self.own().is_some_and(|record| record.detail.publish_by(by))
    }

    /// The sample rate that another process has asked for since the last time.
    pub fn take_asked_rate(&self) -> Option<usize> {
        // Relaxed: a number on its own.
        let asked = self.own()?.asked_rate.swap(0, Ordering::Relaxed);
        asked.checked_sub(1).map(|rate| rate as usize)
    }

    /// Publishes the last figures and notes that the process is ending by itself.
    pub fn finish(&self, statistics: &Statistics) {
        self.publish(statistics);
        if let Some(record) = self.own() {
            // Release: partner is the acquire load in `StatisticsFile::records`; the last figures come first.
            record.state.store(FINISHED, Ordering::Release);
        }
    }

    fn own(&self) -> Option<&Record> {
        // Acquire: partner is the release store in `claim`, which this process, or the parent before a fork, made.
        // SAFETY: null or a record of the mapping, which lives as long as the process.
        unsafe { self.own.load(Ordering::Acquire).as_ref() }
    }

    fn claim(&self, name: [u64; 2]) {
        let record = self.file.claim(name).map_or(core::ptr::null_mut(), NonNull::as_ptr);
        // Release: partner is the acquire load in `own`.
        self.own.store(record, Ordering::Release);
    }
}

/// The file as its maker sees it: made empty, handed down by path, read at any time.
pub struct StatisticsFile {
    file: Mapped,
    fd: Descriptor,
}

impl StatisticsFile {
    /// Makes a file in memory with room for `capacity` processes. It has no name in any directory and is gone with its
    /// last user; others open it as `/proc/PID/fd/N` with this process's id and [`StatisticsFile::fd`].
    pub fn create(capacity: usize) -> Result<Self, Errno> {
        let bytes = file_bytes(capacity as u64).ok_or(Errno(libc::EINVAL))?;
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name ends in a zero byte.
        let fd = Descriptor::new(unsafe {
            let name = c"specmalloc statistics".as_ptr().expose_provenance();
            system_call(libc::SYS_memfd_create, [name, flags as usize])
        })?;
        let (number, seals) = (fd.0 as usize, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL);
        // SAFETY: `fd` is open; neither call touches memory of this process.
        unsafe {
            system_call(libc::SYS_ftruncate, [number, bytes])?;
            system_call(libc::SYS_fcntl, [number, libc::F_ADD_SEALS as usize, seals as usize])?;
        }
        let file = Mapped::new(&fd, bytes, BOTH)?;
        let (record_bytes, capacity) = (size_of::<Record>() as u64, capacity as u64);
        let claimed = AtomicU64::new(0);
        // SAFETY: the mapping is new, long enough, aligned to a page, and nobody else has opened the file yet.
        unsafe {
            file.base.write(Header {
                magic: MAGIC,
                version: VERSION,
                record_bytes,
                capacity,
                claimed,
                _pad: [0; 3],
            });
        }
        Ok(Self { file, fd })
    }

    /// Opens a file that another process has made, to read it only.
    pub fn open(path: &CStr) -> Result<Self, Errno> {
        Self::open_for(path, libc::O_RDONLY, libc::PROT_READ)
    }

    /// Asks a process that publishes into the file at `path` to sample its allocations, one for `rate` bytes on average;
    /// zero for none. It does so when it publishes next. `ESRCH` if it has no record.
    pub fn ask_rate(path: &CStr, pid: u32, rate: usize) -> Result<(), Errno> {
        let file = Self::open_for(path, libc::O_RDWR, BOTH)?;
        let own = file.written().filter(|(_, process)| *process as u32 == pid);
        let (record, _) = own.last().ok_or(Errno(libc::ESRCH))?;
        // Relaxed: a number on its own.
        record.asked_rate.store(rate as u64 + 1, Ordering::Relaxed);
        Ok(())
    }

    fn open_for(path: &CStr, how: c_int, access: c_int) -> Result<Self, Errno> {
        let fd = Descriptor::open(path, how)?;
        let file = Mapped::new(&fd, check(&fd)?, access)?;
        Ok(Self { file, fd })
    }

    /// The descriptor, which is closed on exec.
    pub fn fd(&self) -> c_int {
        self.fd.0
    }

    /// Processes that asked for a record, those that found none left included.
    pub fn claimed(&self) -> u64 {
        // Relaxed: a figure on its own.
        self.file.header().claimed.load(Ordering::Relaxed)
    }

    /// What the heaps and arenas of the process `pid` had last: of its last program, if it ran several.
    pub fn detail(&self, pid: u32) -> Option<Detail> {
        let own = self.written().filter(|(_, process)| *process as u32 == pid);
        own.last()?.0.detail.read().map(Detail::of)
    }

    /// The records claimed so far, in the order of claiming.
    pub fn records(&self) -> impl Iterator<Item = ProcessRecord> + '_ {
        self.written().map(|(record, process)| {
            // Acquire: partner is the release store in `SharedRecord::finish`, so that a finished process's last
            // figures are read below.
            let finished = record.state.load(Ordering::Acquire) == FINISHED;
            let mut name = [0; 16];
            for (bytes, word) in name.chunks_exact_mut(8).zip(&record.name) {
                // Relaxed: ordered by the load of `process`.
                bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            }
            let statistics = record.figures.read().map(|words| {
                let mut statistics = Statistics::new();
                *statistics.words_mut() = words;
                statistics
            });
            ProcessRecord {
                pid: process as u32,
                parent: (process >> 32) as u32,
                // Relaxed: ordered by the load of `process`.
                started_ns: record.started_ns.load(Ordering::Relaxed),
                name,
                finished,
                statistics,
            }
        })
    }

    /// The records that are written, with the words that name their processes.
    fn written(&self) -> impl Iterator<Item = (&'static Record, u64)> + '_ {
        (0..self.claimed()).map_while(|index| self.file.record(index)).filter_map(|record| {
            // Acquire: partner is the release store in `Mapped::claim`. Zero: claimed but not written yet.
            let process = record.process.load(Ordering::Acquire);
            (process != 0).then_some((record, process))
        })
    }
}

/// Bytes in a file of `capacity` records, or `None` if that is more than a file may have.
fn file_bytes(capacity: u64) -> Option<usize> {
    let records = capacity.checked_mul(size_of::<Record>() as u64)?;
    let bytes = records.checked_add(size_of::<Header>() as u64)?;
    isize::try_from(bytes).ok().map(|bytes| bytes as usize)
}

/// The length of the file behind `fd`, if it is one of ours.
fn check(fd: &Descriptor) -> Result<usize, Errno> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    let number = fd.0 as usize;
    // SAFETY: `status` is valid for the write of one `stat`, which on machines of 64 bits is what the kernel writes.
    unsafe { system_call(libc::SYS_fstat, [number, status.as_mut_ptr().expose_provenance()]) }?;
    // SAFETY: filled in by the call that succeeded.
    let status = unsafe { status.assume_init() };
    let mut head = [0u64; 4];
    // SAFETY: `head` is valid for the write of its own size.
    let read = unsafe {
        let at = head.as_mut_ptr().expose_provenance();
        system_call(libc::SYS_pread64, [number, at, size_of_val(&head), 0])
    };
    let [magic, version, record_bytes, capacity] = head;
    let ours = status.st_mode & libc::S_IFMT == libc::S_IFREG
        && read == Ok(size_of_val(&head))
        && (magic, version, record_bytes) == (MAGIC, VERSION, size_of::<Record>() as u64);
    match file_bytes(capacity) {
        Some(bytes) if ours && status.st_size == bytes as libc::off_t => Ok(bytes),
        _ => Err(Errno(libc::EINVAL)),
    }
}

fn process_name() -> [u64; 2] {
    let mut name = [0u64; 2];
    // SAFETY: PR_GET_NAME writes at most 16 bytes, which is what `name` has.
    let _told = unsafe {
        let at = name.as_mut_ptr().expose_provenance();
        system_call(libc::SYS_prctl, [libc::PR_GET_NAME as usize, at])
    };
    name
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for the write; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests;
