//! A program's own malloc family may do its work by glibc's second names (`__libc_calloc`): they are not to come back to
//! it.

mod common;

use std::collections::BTreeSet;
use std::process::Command;

passing_cases! { "wrapped.c":
    each_wrapper_is_called_once_for_a_call,
}

/// What this library has itself and looks up by name all the same is what a program may replace alone: `new[]` calls the
/// `new` that there is, `reallocarray` the `realloc`, and who looks for the C++ runtime `dlopen`.
#[test]
fn no_second_name_calls_a_first_one_by_name() {
    let defined =
        common::succeed(Command::new("nm").args(["-D", "--defined-only", "-P"]).arg(common::library()));
    let defined = String::from_utf8(defined.stdout).expect("symbols in ASCII");
    let defined: BTreeSet<_> = defined.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let relocations = common::relocations();
    let bound = relocations.lines().filter_map(|line| line.split_whitespace().nth(4));
    let own: BTreeSet<_> = bound.filter(|name| defined.contains(name) && !name.starts_with("_Z")).collect();
    assert_eq!(own, BTreeSet::from(["dlopen", "realloc"]));
}
