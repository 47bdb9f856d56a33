//! Limits that a program sets itself: how much is held, what is told, what fails.

mod common;

use std::process::Command;

passing_cases! { "limited.c":
    hard_limit_bounds_what_is_resident,
    held_is_what_is_resident,
    soft_limit_is_told_once,
    another_soft_limit_is_told_anew,
    hard_limit_gives_way_to_what_the_program_gives_back,
    not_in_a_handler,
    not_inside_itself,
    threads_share_the_limit,
    children_have_the_limit,
    a_child_asks_the_function_itself,
    each_thread_that_fails_asks_the_function,
}

#[test]
fn limit_of_the_environment() {
    let mut command = Command::new(common::compile("limited.c", &[]));
    command.arg("limit_of_the_environment").env("SPECMALLOC_CONF", "limit:32M,soft_limit:16M");
    common::run(&mut command).passed();
}
