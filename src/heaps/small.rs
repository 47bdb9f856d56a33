//! Blocks of slabs: taking them, giving them back, and the slabs that come and go.

use super::memory::{Memory, Refusal, SHARDS};
use super::record::{Record, Usage};
use crate::base::{SLICE, class_info, class_size};
use crate::pal::{Call, Misuse, broken_contract};
use crate::region::{Given, MAP_BLOCKS, Place, Stack};
use core::ptr::{self, NonNull};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The class of a slab's blocks.
fn class_of(record: &Record) -> usize {
    record.map.kind() as usize
}

const _: () = assert!(SLICE / 16 <= MAP_BLOCKS, "a slab of the smallest class has a bit for each block");

std::thread_local! {
    /// The thread's number, from one; zero before it has one. No destructor: it is there until the thread ends.
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// Where the calling thread takes blocks.
#[inline]
fn shard() -> usize {
    match NUMBER.get() {
        0 => number_thread(),
        number => number % SHARDS,
    }
}

#[cold]
fn number_thread() -> usize {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: a number each.
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    NUMBER.set(number);
    number % SHARDS
}

fn block_at(record: &Record, class: usize, index: usize) -> NonNull<[u8]> {
    let size = class_size(class);
    let block = ptr::with_exposed_provenance_mut(record.base() + index * size);
    // SAFETY: no block lies at zero.
    NonNull::slice_from_raw_parts(unsafe { NonNull::new_unchecked(block) }, size)
}

impl Memory {
    /// A block of `class`.
    #[inline]
    pub(super) fn allocate_small(&self, class: usize) -> Result<NonNull<[u8]>, Refusal> {
        let place = &self.words().current[shard()][class];
        self.take_current(place, class).map_or_else(|| self.allocate_small_slow(place, class), Ok)
    }

    /// A block of the slab at `place`, if there is one.
    #[inline]
    fn take_current(&self, place: &Place<Record>, class: usize) -> Option<NonNull<[u8]>> {
        let taken = place.take(class as u32, |record, index| self.give(record, index));
        taken.map(|(record, index)| block_at(record, class, index))
    }

    #[cold]
    #[inline(never)]
    fn allocate_small_slow(&self, place: &Place<Record>, class: usize) -> Result<NonNull<[u8]>, Refusal> {
        loop {
            let seen = place.seen();
            // Once more, from the first block on, or from what another thread has put there meanwhile.
            if let Some(block) = self.take_current(place, class) {
                return Ok(block);
            }
            let record = match self.next_slab(class) {
                Ok(record) => record,
                Err(refusal) => return self.take_anywhere(class).ok_or(refusal),
            };
            let taken = record.map.take(class as u32).ok().flatten();
            if let Some(left) = place.replace(seen, record) {
                self.retire(left);
            }
            if let Some(index) = taken {
                return Ok(block_at(record, class, index));
            }
        }
    }

    /// A slab of `class` with free blocks, that is in no place.
    fn next_slab(&self, class: usize) -> Result<&'static Record, Refusal> {
        let listed = || {
            self.take_listed(class).inspect(|record| {
                if record.map.is_unused() {
                    let less = |unused: usize| Some(unused.saturating_sub(record.slices() * SLICE));
                    // Relaxed (both): a hint.
                    let _less = self.words().unused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                }
                record.map.resume();
            })
        };
        let open = || {
            let info = class_info(class);
            let claim = self.claim(Usage::Slab, info.slices as usize, 1)?;
            claim.record.map.open(class as u32, info.capacity as usize);
            Ok(claim.record)
        };
        let first = listed().map_or_else(open, Ok);
        // Relaxed: a hint.
        if first.is_ok() || self.words().unused.load(Ordering::Relaxed) == 0 || self.close_unused() == 0 {
            return first;
        }
        listed().map_or_else(open, Ok)
    }

    fn take_listed(&self, class: usize) -> Option<&'static Record> {
        self.words().listed[class].iter().find_map(Stack::take)
    }

    /// A block of `class` from wherever any thread takes them, where there will be no other slab.
    fn take_anywhere(&self, class: usize) -> Option<NonNull<[u8]>> {
        self.words().current.iter().find_map(|shard| {
            let place = &shard[class];
            // Twice: the first look may begin in the middle.
            self.take_current(place, class).or_else(|| self.take_current(place, class))
        })
    }

    /// The caller has taken the slab from its place.
    fn retire(&self, record: &'static Record) {
        if record.map.retire() {
            self.list(record);
        }
    }

    /// Puts a slab into the list, whose map says that it is for the caller to do.
    fn list(&self, record: &'static Record) {
        if record.map.is_unused() {
            // Relaxed: a hint.
            self.words().unused.fetch_add(record.slices() * SLICE, Ordering::Relaxed);
        }
        self.words().listed[class_of(record)][0].give(record);
    }

    /// Gives back a block that the caller holds.
    #[inline]
    pub(super) fn give(&self, record: &'static Record, index: usize) {
        match record.map.give(index) {
            Given::Free if record.map.is_idle(index) => self.became_unused(record),
            Given::Free => {}
            Given::ToList => self.list(record),
            Given::Twice => {
                let address = record.base() + index * class_size(class_of(record));
                broken_contract(Misuse::DoubleFree, Call::Free, address)
            }
        }
    }

    /// A listed slab has no block any more, roughly.
    #[cold]
    #[inline(never)]
    fn became_unused(&self, record: &'static Record) {
        // Relaxed: a hint.
        self.words().unused.fetch_add(record.slices() * SLICE, Ordering::Relaxed);
        self.look_at_what_is_free();
    }

    /// The block of a slab at `address`: its index. Ends the process if there is none.
    #[inline]
    pub(super) fn index_in(&self, record: &'static Record, address: usize) -> usize {
        let (info, offset) = (class_info(class_of(record)), address - record.base());
        if (offset as u64).wrapping_mul(info.reciprocal) >= info.limit(info.capacity) {
            broken_contract(Misuse::Interior, Call::Free, address);
        }
        offset / info.size as usize
    }

    /// Bytes in a block of this slab.
    #[inline]
    pub(super) fn block_bytes(&self, record: &'static Record) -> usize {
        class_size(class_of(record))
    }

    /// Closes listed slabs that have no block. Returns how many. No more than one slab at a time is in no list, so that
    /// other threads find one.
    pub(super) fn close_unused(&self) -> usize {
        // Relaxed: a hint.
        self.words().unused.store(0, Ordering::Relaxed);
        // Slabs at most: threads that do this at once might hand the same ones to and fro.
        let most: usize = self.areas().map(|area| area.slices().usable().len()).sum();
        let mut closed = 0;
        for [listed, looked_at] in &self.words().listed {
            for record in std::iter::from_fn(|| listed.take()).take(most) {
                if record.map.is_unused() && record.map.close() {
                    closed += usize::from(self.close_run(record, Usage::Slab));
                } else {
                    looked_at.give(record);
                }
            }
            std::iter::from_fn(|| looked_at.take()).take(most).for_each(|record| listed.give(record));
        }
        closed
    }

    /// Takes all slabs from where blocks are taken, so that those without a block can be closed.
    pub(super) fn retire_all(&self) {
        for place in self.words().current.iter().flatten() {
            if let Some(record) = place.clear() {
                self.retire(record);
            }
        }
    }

    /// The same of those that have no block now.
    pub(super) fn retire_unused(&self) {
        for place in self.words().current.iter().flatten() {
            // SAFETY: null, or a record, which lives as long as the heap.
            let seen = unsafe { place.seen().as_ref() };
            if seen.is_some_and(|record| record.map.is_unused())
                && let Some(record) = place.clear()
            {
                self.retire(record);
            }
        }
    }
}
