//! What kind of system to simulate, and what can be seen of it.

#[cfg(doc)]
use super::super::Platform;
use super::super::{Access, Folios};
use std::ffi::CStr;
use std::ops::Range;

/// Whether the heavy barrier can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// Always.
    Works,
    /// Never: an old kernel. Registering fails with ENOSYS.
    Missing,
    /// This often, and then no more, with EPERM: a seccomp filter that the program installs.
    StopsAfter(u64),
}

/// What kind of system to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes in a page: 4, 16 or 64 KiB, and no fewer than the machine's own.
    pub page_size: usize,
    /// Bytes of address space there are, a multiple of a granule.
    pub reserve: usize,
    /// Bytes that may be mapped at a time (RLIMIT_AS).
    pub address_space_limit: usize,
    /// Bytes of memory that the process may still get: see [`Platform::memory_left`].
    pub memory_left: usize,
    /// See [`Platform::stalled_us`].
    pub stalled_us: usize,
    /// See [`Platform::folios`]. Only a figure: pages are simulated one by one.
    pub folios: Folios,
    /// Bytes that may be readable and writable at a time (strict overcommit).
    pub commit_limit: usize,
    /// Mappings that there may be (`vm.max_map_count`).
    pub mapping_limit: usize,
    /// Whether there is a heavy barrier.
    pub barrier: Barrier,
    /// Where [`Platform::entropy`] starts: equal seeds give equal sequences.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            page_size: 4096,
            reserve: if cfg!(any(loom, shuttle)) { 1 << 30 } else { 64 << 30 },
            address_space_limit: usize::MAX,
            memory_left: usize::MAX,
            stalled_us: usize::MAX,
            folios: Folios::NONE,
            commit_limit: usize::MAX,
            mapping_limit: 65530,
            barrier: Barrier::Works,
            seed: 1,
        }
    }
}

/// One mapping, as /proc/self/maps would list it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address and the one behind its last.
    pub range: Range<usize>,
    /// What it may be used for.
    pub access: Access,
    /// The name that it was given.
    pub name: Option<&'static CStr>,
}
