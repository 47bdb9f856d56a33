//! A program in a steady state asks the system for no address space and gives none back.

mod common;

use std::process::Command;

/// Between its 10 millionth and its 20 millionth operation, the program's threads hand their tables on 100 times.
fn changes_no_mapping(threads: usize) {
    let program = common::compile("steady.c", &[]);
    let printed =
        common::run(Command::new(program).args([threads.to_string().as_str(), "10", "20"])).passed();
    assert_eq!(printed, "0 0 0\n", "maps, unmaps and protects of {threads} threads");
}

#[test]
fn two_threads_in_a_steady_state() {
    changes_no_mapping(2);
}

#[test]
fn four_threads_in_a_steady_state() {
    changes_no_mapping(4);
}
