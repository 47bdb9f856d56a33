//! Pins: for readers of regions that block, or keep one for long. `files` takes them; nothing that allocates does. A
//! huge block that grows looks whether its region has one.

use super::Space;
use crate::pal::Platform;
use crate::rcu::Section;
use crate::region::{Pinning, Region, RegionId};

impl<P: Platform> Space<P> {
    /// Pins the region that holds `address`, so that it stays after the section. `None` if no region is there, if it is
    /// being unmapped (which comes to the same), or if it has as many pins as can be counted.
    ///
    /// Inside the section the descriptor cannot begin another life between the lookup and the pin. A pin taken
    /// outside of one, from a [`RegionId`], must look at the generation: see [`Space::pin_again`].
    pub fn pin(&self, address: usize, section: &Section<'_>) -> Option<Pin<'_, P>> {
        self.pin_region(self.find(address, section)?, section).ok()
    }

    /// The same for a region that the caller has found in the section, in the index or by what leads to it.
    ///
    /// # Errors
    /// What the region's state says instead.
    pub fn pin_region(&self, region: &'static Region, _section: &Section<'_>) -> Result<Pin<'_, P>, Pinning> {
        match region.state().try_pin() {
            Pinning::Pinned => Ok(Pin { region, os: self.os() }),
            refused => Err(refused),
        }
    }

    /// Pins the region that `id` was taken from, unless its life is over. Needs no section.
    pub fn pin_again(&self, id: RegionId) -> Option<Pin<'_, P>> {
        match id.try_pin(self.os()) {
            Pinning::Pinned => Some(Pin { region: id.region(), os: self.os() }),
            Pinning::Detached | Pinning::Excluded | Pinning::Full => None,
        }
    }
}

/// A pin on a region: the region and its memory stay until it is dropped.
pub struct Pin<'a, P: Platform> {
    region: &'static Region,
    os: &'a P,
}

impl<P: Platform> Pin<'_, P> {
    /// The region.
    pub fn region(&self) -> &Region {
        self.region
    }

    /// One more pin on the same region, also while it is being unmapped. `None` if there are as many as can be counted.
    pub fn another(&self) -> Option<Self> {
        self.region.state().pin_beside().then_some(Pin { region: self.region, os: self.os })
    }

    /// A handle that outlives the pin.
    pub fn id(&self) -> RegionId {
        self.region.id()
    }
}

impl<P: Platform> Drop for Pin<'_, P> {
    fn drop(&mut self) {
        self.region.state().unpin(self.os);
    }
}
