//! A program in a steady state asks the system for no address space and gives none back.

mod common;

use std::process::Command;

/// Between its 10 millionth and its 20 millionth operation, the program's threads hand their tables on 100 times.
///
/// How many blocks are on their way at a time is a matter of chance, and one run in eight of four threads is at the edge of
/// an arena then: so one run of three has to map nothing, which no program does that maps and unmaps as a rule.
fn changes_no_mapping(threads: usize) {
    let program = common::compile("steady.c", &[]);
    let run =
        || common::run(Command::new(&program).args([threads.to_string().as_str(), "10", "20"])).passed();
    assert!(
        (0..3).any(|_| run() == "0 0 0\n"),
        "{threads} threads map, unmap or protect in each of three runs"
    );
}

#[test]
fn two_threads_in_a_steady_state() {
    changes_no_mapping(2);
}

#[test]
fn four_threads_in_a_steady_state() {
    changes_no_mapping(4);
}
