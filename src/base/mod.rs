//! `base`: pure arithmetic. Addresses, sizes, size classes. Imports nothing of this crate.
//!
//! Everything here is a `const fn` over integers, checked over its whole domain by exhaustive tests.

mod address;
mod size_class;

pub use address::{GRANULE, GRANULE_SLICES, SLICE, align_down, align_up, is_aligned};
pub use size_class::{
    CLASSES, ClassInfo, LINE, MIN_BLOCK, QUICK_MAX, SMALL_MAX, WAY, aligned_size, class_info, class_of,
    class_of_aligned, class_size, is_alike, step_of,
};
