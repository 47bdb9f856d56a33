//! What threads have in hand while they give it back to the system: regions and runs of slices that are in no list and
//! belong to no block.
//!
//! A fork finds most threads in the middle of a system call, where it finds them at all: the process's map is locked for
//! as long as it copies, and whoever gives pages back waits for it. So what is given back in a call that may take long is
//! noted here, and the child finds what those had in hand who do not exist there. (In the few instructions between a list
//! and a note it is lost, as DESIGN.md says.)

use crate::region::Region;
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::{acquire, atomic_array, release, signal_fence};
use core::ops::Range;
use core::ptr;

/// Notes at a time; who finds no place goes without.
const HANDS: usize = if cfg!(any(loom, shuttle)) { 1 } else { 16 };

const NOBODY: usize = 0;

struct Hand {
    /// Whose it is, as [`Rcu`](crate::rcu::Rcu) identifies threads.
    holder: AtomicUsize,
    region: AtomicPtr<Region>,
    /// The slices of an arena, none if it is all of a region.
    first: AtomicUsize,
    len: AtomicUsize,
}

/// All notes.
pub(super) struct Hands {
    hands: [Hand; HANDS],
}

/// A note, as long as this lives.
#[must_use = "the note goes with it"]
pub struct Held<'a>(Option<&'a Hand>);

impl Hands {
    crate::const_unless_model! {
        pub(super) fn new() -> Hands {
            Hands {
                hands: atomic_array!(Hand {
                    holder: AtomicUsize::new(NOBODY),
                    region: AtomicPtr::new(ptr::null_mut()),
                    first: AtomicUsize::new(0),
                    len: AtomicUsize::new(0),
                }; HANDS),
            }
        }
    }

    /// Notes that `holder` has the `slices` of a region in hand, or all of it if there are none.
    pub(super) fn hold(&self, holder: usize, region: &'static Region, slices: Range<usize>) -> Held<'_> {
        let is_free = |hand: &&Hand| {
            // Relaxed, the first: a hint that saves the exchange, and its failure. Acquire: pairs with the Release in
            // `drop`: the last holder's stores come before these.
            hand.holder.load(Ordering::Relaxed) == NOBODY
                && hand
                    .holder
                    .compare_exchange(NOBODY, holder, acquire("index.hand_relaxed"), Ordering::Relaxed)
                    .is_ok()
        };
        let hand = self.hands.iter().find(is_free);
        if let Some(hand) = hand {
            // Relaxed (all): read by nobody but the child of a fork, which finds a beginning of what was stored.
            hand.first.store(slices.start, Ordering::Relaxed);
            hand.len.store(slices.len(), Ordering::Relaxed);
            signal_fence();
            hand.region.store(ptr::from_ref(region).cast_mut(), Ordering::Relaxed);
        }
        Held(hand)
    }

    /// In the child of a fork: what threads had in hand that do not exist, and forgets it.
    pub(super) fn left(
        &self,
        is_own: impl Fn(usize) -> bool,
    ) -> impl Iterator<Item = (&'static Region, Range<usize>)> {
        // Relaxed (all): the child has one thread.
        let holder = |hand: &Hand| hand.holder.load(Ordering::Relaxed);
        self.hands.iter().filter(move |hand| holder(hand) != NOBODY && !is_own(holder(hand))).filter_map(
            |hand| {
                let (first, len) = (hand.first.load(Ordering::Relaxed), hand.len.load(Ordering::Relaxed));
                // SAFETY: null or a region's descriptor, which lives forever.
                let region = unsafe { hand.region.load(Ordering::Relaxed).as_ref() };
                drop(Held(Some(hand)));
                Some((region?, first..first + len))
            },
        )
    }
}

impl Held<'_> {
    /// Whether there was a place.
    #[cfg(all(test, loom))]
    pub fn is_noted(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(hand) = self.0 {
            // Relaxed: as in `hold`. What is in another's hands from here on, or in a list, is not here any more.
            hand.region.store(ptr::null_mut(), Ordering::Relaxed);
            signal_fence();
            // Release: pairs with the Acquire in `hold`.
            hand.holder.store(NOBODY, release("index.hand_left_relaxed"));
        }
    }
}
