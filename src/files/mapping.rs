//! From a file to a region of the index. The mapping itself is made by memmap2; from then on it is the index's.

use super::error::{Error, Result};
use super::options::FileOptions;
use super::source::{Mode, page_of, reserve};
use crate::global::process;
use crate::pal::{Access, Errno, Platform};
use crate::region::Region;
use memmap2::MmapOptions;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::{io, ptr};

/// Address space behind a file's end, where nothing else is said.
const LEAST_HEADROOM: usize = 64 << 10;
const MOST_HEADROOM: usize = 1 << 30;

/// Bytes of a huge page: a mapping that can have one begins accordingly.
const HUGE_PAGE: usize = 2 << 20;

/// Mappings tried where the system places them in what another region leaves of its last granule.
const TRIES: usize = 8;

/// How many bytes of a file that is `file` bytes long are in the region.
pub(super) fn bytes(options: &FileOptions, file: u64) -> Result<usize> {
    let end = options.len.map_or(Some(file), |len| options.offset.checked_add(len as u64));
    match end {
        Some(end) if options.offset <= end && end <= file => Ok((end - options.offset) as usize),
        _ => Err(Error::OutOfRange { end: end.unwrap_or(u64::MAX).max(options.offset), file }),
    }
}

/// Maps the part of `file` that the options say, and publishes it.
pub(super) fn map(file: &File, options: &FileOptions, mode: Mode, bytes: usize) -> Result<&'static Region> {
    if mode == Mode::Shared && options.reserve {
        reserve(file, options.offset, bytes as u64)?;
    }
    let headroom = match options.headroom {
        Some(headroom) => headroom,
        None if options.len.is_some() || mode == Mode::Copy => 0,
        None => bytes.clamp(LEAST_HEADROOM, MOST_HEADROOM),
    };
    let page = page_of(file)?;
    // Whole pages of the file's: what the system rounds up to is ours as well.
    let lead = (options.offset % page as u64) as usize;
    let span = lead
        .checked_add(bytes)
        .and_then(|span| span.checked_add(headroom))
        .and_then(|span| span.max(1).checked_next_multiple_of(page));
    let too_long = || io::Error::from_raw_os_error(libc::ENOMEM);
    let span = span.ok_or_else(|| Error::System { call: "mmap", error: too_long() })?;
    let mut in_the_way = Vec::new();
    let outcome = (0..TRIES)
        .find_map(|_| match try_map(file, options, mode, (lead, span), bytes) {
            // Something is put there, so that the next one comes elsewhere.
            Err((Errno(libc::EEXIST), Some(base))) => {
                if process().space().os().map(Some(base), span, Access::None).is_ok() {
                    in_the_way.push(base);
                }
                None
            }
            Err((Errno(libc::ENOMEM), _)) => Some(Err(no_memory())),
            Err((Errno(code), _)) => {
                Some(Err(Error::System { call: "mmap", error: io::Error::from_raw_os_error(code) }))
            }
            Ok(region) => Some(Ok(region)),
        })
        .unwrap_or_else(|| Err(Error::System { call: "mmap", error: too_long() }));
    for base in in_the_way {
        // SAFETY: mapped above, and nobody knows it. If the system refuses, it stays.
        let _ = unsafe { process().space().os().unmap(base, span) };
    }
    outcome
}

/// The region, or what the system said and where it had placed the mapping.
fn try_map(
    file: &File,
    options: &FileOptions,
    mode: Mode,
    (lead, span): (usize, usize),
    bytes: usize,
) -> std::result::Result<&'static Region, (Errno, Option<usize>)> {
    let system = |error: io::Error| (Errno(error.raw_os_error().unwrap_or(libc::EINVAL)), None);
    let mut wanted = MmapOptions::new();
    wanted.offset(options.offset).len(span - lead);
    if options.populate {
        wanted.populate();
    }
    // memmap2 would unmap when its value is dropped; this is for the index to do, after the readers.
    let start = match mode {
        Mode::Read => {
            let mapping = wanted.map_raw_read_only(file).map_err(system)?;
            let start = mapping.as_mut_ptr();
            std::mem::forget(mapping);
            start
        }
        Mode::Shared => {
            let mapping = wanted.map_raw(file).map_err(system)?;
            let start = mapping.as_mut_ptr();
            std::mem::forget(mapping);
            start
        }
        Mode::Copy => {
            // SAFETY: the caller of the constructor promises that nobody changes what is borrowed.
            let mut mapping = unsafe { wanted.map_copy(file) }.map_err(system)?;
            let start = mapping.as_mut_ptr();
            std::mem::forget(mapping);
            start
        }
    };
    let base = start.expose_provenance() - lead;
    let first = options.offset as usize - lead;
    let base = if mode == Mode::Read && bytes >= HUGE_PAGE { aligned(base, span, first) } else { base };
    // SAFETY: mapped just now, whole pages of the file's, and left to the space from here on.
    unsafe { process().space().adopt_file(base, span, options.offset as usize, bytes) }
        .map_err(|error| (error, Some(base)))
}

/// Moves a mapping of `span` bytes at `base`, which nobody knows yet, to where the offset in the file, `first`, and the
/// address are alike within a huge page: only then can the system map one. Where that cannot be it stays.
fn aligned(base: usize, span: usize, first: usize) -> usize {
    let page = process().space().os().page_size();
    let lacks = |at: usize| first.wrapping_sub(at) % HUGE_PAGE;
    let Some(room) = span.checked_add(HUGE_PAGE) else { return base };
    // (Files of huge pages lie so.)
    if lacks(base) == 0 || !HUGE_PAGE.is_multiple_of(page) {
        return base;
    }
    let os = process().space().os();
    let Ok(reserved) = os.map(None, room, Access::None) else { return base };
    let target = reserved + lacks(reserved);
    // SAFETY: the mapping is the caller's, and the kernel puts it, of the same length, inside what was reserved above.
    let moved = unsafe {
        libc::mremap(
            ptr::with_exposed_provenance_mut(base),
            span,
            span,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            ptr::with_exposed_provenance_mut::<libc::c_void>(target),
        )
    };
    let is_moved = moved != libc::MAP_FAILED;
    let rest = if is_moved {
        [reserved..target, target + span..reserved + room]
    } else {
        [reserved..reserved + room, 0..0]
    };
    for Range { start: from, end: to } in rest {
        if from < to {
            // SAFETY: reserved above, and nobody's. If the system refuses, it stays.
            let _ = unsafe { os.unmap(from, to - from) };
        }
    }
    if is_moved { target } else { base }
}

/// The bytes of a region, as many as there are now. Whoever asks holds the region.
#[inline(always)]
pub(super) fn bytes_of(region: &'static Region) -> (*mut u8, usize) {
    (ptr::with_exposed_provenance_mut(region.file().start()), region.file().bytes())
}

/// How many bytes the region can hold.
pub(super) fn room_of(region: &'static Region) -> usize {
    region.base() + region.len() - region.file().start()
}

/// The system's "no memory" for a mapping: most often it is the number of mappings that is short.
pub(crate) fn no_memory() -> Error {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let limit = limit.and_then(|text| text.trim().parse::<usize>().ok());
    match limit {
        Some(limit) if count_mappings() + 64 >= limit => Error::TooManyMappings { limit },
        _ => Error::System { call: "mmap", error: io::Error::from_raw_os_error(libc::ENOMEM) },
    }
}

/// The process's mappings. Reads piece by piece: where mappings are short, memory may be.
fn count_mappings() -> usize {
    let mut piece = [0; 4096];
    let Ok(mut maps) = File::open("/proc/self/maps") else { return 0 };
    let mut lines = 0;
    while let Ok(len @ 1..) = maps.read(&mut piece) {
        lines += piece[..len].iter().filter(|&&byte| byte == b'\n').count();
    }
    lines
}
