//! Threads that live and do nothing keep little, and threads that do something are not disturbed by those who look.

mod common;

use std::process::Command;

/// Runs a case with the options `conf`.
#[track_caller]
fn case(case: &str, conf: &str) {
    let program = common::compile("idle.c", &[]);
    common::run(Command::new(program).arg(case).env("SPECMALLOC_CONF", conf)).passed();
}

#[test]
fn a_thread_with_one_block_costs_a_part_of_a_page() {
    case("one_block", "");
}

#[test]
fn threads_with_few_blocks_share_no_cache_lines() {
    case("few_blocks", "");
}

#[test]
fn a_thread_that_goes_on_has_a_heap_of_its_own() {
    case("more_blocks", "");
}

#[test]
fn a_sleeping_thread_that_used_every_class_keeps_little() {
    case("every_class", "");
}

#[test]
fn a_trim_reaches_what_sleeping_threads_keep() {
    case("every_class_trimmed", "");
    case("every_class_trimmed", "helper:off");
}

#[test]
fn what_is_freed_for_a_sleeping_thread_goes_back() {
    case("freed_for", "");
}

#[test]
fn what_a_sleeping_thread_holds_back_goes_home() {
    case("held_back", "");
}

#[test]
fn threads_are_visited_as_they_work_fork_and_exit() {
    case("visited", "");
}

/// With something free that goes by and by, and with nothing.
#[test]
fn who_gives_back_sleeps_in_between_and_afterwards() {
    case("no_time", "");
    case("no_time", "dirty_max:0,dirty_percent:0");
}
