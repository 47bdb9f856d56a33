//! C++ operator new and delete: every form, their failures, and programs that bring their own or no runtime at all.

mod common;

use std::process::Command;

passing_cases! { "operators.cpp":
    all_forms,
    bad_alloc,
    bad_alloc_in_threads,
    nothrow,
    handler_that_throws,
    handler_that_throws_bad_alloc,
    handler_that_gives_up,
    handler_frees_for_new,
    handler_frees_for_new_array,
    handler_frees_for_aligned,
    handler_frees_for_nothrow,
    handler_frees_for_aligned_nothrow_array,
    wrong_alignment,
    served_by_the_library,
}

/// The program replaces `operator new(size_t)` and `operator delete(void*)` and nothing else.
mod replaced {
    use super::common;
    use crate::passing_cases;

    passing_cases! { "replaced.cpp":
        basic_forms,
        nothrow_catches_what_they_throw,
        library_algorithms,
    }
}

#[test]
fn a_runtime_loaded_out_of_sight_throws() {
    let plugin = common::compile("plugin.cpp", &["-shared", "-fPIC"]);
    common::run(Command::new(common::compile("no_runtime.c", &[])).arg(plugin)).passed();
}

#[test]
fn without_a_runtime_the_process_ends_with_a_line() {
    let outcome = common::run(&mut Command::new(common::compile("no_runtime.c", &[])));
    assert_eq!(
        outcome.stderr,
        "specmalloc: out of memory in operator new, and no C++ runtime to throw std::bad_alloc\n"
    );
    assert_eq!((outcome.code, outcome.signal), (None, Some(libc::SIGABRT)));
}
