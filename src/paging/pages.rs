//! The bytes of a region: how they come, are held, and go.

use super::error::{Cause, Error, PagerError, Result};
use super::service::{Lease, Served, enter};
use super::userfault::Fault;
use super::waiting::Waiting;
use crate::files::section;
use crate::global::process;
use crate::region::{Evict, Hold, Region, Unit};
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Where the bytes of a region come from: a file that is decompressed or decrypted, the network, a computation.
///
/// Called when bytes are touched or asked for that are not there, on a thread of the library's or on the asking one, by
/// several threads at the same time for different units. A function `Fn(usize, &mut [u8]) -> Result<(), PagerError>` is
/// one.
pub trait Pager: Send + Sync + 'static {
    /// Fills `to`, which is all zeros, with the bytes from `offset` on: those of one unit.
    ///
    /// It may use anything, other regions too, but must not need the bytes that it is asked for: an access by
    /// [`PagedRegion::hold`](super::PagedRegion::hold) and its like is an error then, a raw one a SIGBUS. Where one
    /// unit needs another and that one the first, both wait forever.
    ///
    /// # Errors
    /// Whatever it likes. Whoever asks for the bytes gets it; who touches them without asking is sent a SIGBUS. A panic
    /// is an error, too. The pager is not called again for that unit until it is evicted.
    fn page_in(&self, offset: usize, to: &mut [u8]) -> std::result::Result<(), PagerError>;
}

impl<F> Pager for F
where
    F: Fn(usize, &mut [u8]) -> std::result::Result<(), PagerError> + Send + Sync + 'static,
{
    fn page_in(&self, offset: usize, to: &mut [u8]) -> std::result::Result<(), PagerError> {
        self(offset, to)
    }
}

/// What [`PagedRegion::evict`](super::PagedRegion::evict) did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Units that are gone.
    pub now: usize,
    /// Units that somebody holds, or is fetching: they go when that one lets go, or are fetched once more.
    pub later: usize,
}

/// A region, its pager, and what of it is there. It goes with the last that leads to it.
pub(super) struct Pages {
    region: &'static Region,
    len: usize,
    unit: usize,
    units: Box<[Unit]>,
    pager: Box<dyn Pager>,
    /// With why units failed.
    waiting: Waiting<BTreeMap<usize, Cause>>,
    fetched: AtomicUsize,
    lease: Lease,
}

impl Pages {
    pub(super) fn map(len: usize, unit: usize, pager: Box<dyn Pager>) -> Result<Arc<Pages>> {
        // The thread's slot comes first: it starts the allocator, and allocates.
        process().space().reap(section::slot());
        let lease = Lease::take()?;
        let units = units(len.div_ceil(unit));
        let region = super::mapping::map(len, lease.userfault())?;
        let pages = Arc::new(Pages {
            region,
            len,
            unit,
            units,
            pager,
            waiting: Waiting::new(BTreeMap::new()),
            fetched: AtomicUsize::new(0),
            lease,
        });
        let served: Arc<dyn Served> = pages.clone();
        enter(region, Arc::downgrade(&served));
        Ok(pages)
    }

    pub(super) fn region(&self) -> &'static Region {
        self.region
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The first byte.
    pub(super) fn start(&self) -> *const u8 {
        ptr::with_exposed_provenance(self.region.base())
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn unit(&self) -> usize {
        self.unit
    }

    /// Units that were fetched, each as often as it was.
    pub(super) fn fetched(&self) -> usize {
        // Relaxed: a figure.
        self.fetched.load(Relaxed)
    }

    /// Units that are there.
    pub(super) fn present(&self) -> usize {
        self.units.iter().filter(|unit| unit.is_present()).count()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.waiting.is_closed()
    }

    /// From now on there are no new readers. Those that wait for another one to fetch are told.
    pub(super) fn close(&self) {
        self.change(|| self.waiting.close());
    }

    /// The units in which a range of bytes lies.
    pub(super) fn units_of(&self, range: &Range<usize>) -> Result<Range<usize>> {
        if range.start > range.end || range.end > self.len {
            return Err(Error::OutOfRange { end: range.end.max(range.start), len: self.len });
        }
        let is_empty = range.start == range.end;
        Ok(if is_empty { 0..0 } else { range.start / self.unit..range.end.div_ceil(self.unit) })
    }

    /// Holds a unit. Its bytes are fetched if need be, by this thread.
    pub(super) fn hold(&self, index: usize, room: &mut Vec<u8>) -> Result<()> {
        loop {
            if self.is_closed() {
                return Err(Error::Closed);
            }
            match self.units[index].hold(thread()) {
                Hold::Held => return Ok(()),
                Hold::Fetch if self.lease.is_ours() => return self.fetch(index, room, true),
                Hold::Fetch => {
                    self.units[index].absent(|| ());
                    return Err(Error::Forked);
                }
                Hold::Failed if !self.lease.is_ours() => return Err(Error::Forked),
                // Without a cause it was evicted just now.
                Hold::Failed => {
                    if let Some(cause) = self.waiting.kept().get(&index).cloned() {
                        return Err(Error::Failed { offset: index * self.unit, cause });
                    }
                }
                Hold::Busy(by) if by == thread() => return Err(Error::InsidePager),
                Hold::Busy(_) if !self.lease.is_ours() => return Err(Error::Forked),
                Hold::Busy(_) => self.waiting.wait_for(&self.units[index]),
                Hold::Full => return Err(Error::Busy),
            }
        }
    }

    /// Lets go of a unit.
    pub(super) fn release(&self, index: usize) {
        if self.units[index].release() {
            self.take_away(index..index + 1);
        }
    }

    pub(super) fn evict(&self, range: Range<usize>) -> Result<Evicted> {
        if !self.lease.is_ours() {
            return Err(Error::Forked);
        }
        let (mut evicted, mut from) = (Evicted::default(), range.start);
        for index in range.clone() {
            let outcome = self.units[index].evict();
            if outcome == Evict::Now {
                evicted.now += 1;
                continue;
            }
            evicted.later += usize::from(outcome == Evict::Later);
            self.take_away(from..index);
            from = index + 1;
        }
        self.take_away(from..range.end);
        Ok(evicted)
    }

    /// Fetches the bytes of a unit that is the caller's, who holds it then if it wants to, and wakes those who
    /// wait for them in a fault.
    fn fetch(&self, index: usize, room: &mut Vec<u8>, holds: bool) -> Result<()> {
        let (offset, span) = (index * self.unit, self.span(index..index + 1));
        let bytes = self.unit.min(self.len - offset);
        loop {
            room.clear();
            room.resize(span.len(), 0);
            // Relaxed: a figure.
            self.fetched.fetch_add(1, Relaxed);
            // A pager that panics is used on: what it leaves behind is its own matter, as that of any shared value.
            let filled = catch_unwind(AssertUnwindSafe(|| self.pager.page_in(offset, &mut room[..bytes])));
            let filled = match filled {
                Ok(filled) => filled.map_err(|error| Cause::Pager(error.into())),
                Err(panic) => Err(Cause::of_panic(&*panic)),
            };
            let outcome = match filled {
                // Not even put there.
                _ if self.units[index].is_stale() => {
                    self.units[index].again();
                    continue;
                }
                Ok(()) => self.install(span.start, room).map_err(|error| Cause::System(error.into())),
                Err(cause) => Err(cause),
            };
            let settled = self.change(|| match &outcome {
                Ok(()) => self.units[index].fetched(holds),
                Err(cause) => {
                    self.waiting.kept().insert(index, cause.clone());
                    self.forbid(&span);
                    self.units[index].failed()
                }
            });
            if settled {
                self.wake(index);
                return outcome.map_err(|cause| Error::Failed { offset, cause });
            }
            self.clear(&(index..index + 1));
            self.units[index].again();
        }
    }

    /// Puts the bytes of a unit into their place.
    fn install(&self, start: usize, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        loop {
            // SAFETY: of the region, and the unit is the caller's.
            match unsafe { self.lease.userfault().copy(start + done, &bytes[done..]) } {
                Ok(()) => return Ok(()),
                // Poisoned, because this pager touched its own unit.
                Err((more, error)) if error.raw_os_error() == Some(libc::EEXIST) => {
                    done += more;
                    discard(&(start + done..start + bytes.len()))?;
                }
                Err((_, error)) => return Err(error),
            }
        }
    }

    /// Makes the touch of a unit that failed a SIGBUS; where the kernel has no such thing, a SIGSEGV. The unit is the
    /// caller's.
    fn forbid(&self, span: &Range<usize>) {
        // Pages that are there already cannot be poisoned. If the system refuses, nothing was there.
        let _ = discard(span);
        let userfault = self.lease.userfault();
        // SAFETY: of the region, and nobody holds the bytes.
        let poisoned = userfault.poisons() && unsafe { userfault.poison(span.start, span.len()) }.is_ok();
        if !poisoned {
            protect(span, libc::PROT_NONE);
        }
    }

    /// Takes the bytes of units away that are the caller's, who has no part in them any more then.
    fn take_away(&self, units: Range<usize>) {
        if units.is_empty() {
            return;
        }
        self.clear(&units);
        self.change(|| units.for_each(|index| self.units[index].absent(|| self.wake(index))));
    }

    /// Has nothing in units that are the caller's: neither bytes nor a failure.
    fn clear(&self, units: &Range<usize>) {
        let span = self.span(units.clone());
        if !self.lease.is_ours() {
            return protect(&span, libc::PROT_NONE);
        }
        // Of memory of one's own it does not fail.
        let _ = discard(&span);
        let mut failures = self.waiting.kept();
        let failed: Vec<usize> = failures.range(units.clone()).map(|(&index, _)| index).collect();
        for index in failed {
            failures.remove(&index);
            protect(&self.span(index..index + 1), libc::PROT_READ);
        }
    }

    /// Does what those may wait for who wait here, and tells them. In a child of fork nobody waits, and a thread that is
    /// not there may have the lock.
    fn change<R>(&self, change: impl FnOnce() -> R) -> R {
        if self.lease.is_ours() { self.waiting.change(change) } else { change() }
    }

    /// Has those who wait in a fault for bytes of a unit try again.
    fn wake(&self, index: usize) {
        // A child of fork would wake the parent's.
        if self.lease.is_ours() {
            let span = self.span(index..index + 1);
            self.lease.userfault().wake(span.start, span.len());
        }
    }

    /// The addresses of units, as far as the region reaches.
    fn span(&self, units: Range<usize>) -> Range<usize> {
        let end = self.region.mapped();
        let base = self.region.base();
        base + (units.start * self.unit).min(end)..base + (units.end * self.unit).min(end)
    }
}

impl Served for Pages {
    fn touched(&self, fault: Fault, room: &mut Vec<u8>) {
        let index = (fault.address - self.region.base()) / self.unit;
        match self.units[index].touch(thread()) {
            // If it failed, the touch is a signal.
            Hold::Fetch => drop(self.fetch(index, room, false)),
            Hold::Held | Hold::Failed | Hold::Full => self.wake(index),
            // It waits for itself.
            Hold::Busy(by) if by != 0 && by == fault.thread => self.forbid(&self.span(index..index + 1)),
            // Woken by who is busy.
            Hold::Busy(_) => {}
        }
    }

    fn forked(&self) {
        // What is there was copied and can be read. What is not would be zeros.
        let mut index = 0;
        let mut run = |present: bool| {
            let from = index;
            while self.units.get(index).is_some_and(|unit| unit.is_present() == present) {
                index += 1;
            }
            self.span(from..index)
        };
        loop {
            let (absent, present) = (run(false), run(true));
            if !absent.is_empty() {
                protect(&absent, libc::PROT_NONE);
            }
            if absent.is_empty() && present.is_empty() {
                break;
            }
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // Nobody has the right to be there. Who is all the same is woken by who finds no region there any more, or by the
        // end of the descriptor.
        process().space().retire_region(self.region);
        process().space().reap(section::slot());
    }
}

/// Units whose bytes are not there: memory that is zero, and of which only what is used becomes resident.
fn units(count: usize) -> Box<[Unit]> {
    let layout = Layout::array::<Unit>(count).expect("fewer than there are bytes");
    if layout.size() == 0 {
        return Box::default();
    }
    // SAFETY: not of no size; zero is a unit, as `Unit::new` makes it.
    unsafe {
        let first: *mut Unit = alloc_zeroed(layout).cast();
        if first.is_null() {
            handle_alloc_error(layout);
        }
        Box::from_raw(ptr::slice_from_raw_parts_mut(first, count))
    }
}

/// What a unit is busy by: the calling thread's number.
fn thread() -> u32 {
    std::thread_local! {
        static NUMBER: Cell<u32> = const { Cell::new(0) };
    }
    if NUMBER.get() == 0 {
        // SAFETY: asks about the calling thread.
        NUMBER.set(unsafe { libc::gettid() } as u32);
    }
    NUMBER.get()
}

fn discard(span: &Range<usize>) -> io::Result<()> {
    // SAFETY: pages of a region's, of units that are the caller's: nobody holds the bytes.
    match unsafe {
        libc::madvise(ptr::with_exposed_provenance_mut(span.start), span.len(), libc::MADV_DONTNEED)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn protect(span: &Range<usize>, access: i32) {
    // SAFETY: as above. If the system refuses, for it would be one mapping too many, faults are woken in vain.
    let _ = unsafe { libc::mprotect(ptr::with_exposed_provenance_mut(span.start), span.len(), access) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pal::Platform;

    /// A child of fork, in which a thread that is not there has the lock, lets go of what it holds, and is refused.
    #[test]
    fn a_child_waits_for_no_lock_of_a_thread_that_it_does_not_have() {
        let first_only = |offset: usize, to: &mut [u8]| -> std::result::Result<(), PagerError> {
            to.fill(1);
            if offset == 0 { Ok(()) } else { Err("the first only".into()) }
        };
        let page = process().space().os().page_size();
        let pages = match Pages::map(2 * page, page, Box::new(first_only)) {
            Err(Error::NotAllowed { .. }) => return,
            pages => pages.unwrap(),
        };
        let mut room = Vec::new();
        pages.hold(0, &mut room).unwrap();
        assert_eq!(pages.evict(0..1).unwrap(), Evicted { now: 0, later: 1 });
        assert!(matches!(pages.hold(1, &mut room), Err(Error::Failed { .. })));
        let lock = pages.waiting.kept();
        // SAFETY: the child does no more than what is tried here, and ends; an alarm ends it if it waits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe { libc::alarm(10) };
            pages.release(0);
            let is_refused = matches!(pages.hold(1, &mut room), Err(Error::Forked));
            pages.close();
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!is_refused)) };
        }
        drop(lock);
        let mut status = 0;
        // SAFETY: waits for the child.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the child failed, or waits forever");
        pages.release(0);
    }
}
