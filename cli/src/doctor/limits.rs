//! The limits of a process.

use super::machine::Machine;
use super::system::mappings;
use super::{Finding, State};
use crate::text::bytes;

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let limits = machine.read("/proc/PROCESS/limits").unwrap_or_default();
    let of = |name: &str| -> Option<Limit> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        let soft = line.split_whitespace().next()?;
        Some(soft.parse().map_or(Limit::None, Limit::Bytes))
    };
    let mut findings = Vec::new();
    for (topic, name, option) in [
        ("RLIMIT_AS", "Max address space", "ulimit -v unlimited"),
        ("RLIMIT_DATA", "Max data size", "ulimit -d unlimited"),
    ] {
        findings.extend(of(name).map(|limit| match limit {
            Limit::None => Finding::fine(topic, "unlimited"),
            Limit::Bytes(limit) => {
                let used = machine.field("/proc/PROCESS/status", "VmSize:").unwrap_or(0);
                let state = if used > limit / 2 { State::Act } else { State::Note };
                let found = format!("{}, of which {} has {}", bytes(limit), machine.whose(), bytes(used));
                let advice = format!(
                    "Address space counts, used or not: arenas are smaller, huge blocks get nothing in reserve, and less \
                     stays resident when it is free. Limit memory by a control group (memory.max) instead.\n$ {option}"
                );
                Finding::new(topic, state, found, advice)
            }
        }));
    }
    findings.extend(of("Max locked memory").map(|limit| {
        let locked = machine.field("/proc/PROCESS/status", "VmLck:").unwrap_or(0);
        match limit {
            Limit::Bytes(limit) if locked > 0 && locked >= limit / 2 => Finding::new(
                "RLIMIT_MEMLOCK",
                State::Act,
                format!("{} of {} locked in {}", bytes(locked), bytes(limit), machine.whose()),
                "Under mlockall(MCL_FUTURE) an arena becomes resident as a whole, and counts.\n\
                 $ export SPECMALLOC_CONF=arena_size:1M\n$ ulimit -l unlimited",
            ),
            _ if locked > 0 => {
                Finding::fine("RLIMIT_MEMLOCK", format!("{} locked in {}", bytes(locked), machine.whose()))
            }
            Limit::None => Finding::fine("RLIMIT_MEMLOCK", "unlimited, nothing is locked"),
            Limit::Bytes(limit) => {
                Finding::fine("RLIMIT_MEMLOCK", format!("{}, nothing is locked", bytes(limit)))
            }
        }
    }));
    findings.extend(mappings(machine));
    findings
}

/// A soft limit.
#[derive(Clone, Copy)]
enum Limit {
    None,
    Bytes(u64),
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::made;
    use super::*;

    #[test]
    fn limits_of_address_space_are_notes_until_they_are_near() {
        let check = |space: &str, size: &str| {
            let limits = format!(
                "Limit  Soft Limit  Hard Limit  Units\nMax data size    unlimited  unlimited  bytes\n\
                 Max locked memory  8388608  8388608  bytes\nMax address space   {space}  unlimited  bytes\n"
            );
            let status = format!("VmLck:  6000 kB\nVmSize:  {size} kB\n");
            let made = made(&[("/proc/self/limits", &limits), ("/proc/self/status", &status)]);
            let findings = check(&made.0);
            let of = |topic: &str| findings.iter().find(|finding| finding.topic == topic).unwrap().clone();
            assert_eq!(of("RLIMIT_DATA").state, State::Fine);
            assert_eq!(of("RLIMIT_MEMLOCK").state, State::Act, "most of it is locked");
            of("RLIMIT_AS")
        };
        assert_eq!(check("unlimited", "10").state, State::Fine);
        assert_eq!(check("1073741824", "10").state, State::Note);
        let near = check("1073741824", "900000");
        assert!(near.state == State::Act && near.found.starts_with("1.00G"), "{near:?}");
        assert!(super::check(&made(&[]).0).is_empty(), "nothing is told of what cannot be read");
    }
}
