//! The real memory behind simulated mappings: one reserved range in which what is not mapped cannot be touched.

use super::super::Access;
use crate::base::align_up;
use std::ffi::{c_int, c_void};
use std::ops::Range;

/// Real address space, all of it inaccessible but for what was opened. Given back when dropped.
pub(super) struct Reserve {
    whole: Range<usize>,
    usable: Range<usize>,
}

/// A multiple of what any level of the index counts in: wherever the system puts a reserve, what lies in it lies alike to
/// the index. (A checker demands that two runs make the same steps.)
const ALIGNMENT: usize = if cfg!(any(loom, shuttle)) { 64 << 20 } else { 64 << 30 };

const FIXED: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;

fn protection(access: Access) -> c_int {
    match access {
        // With a planted bug the allocator may touch what was unmapped. That is for the model to find out: a fault
        // would end the checker, and all other models with it.
        #[cfg(any(loom, shuttle))]
        Access::None if crate::sync::is_any_planted() => libc::PROT_READ | libc::PROT_WRITE,
        Access::None => libc::PROT_NONE,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    }
}

/// The machine below the simulation must not fail: there is nothing to simulate it with.
#[track_caller]
fn demand(succeeded: bool, call: &str) {
    assert!(
        succeeded,
        "the simulated system is out of real resources: {call}: {}",
        std::io::Error::last_os_error()
    );
}

impl Reserve {
    /// Reserves `len` bytes that start at a multiple of [`ALIGNMENT`], with inaccessible space before and behind them.
    pub(super) fn new(len: usize) -> Reserve {
        let total = len + 2 * ALIGNMENT;
        let flags = FIXED & !libc::MAP_FIXED;
        // SAFETY: without MAP_FIXED the system chooses a range that nothing occupies.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), total, libc::PROT_NONE, flags, -1, 0) };
        demand(start != libc::MAP_FAILED, "mmap");
        let start = start as usize;
        let base =
            align_up(start + 1, ALIGNMENT).expect("a mapping does not end at the top of the address space");
        Reserve { whole: start..start + total, usable: base..base + len }
    }

    pub(super) fn usable(&self) -> Range<usize> {
        self.usable.clone()
    }

    fn check(&self, range: &Range<usize>) {
        assert!(self.usable.start <= range.start && range.start < range.end && range.end <= self.usable.end);
    }

    /// Replaces the range by pages that have never been touched.
    pub(super) fn renew(&self, range: &Range<usize>, access: Access) {
        self.check(range);
        let at = range.start as *mut c_void;
        // SAFETY: the range lies in the reserve, which is ours; whether anyone still uses it is what is being tested.
        let mapped = unsafe { libc::mmap(at, range.len(), protection(access), FIXED, -1, 0) };
        demand(mapped == at, "mmap");
    }

    /// Changes what the range may be used for and keeps its contents.
    pub(super) fn protect(&self, range: &Range<usize>, access: Access) {
        self.check(range);
        // SAFETY: as in `renew`.
        let answer = unsafe { libc::mprotect(range.start as *mut c_void, range.len(), protection(access)) };
        demand(answer == 0, "mprotect");
    }

    /// Makes the range read as zero.
    pub(super) fn purge(&self, range: &Range<usize>) {
        self.check(range);
        // SAFETY: as in `renew`.
        let answer = unsafe { libc::madvise(range.start as *mut c_void, range.len(), libc::MADV_DONTNEED) };
        demand(answer == 0, "madvise");
    }

    /// Says of each page of the range whether it is resident, as the machine has it.
    pub(super) fn are_resident(&self, range: &Range<usize>, pages: &mut [u8]) {
        self.check(range);
        // SAFETY: sysconf reads a constant of the system.
        let machine = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        assert_eq!(pages.len() * machine, range.len(), "its pages are not the machine's");
        // SAFETY: a byte for each page.
        let answer = unsafe { libc::mincore(range.start as *mut c_void, range.len(), pages.as_mut_ptr()) };
        demand(answer == 0, "mincore");
    }

    /// Copies the contents of `from` to `to`; both are readable and writable.
    pub(super) fn copy(&self, from: &Range<usize>, to: usize) {
        self.check(from);
        self.check(&(to..to + from.len()));
        // SAFETY: both ranges are accessible (the caller has just made sure) and do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.start as *const u8, to as *mut u8, from.len()) };
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // SAFETY: the range is ours; the last handle to it is gone.
        let answer = unsafe { libc::munmap(self.whole.start as *mut c_void, self.whole.len()) };
        demand(answer == 0, "munmap");
    }
}
