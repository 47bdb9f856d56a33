//! Tests that end, fork or change their process: each runs itself again in a child of its own.

use std::process::{Command, Output};

/// Runs the named test of the module `process` again in a child, with `case` in its environment.
pub fn child(test: &str, case: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("process::{test}"), "--test-threads=1", "--nocapture"])
        .env("SPECMALLOC_TEST_CASE", case)
        .output()
        .unwrap()
}

/// What the child is to do; `None` in the process that starts it.
pub fn case() -> Option<String> {
    std::env::var("SPECMALLOC_TEST_CASE").ok()
}
