//! What C, POSIX and glibc say about the arguments and the failures of the malloc family.

mod common;

passing_cases! { "posix.c":
    zero_sizes,
    huge_sizes,
    overflowing_products,
    calloc_is_zero_after_reuse,
    realloc_semantics,
    realloc_keeps_the_tail,
    realloc_to_whole_pages,
    alignments_to_1_gib,
    alignments_above_1_gib_do_not_harm,
    realloc_of_aligned,
    posix_memalign_errors,
    aligned_alloc_errors,
    memalign_rounds_up,
    page_aligned,
    usable_size_is_usable,
    alignment_of_plain_blocks,
    free_keeps_errno,
    success_keeps_errno,
    other_names,
    blocks_from_libc,
}
