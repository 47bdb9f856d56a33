//! Memory that is free for good goes back to the system: arenas disappear from /proc/self/maps, and pages with them.

mod common;

use std::process::Command;

/// Runs a case with the options `conf`.
#[track_caller]
fn case_with(case: &str, conf: &str) {
    let program = common::compile("gives_back.c", &[]);
    common::run(Command::new(program).arg(case).env("SPECMALLOC_CONF", conf)).passed();
}

/// At the frees, as nobody else is there to do it.
#[test]
fn empty_arenas_of_one_thread_go_at_once() {
    case_with("one_thread", "");
    case_with("one_thread", "helper:off");
}

/// A process that wants no helper is a process that gives back when it frees, however many threads it has.
#[test]
fn empty_arenas_go_without_a_helper() {
    case_with("two_threads", "helper:off");
}

#[test]
fn empty_arenas_go_with_a_helper() {
    case_with("two_threads", "");
}

#[test]
fn empty_arenas_go_when_their_thread_has_exited() {
    case_with("owner_exits", "");
    case_with("owner_exits", "helper:off");
}

#[test]
fn huge_blocks_leave_at_once_but_for_a_few() {
    case_with("huge_blocks_one_thread", "helper:off");
}

#[test]
fn huge_blocks_leave_with_a_helper() {
    case_with("huge_blocks_two_threads", "");
}

/// Slabs that are used in part give back what their free blocks hold.
#[test]
fn middling_blocks_go_but_for_the_pages_they_begin_in() {
    case_with("middling_blocks_trimmed", "");
    case_with("middling_blocks_idle", "");
}

/// What no live block touches goes, though no slab is empty.
#[test]
fn small_blocks_go_by_the_page() {
    case_with("small_blocks_trimmed", "");
    case_with("small_blocks_idle", "");
}

#[test]
fn what_middling_blocks_held_goes_before_other_sizes_take_more() {
    case_with("other_sizes_follow", "");
}
