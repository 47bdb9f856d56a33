//! How threads begin and end, and what of the library outlives them.

mod common;

use std::process::Command;

passing_cases! { "lives.c":
    no_thread_leaves_a_heap,
    no_thread_leaves_a_heap_where_no_keys_are_left,
    detached_workers_that_never_allocate,
    the_helper_comes_and_goes_with_the_threads,
    the_helper_is_an_ordinary_thread_of_the_process,
    helpers_take_no_signals_and_leave_no_stacks,
    unshare_after_the_only_thread_was_joined,
    threads_that_cannot_be_made,
    a_helper_that_could_not_be_made_is_made_later,
    small_stacks,
    children_of_threads,
    threads_of_a_child,
    what_a_thread_has_left_is_not_live,
    the_helper_stays_in_a_child_of_two_threads,
    a_thread_gets_a_heap_if_it_goes_on,
}

/// Exceptions, `pthread_exit` and cancellation leave through the first function of a thread.
#[test]
fn stacks_are_unwound() {
    common::run(&mut Command::new(common::compile("unwound.cpp", &[]))).passed();
}

#[test]
fn a_library_that_was_closed_stays() {
    let program = common::compile("loaded_late.c", &[]);
    common::succeed(Command::new(program).arg(common::library()));
}
