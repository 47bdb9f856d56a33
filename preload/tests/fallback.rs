//! Without membarrier, as on a kernel that has none: everything holds, by a fence in each section.

mod common;

use std::process::Command;

fn without_membarrier(source: &str, case: &str) {
    let program = common::compile(source, &[]);
    common::run(Command::new(program).arg(case).env("SPECMALLOC_CONF", "membarrier:off")).passed();
}

#[test]
fn threads_and_forks() {
    for case in [
        "malloc_in_signal_handlers",
        "fork_while_64_threads_allocate",
        "threads_that_only_free",
        "key_destructors_allocate_and_free",
        "the_last_thread_ends_the_process",
    ] {
        without_membarrier("threads.c", case);
    }
}

/// By the thread that frees: what a sleeping one has in its bins cannot be had without the barrier.
#[test]
fn empty_arenas_go() {
    without_membarrier("gives_back.c", "one_thread");
}

#[test]
fn the_helper_comes_and_goes() {
    without_membarrier("lives.c", "the_helper_comes_and_goes_with_the_threads");
}

#[test]
fn no_call_of_it_is_made() {
    without_membarrier("figures.c", "there_is_no_barrier");
}
