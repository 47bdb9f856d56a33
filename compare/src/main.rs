//! `compare`: sets specmalloc beside every other allocator that can be had.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use compare::runner::{
    Builder, Group, Kit, Peer, Results, Suite, Wanted, find_peers, means, measure, print_targets, tell, write,
};

fn main() -> ExitCode {
    let matches = command().get_matches();
    let (name, arguments) = matches.subcommand().expect("clap demands one");
    let failures = match compare(arguments, name) {
        Ok(failures) => failures,
        Err(failure) => vec![failure],
    };
    failures.iter().for_each(|failure| eprintln!("compare: {failure}"));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn command() -> Command {
    let list = |name: &'static str| {
        Arg::new(name).long(name).value_name("NAME").value_delimiter(',').action(ArgAction::Append)
    };
    let number = |name: &'static str| {
        Arg::new(name).long(name).value_name("N").value_parser(value_parser!(u64).range(1..))
    };
    let arguments = [
        Arg::new("quick")
            .long("quick")
            .action(ArgAction::SetTrue)
            .help("A few minutes: less work in each run"),
        number("rounds").help("Runs of each row under each allocator, in turn [default: 3]"),
        Arg::new("base").long("base").default_value("glibc").help("What shares are taken of"),
        list("only")
            .help("Only these workloads, programs:NAME, traces:NAME, aged:NAME, tails:NAME, or groups"),
        list("threads")
            .value_name("N")
            .value_parser(value_parser!(u64).range(1..))
            .help("Numbers of threads [default: 1,2,4,16; with --quick 2]"),
        list("allocators").help("Only these allocators"),
        list("without").help("Not these allocators"),
        Arg::new("peer")
            .long("peer")
            .value_name("NAME=LIBRARY")
            .action(ArgAction::Append)
            .value_parser(Peer::parse)
            .help("One more allocator, as a library to preload"),
        number("work").default_value("1000").help("The share of the usual work, in thousandths"),
        Arg::new("folder").long("folder").value_parser(value_parser!(PathBuf)).help("Where the report goes"),
    ];
    Command::new("compare")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Sets specmalloc beside other allocators")
        .subcommand_required(true)
        .subcommand(
            Command::new("table")
                .about("Builds every allocator, runs every row under each, and writes a report; half an hour")
                .args(&arguments),
        )
        .subcommand(
            Command::new("targets")
                .about("The same, and then the figures that specmalloc set itself with their limits")
                .args(&arguments),
        )
        .subcommand(
            Command::new("speculation")
                .about("What speculation is worth: rows of their own, beside the locked twin and the limit")
                .args(&arguments),
        )
}

/// A folder for inputs, gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, String> {
        let path = std::env::temp_dir().join(format!("compare-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing is left to do if even this fails.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Answers what failed; an error is a request that makes no sense.
fn compare(arguments: &ArgMatches, command: &str) -> Result<Vec<String>, String> {
    let speculation = command == "speculation";
    let names = |name: &str| -> Vec<String> {
        arguments.get_many::<String>(name).into_iter().flatten().cloned().collect()
    };
    let quick = arguments.get_flag("quick");
    let threads: Vec<usize> = match arguments.get_many::<u64>("threads") {
        Some(threads) => threads.map(|&threads| threads as usize).collect(),
        None if quick && speculation => vec![1, 2],
        None if quick => vec![2],
        None => vec![1, 2, 4, 16],
    };
    let number = |name: &str, default| arguments.get_one::<u64>(name).copied().unwrap_or(default);
    let suite = Suite { quick, only: names("only"), threads, work: number("work", 1_000) };
    if !speculation {
        suite.check()?;
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let programs = program.parent().map(PathBuf::from).unwrap_or_default();
    let build_folder = programs.parent().map(PathBuf::from).unwrap_or_default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("is in the repository").to_owned();
    let mut builder = Builder::new(&root, &build_folder).telling(|what| eprintln!("building {what}"));
    if programs.ends_with("release") {
        builder.workloads()?;
    }

    let wants_rust = !speculation && suite.wants_group(Group::Rust);
    let more: Vec<Peer> = arguments.get_many::<Peer>("peer").into_iter().flatten().cloned().collect();
    let (only, without) = (names("allocators"), names("without"));
    let preloaded = Group::ALL.into_iter().any(|group| group != Group::Rust && suite.wants_group(group));
    // A single name may be a workload's on which no group was named.
    let libraries = speculation || preloaded || !suite.workloads().is_empty();
    let wanted = Wanted {
        only: &only,
        without: &without,
        more: &more,
        quick,
        speculation,
        libraries,
        programs: wants_rust,
    };
    let (peers, missing) = find_peers(&wanted, &mut builder)?;
    missing.iter().for_each(|missing| eprintln!("missing: {}: {}", missing.name, missing.why));
    let base = arguments.get_one::<String>("base").expect("has a default").clone();
    if !peers.iter().any(|peer| peer.name == base) {
        return Err(format!("{base} is not among the allocators measured"));
    }

    let (mut tasks, mut lacking, mut kit) = (suite.speculation(), Vec::new(), None);
    let scratch = Scratch::new()?;
    if !speculation {
        tasks = suite.workloads();
        tasks.extend(suite.traces(&root.join("compare/traces"), &scratch.0)?);
        tasks.extend(suite.rust());
    }
    if !speculation && suite.wants_group(Group::Programs) {
        let found = kit.insert(Kit {
            scripts: root.join("compare/programs"),
            who: builder.helper("who")?,
            folder: scratch.0.clone(),
            quick,
        });
        let (more, absent) = suite.programs(found)?;
        tasks.extend(more);
        lacking = absent;
        lacking.iter().for_each(|lacking| eprintln!("missing row: {lacking}"));
    }
    tasks.sort_by_key(|task| task.group);
    if tasks.is_empty() {
        return Err("no row is left to measure".to_owned());
    }
    let folder = arguments.get_one::<PathBuf>("folder").cloned().unwrap_or(build_folder.join("compare"));
    let rounds = number("rounds", 3) as usize;
    let mut results = Results { peers, missing, lacking, base, rounds, quick, rows: Vec::new() };
    measure(&mut results, tasks, &programs, kit.as_ref(), |results| {
        if let Err(failure) = write(results, &folder) {
            eprintln!("compare: {failure}");
        }
    });
    println!("{}", means(&results));
    println!("{} has it all.", folder.join("report.md").display());
    let mut failures = results.troubles();
    match command {
        "targets" => failures.extend(print_targets(&results, &programs)),
        "speculation" => failures.extend(tell(&results, &programs, &folder)),
        _ => {}
    }
    Ok(failures)
}
