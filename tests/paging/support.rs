//! Regions to test with.

use specmalloc::paging::{Error, PagedOptions, PagedRegion, Pager, PagerError};
use std::sync::{Condvar, Mutex};

/// A region with units of 4 KiB; `None` where there is none to be had.
pub fn small_units(len: usize, pager: impl Pager) -> Option<PagedRegion> {
    match PagedOptions::new().unit(4096).map(len, pager) {
        Ok(region) => Some(region),
        Err(Error::NotAllowed { error }) => {
            eprintln!("NOT ALLOWED HERE: userfaultfd ({error})");
            assert!(error.raw_os_error().is_some_and(|code| code != 0));
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

pub fn pattern(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// A pager of the pattern.
pub fn fill(offset: usize, to: &mut [u8]) -> Result<(), PagerError> {
    (offset..).zip(to).for_each(|(at, byte)| *byte = pattern(at));
    Ok(())
}

/// What a raw access finds. The caller holds a pin.
pub fn touch(at: *const u8) -> u8 {
    // SAFETY: the caller's.
    unsafe { at.read_volatile() }
}

/// A door that is shut at first.
#[derive(Default)]
pub struct Door {
    /// Whether it is open, and how many have come to it.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Door {
    pub fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.0).unwrap());
    }

    pub fn wait_for(&self, count: usize) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| state.1 < count).unwrap());
    }

    pub fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }
}
