//! The units that address space is measured in.

/// Bytes in one slice, the unit in which an arena hands out memory: 64 KiB on every machine, so that it is a
/// whole number of pages at page sizes 4, 16 and 64 KiB.
pub const SLICE: usize = 64 << 10;

/// Bytes in one granule, the unit of the index and the alignment of every arena: 32 MiB.
/// Under a model checker a granule is 8 slices: the protocol is the same and the search is finite.
pub const GRANULE: usize = if cfg!(any(loom, shuttle)) { 8 * SLICE } else { 32 << 20 };

/// Slices in one granule.
pub const GRANULE_SLICES: usize = GRANULE / SLICE;

/// `value` rounded up to a multiple of `align`, or `None` if that does not fit.
///
/// `align` is a power of two.
#[inline(always)]
pub const fn align_up(value: usize, align: usize) -> Option<usize> {
    debug_assert!(align.is_power_of_two());
    match value.checked_add(align - 1) {
        Some(sum) => Some(sum & !(align - 1)),
        None => None,
    }
}

/// `value` rounded down to a multiple of `align`, a power of two.
#[inline(always)]
pub const fn align_down(value: usize, align: usize) -> usize {
    debug_assert!(align.is_power_of_two());
    value & !(align - 1)
}

/// Whether `value` is a multiple of `align`, a power of two.
#[inline(always)]
pub const fn is_aligned(value: usize, align: usize) -> bool {
    debug_assert!(align.is_power_of_two());
    value & (align - 1) == 0
}

const _: () = assert!(GRANULE.is_power_of_two() && GRANULE_SLICES.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_agrees_with_division() {
        for shift in 0..20 {
            let align = 1usize << shift;
            for value in (0..3 * align + 3).step_by(1 + align / 64) {
                assert_eq!(align_up(value, align), Some(value.div_ceil(align) * align));
                assert_eq!(align_down(value, align), value / align * align);
                assert_eq!(is_aligned(value, align), value % align == 0);
            }
        }
        assert_eq!(align_up(usize::MAX, 16), None);
        assert_eq!(align_up(usize::MAX - 15, 16), Some(usize::MAX - 15));
    }
}
