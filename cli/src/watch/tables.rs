//! The figures in columns.

use super::maps;
use super::process::Watched;
use super::sample::Looks;
use super::threads::{Thread, holder};
use crate::report;
use crate::text::{Column, Side, bytes, counted, duration, grouped, joined, lines};
use serde_json::{Value, json};

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Classes,
    Heaps,
    Arenas,
    Calls,
    Bets,
}

impl Tab {
    pub(super) const ALL: [Tab; 5] = [Tab::Classes, Tab::Heaps, Tab::Arenas, Tab::Calls, Tab::Bets];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Classes => "classes",
            Self::Heaps => "heaps",
            Self::Arenas => "arenas",
            Self::Calls => "system calls",
            Self::Bets => "bets",
        }
    }
}

/// What stands in a column of a line: how it looks, and what it is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) number: f64,
}

impl Cell {
    fn count(number: u64) -> Self {
        Self { text: grouped(number), number: number as f64 }
    }

    fn bytes(number: u64) -> Self {
        Self { text: bytes(number), number: number as f64 }
    }

    /// A rate, with its sign if it may have one.
    fn rate(rate: Option<f64>, shown: impl Fn(u64) -> String) -> Self {
        let Some(rate) = rate else { return Self { text: "-".to_owned(), number: 0.0 } };
        let sign = if rate < -0.5 { "-" } else { "" };
        Self { text: format!("{sign}{}", shown(rate.abs().round() as u64)), number: rate }
    }

    fn share(part: u64, whole: u64) -> Self {
        let share = if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        Self { text: format!("{:.0} %", share * 100.0), number: share }
    }

    fn word(text: impl Into<String>, number: f64) -> Self {
        Self { text: text.into(), number }
    }
}

/// A table.
pub(super) struct Table {
    pub(super) headings: Vec<&'static str>,
    pub(super) rows: Vec<Vec<Cell>>,
}

impl Table {
    /// The table as text, headings first; the one that is `marked`, if any, with a mark behind it.
    pub(super) fn marked_text(&self, marked: Option<(usize, char)>) -> String {
        let columns: Vec<_> = self
            .headings
            .iter()
            .enumerate()
            .map(|(column, heading)| {
                let heading = match marked {
                    Some((at, mark)) if at == column => format!("{heading}{mark}"),
                    _ => (*heading).to_owned(),
                };
                let cells = self.rows.iter().map(|row| row[column].text.clone()).collect();
                Column::new(heading, Side::Right, cells)
            })
            .collect();
        lines(&columns, 2, |_, _, cell| cell.to_owned())
    }

    pub(super) fn text(&self) -> String {
        self.marked_text(None)
    }
}

/// Makes a table of what was seen.
pub(super) fn table(tab: Tab, looks: &Looks) -> Table {
    let now = &looks.last.statistics;
    match tab {
        Tab::Classes => {
            let rows =
                now.classes.iter().enumerate().filter(|(_, class)| class.slabs > 0 || class.live_blocks > 0);
            let rows = rows.map(|(index, class)| {
                let rate = looks.rate(|sample| Some(sample.statistics.classes[index].live_blocks as f64));
                let live = class.live_blocks * class.block_bytes;
                vec![
                    Cell::count(class.block_bytes),
                    Cell::count(class.live_blocks),
                    Cell::rate(rate, grouped),
                    Cell::bytes(live),
                    Cell::share(live, now.live_bytes),
                    Cell::count(class.slabs),
                ]
            });
            let headings = vec!["class", "live blocks", "blocks/s", "live", "of all", "slabs"];
            Table { headings, rows: rows.collect() }
        }
        Tab::Heaps => {
            let heaps = looks.last.detail.as_ref().map_or(&[][..], |detail| detail.heaps());
            let rows = heaps.iter().enumerate().map(|(number, heap)| {
                let rate = looks
                    .rate(|sample| Some(sample.detail.as_ref()?.heaps().get(number)?.remote_frees as f64));
                vec![
                    Cell::count(number as u64),
                    held_by(looks, heap.possessor),
                    Cell::bytes(heap.live_bytes),
                    Cell::bytes(heap.cached_bytes),
                    Cell::bytes(heap.spare_bytes),
                    Cell::count(heap.slabs),
                    Cell::count(heap.remote_frees),
                    Cell::rate(rate, grouped),
                    Cell::word(if heap.mail == 0 { "-" } else { "yes" }, heap.mail as f64),
                ]
            });
            let headings =
                vec!["heap", "held by", "live", "cached", "spare", "slabs", "remote", "remote/s", "mail"];
            Table { headings, rows: rows.collect() }
        }
        Tab::Arenas => {
            let arenas = looks.last.detail.as_ref().map_or(&[][..], |detail| detail.arenas());
            let rows = arenas.iter().map(|arena| {
                vec![
                    Cell::word(format!("{:#x}", arena.base), arena.base as f64),
                    Cell::bytes(arena.bytes),
                    Cell::bytes(arena.claimed_bytes),
                    Cell::share(arena.claimed_bytes, arena.bytes),
                    Cell::bytes(arena.dirty_bytes),
                ]
            });
            let headings = vec!["arena", "size", "claimed", "used", "dirty"];
            Table { headings, rows: rows.collect() }
        }
        Tab::Calls => {
            let rates = report::calls(now);
            let rows = rates.into_iter().enumerate().map(|(index, (name, count))| {
                let rate = looks.figure_rate(|figures| report::calls(figures)[index].1);
                vec![Cell::word(name, -(index as f64)), Cell::count(count), Cell::rate(rate, grouped)]
            });
            Table { headings: vec!["call", "made", "calls/s"], rows: rows.collect() }
        }
        Tab::Bets => {
            let rows = report::bets(now).into_iter().enumerate().map(|(index, (name, bet))| {
                let rate = looks.figure_rate(|figures| report::bets(figures)[index].1.taken);
                vec![
                    Cell::word(name, -(index as f64)),
                    Cell::count(bet.taken),
                    Cell::rate(rate, grouped),
                    Cell::count(bet.won),
                    Cell::count(bet.lost),
                    Cell::share(bet.won, bet.taken),
                ]
            });
            let headings = vec!["bet", "taken", "taken/s", "won", "lost", "won of all"];
            Table { headings, rows: rows.collect() }
        }
    }
}

/// The thread that holds the heap of `possessor`, if that is known.
fn holder_of(looks: &Looks, possessor: u64) -> Option<&Thread> {
    let heaps = looks.last.detail.as_ref()?.heaps();
    let possessors: Vec<u64> = heaps.iter().map(|heap| heap.possessor).collect();
    holder(&looks.last.threads, &possessors, possessor).filter(|_| possessor != 0)
}

fn held_by(looks: &Looks, possessor: u64) -> Cell {
    match holder_of(looks, possessor) {
        Some(Thread { number, name, state, .. }) => {
            Cell::word(format!("{name} {number} {state}"), f64::from(*number))
        }
        None if possessor == 0 => Cell::word("nobody", -1.0),
        None => Cell::word("a thread", 0.0),
    }
}

/// The lines above the tables, as many as `width` leaves room for in each.
pub(super) fn head(watched: &Watched, looks: &Looks, width: usize) -> Vec<String> {
    facts(watched.pid, looks).into_iter().flat_map(|facts| joined(&facts, width)).collect()
}

/// The same in `most` lines: what matters first, if there is no room for all.
pub(super) fn head_within(watched: &Watched, looks: &Looks, width: usize, most: usize) -> Vec<String> {
    let all = head(watched, looks, width);
    if all.len() <= most {
        return all;
    }
    let mut few = joined(&first_of(&facts(watched.pid, looks).concat()), width);
    few.truncate(most);
    few
}

/// What matters most of them. The first is what the process is called, which may be anything.
fn first_of(facts: &[String]) -> Vec<String> {
    let Some((name, others)) = facts.split_first() else { return Vec::new() };
    let told = |word: &str| others.iter().find(|fact| fact.starts_with(word)).cloned();
    let first = ["live ", "resident ", "dirty ", "cached "].into_iter().filter_map(told);
    std::iter::once(name.clone()).chain(first).collect()
}

fn facts(pid: u32, looks: &Looks) -> [Vec<String>; 3] {
    let (last, now) = (&looks.last, &looks.last.statistics);
    let mut first = vec![
        format!("{} ({pid})", last.name),
        format!("up {}", duration(last.now_ns.saturating_sub(last.started_ns) as f64 * 1e-9)),
        counted(last.threads.len() as u64, "thread"),
        counted(now.heaps, "heap"),
        format!("resident {}", bytes(last.resident_bytes)),
    ];
    if let Some(share) = looks.rate(|sample| Some(sample.processor_seconds)) {
        first.push(format!("processor {:.0} %", share * 100.0));
    }
    if let Some(pressure) = last.pressure {
        first.push(format!("waits for memory {:.1} %", pressure.some));
    }
    if let Some(age) = looks.age() {
        first.push(format!("figures {} old", duration(age)));
    }
    let second = vec![
        format!("live {} in {} blocks", bytes(now.live_bytes), grouped(now.live_blocks)),
        format!("cached {}", bytes(now.cached_bytes)),
        format!("dirty {}", bytes(now.dirty_bytes)),
        format!("reserved {}", bytes(now.reserved_bytes)),
        counted(now.arenas, "arena"),
        format!("{} huge", now.huge),
        format!("{} mappings", grouped(now.mappings)),
    ];
    let rate = |name: &str, rate: Option<f64>, shown: fn(u64) -> String| {
        format!("{name} {}", Cell::rate(rate, shown).text)
    };
    let third = vec![
        "in a second".to_owned(),
        rate("live", looks.figure_rate(|figures| figures.live_bytes), bytes),
        rate("purged", looks.figure_rate(|figures| figures.purged_bytes), bytes),
        rate("remote frees", looks.figure_rate(|figures| figures.remote_frees), grouped),
        rate("grace periods", looks.figure_rate(|figures| figures.grace_periods), grouped),
    ];
    [first, second, third]
}

/// Everything as a JSON document. Rates are in a second.
pub(super) fn json(watched: &Watched, looks: &Looks) -> String {
    let last = &looks.last;
    let mut document = match maps::of(watched.pid, last) {
        Ok(sorted) => maps::figures(&sorted, last, true),
        Err(_) => report::json::figures(&last.statistics, true),
    };
    document["pid"] = json!(watched.pid);
    document["name"] = json!(last.name);
    document["threads"] = json!(last.threads.len());
    document["resident_bytes"] = json!(last.resident_bytes);
    document["memory_pressure"] = last.pressure.map_or(Value::Null, |pressure| {
        let of = if pressure.of_group { "group" } else { "machine" };
        json!({ "of": of, "some_percent": pressure.some, "full_percent": pressure.full })
    });
    document["age_seconds"] = json!(looks.age());
    document["interval_seconds"] = json!(looks.seconds());
    document["rates"] = json!({
        "live_bytes": looks.figure_rate(|figures| figures.live_bytes),
        "live_blocks": looks.figure_rate(|figures| figures.live_blocks),
        "purged_bytes": looks.figure_rate(|figures| figures.purged_bytes),
        "remote_frees": looks.figure_rate(|figures| figures.remote_frees),
        "grace_periods": looks.figure_rate(|figures| figures.grace_periods),
        "processor": looks.rate(|sample| Some(sample.processor_seconds)),
    });
    let detail = last.detail.as_ref();
    let heaps = detail.map_or(&[][..], |detail| detail.heaps()).iter().enumerate().map(|(number, heap)| {
        json!({
            "heap": number,
            "held": heap.possessor != 0,
            "thread": holder_of(looks, heap.possessor).map(|thread| thread.number),
            "thread_name": holder_of(looks, heap.possessor).map(|thread| &thread.name),
            "slabs": heap.slabs,
            "live_bytes": heap.live_bytes,
            "cached_bytes": heap.cached_bytes,
            "spare_bytes": heap.spare_bytes,
            "remote_frees": heap.remote_frees,
            "mail": heap.mail != 0,
        })
    });
    document["heaps"] = heaps.collect();
    let arenas = detail.map_or(&[][..], |detail| detail.arenas()).iter();
    document["arenas"] = arenas
        .map(|arena| {
            json!({
                "base": arena.base,
                "bytes": arena.bytes,
                "claimed_bytes": arena.claimed_bytes,
                "dirty_bytes": arena.dirty_bytes,
            })
        })
        .collect::<Value>();
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::looks;
    use super::*;

    #[test]
    fn each_table_has_a_cell_for_each_heading() {
        let looks = looks();
        for tab in Tab::ALL {
            let table = table(tab, &looks);
            assert!(table.rows.iter().all(|row| row.len() == table.headings.len()), "{tab:?}");
        }
        let classes = table(Tab::Classes, &looks).text();
        assert!(classes.starts_with("class  live blocks  blocks/s"), "{classes}");
        assert_eq!(classes.lines().count(), 4);
        assert!(table(Tab::Bets, &looks).text().contains("90 %"));
        assert!(table(Tab::Calls, &looks).marked_text(Some((1, '>'))).contains("made>"));
    }

    #[test]
    fn what_matters_most_is_told_whatever_the_process_is_called() {
        let facts = ["live (17)", "up 1s", "resident 2M", "live 1M in 3 blocks"].map(str::to_owned);
        assert_eq!(first_of(&facts), ["live (17)", "live 1M in 3 blocks", "resident 2M"]);
    }

    #[test]
    fn the_head_is_broken_between_facts() {
        let facts = facts(17, &looks());
        assert!(facts[0][0] == "program (17)" && facts[0][1] == "up 60.0s", "{facts:?}");
        assert!(facts[0].contains(&"waits for memory 12.5 %".to_owned()), "{facts:?}");
        assert!(
            facts[2].contains(&"live 1.00M".to_owned())
                && facts[2].contains(&"remote frees 1,024".to_owned())
        );
        for width in [40, 80, 200] {
            let lines: Vec<_> = facts.iter().flat_map(|facts| joined(facts, width)).collect();
            assert!(lines.iter().all(|line| line.len() <= width), "{lines:?}");
        }
        assert_eq!(Cell::rate(Some(-2048.0), bytes).text, "-2.00K");
        assert_eq!(Cell::rate(None, bytes).text, "-");
    }
}
