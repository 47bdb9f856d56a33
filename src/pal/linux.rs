//! The Linux kernel.
//!
//! Works from the first instruction of a process that may call malloc, allocates nothing, and leaves the caller's
//! `errno` as it was whatever happens: the caller is inside malloc or free, and only the C interface above decides
//! what `errno` becomes.

use super::carrying::carry_away;
use super::emptying::pieces;
use super::errno::{auxiliary, kept_errno};
use super::random::Random;
use super::{Access, CallCounts, Errno, Folios, Platform, limits, system_call};
use crate::const_unless_model;
use crate::sync::CachePadded;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use core::ffi::{CStr, c_int, c_long};

/// The operating system that the process runs on.
///
/// Small enough for a static of its own; the values in it are counters and what was found out about the kernel.
pub struct Linux {
    /// Bytes in a page, or zero before the first question.
    page_size: AtomicUsize,
    /// Whether mappings get names: not by default, and not any more once that has failed. It is a kind of system call
    /// that glibc's malloc does not make, and a program that sandboxes itself may have it forbidden on pain of death.
    names: AtomicBool,
    random: Random,
    /// Whether there is to be no barrier, though the system may have one.
    no_barrier: AtomicBool,
    /// Whether memory that the program had locked was purged: then more of it may be.
    locked: AtomicBool,
    /// On a line of their own: threads that map at the same time write here.
    counters: CachePadded<Counters>,
}

struct Counters {
    map: AtomicU64,
    unmap: AtomicU64,
    protect: AtomicU64,
    remap: AtomicU64,
    purge: AtomicU64,
    barrier: AtomicU64,
    failed: AtomicU64,
}

/// As MADV_DONTNEED, also for memory that is locked. Since Linux 5.18; the libc crate does not know it.
const MADV_DONTNEED_LOCKED: c_int = 24;
/// What a mapping of no file has for a descriptor.
const NO_FILE: usize = usize::MAX;
const MAP_FLAGS: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

impl Linux {
    const_unless_model! {
        /// The platform with nothing counted and nothing asked yet.
        pub fn new() -> Linux {
            Linux {
                page_size: AtomicUsize::new(0),
                names: AtomicBool::new(false),
                random: Random::new(),
                no_barrier: AtomicBool::new(false),
                locked: AtomicBool::new(false),
                counters: CachePadded::new(Counters {
                    map: AtomicU64::new(0),
                    unmap: AtomicU64::new(0),
                    protect: AtomicU64::new(0),
                    remap: AtomicU64::new(0),
                    purge: AtomicU64::new(0),
                    barrier: AtomicU64::new(0),
                    failed: AtomicU64::new(0),
                }),
            }
        }
    }

    /// Has mappings named from now on, or not.
    pub fn allow_names(&self, allowed: bool) {
        // Relaxed: a hint; a thread that misses it makes one call more or less.
        self.names.store(allowed, Ordering::Relaxed);
    }

    /// Whether mappings get names.
    pub fn gives_names(&self) -> bool {
        // Relaxed: as above.
        self.names.load(Ordering::Relaxed)
    }

    /// Behaves as a system without membarrier. To be said before the start.
    pub fn forbid_barrier(&self) {
        // Relaxed: read once, at the start.
        self.no_barrier.store(true, Ordering::Relaxed);
    }

    /// Counts an outcome under `kind`, or as failed, and hands it on.
    fn counted<T>(&self, kind: &AtomicU64, outcome: Result<T, Errno>) -> Result<T, Errno> {
        let counter = if outcome.is_ok() { kind } else { &self.counters.failed };
        // Relaxed: a statistic; no other memory is published by it and only `calls` reads it.
        counter.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    /// What [`Platform::purge`] does, not counted.
    ///
    /// # Safety
    /// As there.
    unsafe fn drop_pages(&self, addr: usize, len: usize) -> Result<(), Errno> {
        // SAFETY: the caller vouches that the range is ours and its contents are not needed.
        let advise = |advice| unsafe { madvise(addr, len, advice) };
        // Relaxed: a hint which of the two is likely to do.
        if self.locked.load(Ordering::Relaxed) {
            return advise(MADV_DONTNEED_LOCKED);
        }
        match advise(libc::MADV_DONTNEED) {
            Err(Errno(libc::EINVAL)) => {
                let purged = advise(MADV_DONTNEED_LOCKED);
                self.locked.store(purged.is_ok(), Ordering::Relaxed);
                purged
            }
            // SAFETY: passed on.
            Err(Errno(libc::EPERM | libc::EACCES | libc::ENOSYS)) => unsafe {
                carry_away(addr, len, self.page_size())
            },
            outcome => outcome,
        }
    }
}

impl Default for Linux {
    fn default() -> Linux {
        Linux::new()
    }
}

/// # Safety
/// As for [`system_call`].
unsafe fn madvise(addr: usize, len: usize, advice: c_int) -> Result<(), Errno> {
    // SAFETY: the caller's.
    unsafe { system_call(libc::SYS_madvise, [addr, len, advice as usize]) }.map(|_| ())
}

/// The address that the kernel knows `word` by; `None` under a model checker, whose atomics are no plain words.
fn futex_word(word: &AtomicU32) -> Option<*mut u32> {
    #[cfg(not(any(loom, shuttle)))]
    return Some(word.as_ptr());
    #[cfg(any(loom, shuttle))]
    {
        let _ = word;
        None
    }
}

/// `membarrier(command, 0)`.
fn membarrier(command: c_int) -> Result<(), Errno> {
    // SAFETY: membarrier reads and writes no memory of ours.
    unsafe { system_call(libc::SYS_membarrier, [command as usize]) }.map(|_| ())
}

/// Nanoseconds on a clock that needs no system call.
fn now(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes `now` and nothing else.
    let _ = kept_errno(-1, || unsafe { libc::clock_gettime(clock, &mut now) });
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn protection(access: Access) -> usize {
    let protection = match access {
        Access::None => libc::PROT_NONE,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    };
    protection as usize
}

// SAFETY: `map` returns what mmap gave for MAP_PRIVATE | MAP_ANONYMOUS, which is zero and ours alone; a hint becomes
// a demand through MAP_FIXED_NOREPLACE and the comparison behind it, so nothing that is mapped is ever replaced.
unsafe impl Platform for Linux {
    fn page_size(&self) -> usize {
        // Relaxed: every thread that finds zero here computes the same value from the system; nothing else hangs on it.
        let known = self.page_size.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let size = match auxiliary(libc::AT_PAGESZ) {
            // SAFETY: reads a constant of the system.
            0 => unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize },
            size => size,
        };
        // Relaxed: as the load above.
        self.page_size.store(size, Ordering::Relaxed);
        size
    }

    fn map(&self, at: Option<usize>, len: usize, access: Access) -> Result<usize, Errno> {
        let (hint, placed) = match at {
            Some(address) => (address, libc::MAP_FIXED_NOREPLACE),
            None => (0, 0),
        };
        // SAFETY: without MAP_FIXED, mmap takes only addresses that nothing occupies.
        let mapped = unsafe {
            let flags = (MAP_FLAGS | placed) as usize;
            system_call(libc::SYS_mmap, [hint, len, protection(access), flags, NO_FILE, 0])
        };
        let mapped = match mapped {
            // A kernel before 4.17 ignores the flag and takes the address for a hint.
            Ok(address) if at.is_some_and(|at| at != address) => {
                // SAFETY: the range was mapped just now and nobody else knows of it.
                let _ = unsafe { system_call(libc::SYS_munmap, [address, len]) };
                Err(Errno(libc::EEXIST))
            }
            other => other,
        };
        self.counted(&self.counters.map, mapped)
    }

    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), Errno> {
        // SAFETY: the caller vouches that the range is ours and unused.
        let outcome = unsafe { system_call(libc::SYS_munmap, [addr, len]) };
        self.counted(&self.counters.unmap, outcome.map(|_| ()))
    }

    unsafe fn empty(&self, addr: usize, len: usize, used: usize) {
        // The last page may be a guard: another mapping.
        for piece in pieces(used.min(len - self.page_size())) {
            // SAFETY: the caller vouches that the range is ours and unused.
            if unsafe { self.drop_pages(addr + piece.start, piece.len()) }.is_err() {
                // It goes with the mapping.
                break;
            }
        }
    }

    unsafe fn protect(&self, addr: usize, len: usize, access: Access) -> Result<(), Errno> {
        // SAFETY: the caller vouches that the range is ours, and unused if it becomes inaccessible.
        let outcome = unsafe { system_call(libc::SYS_mprotect, [addr, len, protection(access)]) };
        self.counted(&self.counters.protect, outcome.map(|_| ()))
    }

    unsafe fn purge(&self, addr: usize, len: usize) -> Result<(), Errno> {
        // SAFETY: passed on.
        let outcome = unsafe { self.drop_pages(addr, len) };
        self.counted(&self.counters.purge, outcome)
    }

    unsafe fn resize(&self, addr: usize, old: usize, new: usize) -> Result<(), Errno> {
        // SAFETY: the caller vouches for the range; without MREMAP_MAYMOVE it stays where it is and grows only into
        // address space that nothing occupies.
        let outcome = unsafe { system_call(libc::SYS_mremap, [addr, old, new]) };
        self.counted(&self.counters.remap, outcome.map(|_| ()))
    }

    unsafe fn move_pages(&self, from: usize, to: usize, len: usize) -> Result<(), Errno> {
        const FLAGS: c_int = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        // SAFETY: the caller vouches that both ranges are ours and that what `to` holds may be replaced.
        let outcome = unsafe { system_call(libc::SYS_mremap, [from, len, len, FLAGS as usize, to]) };
        self.counted(&self.counters.remap, outcome.map(|_| ()))
    }

    fn prefer_huge_pages(&self, addr: usize, len: usize, preferred: bool) -> Result<(), Errno> {
        let advice = if preferred { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: the advice changes no contents.
        unsafe { madvise(addr, len, advice) }
    }

    unsafe fn split(&self, addr: usize) {
        // The advice that splits a folio which it concerns in part, and that a filter is most likely to know.
        // SAFETY: the caller vouches that the page is ours and its contents are not needed.
        let _refused = unsafe { madvise(addr, self.page_size(), libc::MADV_FREE) };
    }

    fn are_resident(&self, addr: usize, pages: &mut [u8]) -> Result<(), Errno> {
        let len = pages.len().saturating_mul(self.page_size());
        // SAFETY: the kernel writes a byte for each page of the range; what it does not know of it refuses.
        unsafe { system_call(libc::SYS_mincore, [addr, len, pages.as_mut_ptr().expose_provenance()]) }
            .map(|_| ())
    }

    fn name(&self, addr: usize, len: usize, name: &'static CStr) {
        if !self.gives_names() {
            return;
        }
        // SAFETY: the kernel copies the string and changes no memory.
        let outcome = unsafe {
            let (what, kind) = (libc::PR_SET_VMA as usize, libc::PR_SET_VMA_ANON_NAME as usize);
            system_call(libc::SYS_prctl, [what, kind, addr, len, name.as_ptr().expose_provenance()])
        };
        // EINVAL from a kernel that has no names (before 5.17), something else from a filter.
        if outcome.is_err() {
            self.allow_names(false);
        }
    }

    fn register_barrier(&self) -> Result<(), Errno> {
        // Relaxed: as above.
        if self.no_barrier.load(Ordering::Relaxed) {
            return Err(Errno(libc::ENOSYS));
        }
        let outcome = membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
        if outcome.is_err() {
            // Relaxed: a statistic, as in `counted`.
            self.counters.failed.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    fn heavy_barrier(&self) -> Result<(), Errno> {
        self.counted(&self.counters.barrier, membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED))
    }

    fn wait(&self, word: &AtomicU32, expected: u32, timeout_ms: Option<u32>) {
        let Some(address) = futex_word(word) else { return self.yield_now() };
        let timeout = timeout_ms.map(|ms| libc::timespec {
            tv_sec: libc::time_t::from((ms / 1000) as i32),
            tv_nsec: c_long::from((ms % 1000) as i32) * 1_000_000,
        });
        let timeout = timeout.as_ref().map_or(core::ptr::null(), core::ptr::from_ref).expose_provenance();
        // A wake, another value, a signal and a timeout are all the same to the caller, who looks at the word again.
        // SAFETY: the kernel reads the word, which the reference keeps alive, and `timeout`, which is null or on our
        // stack.
        let _ = unsafe {
            let what = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
            system_call(libc::SYS_futex, [address.expose_provenance(), what, expected as usize, timeout])
        };
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        let Some(address) = futex_word(word) else { return };
        let count = count.min(i32::MAX as u32) as usize;
        // SAFETY: to the kernel the word is an address to compare, not memory to touch.
        let _ = unsafe {
            let what = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;
            system_call(libc::SYS_futex, [address.expose_provenance(), what, count])
        };
    }

    fn yield_now(&self) {
        if cfg!(any(loom, shuttle)) {
            return crate::sync::spin_hint();
        }
        // SAFETY: no memory is involved.
        let _ = unsafe { system_call(libc::SYS_sched_yield, []) };
    }

    fn now_ms(&self) -> u64 {
        now(libc::CLOCK_MONOTONIC_COARSE) / 1_000_000
    }

    fn now_ns(&self) -> u64 {
        now(libc::CLOCK_MONOTONIC)
    }

    fn address_space_limit(&self) -> usize {
        limits::limit(libc::RLIMIT_AS)
    }

    fn data_limit(&self) -> usize {
        limits::limit(libc::RLIMIT_DATA)
    }

    fn memory_left(&self) -> usize {
        limits::memory_left(b"")
    }

    fn stalled_us(&self) -> usize {
        limits::stalled_us(b"")
    }

    fn folios(&self) -> Folios {
        Folios::of_system(b"")
    }

    fn entropy(&self) -> u64 {
        self.random.next()
    }

    fn calls(&self) -> CallCounts {
        // Relaxed: each counter is a statistic of its own; they are not read as one moment.
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { map, unmap, protect, remap, purge, barrier, failed } = &*self.counters;
        CallCounts {
            map: read(map),
            unmap: read(unmap),
            protect: read(protect),
            remap: read(remap),
            purge: read(purge),
            barrier: read(barrier),
            failed: read(failed),
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::pal::conformance;

    static LINUX: Linux = Linux::new();

    /// Runs in a process of its own: a thread of another test could map something into the holes that the checks make.
    #[test]
    fn does_what_every_platform_does() {
        const CHILD: &str = "SPECMALLOC_TEST_CONFORMANCE";
        if std::env::var_os(CHILD).is_some() {
            return conformance::run(&Linux::new());
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "pal::linux::tests::does_what_every_platform_does",
                "--test-threads=1",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && output.contains("1 passed"),
            "{output}{}",
            String::from_utf8_lossy(&child.stderr)
        );
    }

    #[test]
    fn errno_is_the_callers() {
        // SAFETY: this thread's errno.
        let errno = || unsafe { &mut *libc::__errno_location() };
        *errno() = libc::EDOM;
        let page = LINUX.page_size();
        assert_eq!(LINUX.map(Some(page * 16 + 1), page, Access::None), Err(Errno(libc::EINVAL)));
        assert_eq!(LINUX.map(None, usize::MAX & !(page - 1), Access::None), Err(Errno(libc::ENOMEM)));
        // SAFETY: the address is no page, so nothing is done.
        assert_eq!(unsafe { LINUX.unmap(page + 1, page) }, Err(Errno(libc::EINVAL)));
        // SAFETY: nothing is mapped in the first page.
        assert_eq!(unsafe { LINUX.purge(0, page) }, Err(Errno(libc::ENOMEM)));
        LINUX.wait(&AtomicU32::new(0), 1, None);
        LINUX.allow_names(true);
        LINUX.name(0, page, c"nothing is here");
        assert!(!LINUX.gives_names(), "it has failed");
        assert_eq!(*errno(), libc::EDOM);
        assert_eq!(LINUX.calls().failed, 4);
    }

    #[test]
    fn clocks_go_on() {
        for now in [Linux::now_ms, Linux::now_ns] {
            let (begun, before) = (std::time::Instant::now(), now(&LINUX));
            while now(&LINUX) <= before {
                assert!(begun.elapsed().as_secs() < 60, "a clock that stands");
            }
        }
    }

    #[test]
    fn barriers_are_counted_once_registered() {
        let linux = Linux::new();
        match linux.register_barrier() {
            Ok(()) => {
                assert_eq!(linux.heavy_barrier(), Ok(()));
                assert_eq!(linux.calls().barrier, 1);
            }
            // A sandbox, or a kernel before 4.14.
            Err(Errno(code)) => assert!([libc::ENOSYS, libc::EINVAL, libc::EPERM].contains(&code)),
        }
    }

    #[test]
    fn the_process_can_tell_its_limits_and_has_secrets() {
        let linux = Linux::new();
        let draws: [u64; 4] = core::array::from_fn(|_| linux.entropy());
        assert!(draws.windows(2).all(|pair| pair[0] != pair[1]), "{draws:x?}");
        // SAFETY: sysconf reads a constant of the system.
        assert_eq!(linux.page_size(), unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize);
    }
}
