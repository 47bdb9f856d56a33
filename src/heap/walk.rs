//! The walk: every live block by ascending address, while threads allocate, free, map and unmap.
//!
//! What is promised: a block that is live from the walk's beginning to its end comes once, with its size and kind. One
//! that is handed out or freed meanwhile may come or not. What is free all along does not come, nor does what was never
//! a block.
//!
//! Nobody is stopped, and no heap is possessed: a free block tells by its two words that it is free, in whatever list it
//! is ([`Block::is_free_meanwhile`]). That needs [`Checks::ON`]: without it free blocks carry no mark, and a thread's
//! lists are nobody else's to read. There a slab comes as a whole, with how many of its blocks are live.
//!
//! The walk goes on in short sections, which keep the regions that it finds, and puts what it finds into a small buffer.
//! It is told between the sections, so whoever is told may do anything, begin another walk, or fork. All that is kept
//! from one section to the next is the address up to which everything was told, so nothing comes twice.
//!
//! Why what is told was there: of a slab that stays open all that is read is of that slab, and `Slab::is_in` says
//! whether it did: what was found in one that was closed meanwhile is forgotten, for none of its blocks was live all
//! along. What of a slab counts as handed out had been linked before, so a block that never was is not taken for live.
//! (In that order on x86-64, as with the words of a block.) All that is read lies in the arena, whatever the record says.

use super::allocator::BlockKind;
use super::block::{Block, Checks};
use super::place::Place;
use super::record::{Slab, Usage};
use super::small::Heaps;
use crate::base::{SLICE, class_info};
use crate::pal::Platform;
use crate::rcu::Section;
use crate::region::{Kind, Region};
use crate::sync::signal_fence;
use core::ptr;

/// Blocks that are told at a time; and slices that are looked at in one section.
const FOUND: usize = if cfg!(any(loom, shuttle)) { 2 } else { 32 };
const SLICES: usize = if cfg!(any(loom, shuttle)) { 2 } else { 16 };

/// A live block, or where blocks cannot be told apart the live ones of a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkedBlock {
    /// Where it begins.
    pub address: usize,
    /// Bytes that it can hold.
    pub size: usize,
    /// Its kind, and with it its size class.
    pub kind: BlockKind,
    /// One. In a release build of a Rust program, where free blocks carry no mark, each slab is told as if it were a
    /// block: `address` is where it begins, `size` that of one of its blocks, and this is how many of them are live,
    /// those among them that threads have at hand.
    pub blocks: usize,
}

/// How far a walk has come, and what it has found since it was told last.
pub struct Walk {
    at: usize,
    is_over: bool,
    count: usize,
    found: [WalkedBlock; FOUND],
}

impl Walk {
    /// One that has told nothing, of what lies at `at` and above.
    pub const fn begin(at: usize) -> Walk {
        const NONE: WalkedBlock = WalkedBlock { address: 0, size: 0, kind: BlockKind::Small(0), blocks: 0 };
        Walk { at, is_over: false, count: 0, found: [NONE; FOUND] }
    }

    fn is_full(&self) -> bool {
        self.count == FOUND
    }

    /// Notes a block, for which there is room.
    fn note(&mut self, address: usize, size: usize, kind: BlockKind, blocks: usize) {
        if let Some(place) = self.found.get_mut(self.count) {
            *place = WalkedBlock { address, size, kind, blocks };
            self.count += 1;
        }
    }
}

impl<P: Platform> Heaps<P> {
    /// Goes on with a walk, and returns what is to be told now: nothing when it is over. Not inside a section.
    #[inline(never)]
    pub fn walk_on<'a, C: Checks>(&self, walk: &'a mut Walk) -> &'a [WalkedBlock] {
        walk.count = 0;
        while walk.count == 0 && !walk.is_over {
            let section = self.space().rcu().enter_guest();
            for _ in 0..SLICES {
                if walk.is_full() || walk.is_over {
                    break;
                }
                match self.space().index().first_from(walk.at, &section) {
                    Some(region) => self.walk_region::<C>(walk, region, &section),
                    None => walk.is_over = true,
                }
            }
        }
        // (A slice would be bounds to check, and a place for a message.)
        walk.found.get(..walk.count).unwrap_or(&[])
    }

    /// Looks at the first slice of `region` at or above where the walk is that may have a block.
    fn walk_region<C: Checks>(&self, walk: &mut Walk, region: &Region, _section: &Section<'_>) {
        let (base, end) = (region.base(), region.base() + region.named());
        walk.at = walk.at.max(base);
        let slice = match region.kind() {
            Kind::Arena => region.slices().first_claimed((walk.at - base) / SLICE),
            Kind::Huge => {
                let (used, colour) = (region.huge().used(), region.huge().colour());
                if walk.at == base && used > colour {
                    walk.note(base + colour, used - colour, BlockKind::Huge, 1);
                }
                None
            }
            // Mapped files, and heaps that are values.
            Kind::File | Kind::Heap => None,
        };
        match slice {
            // SAFETY: the section keeps the arena, of which this is a slice that may be claimed.
            Some(slice) => unsafe { self.walk_slice::<C>(walk, base + slice * SLICE) },
            None => walk.at = end,
        }
    }

    /// Looks at the blocks that begin in the slice at `base`.
    ///
    /// # Safety
    /// It is a slice of an arena that is mapped, and not the arena's first or last.
    unsafe fn walk_slice<C: Checks>(&self, walk: &mut Walk, base: usize) {
        let end = base + SLICE;
        let record = Slab::of(base);
        // SAFETY: the record of a slice of the arena.
        let first = unsafe { Slab::first_of(record) };
        let is_first = ptr::eq(first, record) && walk.at <= base;
        walk.at = walk.at.max(base);
        if let Some(life) = first.life() {
            let before = walk.count;
            // SAFETY: the caller's.
            let goes_on_at = unsafe { self.walk_slab::<C>(walk, first, is_first, end) };
            walk.at = goes_on_at;
            if !first.is_in(life) {
                (walk.count, walk.at) = (before, end);
            }
            return;
        }
        if is_first && first.usage() == Usage::Large {
            let size = Place::Large(first).usable();
            let kind = match BlockKind::of(size, 1) {
                // A sample, which is what it stands for.
                BlockKind::Small(class) => BlockKind::Small(class),
                BlockKind::Large | BlockKind::Huge => BlockKind::Large,
            };
            walk.note(first.start(), size, kind, 1);
        }
        walk.at = end;
    }

    /// Notes the live blocks of a slab that begin where the walk is or above, but below `end`; and returns up to where
    /// it came. The slab may be closed meanwhile, and its record be another's.
    ///
    /// # Safety
    /// From where the walk is to `end` is part of a slice of an arena that is mapped.
    unsafe fn walk_slab<C: Checks>(&self, walk: &mut Walk, slab: &Slab, is_first: bool, end: usize) -> usize {
        let (start, class) = (slab.start(), slab.class());
        let info = class_info(class);
        // (None is zero: which the compiler does not know.)
        let (size, kind) = ((info.size as usize).max(1), BlockKind::Small(class));
        let live = if is_first && !C::ON { slab.live() as usize } else { 0 };
        if live > 0 {
            walk.note(start, size, kind, live);
        }
        if !C::ON {
            return end;
        }
        let handed_out = slab.handed_out().min(info.capacity) as usize;
        signal_fence();
        let first = walk.at.saturating_sub(start).div_ceil(size);
        for index in first..handed_out.min(end.saturating_sub(start).div_ceil(size)) {
            let address = start + index * size;
            if walk.is_full() {
                return address;
            }
            let block = ptr::with_exposed_provenance_mut::<Block>(address);
            // SAFETY: it begins in the slice; and slices, and the sizes of blocks, are multiples of two words.
            if !unsafe { slab.is_free_meanwhile(block, Block::key(block, self.secret())) } {
                walk.note(address, size, kind, 1);
            }
        }
        end
    }
}
