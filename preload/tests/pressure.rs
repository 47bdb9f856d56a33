//! The helper looks at what the system and the control group say of memory, and is in nobody's way when it does.

mod common;

use std::process::Command;

passing_cases! { "pressure.c": files_of_its_own }

/// Runs a case, unless this system or this user cannot: then it ends with 3.
#[track_caller]
fn passes_where_it_can(command: &mut Command) {
    let outcome = common::run(command);
    if outcome.code == Some(3) {
        eprintln!("not run: this user may not do that here");
        return;
    }
    outcome.passed();
}

#[track_caller]
fn case_where_it_can(case: &str) {
    passes_where_it_can(Command::new(common::compile("pressure.c", &[])).arg(case));
}

#[test]
fn the_system_has_little() {
    case_where_it_can("the_system_has_little");
}

#[test]
fn a_filter_that_was_announced() {
    case_where_it_can("a_filter_that_was_announced");
}

#[test]
fn a_filter_that_was_not() {
    case_where_it_can("a_filter_that_was_not");
}
