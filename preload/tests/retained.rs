//! What stays resident though free: a program that builds up and tears down again and again does not fault, one that
//! does not come back keeps little.

mod common;

passing_cases! { "retained.c":
    small_cycles, large_cycles, huge_cycles, cycles_beside_a_thread, cycles_end_with_a_helper,
    cycles_end_with_the_next_calls, first_descent, locked, exchanged, random_blocks, many_sizes,
    little_left, mixed_cycles, descent_after_the_others, pool_by_turns
}
