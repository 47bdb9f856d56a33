//! Size classes: which block size serves a request.
//!
//! Up to 128 bytes a class every 16 bytes; above it eight classes to a doubling, so that at most 1/9 (11.1 %) of a
//! block is more than was asked for. From [`SHIFTED`] on such a class is a little longer than its step, by [`MIN_BLOCK`],
//! and from [`SHIFTED_BY_LINE`] on by a cache line: an odd number of lines. Caches choose a set by the lower bits of the
//! address, so the first lines of blocks that lie a power of two apart, as the rows of a matrix would, share a set or a
//! few, and push each other out.
//!
//! An aligned request is rounded up to a multiple of its alignment. Below [`SHIFTED`] the class that serves it is of
//! such a size, too, and above if it is by lines and a line is enough; for others there are classes of their own, four to
//! a doubling, which are not shifted: see [`class_of_aligned`].

use super::address::{GRANULE, SLICE};

/// Bytes in the smallest block; every block is a multiple of it and aligned to it.
pub const MIN_BLOCK: usize = 16;

/// Bytes in a cache line.
pub const LINE: usize = 64;

/// Bytes within which the places of lines differ for the first cache: a page of the smallest kind.
pub const WAY: usize = 4096;

/// The first step whose class is shifted.
const SHIFTED: usize = 1 << 10;

/// The first step whose class is longer by a line. (Of shorter blocks a slab has so many that less will do.)
const SHIFTED_BY_LINE: usize = 2 << 10;

/// The last one.
const LAST: usize = 32 << 10;

/// Largest request in bytes that is a block of a slab; above it, a request is a run of slices.
pub const SMALL_MAX: usize = LAST + LINE;

/// Largest request in bytes whose slab is a single slice.
pub const QUICK_MAX: usize = (8 << 10) + LINE;

/// Classes below the first doubling: 16, 32, ... 128 bytes.
const LINEAR: usize = 8;
const LINEAR_MAX: usize = LINEAR * MIN_BLOCK;
const STEPS_LOG2: u32 = 3;

/// The class of aligned blocks of [`SHIFTED`] bytes: the classes below are their steps. From here on two steps are three
/// classes, of which the first is one for aligned blocks.
const FIRST_SHIFTED: usize = step_of(SHIFTED);

/// Number of size classes: 93.
pub const CLASSES: usize = class_of(SMALL_MAX) + 1;

/// What is fixed for all slabs of one size class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassInfo {
    /// Bytes in a block.
    pub size: u32,
    /// Blocks in a slab.
    pub capacity: u32,
    /// Slices in a slab: 1 for every class up to [`QUICK_MAX`].
    pub slices: u32,
    /// Lines of a slab at which its first block may begin: see [`ClassInfo::colour`].
    colours: u32,
    /// floor(2^64 / size) + 1. Modulo 2^64, `offset * reciprocal` is `index * excess` for the offset of the block at
    /// `index`, and far more than that for every other offset, up to 2^47 bytes before and behind the slab. So one
    /// comparison tells whether an offset is that of one of the first `n` blocks, for any `n`: see
    /// [`ClassInfo::limit`].
    ///
    /// Why: with `offset = index * size + rest` the product is `index * excess + rest * reciprocal`, and `excess` is at
    /// most `size`. Without a rest it is at most the offset, below 2^47, and ordered by the index. With one it lies
    /// between `reciprocal` (above 2^49) and 2^64 - reciprocal + 2^48, so nothing wraps around. An offset before the
    /// slab gives the negative of such a number, which is above 2^48 too. (After Lemire, Kaser, Kurz: "Faster remainder
    /// by direct computation", 2019.)
    pub reciprocal: u64,
    /// `reciprocal * size` modulo 2^64: between 1 and `size`.
    pub excess: u64,
}

impl ClassInfo {
    /// What `offset * reciprocal` is below exactly when `offset` is that of one of the first `count` blocks of a slab.
    #[inline(always)]
    pub const fn limit(&self, count: u32) -> u64 {
        count as u64 * self.excess
    }

    /// Bytes behind `base`, where a slab begins, at which its first block does: less than a page. The lines at which the
    /// blocks of the slab before it begin are not used again, as far as there is room.
    pub const fn colour(&self, base: usize) -> usize {
        let slice = base % GRANULE / SLICE;
        let (Some(slab), blocks) = (slice.checked_div(self.slices as usize), self.capacity as usize) else {
            return 0;
        };
        match (slab * blocks).checked_rem(self.colours as usize) {
            Some(lines) => lines * LINE,
            None => 0,
        }
    }
}

/// The class whose blocks hold `size` bytes. `size` is at most [`SMALL_MAX`]; zero is served as one byte.
#[inline(always)]
pub const fn class_of(size: usize) -> usize {
    debug_assert!(size <= SMALL_MAX);
    let step = step_of(size);
    if step < FIRST_SHIFTED {
        return step;
    }
    let step = if size > LAST_SHIFTED_BY_LESS {
        step_of(if size - LINE < SHIFTED_BY_LINE { SHIFTED_BY_LINE } else { size - LINE })
    } else {
        step_of(if size - MIN_BLOCK < SHIFTED { SHIFTED } else { size - MIN_BLOCK })
    };
    let beyond = step - FIRST_SHIFTED;
    FIRST_SHIFTED + beyond / 2 * 3 + beyond % 2 + 1
}

/// Bytes in the longest blocks that are no longer than their step.
const LAST_UNSHIFTED: usize = step_size(FIRST_SHIFTED - 1);

/// Bytes in the longest blocks that are longer than their step by less than a line.
const LAST_SHIFTED_BY_LESS: usize = step_size(step_of(SHIFTED_BY_LINE) - 1) + MIN_BLOCK;

/// The class whose blocks hold `size` bytes at every multiple of `size` that is a power of two. From [`SHIFTED`] on one
/// of those for aligned blocks. `size` is at most [`LAST`].
#[inline(always)]
const fn class_of_unshifted(size: usize) -> usize {
    let step = step_of(size);
    if step < FIRST_SHIFTED { step } else { FIRST_SHIFTED + (step - FIRST_SHIFTED).div_ceil(2) * 3 }
}

/// The step that `size` bytes fall into: steps go on for ever, and are an eighth of a length apart at most.
#[inline(always)]
pub const fn step_of(size: usize) -> usize {
    if size <= LINEAR_MAX {
        return if size == 0 { 0 } else { (size - 1) / MIN_BLOCK };
    }
    // `last` has its top bit in the doubling that the request falls into; the three bits below it are the step.
    let last = size - 1;
    let doubling = last.ilog2();
    let step = (last >> (doubling - STEPS_LOG2)) & ((1 << STEPS_LOG2) - 1);
    LINEAR + ((doubling - LINEAR_MAX.ilog2()) as usize) * (1 << STEPS_LOG2) + step
}

/// The class whose blocks hold `size` bytes at a multiple of `align`, or `None` if only a run of slices can.
///
/// `align` is a power of two. A multiple of `align` is either a class size or shares a class with sizes that are
/// multiples of `align` too (of those for aligned blocks, if it is one of theirs), and slabs start on a slice, or some
/// lines behind it: so every block of the class is aligned.
#[inline(always)]
pub const fn class_of_aligned(size: usize, align: usize) -> Option<usize> {
    debug_assert!(align.is_power_of_two());
    if align <= MIN_BLOCK {
        return if size <= SMALL_MAX { Some(class_of(size)) } else { None };
    }
    match aligned_size(size, align) {
        Some(size) if is_alike(size, align) => Some(class_of(size)),
        Some(size) => Some(class_of_unshifted(size)),
        None => None,
    }
}

/// Whether blocks of `size` bytes, a multiple of `align`, are aligned so in the class that serves any request of that size.
#[inline(always)]
pub const fn is_alike(size: usize, align: usize) -> bool {
    size <= LAST_UNSHIFTED || align <= if size > LAST_SHIFTED_BY_LESS { LINE } else { MIN_BLOCK }
}

/// `size`, one at least, as a multiple of `align`, a power of two: what a class for aligned blocks has to hold. `None`
/// if only a run of slices can.
#[inline(always)]
pub const fn aligned_size(size: usize, align: usize) -> Option<usize> {
    if size > SMALL_MAX || align > SMALL_MAX {
        return None;
    }
    let rounded = (if size == 0 { 1 } else { size } + align - 1) & !(align - 1);
    if rounded <= SMALL_MAX { Some(rounded) } else { None }
}

/// Bytes in a block of `class`.
#[inline(always)]
pub const fn class_size(class: usize) -> usize {
    debug_assert!(class < CLASSES);
    if class < FIRST_SHIFTED {
        return step_size(class);
    }
    let beyond = class - FIRST_SHIFTED;
    match beyond % 3 {
        0 => step_size(FIRST_SHIFTED + beyond / 3 * 2),
        rest => {
            let size = step_size(FIRST_SHIFTED + beyond / 3 * 2 + rest - 1);
            size + if size < SHIFTED_BY_LINE { MIN_BLOCK } else { LINE }
        }
    }
}

/// The longest length of a step.
const fn step_size(step: usize) -> usize {
    if step < LINEAR {
        return (step + 1) * MIN_BLOCK;
    }
    let (doubling, step) = ((step - LINEAR) >> STEPS_LOG2, (step - LINEAR) & ((1 << STEPS_LOG2) - 1));
    (LINEAR_MAX + (step + 1) * (LINEAR_MAX >> STEPS_LOG2)) << doubling
}

const fn describe(class: usize) -> ClassInfo {
    let size = class_size(class);
    let mut slices = 1;
    if size > QUICK_MAX {
        // At least eight blocks, and at most 1/12 of the slab left over behind the last.
        slices = (8 * size).div_ceil(SLICE);
        while (slices * SLICE) % size > slices * SLICE / 12 {
            slices += 1;
        }
    }
    // 2^64 / size, rounded down, is the same with 2^64 - 1 unless size is a power of two.
    let reciprocal = u64::MAX / size as u64 + if size.is_power_of_two() { 2 } else { 1 };
    let left = slices * SLICE % size;
    let colours = if size % (2 * LINE) != LINE || size < SHIFTED_BY_LINE {
        1
    } else if left < WAY {
        left / LINE + 1
    } else {
        WAY / LINE
    };
    ClassInfo {
        size: size as u32,
        capacity: (slices * SLICE / size) as u32,
        slices: slices as u32,
        colours: colours as u32,
        reciprocal,
        excess: reciprocal.wrapping_mul(size as u64),
    }
}

static INFO: [ClassInfo; CLASSES] = {
    let mut table =
        [ClassInfo { size: 0, capacity: 0, slices: 0, colours: 1, reciprocal: 0, excess: 0 }; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        table[class] = describe(class);
        class += 1;
    }
    table
};

/// What is fixed for all slabs of `class`.
#[inline(always)]
pub fn class_info(class: usize) -> &'static ClassInfo {
    &INFO[class]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the class is one for aligned blocks alone.
    fn is_for_aligned(class: usize) -> bool {
        class >= FIRST_SHIFTED && (class - FIRST_SHIFTED).is_multiple_of(3)
    }

    #[test]
    fn every_request_gets_the_smallest_class_that_holds_it() {
        let mut class = 0;
        for size in 0..=SMALL_MAX {
            while size > class_size(class) || is_for_aligned(class) {
                class += 1;
            }
            assert_eq!(class_of(size), class, "request of {size}");
        }
        assert_eq!(class, CLASSES - 1);
        assert_eq!(class_size(CLASSES - 1), SMALL_MAX);
    }

    #[test]
    fn a_longer_class_has_longer_blocks() {
        (1..CLASSES).for_each(|class| assert!(class_size(class - 1) < class_size(class), "class {class}"));
    }

    #[test]
    fn blocks_of_no_class_share_the_sets_of_a_cache() {
        // The first lines of as many neighbours as a page has lines, of all blocks that a page holds few of.
        let lines = 4096 / LINE;
        for class in (0..CLASSES).filter(|&class| class_size(class) > SHIFTED && !is_for_aligned(class)) {
            let mut sets = vec![0; lines];
            (0..lines).for_each(|block| sets[block * class_size(class) / LINE % lines] += 1);
            let most = sets.into_iter().max();
            assert_eq!(most.min(Some(4)), most, "class {class}");
            assert!(class_size(class) < SHIFTED_BY_LINE || most == Some(1), "class {class}");
        }
    }

    #[test]
    fn waste_is_at_most_an_eighth_above_128_bytes() {
        for size in 129..=SMALL_MAX {
            let block = class_size(class_of(size));
            assert!((block - size) * 8 <= block, "request of {size} gets {block}");
        }
    }

    #[test]
    fn every_alignment_up_to_a_slice_is_met_by_every_block() {
        for shift in 0..=15 {
            let align = 1usize << shift;
            for size in 0..=SMALL_MAX {
                if let Some(class) = class_of_aligned(size, align) {
                    assert!(
                        class_size(class) >= size && class_size(class).is_multiple_of(align),
                        "{size} at {align}"
                    );
                }
            }
        }
        assert_eq!(class_of_aligned(1, LAST), Some(CLASSES - 2));
        assert_eq!(class_of_aligned(SMALL_MAX, 2 * LINE), None);
        assert_eq!(class_of_aligned(1, 2 * LAST), None);
        assert_eq!(class_of_aligned(SMALL_MAX + 1, 1), None);
    }

    #[test]
    fn waste_of_aligned_requests_is_at_most_a_fifth() {
        for (align, size) in (7..=15).flat_map(|shift| (129..=LAST).map(move |size| (1_usize << shift, size)))
        {
            let rounded = size.next_multiple_of(align);
            if let Some(block) = class_of_aligned(size, align).map(class_size) {
                assert!((block - rounded) * 5 <= block, "{size} at {align} gets {block}");
                assert!(block == rounded || !rounded.is_multiple_of(4096), "{size} at {align} gets {block}");
            }
        }
    }

    /// A class that serves any request serves one that is aligned, too, if its blocks are: so one for aligned blocks alone
    /// is not opened for it, which would be longer.
    #[test]
    fn what_is_aligned_shares_a_class_where_it_can() {
        for align in (0..=15).map(|shift| 1_usize << shift) {
            for size in 0..=SMALL_MAX {
                let any = class_of(size.max(1).next_multiple_of(align).min(SMALL_MAX));
                if class_size(any).is_multiple_of(align) && class_size(any) >= size {
                    assert_eq!(class_of_aligned(size, align), Some(any), "{size} at {align}");
                }
            }
        }
    }

    #[test]
    fn slabs_hold_eight_blocks_and_waste_little() {
        for class in 0..CLASSES {
            let info = class_info(class);
            let bytes = info.slices as usize * SLICE;
            assert!(info.capacity >= 7 && (info.slices == 1) == (info.size as usize <= QUICK_MAX));
            assert!(info.capacity as usize * info.size as usize <= bytes);
            let share = if info.size as usize == QUICK_MAX { 8 } else { 12 };
            let left = bytes - info.capacity as usize * info.size as usize;
            assert!(left <= bytes / share, "class {class}");
        }
    }

    /// In each slab blocks begin at lines behind those of the slab before it, as far as there is room behind the last block;
    /// but those of classes that are as long as their step, as what is aligned to more than a line must, begin with the slab.
    #[test]
    fn slabs_begin_at_other_lines_within_what_they_do_not_need() {
        for class in 0..CLASSES {
            let info = class_info(class);
            let [size, blocks, slices] =
                [info.size, info.capacity, info.slices].map(|figure| figure as usize);
            let is_shifted = size > SHIFTED_BY_LINE && !is_for_aligned(class);
            let room = if is_shifted { slices * SLICE - blocks * size } else { 0 };
            let (lines, mut expected) = (room.min(WAY - LINE) / LINE + 1, 0);
            for slab in 0..GRANULE / SLICE / slices {
                let base = 5 * GRANULE + slab * slices * SLICE;
                assert_eq!(info.colour(base), expected % lines * LINE, "class {class}, slab {slab}");
                assert!((1..slices).all(|slice| info.colour(base + slice * SLICE) == info.colour(base)));
                expected += blocks;
            }
        }
    }

    #[test]
    fn one_comparison_tells_the_blocks_of_every_slab() {
        for class in 0..CLASSES {
            let info = class_info(class);
            assert!((1..=u64::from(info.size)).contains(&info.excess));
            for offset in 0..info.slices as usize * SLICE {
                let product = (offset as u64).wrapping_mul(info.reciprocal);
                let index = (offset / info.size as usize) as u32;
                // Below the limit of every count above the index, and of no other.
                let is_start = offset % info.size as usize == 0;
                assert_eq!(product < info.limit(index + 1), is_start, "class {class}, offset {offset}");
                assert!(product >= info.limit(index), "class {class}, offset {offset}");
                if !is_start {
                    assert!(product >= info.limit(info.capacity), "class {class}, offset {offset}");
                }
            }
        }
    }

    #[test]
    fn no_address_outside_a_slab_passes_for_a_block() {
        let mut state = 1u64;
        for class in 0..CLASSES {
            let info = class_info(class);
            let limit = info.limit(info.capacity);
            let bytes = u64::from(info.capacity) * u64::from(info.size);
            assert!(info.reciprocal > (1 << 48) + limit);
            let check = |offset: u64| {
                assert!(offset.wrapping_mul(info.reciprocal) >= limit, "class {class}, offset {offset:#x}");
            };
            for step in 0..2000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let far = bytes + (state >> 17) % ((1 << 47) - bytes);
                for offset in [
                    bytes + step,
                    (1 << 47) - 1 - step,
                    far,
                    far / u64::from(info.size) * u64::from(info.size),
                ] {
                    if offset >= bytes {
                        check(offset);
                        check(offset.wrapping_neg());
                    }
                }
                check((step + 1).wrapping_neg());
            }
        }
    }
}
