//! `specmalloc maps`: the mappings of a process, added up by what they are, and what is resident of each arena.

use super::process::Watched;
use super::sample::Sample;
use crate::Failure;
use crate::text::{Column, Side, bytes, grouped, lines};
use clap::Args;
use serde_json::{Value, json};
use std::fs;
use std::process::ExitCode;

const HELP: &str = "\
Sizes are the kernel's (/proc/PID/smaps); the arenas are those that the process has published, which it
does if it was started with specmalloc run --watch -- PROGRAM, and so are the first 64 regions of huge
blocks. \"Other anonymous\" memory is the allocator's records, thread stacks, and what the program maps
itself.

Examples:
  specmalloc maps 1234
  specmalloc maps 1234 --json | jq '.arenas[].resident_bytes'

Exit status: 0, or 125 if there is no such process, or none that publishes its figures.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Maps {
    /// The process.
    #[arg(value_name = "PID")]
    pid: u32,
    /// Print them as JSON.
    #[arg(long)]
    json: bool,
}

/// A mapping, or several added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    name: String,
    count: u64,
    bytes: u64,
    resident: u64,
    huge: u64,
    swapped: u64,
}

impl Mapping {
    fn add(&mut self, other: &Mapping) {
        self.count += 1;
        self.bytes += other.bytes;
        self.resident += other.resident;
        self.huge += other.huge;
        self.swapped += other.swapped;
    }
}

/// What a mapping is, in the order in which the kinds are shown.
const KINDS: [&str; 8] = [
    "arenas",
    "huge blocks",
    "named by specmalloc",
    "other anonymous",
    "program break",
    "stack",
    "files",
    "shared memory",
];

/// Looks at the mappings and shows them.
pub(crate) fn execute(arguments: &Maps) -> Result<ExitCode, Failure> {
    let watched = Watched::open(arguments.pid)?;
    let sample = watched.look()?;
    let sorted = of(arguments.pid, &sample)?;
    let text = if arguments.json { json_text(&sorted, &sample) } else { plain(&sorted, &sample) };
    crate::output::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The figures as JSON, where the kernel says what is resident of arenas and huge blocks: a process that publishes does not
/// ask it each time, and has what it never touched as resident.
pub(super) fn figures(sorted: &Sorted, sample: &Sample, classes: bool) -> Value {
    let mut figures = crate::report::json::figures(&sample.statistics, classes);
    let now = &sample.statistics;
    // Not of more arenas than it tells of.
    if (sorted.arenas.len() as u64, sorted.huge.len() as u64) == (now.arenas, now.huge) {
        let places = sorted.arenas.iter().chain(&sorted.huge);
        let resident = places.map(|place| place.resident).sum::<u64>() + now.metadata_bytes;
        figures["bytes"]["resident"] = json!(resident.min(now.resident_bytes));
    }
    figures
}

/// The mappings of a process.
fn mappings(pid: u32) -> Result<Vec<Mapping>, Failure> {
    let file = format!("/proc/{pid}/smaps");
    let text = fs::read(&file).map_err(|error| Failure::own(format!("{file}: {error}")))?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

/// Those of a process by what they are.
pub(super) fn of(pid: u32, sample: &Sample) -> Result<Sorted, Failure> {
    Ok(sorted(&mappings(pid)?, sample))
}

/// Reads smaps: a line for each mapping, and below it lines of figures in kB.
fn parse(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(range) = first.split_once('-').filter(|_| !first.ends_with(':')) {
            let number = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
            let (start, end) = (number(range.0), number(range.1));
            // The name is what follows permissions, offset, device and inode.
            let name = words.skip(4).collect::<Vec<_>>().join(" ");
            mappings.push(Mapping { start, end, name, count: 1, bytes: end - start, ..Mapping::default() });
        } else if let Some(mapping) = mappings.last_mut() {
            let figure = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) * 1024;
            match first {
                "Rss:" => mapping.resident = figure,
                "AnonHugePages:" => mapping.huge = figure,
                "Swap:" => mapping.swapped = figure,
                _ => {}
            }
        }
    }
    mappings
}

/// The mappings added up by kind, by arena, and by huge block.
pub(super) struct Sorted {
    kinds: Vec<Mapping>,
    arenas: Vec<Mapping>,
    huge: Vec<Mapping>,
}

fn sorted(mappings: &[Mapping], sample: &Sample) -> Sorted {
    let place = |base: u64, bytes: u64, note: &str| Mapping {
        start: base,
        end: base + bytes,
        name: format!("{base:#x}{note}"),
        ..Mapping::default()
    };
    let (mut arenas, mut huge) = (Vec::new(), Vec::new());
    if let Some(detail) = &sample.detail {
        arenas.extend(detail.arenas().iter().map(|arena| place(arena.base, arena.bytes, "")));
        let note = |used| if used == 0 { " (kept)" } else { "" };
        huge.extend(detail.huge().iter().map(|huge| place(huge.base, huge.bytes, note(huge.used_bytes))));
    }
    let mut kinds = KINDS.map(|name| Mapping { name: name.to_owned(), ..Mapping::default() });
    for mapping in mappings {
        // A guard page may have been merged with its neighbour.
        let is_there = |place: &&mut Mapping| place.start < mapping.end && mapping.start < place.end;
        let known = [&mut arenas, &mut huge].into_iter().enumerate();
        let mut found = known.filter_map(|(kind, places)| Some((kind, places.iter_mut().find(is_there)?)));
        let kind = match (found.next(), mapping.name.as_str()) {
            (Some((kind, place)), _) => {
                place.add(mapping);
                kind
            }
            (None, name) if name.starts_with("[anon:specmalloc") => 2,
            (None, "[heap]") => 4,
            (None, "[stack]") => 5,
            (None, name)
                if name.starts_with("/memfd:")
                    || name.starts_with("/dev/shm/")
                    || name.starts_with("/SYSV") =>
            {
                7
            }
            (None, name) if name.starts_with('/') => 6,
            (None, _) => 3,
        };
        kinds[kind].add(mapping);
    }
    Sorted { kinds: kinds.into_iter().filter(|kind| kind.count > 0).collect(), arenas, huge }
}

fn table(heading: &str, mappings: &[Mapping]) -> String {
    let cells = |cell: &dyn Fn(&Mapping) -> String| mappings.iter().map(cell).collect::<Vec<_>>();
    let right = |heading: &str, cells| Column::new(heading, Side::Right, cells);
    let columns = [
        Column::new(heading, Side::Left, cells(&|mapping| mapping.name.clone())),
        right("mappings", cells(&|mapping| grouped(mapping.count))),
        right("size", cells(&|mapping| bytes(mapping.bytes))),
        right("resident", cells(&|mapping| bytes(mapping.resident))),
        right("huge pages", cells(&|mapping| bytes(mapping.huge))),
        right("swapped", cells(&|mapping| bytes(mapping.swapped))),
    ];
    lines(&columns, 2, |_, _, cell| cell.to_owned())
}

fn plain(sorted: &Sorted, sample: &Sample) -> String {
    let mut text = table("kind", &sorted.kinds);
    for (heading, places) in [("arena", &sorted.arenas), ("huge block", &sorted.huge)] {
        if !places.is_empty() {
            text += &format!("\n{}", table(heading, places));
        }
    }
    let now = &sample.statistics;
    text += &format!(
        "\nThe allocator has {} in {} mappings: live {}, cached {}, dirty {}.\n",
        bytes(now.reserved_bytes),
        grouped(now.mappings),
        bytes(now.live_bytes),
        bytes(now.cached_bytes),
        bytes(now.dirty_bytes)
    );
    text
}

fn json_text(sorted: &Sorted, sample: &Sample) -> String {
    let entry = |mapping: &Mapping| {
        json!({
            "name": mapping.name,
            "mappings": mapping.count,
            "bytes": mapping.bytes,
            "resident_bytes": mapping.resident,
            "huge_page_bytes": mapping.huge,
            "swapped_bytes": mapping.swapped,
        })
    };
    let entries = |mappings: &[Mapping]| mappings.iter().map(entry).collect::<Value>();
    let document = json!({
        "kinds": entries(&sorted.kinds),
        "arenas": entries(&sorted.arenas),
        "huge_blocks": entries(&sorted.huge),
        "statistics": figures(sorted, sample, false),
    });
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::looks;
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0000200000 rw-p 00000000 00:00 0 
Size:               2048 kB
Rss:                 512 kB
AnonHugePages:         0 kB
Swap:                  4 kB
VmFlags: rd wr mr mw me ac
7f0000400000-7f0000401000 r-xp 00000000 08:01 1234   /lib/a library.so
Rss:                   4 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0      [stack]
Rss:                  12 kB
";

    #[test]
    fn mappings_are_read_and_added_up_by_kind() {
        let mappings = parse(SMAPS);
        assert_eq!(mappings.len(), 3);
        let first = &mappings[0];
        assert_eq!(
            (first.start, first.bytes, first.resident, first.swapped),
            (0x7f00_0000_0000, 2 << 20, 512 << 10, 4096)
        );
        assert_eq!(mappings[1].name, "/lib/a library.so");
        let sample = looks().last;
        let sorted = sorted(&mappings, &sample);
        let names: Vec<_> = sorted.kinds.iter().map(|kind| (kind.name.as_str(), kind.count)).collect();
        assert_eq!(names, [("other anonymous", 1), ("stack", 1), ("files", 1)]);
        assert!(sorted.arenas.is_empty() && sorted.huge.is_empty());
        let text = plain(&sorted, &sample);
        assert!(text.contains("512K") && text.lines().all(|line| line.len() <= 80), "{text}");
    }
}
