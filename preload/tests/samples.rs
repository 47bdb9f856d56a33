//! Samples, as a program sees them that asks for them.

mod common;

use std::process::Command;

/// Runs a case; the program wants the mathematical library.
fn passes(case: &str) {
    common::run(Command::new(common::compile("samples.c", &["-lm"])).arg(case)).passed();
}

cases! { passes:
    what_stays_is_told_from_what_goes,
    every_size_counts,
    threads_are_counted,
    freed_by_others,
    a_sample_is_a_block,
    a_sample_is_told_as_a_block,
    large_samples,
    a_block_that_grows,
    a_million_samples,
    on_and_off,
    in_handlers,
    children,
}

/// Instructions inside malloc and free in a run with those options.
fn inside(options: &str, count: u32) -> u64 {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.args(["--toggle-collect=malloc", "--toggle-collect=free"]);
    valgrind.arg(common::compile("samples.c", &["-lm"])).arg("replacements");
    valgrind.env("REPLACEMENTS", count.to_string()).env("SPECMALLOC_CONF", options);
    let outcome = common::run(&mut valgrind);
    assert_eq!((outcome.code, outcome.signal), (Some(0), None), "{}", outcome.stderr);
    let collected = outcome.stderr.lines().find_map(|line| line.split_once("Collected :"));
    collected.and_then(|(_, number)| number.trim().parse().ok()).expect("a count")
}

/// What sampling costs a pair of malloc and free, where nobody notes the samples: blocks of 271 bytes on average, so that
/// one pair in 1,900 is a sample.
#[test]
fn a_pair_costs_little_more() {
    const COUNT: u32 = 100_000;
    let cost = |options: &str| {
        let [none, all] = [0, COUNT].map(|count| inside(options, count));
        all.checked_sub(none).expect("pairs take instructions") as f64 / f64::from(COUNT)
    };
    let (off, on) = (cost("profile:off"), cost("profile:512K"));
    println!("{off:.1} instructions for a pair, {on:.1} while it is sampled");
    assert!(off >= 10.0 && on <= off + 15.0, "{off:.1} and {on:.1}");
}
