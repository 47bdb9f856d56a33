//! Where in its run of slices a large block lies: what of the run it does not need, before it and behind it, and how much
//! of that may be resident.

use crate::base::{LINE, SLICE, align_down};

/// Bytes of a run that are enough for colours.
const ROOM: usize = 16 * LINE;

/// Where in its run a large block lies.
#[derive(Clone, Copy)]
pub struct Seat {
    /// Slices of the run.
    pub slices: usize,
    /// Bytes behind the start of the run at which the block begins: whole pages, the *gap*, which nobody has touched, and
    /// some lines of the next.
    pub colour: usize,
    /// Bytes of the block.
    pub size: usize,
    /// Bytes of a page.
    pub page: usize,
    /// Which bits of the colour that the run's last block had it takes over: none if it must begin where it does, those
    /// below a page if it is to have no gap.
    pub keeps: usize,
}

impl Seat {
    /// That of a block which begins with its run.
    pub fn first(size: usize, page: usize) -> Seat {
        Seat { slices: size.max(1).div_ceil(SLICE), colour: 0, size, page, keeps: 0 }
    }

    /// That of a block which may begin anywhere in its run, and takes over the bits in `keeps`. If it is no shorter than a
    /// slice, and has less than [`ROOM`] for a colour, it has a slice more if it `may`: whole slices are what arrays are
    /// that are a power of two long.
    #[inline(always)]
    pub fn movable(size: usize, page: usize, keeps: usize, may: impl Fn() -> bool) -> Seat {
        let first = Seat { keeps, ..Seat::first(size, page) };
        if (size + ROOM - 1) % SLICE >= ROOM || size < SLICE || !may() {
            return first;
        }
        Seat { slices: first.slices + 1, ..first }
    }

    /// Bytes of the run that the block does not need.
    #[inline(always)]
    pub fn room(self) -> usize {
        self.slices * SLICE - self.colour - self.size
    }

    /// The same with as many bytes before it, or as many as the run has.
    #[inline(always)]
    pub fn behind(self, colour: usize) -> Seat {
        Seat { colour: colour.min(align_down(self.slices * SLICE - self.size, LINE)), ..self }
    }

    /// Whether it may have a gap.
    pub fn has_gap(self) -> bool {
        self.keeps >= self.page
    }

    /// The same in a run whose last block had this colour, zero if it was none with a colour: its gap was not touched, and
    /// its first line may be in a cache.
    #[inline(always)]
    pub fn as_before(self, colour: usize) -> Seat {
        let kept = colour & self.keeps;
        if kept == 0 { self } else { self.behind(kept) }
    }

    /// That of the block with `size` bytes, which begins where it does.
    #[inline(always)]
    pub fn resized(self, size: usize) -> Seat {
        Seat { slices: (self.colour + size.max(1)).div_ceil(SLICE), size, ..self }
    }

    /// What the block does not need of its run behind it.
    #[inline(always)]
    pub fn tail(self) -> Tail {
        Tail::of(self.slices, self.colour + self.size, self.page)
    }

    /// How ill the block would lie in a run whose last block had this colour, and of which the last `spared` bytes are not
    /// resident: see [`Tail::misfit`].
    pub fn misfit(self, colour: usize, spared: usize) -> usize {
        let seat = self.as_before(colour);
        let gap = |colour| align_down(colour, self.page);
        gap(colour).saturating_sub(gap(seat.colour)) + seat.tail().misfit(spared)
    }
}

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
    /// That of a run of `slices` slices that is used for the first `used` bytes.
    fn of(slices: usize, used: usize, page: usize) -> Tail {
        let unused = (slices * SLICE).saturating_sub(used);
        let bytes = align_down(unused, page);
        Tail { bytes, may_be_soiled: (used / 8).saturating_sub(unused - bytes) }
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
    fn misfit(self, spared: usize) -> usize {
        let soiled = self.soiled(spared);
        match soiled {
            0 => spared - self.bytes,
            _ if self.is_too_soiled(soiled) => PURGE + soiled,
            _ => soiled / 4,
        }
    }
}
