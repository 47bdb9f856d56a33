//! What leads to a region beside the index: a word that says which region is the current one, and how another takes its
//! place under those who read.
//!
//! A reader follows it inside a section. So it is with this word as with the index: a region that is superseded is out
//! of it before it is retired, and a reader whose section begins after the grace period's barrier finds what came
//! after. Nothing is where nothing was put, and where a region was taken out for good.

use super::space::{Space, UnmapError};
use crate::pal::{Errno, Platform};
use crate::rcu::{ReaderSlot, Section};
use crate::region::{Exclusion, Kind, Region, Shape};
use crate::sync::atomic::AtomicPtr;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Exchange, acquire, if_first, in_order, release};
use core::ptr;

/// Which region is the current one.
pub struct Current(AtomicPtr<Region>);

impl Current {
    /// This one.
    pub fn new(region: &'static Region) -> Current {
        Current(AtomicPtr::new(ptr::from_ref(region).cast_mut()))
    }

    /// The region. It stays only until the section ends, unless the caller pins it.
    #[inline(always)]
    pub fn get(&self, _section: &Section<'_>) -> Option<&'static Region> {
        // Acquire: partner is the Release of `exchange`: the region is complete.
        let region = self.0.load(acquire("index.current_relaxed"));
        // SAFETY: null or a descriptor, which are immortal.
        unsafe { region.as_ref() }
    }

    /// The same for one who may take it out: while nobody else does, it stays.
    pub fn region(&self) -> Option<&'static Region> {
        // Relaxed: who takes it out got to know the region before, or does not follow it.
        let region = self.0.load(Relaxed);
        // SAFETY: as above.
        unsafe { region.as_ref() }
    }

    fn exchange(&self, old: &'static Region, new: Option<&'static Region>) -> bool {
        let old = ptr::from_ref(old).cast_mut();
        let new = new.map_or(ptr::null_mut(), |new| ptr::from_ref(new).cast_mut());
        // Release: partner is the Acquire of `get`. Relaxed on failure: nothing is followed.
        let order = release("index.superseded_relaxed");
        self.0.exchange(old, new, order, Relaxed, "index.superseded_two_steps").is_ok()
    }
}

impl<P: Platform> Space<P> {
    /// Makes a mapping a region, of pages of a file: `len` bytes at `base`, in which `bytes` bytes of the file from
    /// `offset` on are of use; they begin as far behind `base` as `offset` lies behind a page. Publishes it.
    ///
    /// # Safety
    /// The range is one mapping of the caller's, whole pages. It is the space's from now on, in any case.
    ///
    /// # Errors
    /// The system's, or `EEXIST` if it lies in what another region leaves of its last granule. It is unmapped then.
    pub unsafe fn adopt_file(
        &self,
        base: usize,
        len: usize,
        offset: usize,
        bytes: usize,
    ) -> Result<&'static Region, Errno> {
        let region = match self.descriptors.take(self.os(), self.metadata()) {
            Ok(region) => region,
            Err(error) => {
                // SAFETY: the caller's, and nobody knows of it. If the system refuses, it stays.
                let _ = unsafe { self.os().unmap(base, len) };
                return Err(error);
            }
        };
        region.attach(Shape { kind: Kind::File, base, len, mapped: len, held: 0, mappings: 1 });
        region.file().begin(base + offset % self.os().page_size(), offset, bytes);
        debug_assert!(region.is_valid());
        self.count_mapped(region);
        self.publish(region)
    }

    /// Puts `new` in the place of `old`, or nothing, and retires `old`: see [`Space::retire_region`]. Never waits.
    /// `false` if `old` is not the current region: then nothing was changed.
    pub fn supersede(&self, current: &Current, old: &'static Region, new: Option<&'static Region>) -> bool {
        let exchange = || current.exchange(old, new);
        if_first(exchange, || _ = self.retire_region(old), "index.retired_first")
    }

    /// Takes `old` out for good and unmaps it, waiting for those who read: see [`Space::unmap_now`].
    ///
    /// # Errors
    /// See [`UnmapError`]. The caller's own section is noticed before anything is changed.
    pub fn close(
        &self,
        current: &Current,
        old: &'static Region,
        own: Option<&ReaderSlot>,
    ) -> Result<(), UnmapError> {
        if own.is_some_and(ReaderSlot::is_inside) {
            return Err(UnmapError::InsideSection);
        }
        let mut closed = Err(UnmapError::NotThere);
        let exchange = || current.exchange(old, None);
        if_first(exchange, || closed = self.unmap_now(old, own), "index.unmapped_first");
        closed
    }

    /// Takes `old` out for good and retires it, unless somebody pins it. Never waits. `false` if somebody does, or it is
    /// taken out otherwise: then nothing was changed. No other call takes regions out of `current` meanwhile but for
    /// good.
    pub fn close_unpinned(&self, current: &Current, old: &'static Region) -> bool {
        // Excluded first: who comes in between finds a region that is there, and cannot be pinned any more.
        if old.state().exclude_unpinned() == Exclusion::Lost {
            return false;
        }
        let take_out = || {
            let _by_another = current.exchange(old, None);
            self.unlink(old);
        };
        in_order(take_out, || self.retire(old), "index.closed_last");
        true
    }
}
