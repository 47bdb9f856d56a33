//! The samples that are live: a place for each, that is used again when it is freed, and the number that the allocator
//! keeps with the block.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Samples that are live at a time. (Each has 64 KiB of addresses.)
const LIVES: usize = 1 << 20;

/// Bits of a sample's number that say where it is noted, counted from zero. Those above tell it from others that were
/// noted there, and are never all zero.
const PLACE: u32 = LIVES.trailing_zeros();

fn number(place: u32, id: u64) -> u32 {
    const OTHERS: u64 = (1 << (32 - PLACE)) - 1;
    ((id % OTHERS) as u32 + 1) << PLACE | place
}

fn place_of(number: u32) -> u32 {
    number & ((1 << PLACE) - 1)
}

/// A sample that is live.
#[repr(C)]
struct Life {
    id: AtomicU64,
    /// When it was allocated, in nanoseconds of the monotonic clock.
    born: AtomicU64,
    /// The number of its entry.
    entry: AtomicU32,
    /// Whether the program was told of it.
    is_told: AtomicU32,
    /// While nobody lives here: the next such, counted from one; zero for none.
    next: AtomicU32,
    padding: AtomicU32,
}

/// What was noted of a sample that is freed.
pub(super) struct Ended {
    pub(super) id: u64,
    pub(super) born: u64,
    pub(super) entry: u32,
    pub(super) is_told: bool,
}

/// All of them. Zero bytes are none.
#[repr(C)]
pub(super) struct Lives {
    /// Places that were ever used, and the first of those that are vacant: its number, and above that a count of what
    /// was taken from there.
    used: AtomicU64,
    vacant: AtomicU64,
    places: [Life; LIVES],
}

impl Lives {
    /// A vacant place: one that was used, or the next that was not.
    pub(super) fn take(&self) -> Option<u32> {
        let next = |vacant: u64| {
            let life = self.places.get((vacant as u32).checked_sub(1)? as usize)?;
            let next = u64::from(life.next.load(Relaxed));
            // The count tells this list from one that begins and ends alike.
            Some(((vacant >> 32).wrapping_add(1) << 32) | next)
        };
        // Acquire: pairs with the Release in `end`: what comes next is there.
        match self.vacant.fetch_update(Relaxed, Ordering::Acquire, next) {
            Ok(vacant) => Some(vacant as u32 - 1),
            Err(_) => {
                // (The last one's numbers would be nobody's: `specmalloc.h`.)
                let used = |used| (used + 1 < LIVES as u64).then_some(used + 1);
                self.used.fetch_update(Relaxed, Relaxed, used).ok().map(|before| before as u32)
            }
        }
    }

    /// The sample `id` lives at `place`, which the caller has taken, from `now` on: its number.
    pub(super) fn begin(&self, place: u32, id: u64, entry: u32, now: u64) -> u32 {
        if let Some(life) = self.places.get(place as usize) {
            // Relaxed (all): who frees the block has its number by way of the program.
            life.entry.store(entry, Relaxed);
            life.is_told.store(0, Relaxed);
            life.born.store(now, Relaxed);
            life.id.store(id, Relaxed);
        }
        number(place, id)
    }

    /// The program is told of the sample that is known as `number`.
    pub(super) fn set_told(&self, number: u32) {
        if let Some(life) = self.places.get(place_of(number) as usize) {
            life.is_told.store(1, Relaxed);
        }
    }

    /// The sample that is known as `sample` is freed, and its place vacant; `None` if it does not live.
    pub(super) fn end(&self, sample: u32) -> Option<Ended> {
        let place = place_of(sample);
        let life = self.places.get(place as usize)?;
        let id = life.id.load(Relaxed);
        if number(place, id) != sample {
            return None;
        }
        let ended = Ended {
            id,
            born: life.born.load(Relaxed),
            entry: life.entry.load(Relaxed),
            is_told: life.is_told.load(Relaxed) != 0,
        };
        life.id.store(0, Relaxed);
        let _before = self.vacant.fetch_update(Ordering::Release, Relaxed, |vacant| {
            life.next.store(vacant as u32, Relaxed);
            Some(vacant & !u64::from(u32::MAX) | u64::from(place + 1))
        });
        Some(ended)
    }

    /// In the child of a fork: begins with those of its parent. (Places that are vacant now stay so.)
    pub(super) fn copy_from(&self, parents: &Lives) {
        let used = parents.used.load(Relaxed);
        for (to, from) in self.places.iter().zip(&parents.places).take(used as usize) {
            to.born.store(from.born.load(Relaxed), Relaxed);
            to.entry.store(from.entry.load(Relaxed), Relaxed);
            to.is_told.store(from.is_told.load(Relaxed), Relaxed);
            to.id.store(from.id.load(Relaxed), Relaxed);
        }
        self.used.store(used, Relaxed);
    }

    /// Places that were ever used.
    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }
}
