//! Large blocks, which are runs of slices, and huge ones, which have a region each.

use super::memory::{Memory, Refusal};
use super::record::{Record, Usage};
use crate::base::{GRANULE, SLICE, align_up, is_aligned};
use crate::global::{get_option, process};
use crate::heap::LARGE_MAX;
use crate::pal::{Call, Misuse, Platform, broken_contract};
use crate::region::Region;
use core::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

/// In a huge region's word, beside the bytes that are in use, whole pages: its pages may be other than zero where they
/// should not be, for the system did not take them back.
const SOILED: usize = 1;
/// Nobody uses it, and somebody is at it.
const BUSY: usize = 2;
const FLAGS: usize = SOILED | BUSY;

/// A region that waits for a block is not taken for one that is less than a fourth of it, unless all regions are as long.
const MOST_LONGER: usize = 4;

/// A block, and whether all of it is known to be zero.
pub(super) type Fresh = (NonNull<[u8]>, bool);

pub(super) fn block(address: usize, bytes: usize) -> NonNull<[u8]> {
    // SAFETY: no block lies at zero.
    let start = unsafe { NonNull::new_unchecked(ptr::with_exposed_provenance_mut(address)) };
    NonNull::slice_from_raw_parts(start, bytes)
}

impl Memory {
    /// A block of a run of slices.
    pub(super) fn allocate_large(&self, size: usize, align: usize) -> Result<Fresh, Refusal> {
        let (slices, align) = (size.div_ceil(SLICE).max(1), (align / SLICE).max(1));
        let claim = || self.claim(Usage::Large, slices, align);
        let first = claim();
        // Relaxed: a hint.
        let again =
            first.is_err() && self.words().unused.load(Ordering::Relaxed) > 0 && self.close_unused() > 0;
        let claim = if again { claim() } else { first }?;
        Ok((block(claim.record.base(), slices * SLICE), claim.is_zero))
    }

    /// Frees the large block of `record`, which begins at `address`.
    pub(super) fn free_large(&self, record: &'static Record, address: usize) {
        if address != record.base() {
            broken_contract(Misuse::Interior, Call::Free, address);
        }
        if !self.close_run(record, Usage::Large) {
            broken_contract(Misuse::DoubleFree, Call::Free, address);
        }
        self.look_at_what_is_free();
    }

    /// Makes a large block as long as `size` bytes need, in place. Says whether what was added is zero; `None` if there
    /// is no room.
    pub(super) fn resize_large(&self, record: &'static Record, size: usize) -> Option<Fresh> {
        let (slices, wanted) = (record.slices(), size.div_ceil(SLICE).max(1));
        if wanted > LARGE_MAX / SLICE {
            return None;
        }
        let is_zero = match wanted.checked_sub(slices) {
            Some(0) => true,
            Some(extra) => self.extend(record, extra)?,
            None => {
                record.shorten(wanted);
                self.release(record.base() + wanted * SLICE, slices - wanted);
                true
            }
        };
        Some((block(record.base(), wanted * SLICE), is_zero))
    }

    /// A block that has a region of its own.
    pub(super) fn allocate_huge(&self, size: usize, align: usize) -> Result<Fresh, Refusal> {
        let page = process().space().os().page_size();
        let bytes = align_up(size.max(1), page).ok_or(Refusal::System)?;
        let pay = || self.pay(bytes);
        // Relaxed: a hint.
        pay().or_else(|refusal| {
            let closes = self.words().unused.load(Ordering::Relaxed) > 0 && self.close_unused() > 0;
            if closes { pay() } else { Err(refusal) }
        })?;
        let waiting = self.huge().find(|region| {
            region.len() >= bytes
                && region.len() / MOST_LONGER < bytes.max(GRANULE)
                && is_aligned(region.base(), align)
                && take(region, bytes)
        });
        let region = waiting.or_else(|| {
            let reserve = if get_option("reserve") == Some(1) { bytes } else { 0 };
            let region = self.map_huge(bytes, align, reserve)?;
            self.add_huge(region);
            Some(region)
        });
        let fresh = region.and_then(|region| {
            let is_reserved = self.backing.reserve(region.heap().offset(), bytes);
            if !is_reserved {
                self.vacate(region, bytes);
            }
            is_reserved.then(|| (block(region.base(), bytes), used(region) & SOILED == 0))
        });
        fresh.ok_or_else(|| {
            self.pay_back(bytes);
            Refusal::System
        })
    }

    /// Bytes of the huge block of `region`.
    pub(super) fn huge_bytes(&self, region: &Region) -> usize {
        used(region) & !FLAGS
    }

    /// Frees the huge block of `region`, which begins at `address`.
    pub(super) fn free_huge(&self, region: &'static Region, address: usize) {
        let bytes = self.huge_bytes(region);
        let misuse = match (bytes, address == region.base()) {
            (0, true) => Some(Misuse::DoubleFree),
            (0, false) => Some(Misuse::Nothing),
            (_, false) => Some(Misuse::Interior),
            (_, true) => None,
        };
        // Relaxed (both): of two threads that free it one succeeds; `vacate` orders.
        let word = region.heap().use_word();
        let end = |now: usize| (now & !FLAGS == bytes).then_some(now & SOILED | BUSY);
        let ended = misuse.is_none() && word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end).is_ok();
        if !ended {
            broken_contract(misuse.unwrap_or(Misuse::DoubleFree), Call::Free, address);
        }
        self.vacate(region, bytes);
        self.pay_back(bytes);
    }

    /// Gives the pages of a region back that held `bytes` bytes, and lets others use it. The caller has it to itself.
    fn vacate(&self, region: &'static Region, bytes: usize) {
        // SAFETY: the caller's.
        let purged = unsafe { self.backing.purge(region.base(), region.heap().offset(), bytes) };
        let soiled = if purged { used(region) & SOILED } else { SOILED };
        // Release: pairs with the Acquire of `take`: who had the block has done with it.
        region.heap().use_word().store(soiled, Ordering::Release);
    }

    /// Makes a huge block as long as `size` bytes need, in place. Says whether what was added is zero; `None` if there
    /// is no room.
    pub(super) fn resize_huge(&self, region: &'static Region, size: usize) -> Option<Fresh> {
        let page = process().space().os().page_size();
        let (bytes, before) = (align_up(size.max(1), page)?, self.huge_bytes(region));
        if bytes > region.len() {
            return None;
        }
        let (at, offset) = (region.base(), region.heap().offset());
        let mut soiled = used(region) & SOILED;
        if let Some(more) = bytes.checked_sub(before) {
            self.pay(more).ok()?;
            if more > 0 && !self.backing.reserve(offset + before, more) {
                // What was reserved in part.
                // SAFETY: nobody uses what lies behind the block.
                let _ = unsafe { self.backing.purge(at + before, offset + before, more) };
                self.pay_back(more);
                return None;
            }
        } else {
            // SAFETY: the caller holds the block, and does not use its end any more.
            if !unsafe { self.backing.purge(at + bytes, offset + bytes, before - bytes) } {
                soiled = SOILED;
            }
            self.pay_back(before - bytes);
        }
        // Relaxed: the block's holder alone changes it.
        region.heap().use_word().store(bytes | soiled, Ordering::Relaxed);
        Some((block(at, bytes), soiled == 0))
    }
}

fn used(region: &Region) -> usize {
    // Relaxed: the block's holder knows it; to anybody else it is a figure.
    region.heap().use_word().load(Ordering::Relaxed)
}

/// Takes a region that nobody uses.
fn take(region: &Region, bytes: usize) -> bool {
    let free = |now: usize| (now & !SOILED == 0).then_some(now | bytes);
    // Acquire: pairs with the Release of `vacate`.
    region.heap().use_word().fetch_update(Ordering::Acquire, Ordering::Relaxed, free).is_ok()
}
