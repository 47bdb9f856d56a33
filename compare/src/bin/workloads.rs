//! `workloads NAME`: runs one workload on whatever allocator serves malloc, and prints one line of figures.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use compare::harness::{Flags, Job, Usage, Work, mappings, resident_peak_kib, tails, who_serves_malloc};
use compare::workloads::{LIMITED, WORKLOADS, Workload, age, find};

fn main() {
    let matches = command().get_matches();
    if matches.get_flag("who") {
        println!("{}", who_serves_malloc());
        return;
    }
    let Some((name, arguments)) = matches.subcommand() else {
        let _ = command().print_help();
        std::process::exit(2);
    };
    let workload = find(name).expect("every subcommand is a workload");
    if let Some(&mib) = arguments.get_one::<u64>("age") {
        age(mib, 0xA6E);
    }
    if arguments.get_flag("tails") {
        tails::switch_on();
    }
    let line = measure(workload, &job(workload, arguments));
    println!("{line}");
}

fn command() -> Command {
    let common = [
        Arg::new("threads").long("threads").value_name("N").value_parser(value_parser!(u64).range(1..=4096)),
        Arg::new("ops")
            .long("ops")
            .value_name("N")
            .value_parser(value_parser!(u64))
            .help("Operations in all threads together (the default way, with a number per workload)"),
        Arg::new("seconds")
            .long("seconds")
            .value_name("S")
            .value_parser(value_parser!(f64))
            .conflicts_with("ops")
            .help("Run for so long instead"),
        Arg::new("age")
            .long("age")
            .value_name("MIB")
            .value_parser(value_parser!(u64).range(1..))
            .help("First age the heap: build up so much, and free a random nine in ten"),
        Arg::new("tails")
            .long("tails")
            .action(ArgAction::SetTrue)
            .help("Time each malloc and free, which slows the run down"),
        Arg::new("seed").long("seed").value_name("N").value_parser(value_parser!(u64)).default_value("1"),
    ];
    Command::new("workloads")
        .about("Allocator workloads: plain malloc and free, every block verified")
        .arg(Arg::new("who").long("who").action(ArgAction::SetTrue).help("Print which object serves malloc"))
        .subcommands(WORKLOADS.iter().map(|workload| {
            let command = Command::new(workload.name)
                .about(workload.about)
                .args(common.iter().filter(|arg| workload.name != "bleed" || arg.get_id() != "seconds"));
            let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
            let limit =
                LIMITED.contains(&workload.name).then(|| switch("limit").help("Without an allocator"));
            let command = command.args(limit);
            match workload.name {
                "lone" | "replace" => {
                    command.arg(switch("empty").help("All but the calls to malloc and free"))
                }
                "unmap-storm" => command.arg(switch("calm").help("Without the storm")),
                "storm-larson" | "storm-lookup" => {
                    command.arg(switch("raw").help("A storm of mmap and munmap, without the allocator"))
                }
                "lookup-arenas" => command
                    .arg(switch("calm").help("Without the thread that makes regions"))
                    .arg(switch("tree").help("In a tree under a lock").conflicts_with("limit")),
                "bleed" => command.arg(
                    Arg::new("idle")
                        .long("idle")
                        .value_name("S")
                        .value_parser(value_parser!(u64))
                        .default_value("10"),
                ),
                "trace" => command.arg(
                    Arg::new("file")
                        .long("file")
                        .value_name("TRACE")
                        .help("As `compare` makes it of a trace; else a made-up one"),
                ),
                _ => command,
            }
        }))
}

fn job(workload: &Workload, arguments: &ArgMatches) -> Job {
    let flag = |name| arguments.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false);
    let work = match arguments.try_get_one::<f64>("seconds").ok().flatten() {
        Some(&seconds) => Work::Seconds(seconds),
        None => Work::Ops(arguments.get_one::<u64>("ops").copied().unwrap_or(workload.ops)),
    };
    Job {
        threads: arguments.get_one::<u64>("threads").copied().unwrap_or(1) as usize,
        work,
        seed: *arguments.get_one::<u64>("seed").expect("has a default"),
        flags: Flags {
            empty: flag("empty"),
            calm: flag("calm"),
            limit: flag("limit"),
            tree: flag("tree"),
            raw: flag("raw"),
            idle: arguments.try_get_one::<u64>("idle").ok().flatten().copied().unwrap_or(0),
            // For the process's whole life.
            file: arguments.try_get_one::<String>("file").ok().flatten().map(|file| &*file.clone().leak()),
        },
    }
}

/// Runs the job and writes its figures as `name key=value ...`.
fn measure(workload: &Workload, job: &Job) -> String {
    let before = Usage::now();
    let outcome = (workload.run)(job);
    let cost = before.cost();
    let (peak, mappings) = (resident_peak_kib(), mappings());
    let seconds = outcome.elapsed.as_secs_f64();
    let mut line = format!(
        "{} threads={} ops={} seconds={seconds:.6} ops_per_second={:.0} user={:.3} system={:.3} peak_rss_kib={peak} \
         faults={} mappings={mappings} malloc={}",
        workload.name,
        job.threads,
        outcome.ops,
        outcome.ops as f64 / seconds.max(1e-9),
        cost.user.as_secs_f64(),
        cost.system.as_secs_f64(),
        cost.faults,
        who_serves_malloc(),
    );
    for (name, value) in outcome.extras.into_iter().chain(tails::figures()) {
        line.push_str(&format!(" {name}={value}"));
    }
    line
}
