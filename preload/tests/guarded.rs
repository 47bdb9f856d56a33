//! Guarded samples: what a program does wrong with one ends in a report with the places of its allocation and its free.

mod common;

use common::library::{build, library};
use std::process::Command;

/// What one run of a case says and how it ends, every allocation being a sample.
fn run(case: &str) -> common::Outcome {
    let profiler = build("preload", "specmalloc-profile", "libspecmalloc_profile.so");
    let mut command = Command::new(common::compile("guarded.c", &[]));
    command.arg(case).env("LD_PRELOAD", format!("{}:{}", library().display(), profiler.display()));
    command.env("SPECMALLOC_CONF", "guarded:on,profile:1");
    common::outcome(&mut command)
}

/// The report has the first line's beginning, and stacks under those headings, each of which comes by the program.
fn reports(case: &str, first: &str, headings: &[&str], signal: i32) {
    let outcome = run(case);
    let report: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(outcome.signal, Some(signal), "{}", outcome.stderr);
    let begin = format!("specmalloc: {first} 0x");
    assert!(report[0].starts_with(&begin), "{begin}: {}", outcome.stderr);
    // The program tells the block's address and size.
    let (block, size) = outcome.stdout.trim().split_once(' ').expect("a block");
    assert!(report[0].ends_with(&format!("a block of {size} bytes at {block}")), "{}", outcome.stderr);
    let mut stacks = report[1..].split(|line| !line.starts_with("    ")).skip(1);
    let found: Vec<&str> = report[1..].iter().filter(|line| !line.starts_with("    ")).copied().collect();
    assert_eq!(found.len(), headings.len(), "{}", outcome.stderr);
    for (found, heading) in found.iter().zip(headings) {
        assert!(found.starts_with(&format!("  {heading} by thread ")), "{found}: {heading}");
        let stack = stacks.next().expect("a stack");
        assert!(
            stack.iter().any(|call| call.contains("/guarded-") || call.contains("/guarded+")),
            "{stack:?}"
        );
    }
}

macro_rules! cases {
    ($($case:ident: $first:literal, $headings:expr, $signal:ident;)*) => {$(
        #[test]
        fn $case() {
            reports(stringify!($case), $first, &$headings, libc::$signal);
        }
    )*};
}

cases! {
    overflow: "overflow, a write to", ["done", "allocated"], SIGSEGV;
    overflow_read: "overflow, a read of", ["done", "allocated"], SIGSEGV;
    underflow: "underflow, a write to", ["done", "allocated"], SIGSEGV;
    use_after_free: "use after free, a read of", ["done", "allocated", "freed"], SIGSEGV;
    use_after_free_in_thread: "use after free, a write to", ["done", "allocated", "freed"], SIGSEGV;
    use_after_realloc: "use after free, a write to", ["done", "allocated", "freed"], SIGSEGV;
    overflow_by_little: "overflow, a write to", ["found when it was freed", "allocated"], SIGABRT;
    underflow_inside_the_page: "underflow, a write to", ["found when it was freed", "allocated"], SIGABRT;
    double_free: "double free of", ["done", "allocated", "freed"], SIGABRT;
    realloc_after_free: "use after free of", ["done", "allocated", "freed"], SIGABRT;
    free_inside: "free of what is no block,", ["done", "allocated"], SIGABRT;
}

macro_rules! passes {
    ($($case:ident),* $(,)?) => {$(
        #[test]
        fn $case() {
            let outcome = run(stringify!($case));
            assert_eq!((outcome.code, outcome.signal), (Some(0), None), "{}", outcome.stderr);
        }
    )*};
}

passes! {
    blocks_are_blocks,
    zeroed,
    aligned,
    walked,
    threads,
    in_handlers,
    children,
    other_faults_go_to_the_program,
}
