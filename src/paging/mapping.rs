//! Memory in which nothing is until it is fetched.

use super::error::{Error, Result};
use super::userfault::Userfault;
use crate::base::GRANULE;
use crate::files::no_memory;
use crate::global::process;
use crate::pal::{Errno, Platform};
use crate::region::Region;
use std::ops::Range;
use std::{io, ptr};

/// Maps memory for `len` bytes, whose faults come to `userfault`, and publishes it.
///
/// It begins where an entry of the index does, so that it never lies in what another region leaves of one.
pub(super) fn map(len: usize, userfault: &Userfault) -> Result<&'static Region> {
    let refused = |code| Error::System { call: "mmap", error: io::Error::from_raw_os_error(code).into() };
    let page = process().space().os().page_size();
    let span = len.max(1).checked_next_multiple_of(page).ok_or_else(|| refused(libc::ENOMEM))?;
    let whole = span.checked_add(GRANULE).ok_or_else(|| refused(libc::ENOMEM))?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: new memory, which nobody knows yet.
    let at = unsafe { libc::mmap(ptr::null_mut(), whole, libc::PROT_READ, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(match no_memory() {
            crate::files::Error::System { call, error } => Error::System { call, error: error.into() },
            other => Error::System { call: "mmap", error: io::Error::other(other).into() },
        });
    }
    let at = at.expose_provenance();
    let base = at.next_multiple_of(GRANULE);
    unmap(at..base);
    unmap(base + span..at + whole);
    // SAFETY: mapped just now, and nobody knows it.
    if let Err(error) = unsafe { userfault.register(base, span) } {
        unmap(base..base + span);
        return Err(error);
    }
    // SAFETY: likewise, and left to the space from here on.
    unsafe { process().space().adopt_file(base, span, 0, len) }.map_err(|Errno(code)| refused(code))
}

fn unmap(range: Range<usize>) {
    if !range.is_empty() {
        // SAFETY: mapped just now, and nobody knows it. If the system refuses, it stays.
        let _ = unsafe { process().space().os().unmap(range.start, range.len()) };
    }
}
