//! How many instructions `free` and `malloc` take together through the C interface, counted by valgrind: a number that
//! neither the machine's speed nor its load changes.
//!
//! Counted is what runs between the entry of `malloc` or `free` and its return, the slow paths that come up among so
//! many pairs included; not the caller's call and its jump through the linkage table. The program itself says where
//! counting begins and ends, which leaves out the library's start, the first blocks and the end.

mod common;

use std::process::Command;

/// What is kept and replaced: see `programs/instructions.c`.
#[derive(Clone, Copy, Debug)]
struct Pairs {
    table: usize,
    sizes: [usize; 2],
    order: &'static str,
    batch: usize,
}

impl Pairs {
    const fn of(table: usize, size: usize) -> Pairs {
        Pairs { table, sizes: [size, size], order: "random", batch: 1 }
    }
}

/// Instructions inside `malloc` and `free` in the part of a program that it wants to be counted.
fn inside(program: &str, arguments: &[String]) -> u64 {
    let options = ["--instr-atstart=no", "--toggle-collect=malloc", "--toggle-collect=free"];
    counted(program, &options, arguments)
}

/// Instructions in the run of a program, as far as `options` have them counted.
fn counted(program: &str, options: &[&str], arguments: &[String]) -> u64 {
    counted_on(None, None, program, options, arguments)
}

/// The same on the processors of a list as `taskset` takes it, and with samples for so many bytes.
fn counted_on(
    processors: Option<&str>,
    rate: Option<&str>,
    program: &str,
    options: &[&str],
    arguments: &[String],
) -> u64 {
    if let Err(error) = Command::new("valgrind").arg("--version").output() {
        panic!("valgrind does not run ({error}): install the Debian package `valgrind`");
    }
    let mut valgrind = Command::new(if processors.is_some() { "taskset" } else { "valgrind" });
    if let Some(list) = processors {
        valgrind.args(["--cpu-list", list, "valgrind"]);
    }
    // Without fairness a thread that runs keeps the others, and the helper, from ever running.
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--fair-sched=yes"]);
    valgrind.args(options);
    valgrind.arg(common::compile(program, &[])).args(arguments);
    let outcome = match rate {
        None => common::run(&mut valgrind),
        Some(rate) => {
            let profiler =
                common::library::build("preload", "specmalloc-profile", "libspecmalloc_profile.so");
            let libraries = format!("{}:{}", common::library().display(), profiler.display());
            valgrind.env("LD_PRELOAD", libraries).env("SPECMALLOC_CONF", format!("profile:{rate}"));
            common::outcome(&mut valgrind)
        }
    };
    assert_eq!((outcome.code, outcome.signal), (Some(0), None), "{}", outcome.stderr);
    outcome
        .stderr
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, number)| number.trim().parse().ok())
        .unwrap_or_else(|| panic!("no count in {}", outcome.stderr))
}

/// A processor that this process may use.
fn first_processor() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a list");
    list.trim().split([',', '-']).next().unwrap_or_default().to_owned()
}

/// Demands that one of `count` such pairs takes at most `most` instructions.
fn demand(pairs: Pairs, count: usize, most: f64) {
    let count = count.next_multiple_of(pairs.batch);
    let numbers = [pairs.table, pairs.sizes[0], pairs.sizes[1], count].map(|number| number.to_string());
    let how = [pairs.order.to_owned(), pairs.batch.to_string()];
    let figure = inside("instructions.c", &[&numbers[..], &how[..]].concat()) as f64 / count as f64;
    println!("{pairs:?}: {figure:.1} instructions for a pair");
    // Far less than a pair can take: the names of the functions were not found.
    assert!(figure >= 10.0, "{figure:.1} instructions: malloc and free were not seen");
    assert!(figure <= most, "{pairs:?}: {figure:.1} instructions, {most} allowed");
}

/// What else a program calls for each block costs little more than malloc and free do; the program's own part, 15 to 60
/// instructions, is in the figures. (redis asks for the usable size of each block twice. C libraries free null.)
#[test]
fn no_call_has_a_cliff() {
    const COUNT: u64 = 20_000;
    for (kind, most) in [
        ("aligned_alloc", 105),
        ("posix_memalign", 130),
        ("realloc", 195),
        ("usable_size", 85),
        ("null", 40),
        ("large", 430),
        ("Same size of a large block", 185),
        ("Resized large block", 270),
        ("Usable size of a large block", 125),
    ] {
        let [few, many] = [COUNT / 10, COUNT + COUNT / 10]
            .map(|count| counted("calls.c", &[], &[kind.to_owned(), count.to_string()]));
        let figure = (many - few) as f64 / COUNT as f64;
        println!("{kind}: {figure:.1} instructions");
        assert!(figure >= 10.0, "{kind}: {figure:.1} instructions: nothing was counted");
        assert!(figure <= f64::from(most), "{kind}: {figure:.1} instructions, {most} allowed");
    }
}

/// A buffer that grows is copied once: when it leaves its first slab, 16 KiB, an instruction for each byte. Two that grow
/// side by side do not stand in each other's way, once it is known that they grow.
#[test]
fn a_buffer_that_grows_is_copied_once() {
    const ROUNDS: u64 = 100;
    for (kind, most) in
        [("doubling", 24_000), ("half", 29_000), ("steps", 60_000), ("Steps", 36_000), ("two", 50_000)]
    {
        let [few, many] = [ROUNDS / 10, ROUNDS + ROUNDS / 10]
            .map(|rounds| counted("growing.c", &[], &[kind.to_owned(), rounds.to_string()]));
        let figure = (many - few) / ROUNDS;
        println!("{kind}: {figure} instructions");
        assert!(figure >= 10_000, "{kind}: {figure} instructions: nothing was counted");
        assert!(figure <= most, "{kind}: {figure} instructions, {most} allowed");
    }
}

/// Sizes of classes that differ in how a request finds its class, how many blocks a page and a slab hold, and how many
/// slices a slab takes.
const SIZES: [usize; 6] = [16, 100, 1000, 1025, 8000, 32_768];

/// One of 256 live blocks, chosen at random, is replaced by one of another size.
#[test]
fn a_pair_among_256_blocks() {
    demand(Pairs { sizes: [16, 1000], ..Pairs::of(256, 16) }, 200_000, 60.0);
}

/// One block, allocated and freed again and again: its slab becomes empty each time, and that must not send any pair
/// to the slab, the arena or the system.
#[test]
fn a_lone_block_has_no_cliff() {
    for size in SIZES {
        demand(Pairs::of(1, size), 20_000, 60.0);
    }
}

/// The oldest, the newest and any block is replaced: the block that was freed last is at hand, whatever slab it lies
/// in.
#[test]
fn no_size_has_a_cliff_in_any_order() {
    for size in SIZES {
        for (table, order) in [(16, "oldest"), (256, "oldest"), (256, "newest"), (4096, "random")] {
            demand(Pairs { order, ..Pairs::of(table, size) }, 20_000, 60.0);
        }
    }
}

/// Many blocks: of 32 KiB as many as many thousands of slices hold.
#[test]
fn many_blocks_have_no_cliff() {
    for (size, most) in [(16, 60.0), (1000, 60.0), (8000, 65.0)] {
        demand(Pairs::of(1 << 16, size), 20_000, most);
    }
    for blocks in [3 << 12, 3 << 13, 1 << 16] {
        demand(Pairs::of(blocks, 32_768), 20_000, 65.0);
    }
}

/// A large block that is replaced by one of about its size meets no arena.
#[test]
fn large_blocks_have_no_cliff() {
    for size in [33_000, 40_000, 100_000, 400_000, 1_000_000] {
        for (table, order) in [(1, "newest"), (256, "oldest"), (256, "random")] {
            demand(Pairs { order, ..Pairs::of(table, size) }, 10_000, 400.0);
        }
    }
    demand(Pairs { order: "oldest", batch: 16, ..Pairs::of(256, 100_000) }, 10_240, 500.0);
    demand(Pairs { sizes: [33_000, 102_400], ..Pairs::of(256, 0) }, 20_000, 800.0);
}

/// Several blocks are freed before others are allocated. What a program gives back and wants again at once is a bet
/// that must have been won some times before it stays at hand, so the first rounds count, too.
#[test]
fn batches_have_no_cliff() {
    for size in [16, 1000, 32_768] {
        demand(Pairs { batch: 16, ..Pairs::of(256, size) }, 40_000, 70.0);
    }
    for (size, batch) in [(16, 4096), (100, 1000), (1000, 256)] {
        demand(Pairs { batch, ..Pairs::of(1 << 14, size) }, 1 << 18, 70.0);
    }
}

/// All that a program has is freed and allocated again: its slabs become empty each time, those of one slice and of
/// several.
#[test]
fn slabs_that_empty_are_at_hand() {
    for (table, size) in [(9, 30_000), (9, 8192), (70, 1000), (600, 128), (5000, 16)] {
        demand(Pairs { order: "oldest", batch: table, ..Pairs::of(table, size) }, 60_000, 75.0);
    }
}

/// Blocks of other threads, who are alive: in the order in which they were made, of one owner after the other by turns,
/// and in any order. There is no number of owners at which the cost jumps.
#[test]
fn blocks_of_other_threads_have_no_cliff() {
    let cost = |owners: u64, size: u64, order: &str| {
        const FREES: u64 = 24_000;
        let numbers = [owners, FREES.div_ceil(owners), size, FREES].map(|number| number.to_string());
        let figure = inside("remote.c", &[&numbers[..], &[order.to_owned()]].concat()) as f64 / FREES as f64;
        println!("{owners} owners, {size} bytes, {order}: {figure:.1} instructions for a free");
        assert!(figure >= 10.0, "{figure:.1} instructions: free was not seen");
        figure
    };
    for (owners, most) in [(1, 65.0), (8, 65.0), (9, 65.0), (16, 65.0), (20, 65.0), (32, 70.0), (64, 75.0)] {
        let figure = cost(owners, 48, "turns");
        assert!(figure <= most, "{owners} owners: {figure:.1} instructions, {most} allowed");
    }
    for (owners, most) in [(1, 120.0), (64, 130.0)] {
        let figure = cost(owners, 200, "random");
        assert!(figure <= most, "{owners} owners: {figure:.1} instructions, {most} allowed");
    }
}

/// A thread begins with what the one before it left at hand: from its beginning to its end, with 64 blocks of some 30
/// classes, it takes little more than the C library's own part. (92,000 where each opens its slabs anew, 9,000 here.)
/// On one processor, too, where each ends before its maker goes on.
#[test]
fn a_short_thread_opens_no_slabs() {
    const THREADS: u64 = 1_000;
    let first = first_processor();
    for processors in [None, Some(first.as_str())] {
        let [few, many] = [THREADS / 10, THREADS + THREADS / 10]
            .map(|threads| counted_on(processors, None, "short_threads.c", &[], &[threads.to_string()]));
        let figure = (many - few) / THREADS;
        println!("{figure} instructions for a thread, on {}", processors.unwrap_or("any processor"));
        assert!(figure >= 1_000, "{figure} instructions: nothing was counted");
        assert!(figure <= 25_000, "{figure} instructions for a thread, 25,000 allowed");
    }
}

/// What is built up and torn down takes no more while it is sampled, once for 512 KiB, than the samples themselves: 7,000 or
/// so each, which is a part of a pair that its size tells.
#[test]
fn samples_cost_little() {
    const PAIRS: u64 = 1 << 18;
    for (table, size) in [(1_u64 << 14, 100), (1 << 12, 400)] {
        let arguments = [table, size, size, PAIRS].map(|number| number.to_string());
        let arguments = [&arguments[..], &["oldest".to_owned(), table.to_string()]].concat();
        let cost = |rate| {
            let options = ["--instr-atstart=no", "--toggle-collect=malloc", "--toggle-collect=free"];
            counted_on(None, rate, "instructions.c", &options, &arguments) as f64 / PAIRS as f64
        };
        let (without, with) = (cost(None), cost(Some("512K")));
        println!("{table} of {size} bytes: {without:.1} instructions for a pair, {with:.1} with samples");
        let most = without + 8_000.0 * size as f64 / f64::from(512 << 10);
        assert!(without >= 10.0 && with <= most, "{with:.1} instructions, {most:.1} allowed");
    }
}

/// A buffer that grows does so as well where there are samples.
#[test]
fn what_is_sampled_grows_in_its_place() {
    const ROUNDS: u64 = 100;
    for (kind, most) in [("doubling", 24_000), ("Steps", 36_000), ("two", 50_000)] {
        let [few, many] = [ROUNDS / 10, ROUNDS + ROUNDS / 10].map(|rounds| {
            counted_on(None, Some("4G"), "growing.c", &[], &[kind.to_owned(), rounds.to_string()])
        });
        let figure = (many - few) / ROUNDS;
        println!("{kind}: {figure} instructions");
        assert!(figure >= 10_000, "{kind}: {figure} instructions: nothing was counted");
        assert!(figure <= most, "{kind}: {figure} instructions, {most} allowed");
    }
}

/// A block of 100 KiB is claimed and given back among many arenas as among few, full or gone.
#[test]
fn a_claim_costs_the_same_among_many_arenas() {
    const BLOCKS: u64 = 1000;
    let cost = |arenas: u64, gone: u64| {
        inside("claims.c", &[arenas, gone, BLOCKS].map(|number| number.to_string())) as f64 / BLOCKS as f64
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
