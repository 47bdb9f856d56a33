//! The report for people.

use std::fmt::Write;

use crate::runner::Trouble;
use crate::runner::measure::{Results, Row};
use crate::runner::stats::{Estimate, spread};
use crate::runner::suite::Group;

/// A row is won by the best and by all that are within this of it, which is noise.
const NOISE: f64 = 1.03;
const TAIL_FIGURES: [(&str, &str); 4] =
    [("p99", "99 %"), ("p99.9", "99.9 %"), ("p99.99", "99.99 %"), ("max", "longest")];

/// All of it.
pub fn report(results: &Results) -> String {
    let mut text = String::new();
    head(&mut text, results);
    text.push_str(&means(results));
    for group in Group::ALL {
        if results.of(group).next().is_none() {
            continue;
        }
        writeln!(text, "\n## {}\n", group.title()).expect(WRITES);
        if group == Group::Tails {
            tails(&mut text, results);
            continue;
        }
        let unit = if group == Group::Rust { "an operation" } else { "a run" };
        matrix(
            &mut text,
            results,
            group,
            "seconds",
            &format!("Time of {unit}, median; in brackets the share of {}'s.", results.base),
        );
        if results
            .of(group)
            .any(|row| (0..results.peers.len()).any(|peer| row.median(peer, "peak_rss_kib").is_some()))
        {
            matrix(&mut text, results, group, "peak_rss_kib", "Peak resident memory in MiB, likewise.");
        }
        lost(&mut text, results, group);
        others(&mut text, results, group);
    }
    let troubles = results.troubles();
    if !troubles.is_empty() {
        text.push_str("\n## Runs without figures\n\n");
        troubles.iter().for_each(|trouble| writeln!(text, "- {trouble}").expect(WRITES));
    }
    text
}

const WRITES: &str = "a string takes it";

fn head(text: &mut String, results: &Results) {
    let round =
        results.rows.iter().flat_map(|row| row.cells.iter().map(|cell| cell.rounds.len())).max().unwrap_or(0);
    writeln!(text, "# Allocators side by side\n").expect(WRITES);
    let (machine, rounds, base) = (machine(), results.rounds, &results.base);
    let quick = if results.quick { ", the quick look" } else { "" };
    writeln!(
        text,
        "{machine}; {round} of {rounds} interleaved rounds{quick}. Below 1 is better than {base}. A share is the \
         median of the rounds' shares, with a 95 % bootstrap interval where one is given; the best, and what is within 3 % of \
         it, is bold.\n"
    )
    .expect(WRITES);
    let versions =
        results.peers.iter().map(|peer| format!("{} {}", peer.name, peer.version).trim().to_owned());
    writeln!(text, "Allocators: {}.\n", versions.collect::<Vec<_>>().join(", ")).expect(WRITES);
    for missing in &results.missing {
        writeln!(text, "- missing: {}: {}", missing.name, missing.why).expect(WRITES);
    }
    for lacking in &results.lacking {
        writeln!(text, "- missing row: {lacking}").expect(WRITES);
    }
}

/// Processor, kernel and memory, as the kernel tells them.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|line| line.1.trim());
    let kib: u64 =
        read("/proc/meminfo").split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    format!(
        "{} ({processors} processors), {} GiB, Linux {}, transparent huge pages {}",
        model.unwrap_or(std::env::consts::ARCH),
        (kib + (1 << 19)) >> 20,
        read("/proc/sys/kernel/osrelease").trim(),
        read("/sys/kernel/mm/transparent_hugepage/enabled").split(['[', ']']).nth(1).unwrap_or("unknown"),
    )
}

/// The geometric means over the rows that all allocators have, by group: the first table of the report.
pub fn means(results: &Results) -> String {
    let Some(base) = results.peer(&results.base) else { return String::new() };
    let mut text = String::new();
    let names: Vec<&str> = results.peers.iter().map(|peer| peer.name.as_str()).collect();
    writeln!(text, "\n| geometric mean | {} |\n|---|{}", names.join(" | "), "--:|".repeat(names.len()))
        .expect(WRITES);
    let measured = |group: &Group| *group != Group::Tails && results.of(*group).next().is_some();
    let groups: Vec<Group> = Group::ALL.into_iter().filter(measured).collect();
    let preloaded: Vec<Group> = groups.iter().copied().filter(|group| *group != Group::Rust).collect();
    for (figure, what) in
        [("seconds", "time"), ("cpu_seconds", "processor time"), ("peak_rss_kib", "peak memory")]
    {
        if preloaded.len() > 1 {
            mean(&mut text, results, base, &preloaded, figure, &format!("{what}, all preloaded"));
        }
        for group in &groups {
            mean(&mut text, results, base, &[*group], figure, &format!("{what}, {}", group.name()));
        }
    }
    text
}

/// The shares of each row of the groups, for an allocator.
pub fn shares(results: &Results, groups: &[Group], peer: usize, base: usize, figure: &str) -> Vec<Vec<f64>> {
    let rows = results.rows.iter().filter(|row| groups.contains(&row.task.group));
    rows.map(|row| row.ratios(peer, base, figure)).filter(|ratios| !ratios.is_empty()).collect()
}

/// The geometric mean of an allocator's shares, if it has all the rows that the base has.
pub fn means_of(results: &Results, groups: &[Group], peer: usize, base: usize, figure: &str) -> Option<f64> {
    let of = |peer: usize| shares(results, groups, peer, base, figure);
    let own = of(peer);
    (own.len() == of(base).len()).then(|| Estimate::of_mean_of_medians(&own)).flatten().map(|mean| mean.value)
}

fn mean(text: &mut String, results: &Results, base: usize, groups: &[Group], figure: &str, label: &str) {
    let all: Vec<Vec<Vec<f64>>> =
        (0..results.peers.len()).map(|peer| shares(results, groups, peer, base, figure)).collect();
    let rows = all.iter().map(Vec::len).max().unwrap_or(0);
    if rows == 0 {
        return;
    }
    let cells: Vec<String> = all
        .iter()
        .map(|shares| match Estimate::of_mean_of_medians(shares) {
            None => "-".to_owned(),
            Some(estimate) => {
                // A mean over fewer rows is not the same mean.
                let rest = if shares.len() < rows {
                    format!(" ({} of {rows})", shares.len())
                } else {
                    String::new()
                };
                format!("{}{rest}", interval(estimate))
            }
        })
        .collect();
    writeln!(text, "| {label}, {rows} rows | {} |", cells.join(" | ")).expect(WRITES);
}

fn interval(estimate: Estimate) -> String {
    let reach = (estimate.high - estimate.value).max(estimate.value - estimate.low);
    if reach < 0.005 {
        format!("{:.2}", estimate.value)
    } else {
        format!("{:.2} ± {reach:.2}", estimate.value)
    }
}

/// Rows down, allocators across.
fn matrix(text: &mut String, results: &Results, group: Group, figure: &str, caption: &str) {
    let base = results.peer(&results.base);
    let used: Vec<usize> = (0..results.peers.len())
        .filter(|&peer| results.of(group).any(|row| row.cells[peer].applies))
        .collect();
    let names: Vec<&str> = used.iter().map(|&peer| results.peers[peer].name.as_str()).collect();
    writeln!(text, "{caption}\n\n| | {} |\n|---|{}", names.join(" | "), "--:|".repeat(names.len()))
        .expect(WRITES);
    for row in results.of(group) {
        let best = row.best(figure, None).and_then(|best| row.median(best, figure));
        let cells: Vec<String> = used
            .iter()
            .map(|&peer| {
                let Some(median) = row.median(peer, figure) else { return without(row, peer) };
                let share = base.and_then(|base| row.ratio(peer, base, figure));
                let share = share.map_or(String::new(), |share| format!(" ({:.2})", share.value));
                let cell = format!("{}{share}", quantity(figure, median));
                if best.is_some_and(|best| median <= best * NOISE) { format!("**{cell}**") } else { cell }
            })
            .collect();
        writeln!(text, "| {} | {} |", row.task.label(), cells.join(" | ")).expect(WRITES);
    }
    text.push('\n');
}

/// What stands in place of figures.
fn without(row: &Row, peer: usize) -> String {
    match &row.cells[peer].trouble {
        Some(Trouble::NotReached(_)) => "not reached".to_owned(),
        Some(Trouble::Failed(_)) => "failed".to_owned(),
        None => "-".to_owned(),
    }
}

fn quantity(figure: &str, value: f64) -> String {
    if figure == "peak_rss_kib" { format!("{:.1}", value / 1_024.0) } else { duration(value) }
}

/// Three digits and a unit.
pub fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

/// Where specmalloc is slower than the best of the others, and how sure that is; worst first.
fn lost(text: &mut String, results: &Results, group: Group) {
    let Some(ours) = results.peer("specmalloc") else { return };
    let mut lost: Vec<(f64, String)> = results
        .of(group)
        .filter_map(|row| {
            let best = row.best("seconds", Some(ours))?;
            let ratio = row.ratio(ours, best, "seconds")?;
            let line = format!(
                "{}: {:.2} of {}'s time ({:.2} to {:.2}; spread of our rounds {:.0} %)",
                row.task.label(),
                ratio.value,
                results.peers[best].name,
                ratio.low,
                ratio.high,
                spread(&row.cells[ours].values("seconds")) * 100.0,
            );
            (ratio.value > NOISE).then_some((ratio.value, line))
        })
        .collect();
    lost.sort_by(|a, b| b.0.total_cmp(&a.0));
    let rows = results.of(group).filter(|row| row.median(ours, "seconds").is_some()).count();
    writeln!(
        text,
        "specmalloc is more than 3 % behind the best of the others on {} of {rows}:\n",
        lost.len()
    )
    .expect(WRITES);
    lost.iter().for_each(|line| writeln!(text, "- {}", line.1).expect(WRITES));
}

/// The figures that only some rows have.
fn others(text: &mut String, results: &Results, group: Group) {
    let mut lines = Vec::new();
    for row in results.of(group) {
        let first = row.cells.iter().find_map(|cell| cell.rounds.first());
        for (name, _) in first.map(|figures| figures.extras.as_slice()).unwrap_or_default() {
            if name == "best_ns" {
                continue;
            }
            let cells: Vec<String> = (0..results.peers.len())
                .map(|peer| row.median(peer, name).map_or("-".to_owned(), |value| format!("{value:.0}")))
                .collect();
            lines.push(format!("| {} | {name} | {} |", row.task.label(), cells.join(" | ")));
        }
    }
    if !lines.is_empty() {
        let names: Vec<&str> = results.peers.iter().map(|peer| peer.name.as_str()).collect();
        writeln!(text, "\n| | figure | {} |\n|---|---|{}", names.join(" | "), "--:|".repeat(names.len()))
            .expect(WRITES);
        writeln!(text, "{}", lines.join("\n")).expect(WRITES);
    }
}

fn tails(text: &mut String, results: &Results) {
    text.push_str(
        "Time of a single malloc and a single free, less what reading the clock takes; medians of the rounds. \
         *Nothing* is the same clock around no call at all, in the same runs: what the kernel and the machine do.\n\n",
    );
    let heads: Vec<&str> = TAIL_FIGURES.iter().map(|figure| figure.1).collect();
    writeln!(
        text,
        "| | allocator | malloc {} | free {} | nothing longest |\n|---|---|{}",
        heads.join(" | malloc "),
        heads.join(" | free "),
        "--:|".repeat(9)
    )
    .expect(WRITES);
    for row in results.of(Group::Tails) {
        for peer in (0..results.peers.len()).filter(|&peer| row.cells[peer].applies) {
            let names = ["malloc", "free"]
                .iter()
                .flat_map(|call| TAIL_FIGURES.iter().map(move |figure| format!("{call}_{}_ns", figure.0)));
            let cells: Vec<String> = names
                .chain(["nothing_max_ns".to_owned()])
                .map(|name| {
                    row.median(peer, &name).map_or_else(|| without(row, peer), |value| duration(value * 1e-9))
                })
                .collect();
            writeln!(text, "| {} | {} | {} |", row.task.label(), results.peers[peer].name, cells.join(" | "))
                .expect(WRITES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::measure::tests::{results, row};

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        assert_eq!(duration(1.234e-9), "1.23 ns");
        assert_eq!(duration(12.34e-6), "12.3 µs");
        assert_eq!(duration(0.1234), "123 ms");
        assert_eq!((duration(2.5), duration(9.999)), ("2.50 s".to_owned(), "10.0 s".to_owned()));
    }

    #[test]
    fn a_report_names_the_best_the_lost_and_the_failed() {
        let mut rows = vec![
            row(Group::Heap, "x", &[&[2.0; 3], &[1.0; 3], &[0.5; 3]]),
            row(Group::Heap, "y", &[&[2.0; 3], &[1.0; 3], &[4.0; 3]]),
            row(Group::Tails, "x", &[&[2.0; 3], &[1.0; 3], &[0.5; 3]]),
        ];
        rows[1].cells[2].trouble = Some(Trouble::NotReached("malloc was served by another".to_owned()));
        let text = report(&results(&["glibc", "specmalloc", "other"], rows));
        for part in [
            "| time, heap, 2 rows | 1.00 | 0.50 | 0.25 (1 of 2) |",
            "| x 2 | 2.00 s (1.00) | 1.00 s (0.50) | **500 ms (0.25)** |",
            "| y 2 | 2.00 s (1.00) | **1.00 s (0.50)** | not reached |",
            "behind the best of the others on 1 of 2",
            "- x 2: 2.00 of other's time (2.00 to 2.00",
            "- heap y 2 under other: not reached: malloc was served by another",
            "| x 2 | specmalloc | 10.0 ns | - |",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn an_interval_shows_when_there_is_one() {
        assert_eq!(interval(Estimate { value: 0.5, low: 0.5, high: 0.5 }), "0.50");
        assert_eq!(interval(Estimate { value: 0.5, low: 0.46, high: 0.52 }), "0.50 ± 0.04");
    }
}
