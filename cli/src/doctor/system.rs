//! The kernel and its settings for the whole machine.

use super::machine::Machine;
use super::{Finding, State};
use crate::text::{bytes, grouped};

/// From which version on the kernel has what, and what is lost before.
const KERNELS: [((u32, u32), &str); 4] = [
    ((5, 7), "huge blocks grow by copying (no MREMAP_DONTUNMAP)"),
    ((5, 18), "locked memory is given back by unlocking it first (no MADV_DONTNEED_LOCKED)"),
    ((6, 4), "page faults of all threads of a process take one lock"),
    ((6, 17), "giving memory back takes the lock of all page faults"),
];

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let all = [kernel(machine), membarrier(machine), names(machine)];
    let settings = [huge_pages(machine), folios(machine), overcommit(machine), memory(machine)];
    let mut findings: Vec<_> = all.into_iter().chain(settings.into_iter().flatten()).collect();
    findings.extend(pressure(machine));
    findings
}

fn kernel(machine: &Machine) -> Finding {
    let (release, version) = (&machine.kernel.release, machine.kernel.version());
    let lost: Vec<_> = KERNELS.iter().filter(|kernel| version < kernel.0).map(|kernel| kernel.1).collect();
    if lost.is_empty() {
        return Finding::fine("kernel", format!("{release}: nothing is lost"));
    }
    // What costs the many threads of a server is worth an update; the rest is seldom met.
    let state = if version < (6, 4) { State::Act } else { State::Note };
    let newest = KERNELS[KERNELS.len() - 1].0;
    let advice =
        format!("{}. Nothing of this is so from Linux {}.{} on.", lost.join("; "), newest.0, newest.1);
    Finding::new("kernel", state, release.clone(), advice)
}

fn membarrier(machine: &Machine) -> Finding {
    const TOPIC: &str = "membarrier";
    let advice = "Without it the memory of other threads is not looked after, and what is unmapped keeps its addresses: ";
    match machine.kernel.membarrier {
        Some(true) => Finding::fine(TOPIC, "is there"),
        Some(false) => {
            let advice = format!("{advice}use Linux 4.14 or newer, built with CONFIG_MEMBARRIER.");
            Finding::new(TOPIC, State::Act, "the kernel has none", advice)
        }
        None => {
            let advice = format!("{advice}allow it in the filter of system calls (seccomp) of this sandbox.");
            Finding::new(TOPIC, State::Act, "a filter refuses it", advice)
        }
    }
}

fn names(machine: &Machine) -> Finding {
    if machine.kernel.names {
        return Finding::fine("names of mappings", "can be had, with SPECMALLOC_CONF=names:on");
    }
    let advice = "names:on has no effect; /proc/PID/maps shows our mappings without a name. \
                  That takes Linux 5.17 or newer, built with CONFIG_ANON_VMA_NAME.";
    Finding::new("names of mappings", State::Note, "the kernel has none", advice)
}

const HUGE: &str = "/sys/kernel/mm/transparent_hugepage";

fn huge_pages(machine: &Machine) -> Option<Finding> {
    const TOPIC: &str = "huge pages";
    let enabled = machine.choice(&format!("{HUGE}/enabled"))?;
    let defrag = machine.choice(&format!("{HUGE}/defrag")).unwrap_or_default();
    // Newer kernels ask this first.
    let size = machine.choice(&format!("{HUGE}/hugepages-2048kB/enabled"));
    let found = format!("transparent huge pages: {enabled}, defrag: {defrag}");
    Some(match enabled.as_str() {
        "always" if defrag == "always" => {
            let advice = "A page fault may wait until 2 MiB have been made free in one piece.\n\
                          $ echo defer+madvise > /sys/kernel/mm/transparent_hugepage/defrag";
            Finding::new(TOPIC, State::Act, found, advice)
        }
        "always" => {
            let advice = "Large heaps fault less; memory that was given back in parts comes back in pieces of 2 MiB. \
                          If resident memory matters more than time:\n\
                          $ echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
            Finding::new(TOPIC, State::Note, found, advice)
        }
        "never" if size.is_none_or(|size| matches!(size.as_str(), "inherit" | "never")) => {
            let advice = "No memory gets huge pages, whoever asks for them. If time matters more than memory:\n\
                          $ echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
            Finding::new(TOPIC, State::Note, found, advice)
        }
        _ => {
            let advice = "At most memory that is steadily used up gets huge pages. If time matters more than memory:\n\
                          $ echo always > /sys/kernel/mm/transparent_hugepage/enabled";
            Finding::new(TOPIC, State::Note, found, advice)
        }
    })
}

/// The sizes between a page and a huge page that anonymous memory may have.
fn folios(machine: &Machine) -> Option<Finding> {
    let mut sizes: Vec<(u64, String)> = machine
        .names(HUGE)
        .iter()
        .filter_map(|name| {
            let size: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            Some((size, machine.choice(&format!("{HUGE}/{name}/enabled"))?))
        })
        .collect();
    sizes.sort_unstable();
    let on: Vec<_> = sizes.iter().filter(|size| size.1 != "never").collect();
    if sizes.is_empty() {
        return None;
    }
    // The largest is what the setting above is about.
    let found = match on[..] {
        [] => "pages of one size only".to_owned(),
        _ => on.iter().map(|(size, when)| format!("{size}K {when}")).collect::<Vec<_>>().join(", "),
    };
    let always = on.iter().any(|size| size.1 == "always" && size.0 < 2048);
    let advice = if always || sizes.len() == 1 {
        ""
    } else {
        "Faults can bring in more than a page each; what is touched in part is resident as a whole then:\n\
         $ echo always > /sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled"
    };
    Some(Finding::new(
        "folio sizes",
        if advice.is_empty() { State::Fine } else { State::Note },
        found,
        advice,
    ))
}

fn overcommit(machine: &Machine) -> Option<Finding> {
    const TOPIC: &str = "overcommit";
    Some(match machine.number("/proc/sys/vm/overcommit_memory")? {
        2 => {
            let limit = machine.field("/proc/meminfo", "CommitLimit:").unwrap_or(0);
            let used = machine.field("/proc/meminfo", "Committed_AS:").unwrap_or(0);
            let found = format!("vm.overcommit_memory = 2: {} of {} promised", bytes(used), bytes(limit));
            let advice = "Address space counts as memory: each arena 32 MiB, and what huge blocks have in reserve.\n\
                          $ export SPECMALLOC_CONF=arena_size:1M,reserve:off\n$ sysctl -w vm.overcommit_memory=0";
            Finding::new(TOPIC, State::Act, found, advice)
        }
        mode => Finding::fine(TOPIC, format!("vm.overcommit_memory = {mode}: address space is not counted")),
    })
}

fn memory(machine: &Machine) -> Option<Finding> {
    let total = machine.field("/proc/meminfo", "MemTotal:")?;
    let available = machine.field("/proc/meminfo", "MemAvailable:")?;
    let swap = machine.field("/proc/meminfo", "SwapTotal:").unwrap_or(0);
    let found = format!("{} of {} available, {} swap", bytes(available), bytes(total), bytes(swap));
    if available >= total / 20 {
        return Some(Finding::fine("memory", found));
    }
    let advice = "The machine is nearly out of memory: end something, or keep less that is free.\n\
                  $ export SPECMALLOC_CONF=dirty_max:0,dirty_percent:0";
    Some(Finding::new("memory", State::Act, found, advice))
}

/// The share of time in which something waited for a resource, in percent over the last ten seconds.
pub(super) fn stalled(text: &str, who: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(who))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("avg10=")?.parse().ok())
}

fn pressure(machine: &Machine) -> Vec<Finding> {
    let of = |topic, file: &str, most: f64, advice: &str| {
        let some = stalled(&machine.read(file)?, "some")?;
        let found = format!("something waited in {some:.1} % of the last ten seconds");
        Some(if some < most {
            Finding::fine(topic, found)
        } else {
            Finding::new(topic, State::Act, found, advice)
        })
    };
    let memory = "Memory is short and pages are fetched again and again: end something, add memory, or keep less that is \
                  free.\n$ export SPECMALLOC_CONF=dirty_max:0,dirty_percent:0";
    let processor = "More threads are ready than there are processors: times measured now say little.";
    let memory = of("memory pressure", "/proc/pressure/memory", 5.0, memory);
    let processor = of("processor pressure", "/proc/pressure/cpu", 50.0, processor);
    [memory, processor].into_iter().flatten().collect()
}

/// `vm.max_map_count` beside the mappings of one process: of the one asked about, else of the one that has the most.
pub(super) fn mappings(machine: &Machine) -> Option<Finding> {
    const TOPIC: &str = "mappings";
    let most = machine.number("/proc/sys/vm/max_map_count")?;
    // (Nothing is read of a process of somebody else's.)
    let count = |file: &str| machine.read(file).map(|maps| maps.lines().count() as u64);
    let (used, who) = match machine.asked() {
        Some(process) => (count("/proc/PROCESS/maps")?, format!("process {process}")),
        None => {
            let processes = machine.names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok());
            let counted =
                processes.filter_map(|process| Some((count(&format!("/proc/{process}/maps"))?, process)));
            let (used, process) = counted.max()?;
            (used, format!("process {process}, which has the most"))
        }
    };
    let found = format!("{} of vm.max_map_count = {} in {who}", grouped(used), grouped(most));
    let advice =
        format!("Beyond it mmap and munmap fail.\n$ sysctl -w vm.max_map_count={}", (4 * most).max(1 << 20));
    Some(if used > most / 2 {
        Finding::new(TOPIC, State::Act, found, advice)
    } else if most < 65_530 {
        Finding::new(TOPIC, State::Note, found, advice)
    } else {
        Finding::fine(TOPIC, found)
    })
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::made;
    use super::*;

    fn states(files: &[(&str, &str)], topic: &str) -> Vec<(State, String)> {
        let made = made(files);
        let findings = check(&made.0).into_iter().chain(mappings(&made.0));
        findings
            .filter(|finding| finding.topic == topic)
            .map(|f| (f.state, f.found + " " + &f.advice))
            .collect()
    }

    #[test]
    fn a_new_kernel_loses_nothing_and_an_old_one_says_what() {
        let mut made = made(&[]);
        assert_eq!(kernel(&made.0).state, State::Fine);
        for (release, state, lost) in [
            ("6.12.0-rc3", State::Note, "giving memory back"),
            ("6.1.0-13-amd64", State::Act, "page faults"),
            ("5.4.0", State::Act, "copying"),
        ] {
            made.0.kernel.release = release.to_owned();
            let finding = kernel(&made.0);
            assert_eq!(finding.state, state, "{finding:?}");
            assert!(finding.advice.contains(lost), "{finding:?}");
        }
        made.0.kernel.membarrier = None;
        assert!(membarrier(&made.0).advice.contains("seccomp"));
        made.0.kernel.names = false;
        assert_eq!(names(&made.0).state, State::Note);
    }

    #[test]
    fn huge_pages_that_make_faults_wait_are_to_be_changed() {
        let set = |enabled: &str, defrag: &str| {
            let files = [(format!("{HUGE}/enabled"), enabled), (format!("{HUGE}/defrag"), defrag)];
            states(&files.each_ref().map(|file| (file.0.as_str(), file.1)), "huge pages").swap_remove(0)
        };
        assert!(set("always madvise [never]", "[madvise] never").1.contains("No memory gets"));
        assert!(set("always [madvise] never", "[madvise] never").1.contains("At most memory"));
        let set = |enabled: &str, defrag: &str| set(enabled, defrag).0;
        assert_eq!(set("[always] madvise never", "[always] defer never"), State::Act);
        assert_eq!(set("[always] madvise never", "always [madvise] never"), State::Note);
        assert_eq!(set("always [madvise] never", "[always] defer never"), State::Note);
        let folio = |when: &str| {
            let files = [
                (format!("{HUGE}/hugepages-64kB/enabled"), when),
                (format!("{HUGE}/hugepages-2048kB/enabled"), "[inherit]"),
            ];
            states(&files.each_ref().map(|file| (file.0.as_str(), file.1)), "folio sizes").remove(0)
        };
        assert!(
            matches!(folio("[always] never"), (State::Fine, text) if text.contains("64K always, 2048K inherit"))
        );
        assert_eq!(folio("always [never]").0, State::Note);
    }

    #[test]
    fn strict_accounting_and_few_mappings_are_named() {
        let meminfo = "MemTotal: 1000 kB\nMemAvailable: 10 kB\nCommitLimit: 2048 kB\nCommitted_AS: 1024 kB\n";
        let files = [("/proc/sys/vm/overcommit_memory", "2\n"), ("/proc/meminfo", meminfo)];
        let found = states(&files, "overcommit").remove(0);
        assert!(found.0 == State::Act && found.1.contains("1.00M of 2.00M"), "{found:?}");
        assert_eq!(states(&files, "memory")[0].0, State::Act);
        assert_eq!(states(&[("/proc/sys/vm/overcommit_memory", "0\n")], "overcommit")[0].0, State::Fine);
        let maps = "line\n".repeat(40_000);
        let full = [("/proc/sys/vm/max_map_count", "65530\n"), ("/proc/17/maps", maps.as_str())];
        let found = states(&full, "mappings").remove(0);
        assert!(
            found.0 == State::Act && found.1.contains("40,000 of vm.max_map_count = 65,530"),
            "{found:?}"
        );
        let few = [full[0], ("/proc/17/maps", "line\n")];
        assert_eq!(states(&few, "mappings")[0].0, State::Fine);
        assert!(states(&full[..1], "mappings").is_empty(), "nothing is told of what cannot be read");
    }

    #[test]
    fn pressure_is_told() {
        let line = |avg: &str| format!("some avg10={avg} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00\n");
        let state = |avg: &str| states(&[("/proc/pressure/memory", &line(avg))], "memory pressure")[0].0;
        assert_eq!((state("0.50"), state("12.00")), (State::Fine, State::Act));
        assert_eq!(stalled(&line("1.25"), "some"), Some(1.25));
        assert_eq!(stalled("nonsense", "some"), None);
    }
}
