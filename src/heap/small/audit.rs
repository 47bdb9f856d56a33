//! What must hold while nobody is in the middle of anything, whoever possesses which heap: for tests and models, after
//! each step or at the end.
//!
//! Of each slab, each list and each figure that the paths keep it is asked whether it is what can be counted. So a step
//! that is left out, or comes in the wrong place, is noticed where it was made, and not when something has come of it.

use super::pool::Pool;
use super::run::Run;
use super::{Heap, Heaps, Standing};
use crate::base::{CLASSES, SLICE};
use crate::heap::block::{Block, Checks};
use crate::heap::ground::Count;
use crate::heap::record::{Slab, Usage};
use crate::pal::Platform;
use crate::sync::atomic::Ordering;
use core::ptr;
use std::collections::{BTreeMap, BTreeSet};

/// What was found of a heap's slabs.
#[derive(Default)]
struct Holds {
    bytes: usize,
    hollow: usize,
    /// Slabs that are available, by class.
    available: BTreeMap<usize, usize>,
}

/// The free blocks that were come by: each is in one place.
struct Found<C: Checks> {
    blocks: BTreeSet<usize>,
    /// The tables of own slabs, each of them one heap's, or nobody's.
    tables: BTreeSet<usize>,
    /// Whether a thread may have vanished in a fork: then a block or some slices are lost, and some figures are wrong
    /// that lead to nothing but a look more.
    in_child: bool,
    checks: core::marker::PhantomData<C>,
}

impl<C: Checks> Found<C> {
    fn enter(&mut self, block: *mut Block) {
        assert!(self.blocks.insert(block.addr()), "{block:?} is free in two places");
        // SAFETY: the record of a free block's slice: its slab is open, or this fails.
        let slab = unsafe { Slab::first_of(Slab::of(block.addr())) };
        assert!(
            slab.usage() == Usage::Slab && slab.was_handed_out(slab.offset_of(block.addr())),
            "{block:?} is no block"
        );
    }

    /// Enters a list, and returns its length.
    fn enter_list(&mut self, mut at: *mut Block, secret: usize) -> u32 {
        let mut count = 0;
        while !at.is_null() {
            self.enter(at);
            // SAFETY: a list of free blocks, and nobody is in the middle of anything.
            (count, at) = (count + 1, unsafe { Block::follow::<C>(at, secret) });
        }
        count
    }

    /// Enters a list of runs, and demands that each is what is told of it.
    fn enter_runs(&mut self, mut first: *mut Block, secret: usize) {
        while !first.is_null() {
            // SAFETY: a list of runs, and nobody is in the middle of anything.
            let (slab, mut run) = unsafe {
                let slab = Slab::of_live(first);
                (slab, Run::told::<C>(first, slab, secret))
            };
            let mut last = ptr::null_mut();
            // SAFETY: as above.
            while let Some(block) = unsafe { run.pop::<C>(secret) } {
                // SAFETY: as above.
                assert!(ptr::eq(unsafe { Slab::of_live(block) }, slab), "a run of two slabs");
                self.enter(block);
                last = block;
            }
            assert!(last == run.last, "where a run ends");
            // SAFETY: as above.
            first = unsafe { Block::follow::<C>(last, secret) };
        }
    }
}

impl Slab {
    fn audit<C: Checks>(&self, owner: &Heap, found: &mut Found<C>) {
        let (info, out) = (self.info(), self.handed_out());
        assert!(out <= info.capacity && self.slices() == info.slices);
        let is_last = |index| self.is_block(index as usize * info.size as usize);
        assert!(out == 0 || is_last(out - 1) != self.is_fallow(), "who asks for a block's start");
        // (A vanished thread may have been about to note what it was handing out.)
        let is_beyond = self.is_block(out as usize * info.size as usize);
        assert!(!is_beyond || found.in_child, "a block that was never handed out");
        for slice in 0..info.slices {
            // SAFETY: the record of a slice of an open slab.
            let record = unsafe { &*Slab::of(self.base() + slice as usize * SLICE) };
            assert_eq!((ptr::eq(record, self), record.spared()), (slice == 0, 0));
            // SAFETY: as above.
            assert!(ptr::eq(unsafe { Slab::first_of(ptr::from_ref(record).cast_mut()) }, self));
        }
        let mut free = found.enter_list(self.free_list(), owner.secret());
        free += self.audit_fallow(|block| found.enter(block));
        // Of a slab that a vanished thread was about to close one block counts as live until the list is taken.
        let was_closing = found.in_child && free == out && self.live() == 1;
        assert!(
            was_closing || self.free_count() == free,
            "free blocks of a slab that is {:?}",
            self.standing()
        );
        assert!(self.is_hollow_behind(free), "more hollow blocks than free ones");
        let is_current = ptr::eq(owner.current(self.class()).get(), self);
        assert_eq!(self.standing() == Standing::Current, is_current, "which slab is current");
        // (A vanished thread may have had no time to hand any out.)
        assert!(is_current || self.live() > 0 || found.in_child && out == 0, "an empty slab");
    }
}

impl Heap {
    fn audit<C: Checks>(&self, holds: Option<&Holds>, found: &mut Found<C>) {
        let secret = self.secret();
        for class in 0..CLASSES {
            let is_ours = |slab: &Slab, standing| {
                ptr::eq(slab.owner(), self) && (slab.class(), slab.standing()) == (class, standing)
            };
            // SAFETY: slabs of this heap, or this fails.
            let current = unsafe { self.current(class).get().as_ref() };
            assert!(current.is_none_or(|slab| is_ours(slab, Standing::Current)));
            let (mut count, mut before, mut at) = (0, ptr::null(), self.available(class).get());
            // SAFETY: as above.
            while let Some(slab) = unsafe { at.as_ref() } {
                assert!(is_ours(slab, Standing::Available) && slab.owned.previous.get() == before);
                (count, before, at) = (count + 1, at, slab.owned.next.get());
            }
            assert!(
                holds.is_none_or(|holds| holds.available.get(&class).copied().unwrap_or(0) == count),
                "available slabs that are linked"
            );
            let at_hand = found.enter_list(self.bin(class).list().get(), secret);
            if !found.in_child {
                self.audit_meter(class, at_hand);
            }
        }
        assert!(holds.is_none_or(|holds| holds.bytes == self.growth.held()), "bytes in a heap's slabs");
        assert!(holds.is_none_or(|holds| holds.hollow == self.growth.hollow()), "pages of hollow blocks");
        if !found.in_child {
            self.growth.audit(&self.bins);
        }
        let table = self.own.audit(self, &self.own_first);
        assert!(table.is_none_or(|table| found.tables.insert(table)), "two heaps have one table");
        if let Some(outbox) = self.outbox() {
            outbox.audit::<C>(secret, |block| found.enter(block));
        }
        assert!(self.behind.get().is_null(), "a run is on its way");
        found.enter_runs(self.received.load(Ordering::Relaxed), secret);
        found.enter_runs(self.inbox().first(), secret);
        assert!(self.visit().visitor().is_none() && !self.gate().is_taken(), "a visitor that has gone");
    }
}

impl Pool {
    fn audit(&self) {
        let idle: BTreeSet<_> = self.idle_heaps().collect();
        assert!(
            (0..self.made()).all(|index| !self.is_idle(index) || idle.contains(&index)),
            "an idle heap is forgotten"
        );
    }
}

impl<P: Platform> Heaps<P> {
    /// Demands what must hold while nobody is in the middle of anything. Returns how many blocks of slabs are live:
    /// none if there may be slabs in an arena that found no place in the table.
    pub fn audit<C: Checks>(&self) -> Option<usize> {
        self.audit_all::<C>(false)
    }

    /// The same in the child of a fork, once it has mended what was left to it; the calling thread is outside its heap.
    pub fn audit_child<C: Checks>(&self) {
        self.audit_all::<C>(true);
    }

    fn audit_all<C: Checks>(&self, in_child: bool) -> Option<usize> {
        let is_whole = self.backend().audit();
        self.pool().audit();
        let (blocks, tables) = (BTreeSet::new(), self.tables().audit().collect());
        let mut found = Found::<C> { blocks, tables, in_child, checks: core::marker::PhantomData };
        let mut holds = BTreeMap::<u32, Holds>::new();
        let (mut handed_out, mut slices) = (0, 0);
        let section = self.space().rcu().enter_guest();
        self.arenas().each_slab(&section, |slab| {
            // SAFETY: an owner is a heap, and lives forever.
            let Some(owner) = (unsafe { slab.owner().as_ref() }) else {
                // A vanished thread was about to open it, or to close it.
                return assert!(in_child, "a slab of nobody");
            };
            slab.audit(owner, &mut found);
            let holds = holds.entry(owner.index()).or_default();
            holds.bytes += slab.bytes();
            holds.hollow += slab.hollow_pages();
            *holds.available.entry(slab.class()).or_default() +=
                usize::from(slab.standing() == Standing::Available);
            handed_out += slab.handed_out() as usize;
            slices += slab.slices() as usize;
        });
        for heap in self.pool().each() {
            let index = heap.index();
            heap.audit(
                Some(holds.entry(index).or_default()).filter(|_| is_whole).map(|holds| &*holds),
                &mut found,
            );
            for (base, spare) in heap.claimant().spares().audit() {
                slices += spare;
                // SAFETY: records of claimed slices.
                let first = |slice| unsafe { Slab::first_of(Slab::of(base + slice * SLICE)) };
                assert!((0..spare).all(|slice| first(slice).usage() == Usage::Free), "a spare run is used");
            }
            let is_gated = self.watch().gated.has(index as usize);
            assert_eq!(is_gated, !heap.gate().is_occupied(), "which heaps have an open gate");
            let is_read = !heap.has_mail() || in_child;
            assert!(!self.watch().tidied.has(index as usize) || is_read, "a tidied heap has mail");
        }
        let (known, told) = (self.hollow().get(), self.pool().each().map(|heap| heap.growth.told()).sum());
        assert!(in_child || known == told, "pages of hollow blocks that all know of");
        let hollow = self.pool().each().map(|heap| heap.growth.hollow()).sum();
        assert!(!in_child || known >= hollow, "hollow blocks of vanished threads that nobody knows of");
        let lent = self.pool().each().map(|heap| heap.claimant().spares().lent()).sum::<usize>();
        assert_eq!(lent, self.lent().get(), "slices lent to heaps");
        let mut large = 0;
        self.arenas().each_run(|run| {
            if run.usage() == Usage::Large {
                large += run.slices() as usize;
                assert!(
                    run.requested() <= run.usable() && run.start().is_multiple_of(16),
                    "a block outside its run"
                );
                for slice in 0..run.slices() as usize {
                    // SAFETY: the record of a slice of a large block.
                    let first = unsafe { Slab::first_of(Slab::of(run.base() + slice * SLICE)) };
                    assert!(ptr::eq(first, run), "a slice of a large block leads to another");
                }
            }
        });
        let claimed = self.tally().sum(Count::Claimed);
        let is_right = claimed == slices + large || in_child && claimed > slices + large;
        assert!(!is_whole || is_right, "{claimed} slices claimed, {slices} and {large} held");
        is_whole.then(|| handed_out - found.blocks.len())
    }
}
