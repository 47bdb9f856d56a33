//! Signal handlers and forks at every instruction of malloc, free and realloc: the program single-steps itself through
//! the calls, and at each step a handler allocates, frees and verifies, or forks a child that does and then goes on.

#![cfg(target_arch = "x86_64")]

mod common;

passing_cases! { "interrupted.c":
    small,
    refilled,
    whole_slabs,
    wide_slabs,
    moved,
    large,
    huge,
    remote,
    orphans,
    trimmed,
    first_use,
    last_use,
}
