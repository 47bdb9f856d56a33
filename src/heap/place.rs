//! Where an address lies: what a free or a realloc that cannot trust its pointer asks first.

use super::block::Block;
use super::ground::Count;
use super::record::{Slab, Usage};
use super::small::Heaps;
use crate::base::SLICE;
use crate::index::Found;
use crate::pal::{Misuse, Platform};
use crate::rcu::Section;
use crate::region::{Kind, Region};
use crate::sync::atomic::Ordering;
use core::ptr;

/// What holds the block at an address.
#[derive(Clone, Copy)]
pub enum Place {
    /// A slab.
    Slab(&'static Slab),
    /// The record of a large block.
    Large(&'static Slab),
    /// A huge block's region.
    Huge(&'static Region),
}

impl Place {
    /// Bytes that the block at an address of this place can hold.
    pub fn usable(&self) -> usize {
        match self {
            Place::Slab(slab) => slab.info().size as usize,
            Place::Large(slab) if slab.sample() != 0 => self.usable_of_sample(),
            Place::Large(slab) => slab.usable(),
            Place::Huge(_) => self.requested(),
        }
    }

    /// The same of a block that is a sample, or is going to be one: it can hold no more than the block that it stands
    /// for.
    #[cold]
    #[inline(never)]
    pub fn usable_of_sample(&self) -> usize {
        match (self, self.stands_for()) {
            (Place::Large(slab), 0) => slab.usable(),
            (Place::Large(_), bytes) => bytes,
            _ => self.requested(),
        }
    }

    /// Bytes of the slab's block that a sample stands for, which it is to be like in all that the program sees; zero if it
    /// would be large or huge without samples, too. Of a block that is no sample anything.
    pub fn stands_for(&self) -> usize {
        match self {
            Place::Large(slab) => slab.stands_for(),
            _ => 0,
        }
    }

    /// The same of a block that is going to be a sample.
    pub fn set_stands_for(&self, bytes: usize) {
        if let Place::Large(slab) = self {
            // Relaxed: as above.
            slab.owned.handed_out.store(bytes as u32, Ordering::Relaxed);
        }
    }

    /// Which sample the block is; zero for none. Blocks of slabs never are.
    #[inline(always)]
    pub fn sample(&self) -> u32 {
        match self {
            Place::Slab(_) => 0,
            Place::Large(slab) => slab.sample(),
            Place::Huge(region) => region.huge().sample(),
        }
    }

    /// Bytes that were asked for, as far as that is known: of a large or huge block.
    pub fn requested(&self) -> usize {
        match self {
            Place::Slab(_) => 0,
            Place::Large(slab) => slab.requested(),
            Place::Huge(region) => region.huge().used().saturating_sub(region.huge().colour()),
        }
    }

    /// The place of a block of this allocator, by arithmetic alone.
    ///
    /// # Safety
    /// `address` is the start of a live block of a slab or of a large block.
    #[inline(always)]
    pub unsafe fn trusted(address: usize) -> Place {
        // SAFETY: the block lies in an arena and holds it.
        let slab = unsafe { Slab::first_of(Slab::of(address)) };
        if slab.usage() == Usage::Large { Place::Large(slab) } else { Place::Slab(slab) }
    }
}

impl<P: Platform> Heaps<P> {
    /// Notes which sample the block of `place` is, zero for none. Its holder does.
    pub fn set_sample(&self, place: Place, sample: u32) {
        match place {
            Place::Slab(_) => {}
            Place::Large(slab) => {
                let before = slab.unheld();
                slab.set_sample(sample);
                self.tally().correct(Count::Unheld, before, slab.unheld());
            }
            Place::Huge(region) => region.huge().set_sample(sample),
        }
    }

    /// The record of the slice that `address` lies in, for as long as the section goes on: a pointer that is not a live
    /// block's holds nothing. `None` where the index's near table knows no arena.
    #[inline(always)]
    pub fn near_record<'s>(&self, _section: &'s Section<'_>, address: usize) -> Option<&'s Slab> {
        // SAFETY: an arena is published there, whose header has a record for every slice; the section keeps it.
        self.space().index().is_near_arena(address).then(|| unsafe { &*Slab::of(address) })
    }

    /// Finds the live block that starts at `address`, or says what is wrong with the pointer. In a section of the
    /// caller's, unless the pointer is known to be a live block's: such a block holds its region, any other pointer may
    /// race an unmap.
    pub fn place(&self, address: usize) -> Result<Place, Misuse> {
        // Where pages of several regions meet there is no block: those are mappings of files.
        let Found::Region(region) = self.space().index().lookup_coarse(address) else {
            return Err(Misuse::Foreign);
        };
        if !region.contains(address) {
            return Err(Misuse::Foreign);
        }
        match region.kind() {
            Kind::Huge => match (region.huge().used(), address == region.base() + region.huge().colour()) {
                (0, true) => Err(Misuse::DoubleFree),
                (0, false) => Err(Misuse::Nothing),
                (_, true) => Ok(Place::Huge(region)),
                (_, false) => Err(Misuse::Interior),
            },
            Kind::Arena => {
                if address - region.base() < SLICE || address - region.base() >= region.len() {
                    return Err(Misuse::Nothing);
                }
                // SAFETY: the address lies in a slice of an arena; its record is readable, whatever it says.
                self.place_in_arena(address, unsafe { Slab::first_of(Slab::of(address)) })
            }
            Kind::File => Err(Misuse::Foreign),
            Kind::Heap => Err(Misuse::OfHeap),
        }
    }

    fn place_in_arena(&self, address: usize, slab: &'static Slab) -> Result<Place, Misuse> {
        match slab.usage() {
            Usage::Large if slab.begins_at(address) => Ok(Place::Large(slab)),
            Usage::Slab if slab.was_handed_out(slab.offset_of(address)) => {
                let block = ptr::with_exposed_provenance_mut::<Block>(address);
                // SAFETY: the address is the start of a block that was handed out.
                if unsafe { slab.is_known_free(block, Block::key(block, self.secret())) } {
                    return Err(Misuse::DoubleFree);
                }
                Ok(Place::Slab(slab))
            }
            // The record of a run's first slice still tells where the blocks were, all of which have been freed.
            Usage::Free if slab.starts_block(address) => Err(Misuse::DoubleFree),
            Usage::Free => Err(Misuse::Nothing),
            _ => Err(Misuse::Interior),
        }
    }
}
