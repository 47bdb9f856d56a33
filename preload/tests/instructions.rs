//! How many instructions `free` and `malloc` take together through the C interface, counted by valgrind: a number that
//! neither the machine's speed nor its load changes.
//!
//! Counted is what runs between the entry of `malloc` or `free` and its return, the slow paths that come up among so many
//! pairs included; not the caller's call and its jump through the linkage table. The same program's run without a
//! pair is taken off, which leaves out the library's start and the first blocks.

mod common;

use std::process::Command;

const PAIRS: u64 = 200_000;

/// Instructions inside `malloc` and `free` in the run of a program.
fn inside(program: &str, arguments: [u64; 4]) -> u64 {
    if let Err(error) = Command::new("valgrind").arg("--version").output() {
        panic!("valgrind does not run ({error}): install the Debian package `valgrind`");
    }
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.args(["--toggle-collect=malloc", "--toggle-collect=free"]);
    valgrind.arg(common::compile(program, &[]));
    valgrind.args(arguments.map(|number| number.to_string()));
    let outcome = common::run(&mut valgrind);
    assert_eq!((outcome.code, outcome.signal), (Some(0), None), "{}", outcome.stderr);
    outcome
        .stderr
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, number)| number.trim().parse().ok())
        .unwrap_or_else(|| panic!("no count in {}", outcome.stderr))
}

/// Instructions of a pair in a table of `table` blocks of `sizes` bytes.
fn pair(table: usize, sizes: [usize; 2]) -> f64 {
    let [least, most] = sizes.map(|size| size as u64);
    let [none, all] = [0, PAIRS].map(|pairs| inside("instructions.c", [table as u64, least, most, pairs]));
    let figure = all.checked_sub(none).expect("pairs take instructions") as f64 / PAIRS as f64;
    println!("{table} blocks of {}..={} bytes: {figure:.1} instructions for a pair", sizes[0], sizes[1]);
    // Far less than a pair can take: the names of the functions were not found.
    assert!(figure >= 10.0, "{figure:.1} instructions: malloc and free were not seen");
    figure
}

/// One of 256 live blocks, chosen at random, is replaced by one of another size.
#[test]
fn a_pair_among_256_blocks() {
    let figure = pair(256, [16, 1000]);
    assert!(figure <= 60.0, "{figure:.1} instructions");
}

/// One block, allocated and freed again and again: its slab becomes empty each time, and that must not send every pair
/// to the arena or the system.
///
/// Measured: 51 to 58 instructions up to 1,000 bytes. `malloc` knows by table the classes of at most 1,024 bytes; a larger
/// block's class is computed, and its page holds one block, so that each allocation takes the slab's list over: 73 to 78.
#[test]
fn a_lone_block_has_no_cliff() {
    for (sizes, most) in [(&[16, 64, 500, 1000][..], 70.0), (&[2000, 4000, 8000, 20_000, 32_768], 85.0)] {
        for &size in sizes {
            let figure = pair(1, [size, size]);
            assert!(figure <= most, "{size} bytes: {figure:.1} instructions, {most} allowed");
        }
    }
}

/// A block of 100 KiB is claimed and given back among many arenas as among few, full or gone.
#[test]
fn a_claim_costs_the_same_among_many_arenas() {
    const BLOCKS: u64 = 1000;
    let cost = |arenas: u64, gone: u64| {
        let [none, all] = [0, BLOCKS].map(|blocks| inside("claims.c", [arenas, gone, blocks, 0]));
        all.checked_sub(none).expect("claims take instructions") as f64 / BLOCKS as f64
    };
    for gone in [0, 1] {
        let [few, many] = [30, 1000].map(|arenas| cost(arenas, gone));
        println!("{few:.0} instructions among 30 arenas, {many:.0} among 1,000 ({gone}: gone)");
        assert!(
            few > 100.0 && many <= 1.5 * few,
            "{many:.0} instructions, {few:.0} among few (gone: {gone})"
        );
    }
}
