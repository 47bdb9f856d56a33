//! `compare`: sets specmalloc beside glibc, mimalloc and further allocators.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use compare::runner::{Peer, Settings, find_peers, print_rust_table, print_table, print_targets};
use compare::workloads::find;

fn main() -> ExitCode {
    let matches = command().get_matches();
    let (name, arguments) = matches.subcommand().expect("clap demands one");
    let failures = settings(name, arguments).and_then(|settings| match name {
        "table" => Ok(print_table(&settings)),
        "rust" => {
            let of = |name: &str| {
                arguments.get_many::<String>(name).into_iter().flatten().cloned().collect::<Vec<_>>()
            };
            let without = of("without");
            let allocators = ["system", "mimalloc", "specmalloc"].map(str::to_owned);
            let allocators: Vec<_> = allocators.into_iter().filter(|name| !without.contains(name)).collect();
            let filter = of("only").first().cloned().unwrap_or_default();
            print_rust_table(&settings, &allocators, &filter).map(|()| Vec::new())
        }
        _ => Ok(print_targets(&settings)),
    });
    let failures = failures.unwrap_or_else(|failure| vec![failure]);
    failures.iter().for_each(|failure| eprintln!("compare: {failure}"));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn command() -> Command {
    let list = |name: &'static str| Arg::new(name).long(name).value_delimiter(',').action(ArgAction::Append);
    let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let number = |name: &'static str| {
        Arg::new(name).long(name).value_name("N").value_parser(value_parser!(u64).range(1..))
    };
    let quick = switch("quick").help("A tenth of the work and three rounds");
    let rounds = number("rounds").help("Runs of each allocator, in turn [default: 5]");
    let base = Arg::new("base").long("base").default_value("mimalloc").help("What ratios are taken to");
    let without = list("without").value_name("NAME").help("Leave an allocator out");
    let only = list("only").value_name("NAME");
    let peer = Arg::new("peer")
        .long("peer")
        .value_name("NAME=LIBRARY")
        .action(ArgAction::Append)
        .value_parser(Peer::parse)
        .help("One more allocator, as a library to preload");
    let threads = list("threads")
        .value_name("N")
        .value_parser(value_parser!(u64).range(1..))
        .help("Numbers of threads [default: 1,2,4,16; with --quick 1,2,16]");
    let json = switch("json").help("JSON instead of Markdown");
    Command::new("compare")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Sets specmalloc beside other allocators")
        .subcommand_required(true)
        .subcommand(
            Command::new("table")
                .about("Every workload under every allocator, preloaded")
                .args([quick.clone(), rounds.clone(), base.clone(), without.clone(), json.clone()])
                .args([only.clone().help("Only these workloads"), peer, threads]),
        )
        .subcommand(
            Command::new("rust")
                .about("The Rust workloads, one program per global allocator (system, mimalloc, specmalloc)")
                .args([quick.clone(), rounds.clone(), base, without, json])
                .arg(only.help("Only benchmarks whose names contain this")),
        )
        .subcommand(
            Command::new("targets")
                .about("The figures that specmalloc set itself, and their limits")
                .args([quick, rounds]),
        )
}

fn settings(name: &str, arguments: &ArgMatches) -> Result<Settings, String> {
    let of = |name: &str| -> Vec<String> {
        let values = arguments.try_get_many::<String>(name).ok().flatten();
        values.into_iter().flatten().cloned().collect()
    };
    let flag = |name: &str| arguments.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false);
    let quick = flag("quick");
    let threads: Vec<usize> = match arguments.try_get_many::<u64>("threads").ok().flatten() {
        Some(threads) => threads.map(|&threads| threads as usize).collect(),
        None if quick => vec![1, 2, 16],
        None => vec![1, 2, 4, 16],
    };
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let programs = program.parent().map(PathBuf::from).unwrap_or_default();
    let build_folder = programs.parent().map(PathBuf::from).unwrap_or_default();
    let more: Vec<Peer> =
        arguments.try_get_many::<Peer>("peer").ok().flatten().into_iter().flatten().cloned().collect();
    let base =
        arguments.try_get_one::<String>("base").ok().flatten().map_or("mimalloc", String::as_str).to_owned();
    // The Rust programs carry their allocator with them.
    let peers = if name == "rust" { Vec::new() } else { find_peers(&build_folder, &more, &of("without"))? };
    if name != "rust" && !peers.iter().any(|peer| peer.name == base) {
        return Err(format!("{base} is not among the allocators measured"));
    }
    let only = of("only");
    if let Some(unknown) = only.iter().find(|workload| name == "table" && find(workload).is_none()) {
        return Err(format!("there is no workload {unknown}"));
    }
    Ok(Settings {
        peers,
        programs,
        base,
        rounds: arguments.get_one::<u64>("rounds").copied().unwrap_or(if quick { 3 } else { 5 }) as usize,
        threads,
        only,
        quick,
        json: flag("json"),
    })
}
