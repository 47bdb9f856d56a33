//! The control groups that a process is in: each on its path may limit it.

use super::machine::Machine;
use super::system::stalled;
use super::{Finding, State};
use crate::text::{bytes, grouped};

/// Where the groups of a controller are mounted, and how its files are called.
struct Hierarchy {
    /// The controllers in /proc/PID/cgroup; empty for the unified hierarchy.
    controller: &'static str,
    mounts: [&'static str; 2],
}

const UNIFIED: Hierarchy = Hierarchy { controller: "", mounts: ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] };
const MEMORY: Hierarchy = Hierarchy { controller: "memory", mounts: ["/sys/fs/cgroup/memory", ""] };
const PROCESSOR: Hierarchy =
    Hierarchy { controller: "cpu", mounts: ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"] };

/// The least of what the groups on a path allow, and the folder of the group that says so.
struct Bound {
    most: u64,
    folder: String,
}

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let memory = [
        (UNIFIED, "memory.max", "memory.current"),
        (MEMORY, "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ];
    let limit = memory.iter().find_map(|(hierarchy, most, used)| {
        let bound = folders(machine, hierarchy).into_iter().filter_map(|folder| {
            // In the first version a number near the largest stands for none.
            let most = machine.number(&format!("{folder}/{most}")).filter(|most| *most < 1 << 62)?;
            Some(Bound { most, folder })
        });
        bound.min_by_key(|bound| bound.most).map(|bound| memory_finding(machine, &bound, used))
    });
    let none = || Finding::fine("cgroup memory", "no limit");
    let mut findings = vec![limit.unwrap_or_else(none), quota(machine)];
    findings.extend(high(machine));
    findings.extend(group_pressure(machine));
    findings
}

/// The folders of the groups that the process is in, from its own to the root's.
fn folders(machine: &Machine, hierarchy: &Hierarchy) -> Vec<String> {
    let groups = machine.read("/proc/PROCESS/cgroup").unwrap_or_default();
    let path = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let ours = controllers.split(',').any(|controller| controller == hierarchy.controller);
        fields.next().filter(|_| ours)
    });
    let mut folders = Vec::new();
    let Some(path) = path else { return folders };
    for mount in hierarchy.mounts.iter().filter(|mount| !mount.is_empty()) {
        let mut rest = path.trim_end_matches('/');
        loop {
            folders.push(format!("{mount}{rest}"));
            match rest.rfind('/') {
                Some(slash) => rest = &rest[..slash],
                None => break,
            }
        }
    }
    folders
}

fn memory_finding(machine: &Machine, bound: &Bound, used: &str) -> Finding {
    let Bound { most, folder } = bound;
    let used = machine.number(&format!("{folder}/{used}")).unwrap_or(0);
    let events = format!("{folder}/memory.events");
    let killed = machine.field(&events, "oom_kill ").unwrap_or(0);
    let mut found = format!("{} of {} in {folder}", bytes(used), bytes(*most));
    if killed > 0 {
        found += &format!(", {} processes were killed for it", grouped(killed));
    }
    if killed == 0 && used < most / 10 * 9 {
        return Finding::fine("cgroup memory", found);
    }
    let advice = "Beyond it a process of the group is killed. Raise memory.max, or keep less that is free.\n\
                  $ export SPECMALLOC_CONF=dirty_max:0,dirty_percent:0";
    Finding::new("cgroup memory", State::Act, found, advice)
}

/// `memory.high`, beyond which processes are made to wait.
fn high(machine: &Machine) -> Option<Finding> {
    let folder = folders(machine, &UNIFIED)
        .into_iter()
        .find(|folder| machine.number(&format!("{folder}/memory.high")).is_some())?;
    let high = machine.number(&format!("{folder}/memory.high"))?;
    let used = machine.number(&format!("{folder}/memory.current")).unwrap_or(0);
    let found = format!("{} of {} in {folder}", bytes(used), bytes(high));
    if used < high / 10 * 9 {
        return Some(Finding::fine("cgroup memory.high", found));
    }
    let advice = "Beyond it every allocation waits for memory to be reclaimed. Raise memory.high.";
    Some(Finding::new("cgroup memory.high", State::Act, found, advice))
}

/// The pressure file of the group that the process is in. (The root's is the machine's.)
fn pressure_file(machine: &Machine) -> Option<String> {
    let folder =
        folders(machine, &UNIFIED).into_iter().find(|folder| !UNIFIED.mounts.contains(&folder.as_str()))?;
    Some(format!("{folder}/memory.pressure"))
}

/// How much of the last ten seconds was waited for memory, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pressure {
    /// By something.
    pub(crate) some: f64,
    /// By everything that wanted to run.
    pub(crate) full: f64,
    /// Whether it is that of the process's group, not of the machine.
    pub(crate) of_group: bool,
}

/// The pressure on the memory of the process; none where the kernel does not tell.
pub(crate) fn memory_pressure(machine: &Machine) -> Option<Pressure> {
    let told = |file: &str, of_group: bool| {
        let text = machine.read(file)?;
        let some = stalled(&text, "some")?;
        Some(Pressure { some, full: stalled(&text, "full").unwrap_or(0.0), of_group })
    };
    let group = pressure_file(machine).and_then(|file| told(&file, true));
    group.or_else(|| told("/proc/pressure/memory", false))
}

fn group_pressure(machine: &Machine) -> Option<Finding> {
    let some = stalled(&machine.read(&pressure_file(machine)?)?, "some")?;
    let found = format!("something waited in {some:.1} % of the last ten seconds");
    if some < 5.0 {
        return Some(Finding::fine("cgroup pressure", found));
    }
    let advice = "The group is short of memory: raise memory.high and memory.max, or let it do less.";
    Some(Finding::new("cgroup pressure", State::Act, found, advice))
}

/// How many processors the groups allow, and whether the machine has more.
fn quota(machine: &Machine) -> Finding {
    const TOPIC: &str = "processors";
    let unified = folders(machine, &UNIFIED).into_iter().filter_map(|folder| {
        let text = machine.read(&format!("{folder}/cpu.max"))?;
        let (quota, period) = text.split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
    });
    let first = folders(machine, &PROCESSOR).into_iter().filter_map(|folder| {
        let quota = machine.read(&format!("{folder}/cpu.cfs_quota_us"))?.parse::<f64>().ok()?;
        let period = machine.number(&format!("{folder}/cpu.cfs_period_us"))?;
        (quota > 0.0).then(|| quota / period as f64)
    });
    let online = machine.kernel.processors;
    match unified.chain(first).min_by(f64::total_cmp) {
        Some(allowed) if allowed < online as f64 => {
            let found = format!("a quota of {allowed:.1} of {online}");
            let advice = "A program that starts a thread for each processor it sees starts too many: each has a heap, and \
                          all wait when the quota is used up. Set its number of threads to the quota.";
            Finding::new(TOPIC, State::Note, found, advice)
        }
        _ => Finding::fine(TOPIC, format!("{online}, no quota")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::made;
    use super::*;

    fn of(files: &[(&str, &str)], topic: &str) -> Finding {
        let made = made(files);
        let findings = check(&made.0);
        findings.into_iter().find(|finding| finding.topic == topic).expect("is told")
    }

    const GROUP: (&str, &str) = ("/proc/self/cgroup", "0::/a/b\n");

    #[test]
    fn the_least_limit_on_the_path_counts() {
        let near = [
            GROUP,
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "1073741824\n"),
            ("/sys/fs/cgroup/a/memory.current", "1063741824\n"),
        ];
        let finding = of(&near, "cgroup memory");
        assert!(
            finding.state == State::Act && finding.found.contains("of 1.00G in /sys/fs/cgroup/a"),
            "{finding:?}"
        );
        assert_eq!(of(&near[..3], "cgroup memory").state, State::Fine);
        let killed = [near[0], near[2], ("/sys/fs/cgroup/a/memory.events", "oom 1\noom_kill 3\n")];
        assert!(of(&killed, "cgroup memory").found.contains("3 processes were killed"));
        assert_eq!(of(&[], "cgroup memory").found, "no limit");
    }

    #[test]
    fn the_first_version_is_understood() {
        let groups = ("/proc/self/cgroup", "4:memory:/x\n3:cpu,cpuacct:/y\n0::/\n");
        let files = [
            groups,
            ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "1000\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/x/memory.usage_in_bytes", "950\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/y/cpu.cfs_quota_us", "250000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/y/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(of(&files, "cgroup memory").state, State::Act);
        assert_eq!(of(&files, "processors").found, "a quota of 2.5 of 8");
    }

    #[test]
    fn a_quota_is_a_note_and_what_makes_processes_wait_is_to_be_changed() {
        let quota = of(&[GROUP, ("/sys/fs/cgroup/a/cpu.max", "200000 100000\n")], "processors");
        assert!(quota.state == State::Note && quota.found == "a quota of 2.0 of 8", "{quota:?}");
        assert_eq!(
            of(&[GROUP, ("/sys/fs/cgroup/a/cpu.max", "max 100000\n")], "processors").state,
            State::Fine
        );
        let high = [
            GROUP,
            ("/sys/fs/cgroup/a/b/memory.high", "1000\n"),
            ("/sys/fs/cgroup/a/b/memory.current", "1200\n"),
            ("/sys/fs/cgroup/a/b/memory.pressure", "some avg10=40.00 avg60=1.00\n"),
        ];
        assert_eq!(of(&high, "cgroup memory.high").state, State::Act);
        assert_eq!(of(&high, "cgroup pressure").state, State::Act);
    }

    #[test]
    fn pressure_is_that_of_the_group_or_else_of_the_machine() {
        let machine = "some avg10=2.50 avg60=1.00 avg300=0.10 total=5\nfull avg10=1.25 avg60=0.00 total=3\n";
        let files = [
            GROUP,
            ("/proc/pressure/memory", machine),
            ("/sys/fs/cgroup/a/b/memory.pressure", "some avg10=40.00 avg60=1.00\n"),
        ];
        let of = |files: &[(&str, &str)]| memory_pressure(&made(files).0);
        assert_eq!(of(&files), Some(Pressure { some: 40.0, full: 0.0, of_group: true }));
        assert_eq!(of(&files[..2]), Some(Pressure { some: 2.5, full: 1.25, of_group: false }));
        assert_eq!(of(&files[..1]), None);
    }
}
