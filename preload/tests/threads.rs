//! Threads, signals, forks, exits and plug-ins, and malloc in the middle of each.

mod common;

use std::process::Command;

passing_cases! { "threads.c":
    malloc_in_signal_handlers,
    fork_while_64_threads_allocate,
    bare_fork_while_64_threads_allocate,
    grandchildren,
    a_child_takes_the_signals_of_its_parent,
    the_helper_has_a_small_stack,
    spawn_while_threads_allocate,
    the_first_thread_exits,
    the_last_thread_ends_the_process,
    handlers_before_threads_begin,
    what_is_buffered_is_written_at_the_end,
    threads_that_only_free,
    key_destructors_allocate_and_free,
    constructors_and_exit_handlers,
    thousands_of_threads_leave_little_behind,
    a_child_has_a_helper_of_its_own,
    threads_that_cannot_be_made_are_not_helped,
}

#[test]
fn plugins_come_and_go() {
    let plugin = common::compile("plugin.c", &["-shared", "-fPIC"]);
    let program = common::compile("threads.c", &[]);
    common::run(Command::new(program).arg("plugins_come_and_go").env("PLUGIN", plugin)).passed();
}

/// C++ thread_local objects whose destructors run after ours may have.
#[test]
fn cxx_thread_locals() {
    common::run(&mut Command::new(common::compile("thread_locals.cpp", &[]))).passed();
}
