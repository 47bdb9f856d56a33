//! The statistics add up to what the kernel says is resident, and no figure is ever negative.

mod common;

passing_cases! { "resident.c":
    small_blocks,
    medium_blocks,
    large_blocks,
    huge_blocks,
    aligned_blocks,
    phases,
    sparse_blocks,
    sparse_blocks_in_arenas,
    grown_blocks,
    widely_aligned_blocks,
    locked_blocks,
    never_negative,
}
