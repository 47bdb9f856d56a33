//! The end of a run of slices that a large block does not need: how much of it may be resident.

use crate::base::{SLICE, align_down};

/// The end of a run of slices that a large block does not need.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    bytes: usize,
    /// How much of it may be resident without being given back: an eighth of the block, less what it does not need of
    /// its last page.
    may_be_soiled: usize,
}

/// What it costs to give a tail back, in bytes that are faulted in.
const PURGE: usize = 16 << 10;

impl Tail {
    /// That of a block of `size` bytes in a run of `slices` slices.
    pub fn of(slices: usize, size: usize, page: usize) -> Tail {
        let unused = (slices * SLICE).saturating_sub(size);
        let bytes = align_down(unused, page);
        Tail { bytes, may_be_soiled: (size / 8).saturating_sub(unused - bytes) }
    }

    /// Its length.
    pub fn bytes(self) -> usize {
        self.bytes
    }

    /// Bytes of it that are resident for nothing where the last `spared` bytes are not resident.
    pub fn soiled(self, spared: usize) -> usize {
        self.bytes.saturating_sub(spared)
    }

    /// Whether that is so much that it is to be given back.
    pub fn is_too_soiled(self, soiled: usize) -> bool {
        soiled > self.may_be_soiled
    }

    /// How ill the block would lie where the last `spared` bytes of the run are not resident: in bytes that are to be
    /// faulted in, of which each stands for four that are soiled but stay.
    pub fn misfit(self, spared: usize) -> usize {
        let soiled = self.soiled(spared);
        match soiled {
            0 => spared - self.bytes,
            _ if self.is_too_soiled(soiled) => PURGE + soiled,
            _ => soiled / 4,
        }
    }
}
