//! The heavy half of the asymmetric barrier, which is real: simulated mappings are shared by real threads, or by the
//! threads of a model.

use super::super::Errno;
#[cfg(not(any(loom, shuttle)))]
use super::super::{Linux, Platform};

/// The machine's membarrier.
#[cfg(not(any(loom, shuttle)))]
pub(super) struct HeavyBarrier(Linux);

#[cfg(not(any(loom, shuttle)))]
impl HeavyBarrier {
    pub(super) fn new() -> HeavyBarrier {
        HeavyBarrier(Linux::new())
    }

    pub(super) fn register(&self) -> Result<(), Errno> {
        self.0.register_barrier()
    }

    pub(super) fn run(&self) -> Result<(), Errno> {
        self.0.heavy_barrier()
    }
}

/// A full fence: in models the light half is one, too.
#[cfg(any(loom, shuttle))]
pub(super) struct HeavyBarrier;

#[cfg(any(loom, shuttle))]
impl HeavyBarrier {
    pub(super) fn new() -> HeavyBarrier {
        HeavyBarrier
    }

    pub(super) fn register(&self) -> Result<(), Errno> {
        Ok(())
    }

    pub(super) fn run(&self) -> Result<(), Errno> {
        use crate::sync::atomic::{Ordering, fence};

        if !crate::sync::seeded("pal.heavy_barrier") {
            fence(Ordering::SeqCst);
        }
        Ok(())
    }
}
