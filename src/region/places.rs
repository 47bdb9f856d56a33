//! Where takers of blocks look first: a place leads to one map at most, which is *current* then. See [`BlockMap`].
//!
//! Rules:
//! 1. Whoever has a map in hand that is current may put it into a place. What was there is in that one's hand then, who
//!    retires it; if another thread was quicker it is the map that was to go there.
//! 2. A taker follows the place at any time, and may come late: the map was taken out of there since, and is nowhere, in
//!    the list, or open for blocks of another kind. What it takes of those it gives back.

use super::blocks::BlockMap;
use crate::sync::atomic::AtomicPtr;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Exchange, acquire, release_fence, seeded};
use core::ptr;

/// What has a map of blocks.
pub trait Mapped: Sync + 'static {
    /// Always the same.
    fn map(&self) -> &BlockMap;
}

/// A place. All zero is an empty one.
#[repr(transparent)]
pub struct Place<T: Mapped>(AtomicPtr<T>);

impl<T: Mapped> Place<T> {
    crate::const_unless_model! {
        /// One that leads nowhere.
        pub fn new() -> Place<T> {
            Place(AtomicPtr::new(ptr::null_mut()))
        }
    }

    /// A block of a `kind`, and whose it is, if there is one. A block of another kind is handed to `give`, which gives it
    /// back.
    #[inline]
    pub fn take(&self, kind: u32, give: impl FnOnce(&'static T, usize)) -> Option<(&'static T, usize)> {
        // Relaxed: what is read there is under the Acquire with which the map hands out a block.
        let here = followed(self.0.load(Relaxed))?;
        match here.map().take(kind) {
            Ok(index) => index.map(|index| (here, index)),
            Err(index) => {
                // It was another's by then.
                if !seeded("region.place_other_kept") {
                    give(here, index);
                }
                None
            }
        }
    }

    /// Where this leads: for [`Place::replace`].
    pub fn seen(&self) -> *mut T {
        // Relaxed: only the guess for the exchange there.
        self.0.load(Relaxed)
    }

    /// Puts `next`, which the caller has in hand, in place of what it has `seen` here. Returns what the caller retires.
    #[must_use]
    pub fn replace(&self, seen: *mut T, next: &'static T) -> Option<&'static T> {
        let at = ptr::from_ref(next).cast_mut();
        // Partner: the Acquire below and that of `clear`: who takes a map out finds it as it was put there.
        release_fence("region.place_put_relaxed");
        let order = acquire("region.place_left_relaxed");
        match self.0.exchange(seen, at, order, Relaxed, "region.place_two_steps") {
            Ok(left) => followed(left),
            Err(_) if seeded("region.place_lost") => None,
            // Another one was quicker.
            Err(_) => Some(next),
        }
    }

    /// Has this lead nowhere. Returns what the caller retires.
    #[must_use]
    pub fn clear(&self) -> Option<&'static T> {
        let order = acquire("region.place_clear_relaxed");
        followed(self.0.replace(ptr::null_mut(), order, "region.place_cleared_twice"))
    }
}

impl<T: Mapped> Default for Place<T> {
    fn default() -> Place<T> {
        Place::new()
    }
}

#[inline]
fn followed<T: Mapped>(at: *mut T) -> Option<&'static T> {
    // SAFETY: null, or what `replace` was given, which lives forever.
    unsafe { at.as_ref() }
}
