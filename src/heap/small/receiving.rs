//! Runs that other threads sent: their way from the inbox to the lists of their slabs, or on to another heap.
//!
//! A child module of the heap's, because it works on the same private fields under the same rules.

use super::Heap;
use super::Heaps;
use super::remote::Parcel;
use super::run::Run;
use super::slab::Freed;
use crate::heap::block::{Block, Checked, Checks, Trusting};
use crate::heap::record::Slab;
#[cfg(any(loom, shuttle))]
use crate::heap::record::Usage;
use crate::pal::Platform;
use crate::sync::atomic::Ordering;
use crate::sync::{in_order, seeded, signal_fence};
use core::ptr;

/// Of what is behind a run that is on its way to its slab's list: there may be nothing, but there is a run.
const ON_ITS_WAY: usize = 1;

impl Heap {
    /// Takes some of the runs that other threads sent, `most` of them, and frees them here or sends them on. Returns how
    /// many.
    ///
    /// Not all: there may be millions, and a malloc or free, which comes here, must not pause. Whoever allocates comes
    /// again before it has used up as many blocks: see [`super::exchange::AT_ONCE`].
    pub fn receive<C: Checks, P: Platform>(&self, from: &Heaps<P>, most: usize) -> usize {
        let mut count = 0;
        while count < most
            && let Some(first) = self.first_received()
        {
            // SAFETY: the block came to us with its chain.
            let slab = unsafe { Slab::of_live(first) };
            #[cfg(any(loom, shuttle))]
            assert!(slab.usage() == Usage::Slab, "a look into a block of no slab");
            // SAFETY: as above; whoever sends tells of what it sends.
            let run = unsafe { Run::told::<C>(first, slab, self.secret.get()) };
            // SAFETY: as above. (If it is sent on: it was counted when it was freed.)
            unsafe {
                if ptr::eq(slab.owner(), self) || seeded("heap.no_forward") {
                    self.take_in::<C, P>(from, slab, run);
                } else {
                    self.forward::<C, P>(from, slab, run);
                }
            }
            count += 1;
        }
        count
    }

    fn first_received(&self) -> Option<*mut Block> {
        // Relaxed (both): the possessor's own.
        if self.received.load(Ordering::Relaxed).is_null() && !self.inbox().is_empty() {
            self.inbox().take(&self.received);
        }
        let first = self.received.load(Ordering::Relaxed);
        (!first.is_null()).then_some(first)
    }

    /// What is behind a run that was received: the next one, which is looked at soon.
    #[inline(always)]
    fn behind_run<C: Checks>(&self, run: Run) -> *mut Block {
        let next = self.follow::<C>(run.last);
        Block::expect(next);
        next
    }

    /// Puts the run that was received first on the list of its slab, which is this heap's. For a thread that vanishes it is
    /// received, or on that list, or on its way, which `behind` tells.
    ///
    /// # Safety
    /// The caller possesses the heap. The run's blocks are those of `slab`.
    unsafe fn take_in<C: Checks, P: Platform>(&self, from: &Heaps<P>, slab: &Slab, run: Run) {
        let next = self.behind_run::<C>(run);
        // A list that is in two places has no end once it is pushed onto itself.
        #[cfg(any(loom, shuttle))]
        assert!(
            ptr::eq(slab.owner(), self) && !self.is_on::<C>(slab.free_list(), run.first),
            "a run goes to another heap's slab, or is on its list already"
        );
        let mark = || {
            self.behind.set(next.map_addr(|at| at | ON_ITS_WAY));
            signal_fence();
        };
        // SAFETY: the caller's.
        let push = || unsafe { slab.push_run::<C>(run, self.secret.get()) };
        let ((), freed) = in_order(mark, push, "heap.on_its_way_untold");
        signal_fence();
        // Relaxed: the possessor's own.
        self.received.store(next, Ordering::Relaxed);
        signal_fence();
        self.behind.set(ptr::null_mut());
        if freed == Freed::Event {
            self.countdown_ended(from, slab, run.count);
        }
    }

    /// In the child of a fork: what became of a run that was on its way as the thread vanished. It is on its slab's list, or
    /// is received once more.
    pub(super) fn mend_received(&self) {
        let behind = self.behind.replace(ptr::null_mut());
        // Relaxed (both): the child has one thread.
        let first = self.received.load(Ordering::Relaxed);
        let next = behind.map_addr(|at| at & !ON_ITS_WAY);
        if behind.is_null() || first == next {
            return;
        }
        // SAFETY: a run that has not left is the heap's, and so is its slab.
        unsafe {
            let slab = Slab::of_live(first);
            if ptr::eq(slab.free_list(), first) {
                return self.received.store(next, Ordering::Relaxed);
            }
            // (Where there are no tags, nobody reads this one.)
            let last = Run::told::<Trusting>(first, slab, self.secret.get()).last;
            Block::link::<Checked>(last, next, Block::key(last, self.secret.get()));
        }
    }

    /// Sends the run that was received first on to the heap that owns its slab, or frees it there, if nobody possesses that.
    ///
    /// # Safety
    /// As for [`Heap::take_in`].
    #[cold]
    #[inline(never)]
    unsafe fn forward<C: Checks, P: Platform>(&self, from: &Heaps<P>, slab: &Slab, run: Run) {
        let idle = self.possess_idle_owner(from, slab);
        // Relaxed: the possessor's own.
        let leave = || self.received.store(self.behind_run::<C>(run), Ordering::Relaxed);
        let go = || match idle {
            Some(_) => self.adopt_run::<C, P>(from, slab, idle, run),
            None => {
                // SAFETY: the run is in this thread's hands.
                unsafe { Block::move_on::<C>(run.last, self.secret.get()) };
                self.post::<C, P>(from, Parcel::of(slab.owner(), run));
            }
        };
        // Behind that the blocks are others', and their slab may be closed and unmapped.
        in_order(leave, go, "heap.run_left_late");
    }
}
