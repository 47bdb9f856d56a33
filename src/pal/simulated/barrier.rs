//! The heavy half of the asymmetric barrier, which is real: simulated mappings are shared by real threads, or by the
//! threads of a model.

use super::super::Errno;

/// The machine's membarrier.
#[cfg(not(any(loom, shuttle)))]
#[derive(Default)]
pub(super) struct HeavyBarrier(super::super::Linux);

#[cfg(not(any(loom, shuttle)))]
impl HeavyBarrier {
    pub(super) fn register(&self) -> Result<(), Errno> {
        super::super::Platform::register_barrier(&self.0)
    }

    pub(super) fn run(&self) -> Result<(), Errno> {
        super::super::Platform::heavy_barrier(&self.0)
    }
}

/// A full fence: in models the light half is one, too.
#[cfg(any(loom, shuttle))]
#[derive(Default)]
pub(super) struct HeavyBarrier;

#[cfg(any(loom, shuttle))]
impl HeavyBarrier {
    pub(super) fn register(&self) -> Result<(), Errno> {
        Ok(())
    }

    pub(super) fn run(&self) -> Result<(), Errno> {
        use crate::sync::atomic::{Ordering, fence};
        fence(Ordering::SeqCst);
        Ok(())
    }
}
