//! Huge blocks: what bursts, growth, clearing and requests beyond all bounds cost in memory, addresses and faults.

mod common;

passing_cases! { "huge.c":
    bursts_stay_flat,
    calloc_does_not_fault,
    grows_without_copies,
    refuses_without_giving_back,
    tables_stay_sparse,
    untouched_blocks_are_not_populated,
}
