//! After start-up there is no kind of system call but those of glibc's malloc: a program that forbids all others lives.

mod common;

/// Runs a case of `sandboxed.c`; where a process may not shut itself off there is nothing to see.
#[track_caller]
fn lives(case: &str) -> Option<String> {
    let outcome = common::case("sandboxed.c", case);
    if outcome.code == Some(3) {
        eprintln!("not run: this system has no filters for system calls");
        return None;
    }
    assert_eq!((outcome.code, outcome.signal), (Some(0), None), "{}", outcome.stderr);
    Some(outcome.stderr)
}

#[test]
fn a_program_of_one_thread() {
    lives("alone");
}

#[test]
fn the_figures() {
    if let Some(printed) = lives("reports") {
        assert!(printed.contains("specmalloc: live"), "{printed}");
    }
}

#[test]
fn threads_that_are_made_later() {
    lives("with_threads_later");
}

/// Of madvise, too, no other kind.
#[test]
fn advice_that_is_forbidden() {
    lives("without_advice");
    lives("without_advice_later");
}

#[test]
fn a_barrier_that_is_forbidden_later() {
    lives("without_the_barrier");
}

#[test]
fn neither_advice_nor_a_barrier() {
    lives("without_advice_or_barrier");
}

#[test]
fn the_helper_that_came_behind_a_filter_is_waited_for() {
    lives("unshares");
}
