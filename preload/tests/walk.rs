//! `specmalloc_walk`: every live block, told while threads go on.

mod common;

passing_cases! { "walk.c":
    told_at_rest_is_what_is_live,
    told_once_beside_threads,
    free_ones_are_not_told,
    told_beside_unmaps,
    in_a_child,
    in_a_child_of_threads,
    in_a_destructor,
    in_a_handler,
    callback_allocates_and_frees,
    walk_in_a_walk,
    ended_by_the_callback,
    before_the_first_block,
}
