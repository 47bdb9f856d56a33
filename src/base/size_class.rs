//! Size classes: which block size serves a request.
//!
//! Up to 128 bytes a class every 16 bytes; above it eight classes to a doubling, so that at most 1/9 (11.1 %) of a
//! block is more than was asked for. An aligned request needs no classes of its own: rounded up to a multiple of its
//! alignment it is served by a class whose size is such a multiple, too. See [`class_of_aligned`].

use super::address::SLICE;

/// Bytes in the smallest block; every block is a multiple of it and aligned to it.
pub const MIN_BLOCK: usize = 16;

/// Largest request in bytes that is a block of a slab; above it, a request is a run of slices.
pub const SMALL_MAX: usize = 32 << 10;

/// Largest request in bytes whose slab is a single slice.
pub const QUICK_MAX: usize = 8 << 10;

/// Classes below the first doubling: 16, 32, ... 128 bytes.
const LINEAR: usize = 8;
const LINEAR_MAX: usize = LINEAR * MIN_BLOCK;
const STEPS_LOG2: u32 = 3;

/// Number of size classes: 72.
pub const CLASSES: usize = LINEAR + ((SMALL_MAX / LINEAR_MAX).ilog2() as usize) * (1 << STEPS_LOG2);

/// What is fixed for all slabs of one size class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassInfo {
    /// Bytes in a block.
    pub size: u32,
    /// Blocks in a slab.
    pub capacity: u32,
    /// Slices in a slab: 1 for every class up to [`QUICK_MAX`].
    pub slices: u32,
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
}

/// The class whose blocks hold `size` bytes. `size` is at most [`SMALL_MAX`]; zero is served as one byte.
#[inline(always)]
pub const fn class_of(size: usize) -> usize {
    debug_assert!(size <= SMALL_MAX);
    step_of(size)
}

/// The number of the class whose blocks would hold `size` bytes if classes went on beyond [`SMALL_MAX`] as they do
/// below it. So lengths of one step differ by an eighth at most.
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
/// multiples of `align` too, and slabs start on a slice: so every block of the class is aligned.
#[inline(always)]
pub const fn class_of_aligned(size: usize, align: usize) -> Option<usize> {
    debug_assert!(align.is_power_of_two());
    if align <= MIN_BLOCK {
        return if size <= SMALL_MAX { Some(class_of(size)) } else { None };
    }
    match aligned_size(size, align) {
        Some(size) => Some(class_of(size)),
        None => None,
    }
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
    if class < LINEAR {
        return (class + 1) * MIN_BLOCK;
    }
    let doubling = (class - LINEAR) >> STEPS_LOG2;
    let step = (class - LINEAR) & ((1 << STEPS_LOG2) - 1);
    (LINEAR_MAX + (step + 1) * (LINEAR_MAX >> STEPS_LOG2)) << doubling
}

const fn describe(class: usize) -> ClassInfo {
    let size = class_size(class);
    let mut slices = 1;
    if size > QUICK_MAX {
        // At least eight blocks, and at most 1/16 of the slab left over behind the last.
        slices = (8 * size).div_ceil(SLICE);
        while (slices * SLICE) % size > slices * SLICE / 16 {
            slices += 1;
        }
    }
    // 2^64 / size, rounded down, is the same with 2^64 - 1 unless size is a power of two.
    let reciprocal = u64::MAX / size as u64 + if size.is_power_of_two() { 2 } else { 1 };
    ClassInfo {
        size: size as u32,
        capacity: (slices * SLICE / size) as u32,
        slices: slices as u32,
        reciprocal,
        excess: reciprocal.wrapping_mul(size as u64),
    }
}

static INFO: [ClassInfo; CLASSES] = {
    let mut table = [ClassInfo { size: 0, capacity: 0, slices: 0, reciprocal: 0, excess: 0 }; CLASSES];
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

    #[test]
    fn every_request_gets_the_smallest_class_that_holds_it() {
        let mut class = 0;
        for size in 0..=SMALL_MAX {
            if size > class_size(class) {
                class += 1;
            }
            assert_eq!(class_of(size), class, "request of {size}");
        }
        assert_eq!(class, CLASSES - 1);
        assert_eq!(class_size(CLASSES - 1), SMALL_MAX);
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
        assert_eq!(class_of_aligned(1, SMALL_MAX), Some(CLASSES - 1));
        assert_eq!(class_of_aligned(1, 2 * SMALL_MAX), None);
        assert_eq!(class_of_aligned(SMALL_MAX + 1, 1), None);
    }

    #[test]
    fn slabs_hold_eight_blocks_and_waste_little() {
        for class in 0..CLASSES {
            let info = class_info(class);
            let bytes = info.slices as usize * SLICE;
            assert!(info.capacity >= 7 && (info.slices == 1) == (info.size as usize <= QUICK_MAX));
            assert!(info.capacity as usize * info.size as usize <= bytes);
            assert!(bytes - info.capacity as usize * info.size as usize <= bytes / 8, "class {class}");
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
