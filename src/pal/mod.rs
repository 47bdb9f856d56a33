//! `pal`: the platform abstraction layer. What the allocator asks of the system about memory and waiting, behind one
//! trait; and [`system_call`], by which it and others ask the kernel itself. (Threads, the environment and clocks are the C
//! library's, which `global` and `api` call themselves.)
//!
//! May import `base` and `sync`. [`Linux`] is the real thing; [`simulated::Simulated`] (tests and models) is one more
//! platform, with an address space of its own, page contents, a count of mappings and a failure to inject at each call.
//! Both pass the same conformance checks.
//!
//! Every failure is an [`Errno`]; nothing here allocates or retries, and only a broken contract of the caller aborts.

mod carrying;
#[cfg(all(test, not(any(loom, shuttle))))]
mod conformance;
mod emptying;
mod errno;
mod folios;
mod limits;
mod linux;
mod misuse;
#[cfg(all(test, any(loom, shuttle)))]
pub(crate) mod models;
mod random;
mod report;
#[cfg(any(test, loom, shuttle, feature = "simulated"))]
pub mod simulated;
mod system_call;
pub mod twin;

pub use folios::Folios;
pub use linux::Linux;
pub use misuse::{Call, Misuse, broken_contract};
#[cfg(not(any(feature = "std", panic = "unwind")))]
pub use report::panicked;
pub use report::{end_process, to_stderr};
pub use system_call::system_call;

use crate::sync::atomic::AtomicU32;
use core::ffi::CStr;

/// An error number of the operating system, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What a mapping may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: reserved address space or a guard.
    None,
    /// Reading and writing.
    ReadWrite,
}

/// How often each kind of system call was made by this process: the figures behind "no mapping in steady state".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// `mmap` calls that succeeded.
    pub map: u64,
    /// `munmap` calls that succeeded.
    pub unmap: u64,
    /// `mprotect` calls that succeeded.
    pub protect: u64,
    /// `mremap` calls that succeeded.
    pub remap: u64,
    /// `madvise(MADV_DONTNEED)` calls that succeeded.
    pub purge: u64,
    /// `membarrier` calls that succeeded.
    pub barrier: u64,
    /// Calls of the kinds above that failed, and refusals to register the barrier.
    pub failed: u64,
}

/// What the allocator asks of an operating system. Lengths and addresses are in bytes, multiples of
/// [`Platform::page_size`] unless a method says otherwise.
///
/// # Safety
///
/// An implementation returns from `map` only memory that is zero, readable and writable as asked, and that nothing else
/// in the process uses; the allocator builds its own safety on that.
pub unsafe trait Platform: Send + Sync + 'static {
    /// Bytes in a page, read from the system at run time: 4, 16 or 64 KiB.
    fn page_size(&self) -> usize;

    /// Maps `len` bytes of private anonymous zero memory without reserving swap, and returns its address.
    ///
    /// With `at` the mapping starts exactly there or the call fails with `EEXIST` (nothing that is mapped is ever
    /// replaced); without it the system chooses. Fails with `ENOMEM` when memory, address space or mappings run out.
    fn map(&self, at: Option<usize>, len: usize, access: Access) -> Result<usize, Errno>;

    /// Unmaps `len` bytes at `addr`.
    ///
    /// # Safety
    /// The range was mapped by this platform and nobody uses it any more.
    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), Errno>;

    /// Gives back the first `used` bytes of the pages of a range that is about to be unmapped, as far as that is worth a
    /// call: so whoever maps or unmaps something beside it does not wait until they are gone.
    ///
    /// # Safety
    /// As for [`Platform::unmap`] of that range.
    unsafe fn empty(&self, addr: usize, len: usize, used: usize);

    /// Changes what the range may be used for.
    ///
    /// # Safety
    /// The range was mapped by this platform; with [`Access::None`] nobody uses it any more.
    unsafe fn protect(&self, addr: usize, len: usize, access: Access) -> Result<(), Errno>;

    /// Gives the pages of the range back: they read as zero afterwards (MADV_DONTNEED).
    ///
    /// # Safety
    /// The range lies inside one mapping of this platform and nobody uses its contents any more.
    unsafe fn purge(&self, addr: usize, len: usize) -> Result<(), Errno>;

    /// Grows or shrinks a mapping from `old` to `new` bytes where it is; fails with `ENOMEM` if what follows is taken.
    ///
    /// # Safety
    /// The range is one mapping of this platform; what is cut off is not used any more.
    unsafe fn resize(&self, addr: usize, old: usize, new: usize) -> Result<(), Errno>;

    /// Moves the `len` bytes of pages mapped at `from` to `to`, which must lie in a mapping of this platform and is
    /// replaced. `from` stays mapped, without pages (MREMAP_DONTUNMAP), so that late readers see zeros, never a hole.
    ///
    /// # Safety
    /// Both ranges were mapped by this platform, do not overlap, and nobody uses the contents of `to`.
    unsafe fn move_pages(&self, from: usize, to: usize, len: usize) -> Result<(), Errno>;

    /// Has the range, whole pages of one mapping, populated by huge pages as it is touched from now on, or by single
    /// ones again (MADV_HUGEPAGE, MADV_NOHUGEPAGE). A hint: may do nothing.
    fn prefer_huge_pages(&self, addr: usize, len: usize, preferred: bool) -> Result<(), Errno>;

    /// Has the page at `addr` be part of no folio from now on, if it is one now, so that what goes of that beside it goes
    /// at once. A hint: may do nothing.
    ///
    /// # Safety
    /// The page lies in a mapping of this platform, and nobody needs its contents.
    unsafe fn split(&self, addr: usize) {
        let _ = addr;
    }

    /// Says of each page of the range in the lowest bit of a byte of `pages` whether it is resident; fails where the system
    /// does not tell.
    fn are_resident(&self, addr: usize, pages: &mut [u8]) -> Result<(), Errno> {
        let (_, _) = (addr, pages);
        Err(Errno(libc::ENOSYS))
    }

    /// Names the range in /proc/self/maps. A hint: may do nothing.
    fn name(&self, addr: usize, len: usize, name: &'static CStr);

    /// Prepares [`Platform::heavy_barrier`] for this process; an error means that there is none.
    fn register_barrier(&self) -> Result<(), Errno>;

    /// Makes every running thread of the process execute a full fence before this returns: the heavy half of
    /// [`crate::sync::light_barrier`].
    fn heavy_barrier(&self) -> Result<(), Errno>;

    /// Sleeps while `word` is `expected`, until woken or until `timeout_ms` have passed. May return early for no
    /// reason.
    fn wait(&self, word: &AtomicU32, expected: u32, timeout_ms: Option<u32>);

    /// Wakes up to `count` threads that wait on `word`.
    fn wake(&self, word: &AtomicU32, count: u32);

    /// Lets another thread run.
    fn yield_now(&self);

    /// Milliseconds on a clock that never goes back (coarse).
    fn now_ms(&self) -> u64;

    /// Nanoseconds on a clock that never goes back, as fine as there is without a system call.
    fn now_ns(&self) -> u64;

    /// Bytes of address space that the process may still be allowed in all (RLIMIT_AS), or `usize::MAX`.
    fn address_space_limit(&self) -> usize;

    /// Bytes of writable address space that the process may have in all, touched or not (RLIMIT_DATA), or `usize::MAX`.
    fn data_limit(&self) -> usize {
        usize::MAX
    }

    /// Bytes that the process may still have resident, by the limits of its control groups, or `usize::MAX`. Opens files: asked when `global` says so.
    fn memory_left(&self) -> usize;

    /// Microseconds for which tasks have waited for memory, ever, in the process's control group and in the system
    /// together; `usize::MAX` where that is not known. Opens files, as above.
    fn stalled_us(&self) -> usize {
        usize::MAX
    }

    /// The sizes of what may be populated at one fault. Opens files, as above.
    fn folios(&self) -> Folios {
        Folios::NONE
    }

    /// Random bits for secrets and placement; not for cryptography.
    fn entropy(&self) -> u64;

    /// How often each kind of call was made.
    fn calls(&self) -> CallCounts;
}
