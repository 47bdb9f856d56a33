//! A region whose bytes the program fetches.

use super::error::{Error, Result};
use super::held::{Held, Pin};
use super::pages::{Evicted, Pager, Pages};
use crate::files::{Unmapped, section};
use crate::global::process;
use crate::pal::Platform;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Bytes that are fetched together, where nothing else is said.
const UNIT: usize = 64 << 10;
const MOST: usize = 1 << 30;

/// Memory whose bytes come from a [`Pager`] when they are first touched. See [the module's documentation](super).
///
/// Dropping it waits for nobody: it is unmapped after the last reader.
pub struct PagedRegion {
    pages: Arc<Pages>,
}

/// How a region is to be paged.
///
/// ```
/// # use specmalloc::paging::{Error, PagedOptions, PagerError};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tens = |offset: usize, to: &mut [u8]| -> Result<(), PagerError> { Ok(to.fill((offset / 4096) as u8)) };
/// let region = match PagedOptions::new().unit(4096).map(10 << 20, tens) {
///     Err(Error::NotAllowed { .. }) => return Ok(()),
///     region => region?,
/// };
/// let mut two = [0; 2];
/// region.read_exact_at(4095, &mut two)?;
/// assert_eq!((two, region.resident()), ([0, 1], 8192));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct PagedOptions {
    unit: usize,
}

impl Default for PagedOptions {
    fn default() -> PagedOptions {
        PagedOptions::new()
    }
}

impl PagedOptions {
    /// Units of 64 KiB.
    pub const fn new() -> PagedOptions {
        PagedOptions { unit: UNIT }
    }

    /// How many bytes are fetched together, evicted together, and fail together: a power of two, at least a page.
    /// Default: 64 KiB.
    pub const fn unit(mut self, bytes: usize) -> PagedOptions {
        self.unit = bytes;
        self
    }

    /// Maps a region of `len` bytes.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] where the process may not have a userfaultfd, [`Error::BadUnit`], or the system's.
    pub fn map(&self, len: usize, pager: impl Pager) -> Result<PagedRegion> {
        let page = process().space().os().page_size();
        if !self.unit.is_power_of_two() || !(page..=MOST).contains(&self.unit) {
            return Err(Error::BadUnit { unit: self.unit });
        }
        Ok(PagedRegion { pages: Pages::map(len, self.unit, Box::new(pager))? })
    }
}

impl PagedRegion {
    /// Maps a region of `len` bytes, which are fetched 64 KiB at a time.
    ///
    /// # Errors
    /// As for [`PagedOptions::map`].
    pub fn new(len: usize, pager: impl Pager) -> Result<PagedRegion> {
        PagedOptions::new().map(len, pager)
    }

    /// The bytes of a range, which are fetched first where they are not there: by the calling thread, which waits where
    /// another one is at it. From then on they are there until the result is dropped.
    ///
    /// # Errors
    /// [`Error::Failed`] if some of them cannot be fetched; [`Error::OutOfRange`], [`Error::Closed`],
    /// [`Error::InsidePager`], [`Error::Forked`].
    pub fn hold(&self, range: Range<usize>) -> Result<Held> {
        let units = self.pages.units_of(&range)?;
        let mut held = Held::nothing(self.pages.clone(), range, units.start);
        let mut room = Vec::new();
        for unit in units {
            self.pages.hold(unit, &mut room)?;
            held.add();
        }
        Ok(held)
    }

    /// Copies bytes from `offset` on, as many as there are and `to` has room for, and returns how many.
    ///
    /// # Errors
    /// As for [`PagedRegion::hold`].
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> Result<usize> {
        let end = self.len().min(offset.saturating_add(to.len()));
        let len = end.saturating_sub(offset);
        let (mut at, mut done) = (offset, 0);
        // Unit by unit: no more is held than need be.
        while done < len {
            let next = end.min((at / self.pages.unit() + 1) * self.pages.unit());
            let held = self.hold(at..next)?;
            to[done..done + held.len()].copy_from_slice(&held);
            (at, done) = (next, done + held.len());
        }
        Ok(len)
    }

    /// As [`PagedRegion::read_at`], and fills all of `to`.
    ///
    /// # Errors
    /// As there; [`Error::OutOfRange`] if there are fewer bytes.
    pub fn read_exact_at(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(to.len());
        if end > self.len() {
            return Err(Error::OutOfRange { end, len: self.len() });
        }
        self.read_at(offset, to).map(drop)
    }

    /// The memory itself, where bytes are fetched when they are touched.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn pin(&self) -> Result<Pin> {
        if self.pages.is_closed() { Err(Error::Closed) } else { Ok(Pin(self.pages.clone())) }
    }

    /// Has all units go of which a part lies in the range, so that their bytes are fetched again at the next touch.
    /// Waits for nobody: units that are held go when they are let go of, and such as are being fetched are fetched once
    /// more. What has failed is tried again.
    ///
    /// Whoever holds bytes from now on gets what the pager makes of them from now on, unless somebody holds them still.
    /// A raw access may see what was being put there in this moment, until it is gone.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Forked`].
    pub fn evict(&self, range: Range<usize>) -> Result<Evicted> {
        self.pages.evict(self.pages.units_of(&range)?)
    }

    /// How many bytes there are, fetched or not.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes are fetched together.
    pub fn unit(&self) -> usize {
        self.pages.unit()
    }

    /// How many bytes are there at this moment, in whole units. Looks at every unit.
    pub fn resident(&self) -> usize {
        self.pages.present() * self.unit()
    }

    /// How often the pager was asked for a unit.
    pub fn fetched(&self) -> usize {
        self.pages.fetched()
    }

    /// Whether the kernel's own accesses to bytes that are not there are served, too: `write(2)` from a raw pointer,
    /// say. Without privileges they fail with `EFAULT`; those to held bytes never do.
    pub fn serves_kernel(&self) -> bool {
        self.pages.lease().userfault().serves_kernel()
    }

    /// Takes no more readers, and tells those who wait for another one to fetch: they get [`Error::Closed`]. Whoever
    /// holds or pins goes on, and so do touches.
    pub fn close(&self) {
        self.pages.close();
    }

    /// Closes the region, waits until the last reader is gone, and unmaps it.
    ///
    /// A thread that holds or pins something of it waits for itself: who may takes [`PagedRegion::unmap_within`].
    ///
    /// # Errors
    /// [`Error::InsideGuard`] if the calling thread holds a guard on a mapped file; the region goes after that one.
    pub fn unmap(self) -> Result<Unmapped> {
        self.unmap_within(Duration::MAX)
    }

    /// As [`PagedRegion::unmap`], but waits no longer than `limit`.
    ///
    /// # Errors
    /// As there; [`Error::TimedOut`]: the region goes after the last reader.
    pub fn unmap_within(self, limit: Duration) -> Result<Unmapped> {
        let begun = Instant::now();
        let (region, life) = (self.pages.region(), self.pages.region().generation());
        drop(self);
        let own = section::slot().filter(|slot| !slot.is_inside()).ok_or(Error::InsideGuard)?;
        let mut pause = Duration::from_micros(20);
        loop {
            process().space().reap(Some(own));
            let waited = begun.elapsed();
            if region.generation() != life {
                return Ok(Unmapped { waited });
            }
            let left = limit.checked_sub(waited).ok_or(Error::TimedOut { waited })?;
            sleep(pause.min(left));
            pause = (2 * pause).min(Duration::from_millis(2));
        }
    }
}

impl fmt::Debug for PagedRegion {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("PagedRegion")
            .field("len", &self.len())
            .field("unit", &self.unit())
            .field("closed", &self.pages.is_closed())
            .finish_non_exhaustive()
    }
}
