//! A platform that has a barrier, lacks it, or loses it, and nothing else: this layer asks for nothing else.

use crate::pal::{Access, CallCounts, Errno, Platform};
use crate::sync::atomic::{AtomicU32, Ordering, fence};
use core::ffi::CStr;
use core::sync::atomic::AtomicBool;

/// EPERM: what membarrier answers to a process that has not registered.
const REFUSED: Errno = Errno(1);

pub(super) struct TestOs {
    has_barrier: bool,
    /// Not an atomic of the model: it changes only between the steps of a test with one thread.
    broken: AtomicBool,
}

impl TestOs {
    pub(super) fn with_barrier() -> TestOs {
        TestOs { has_barrier: true, broken: AtomicBool::new(false) }
    }

    pub(super) fn without_barrier() -> TestOs {
        TestOs { has_barrier: false, ..TestOs::with_barrier() }
    }

    /// From now on the barrier fails, or works again.
    #[cfg(not(any(loom, shuttle)))]
    pub(super) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// Whether the running kernel has the barrier, so that a test with real threads may rely on it.
    #[cfg(not(any(loom, shuttle)))]
    pub(super) fn kernel_has_membarrier() -> bool {
        membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
    }
}

#[cfg(not(any(loom, shuttle)))]
fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: membarrier takes no pointer.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

// SAFETY: `map` never returns memory.
unsafe impl Platform for TestOs {
    fn register_barrier(&self) -> Result<(), Errno> {
        if self.has_barrier { Ok(()) } else { Err(REFUSED) }
    }

    fn heavy_barrier(&self) -> Result<(), Errno> {
        if !self.has_barrier || self.broken.load(Ordering::SeqCst) {
            return Err(REFUSED);
        }
        // Where the kernel refuses it, the tests that come here have one thread.
        #[cfg(not(any(loom, shuttle)))]
        membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn yield_now(&self) {
        #[cfg(not(any(loom, shuttle)))]
        std::thread::yield_now();
        #[cfg(any(loom, shuttle))]
        crate::sync::spin_hint();
    }

    fn page_size(&self) -> usize {
        4096
    }

    fn map(&self, _: Option<usize>, _: usize, _: Access) -> Result<usize, Errno> {
        Err(REFUSED)
    }

    unsafe fn unmap(&self, _: usize, _: usize) -> Result<(), Errno> {
        Err(REFUSED)
    }

    unsafe fn protect(&self, _: usize, _: usize, _: Access) -> Result<(), Errno> {
        Err(REFUSED)
    }

    unsafe fn purge(&self, _: usize, _: usize) -> Result<(), Errno> {
        Err(REFUSED)
    }

    unsafe fn resize(&self, _: usize, _: usize, _: usize) -> Result<(), Errno> {
        Err(REFUSED)
    }

    unsafe fn move_pages(&self, _: usize, _: usize, _: usize) -> Result<(), Errno> {
        Err(REFUSED)
    }

    fn name(&self, _: usize, _: usize, _: &'static CStr) {}

    fn wait(&self, _: &AtomicU32, _: u32, _: Option<u32>) {}

    fn wake(&self, _: &AtomicU32, _: u32) {}

    fn now_ms(&self) -> u64 {
        0
    }

    fn address_space_limit(&self) -> usize {
        usize::MAX
    }

    fn entropy(&self) -> u64 {
        0
    }

    fn calls(&self) -> CallCounts {
        CallCounts::default()
    }
}
