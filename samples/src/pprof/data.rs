//! A profile: what was allocated by which calls, and what is known of the functions that made them.
//!
//! In a file it is one of pprof's (`messages`), with the sample types that Go's heap profiles have, two of ours for the
//! peak, and two for lifetimes: how many blocks were freed, and how long they lived all together. The values are estimates for all allocations, not counts of samples.

use super::messages::{self, ValueType};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;

/// The names of sample types and their units, in the order in which they are written.
pub const KINDS: [(&str, &str); 8] = [
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
    ("peak_objects", "count"),
    ("peak_space", "bytes"),
    ("freed_objects", "count"),
    ("lifetime", "nanoseconds"),
];

/// Functions that pprof leaves out, with all that they call, where it finds names itself: see `entries`. (What is ours is
/// named by file, for other functions of ours call the program.)
pub(super) const DROP_FRAMES: &str = "(__rustc::)?__(rust|rdl|rg)_(alloc|alloc_zeroed|realloc)\
    |<?alloc::alloc::.*\
    |.*core::alloc::global::GlobalAlloc( for .*)?>::(alloc|alloc_zeroed|realloc)\
    |<?std::sys::alloc::.*\
    |<?specmalloc::api::(rust|raw|samples)::.*";

/// A function at an address, or one that was inlined there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Line {
    /// Its name.
    pub function: String,
    /// Empty if it is not known.
    pub file: String,
    /// Zero if it is not known.
    pub line: u32,
}

impl fmt::Display for Line {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str(&self.function)?;
        if self.file.is_empty() { Ok(()) } else { write!(text, "  {}:{}", self.file, self.line) }
    }
}

/// An address of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Of the call, not of what comes after it.
    pub address: u64,
    /// The number of the mapping that it lies in, if it is known.
    pub mapping: Option<usize>,
    /// The innermost inlined function first; none as long as nobody has looked.
    pub lines: Vec<Line>,
}

/// A part of a file in the program's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address behind its last.
    pub end: u64,
    /// Where in the file that is.
    pub offset: u64,
    /// The file's path.
    pub path: String,
    /// In hexadecimal digits; empty for none.
    pub build_id: String,
}

impl Mapping {
    /// Its file's name without the folders.
    pub fn name(&self) -> &str {
        Path::new(&self.path).file_name().and_then(|name| name.to_str()).unwrap_or(&self.path)
    }
}

/// What was allocated at one stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Numbers of locations, the innermost first.
    pub locations: Vec<usize>,
    /// A value for each of the profile's kinds.
    pub values: Vec<i64>,
}

/// A whole profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Names and units of the values.
    pub kinds: Vec<(String, String)>,
    /// The kind that is shown if nothing is said.
    pub first_kind: String,
    /// What was allocated, by stack and size.
    pub stacks: Vec<Stack>,
    /// All addresses of the stacks, each once.
    pub locations: Vec<Location>,
    /// All files that they lie in.
    pub mappings: Vec<Mapping>,
    /// Bytes for a sample on average.
    pub rate: i64,
    /// When it was finished, in nanoseconds since 1970.
    pub time: i64,
    /// How long it took, in nanoseconds.
    pub duration: i64,
    /// What else is worth telling, in lines.
    pub comments: Vec<String>,
}

/// What is live that was allocated at one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// The functions of the stack, the innermost first.
    pub lines: Vec<Line>,
    /// How many blocks.
    pub objects: i64,
    /// Their bytes.
    pub bytes: i64,
}

impl fmt::Display for Leak {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(text, "{} bytes in {} blocks, allocated at", self.bytes, self.objects)?;
        self.lines.iter().try_for_each(|line| writeln!(text, "    {line}"))
    }
}

/// Strings and their numbers.
#[derive(Default)]
struct Strings {
    all: Vec<String>,
    numbers: HashMap<String, i64>,
}

impl Strings {
    fn number(&mut self, text: &str) -> i64 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = self.all.len() as i64;
        self.all.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }
}

impl Profile {
    /// Where the values of the kind `name` are.
    pub fn kind(&self, name: &str) -> Option<usize> {
        self.kinds.iter().position(|(kind, _)| kind == name)
    }

    /// What a location is called: its functions, the innermost first, or, if they are not known, the file in brackets.
    pub fn functions(&self, location: &Location) -> Vec<Line> {
        if !location.lines.is_empty() {
            return location.lines.clone();
        }
        let file = location.mapping.map_or("unknown", |mapping| self.mappings[mapping].name());
        vec![Line { function: format!("[{file}]"), ..Line::default() }]
    }

    /// What is live, by whole stacks: the largest first. Not all of it need be a leak. Empty if the profile does not say.
    pub fn leaks(&self) -> Vec<Leak> {
        let [Some(objects), Some(bytes)] = ["inuse_objects", "inuse_space"].map(|kind| self.kind(kind))
        else {
            return Vec::new();
        };
        let mut sums: HashMap<Vec<Line>, (i64, i64)> = HashMap::new();
        for stack in self.stacks.iter().filter(|stack| stack.values[bytes] > 0) {
            let lines = stack.locations.iter().flat_map(|&at| self.functions(&self.locations[at])).collect();
            let sum = sums.entry(lines).or_default();
            *sum = (sum.0 + stack.values[objects], sum.1 + stack.values[bytes]);
        }
        let leak = |(lines, (objects, bytes))| Leak { lines, objects, bytes };
        let mut leaks: Vec<Leak> = sums.into_iter().map(leak).collect();
        leaks.sort_by(|one, other| {
            let key = |leak: &Leak| {
                leak.lines.iter().map(|line| (line.function.clone(), line.line)).collect::<Vec<_>>()
            };
            let size = (other.objects, other.bytes).cmp(&(one.objects, one.bytes));
            size.then_with(|| key(one).cmp(&key(other)))
        });
        leaks
    }

    /// As a file.
    pub fn bytes(&self) -> Vec<u8> {
        messages::pack(&self.message())
    }

    fn message(&self) -> messages::Profile {
        let mut strings = Strings::default();
        strings.number("");
        let mut message = messages::Profile {
            time_nanos: self.time,
            duration_nanos: self.duration,
            period: self.rate,
            period_type: Some(ValueType { r#type: strings.number("space"), unit: strings.number("bytes") }),
            default_sample_type: strings.number(&self.first_kind),
            drop_frames: strings.number(DROP_FRAMES),
            ..messages::Profile::default()
        };
        for (name, unit) in &self.kinds {
            message.sample_type.push(ValueType { r#type: strings.number(name), unit: strings.number(unit) });
        }
        for stack in &self.stacks {
            let location_id = stack.locations.iter().map(|&number| number as u64 + 1).collect();
            message.sample.push(messages::Sample { location_id, value: stack.values.clone() });
        }
        let mut functions = HashMap::new();
        for (number, location) in self.locations.iter().enumerate() {
            let mut line = Vec::new();
            for Line { function, file, line: row } in &location.lines {
                let next = functions.len() as u64 + 1;
                let function_id = *functions.entry((function, file)).or_insert_with(|| {
                    let (name, filename) = (strings.number(function), strings.number(file));
                    message.function.push(messages::Function { id: next, name, system_name: name, filename });
                    next
                });
                line.push(messages::Line { function_id, line: i64::from(*row) });
            }
            let mapping_id = location.mapping.map_or(0, |mapping| mapping as u64 + 1);
            let id = number as u64 + 1;
            message.location.push(messages::Location { id, mapping_id, address: location.address, line });
        }
        for (number, mapping) in self.mappings.iter().enumerate() {
            let own = || self.locations.iter().filter(|location| location.mapping == Some(number));
            let any = |what: fn(&Location) -> bool| own().any(what);
            // Whoever reads it looks for names himself where none were found, or nobody has looked.
            message.mapping.push(messages::Mapping {
                id: number as u64 + 1,
                memory_start: mapping.start,
                memory_limit: mapping.end,
                file_offset: mapping.offset,
                filename: strings.number(&mapping.path),
                build_id: strings.number(&mapping.build_id),
                has_functions: any(|location| !location.lines.is_empty()),
                has_filenames: any(|location| location.lines.iter().any(|line| !line.file.is_empty())),
                has_line_numbers: any(|location| location.lines.iter().any(|line| line.line != 0)),
                has_inline_frames: any(|location| location.lines.len() > 1),
            });
        }
        message.comment = self.comments.iter().map(|comment| strings.number(comment)).collect();
        message.string_table = strings.all;
        message
    }

    /// Reads a file.
    pub fn read(path: &Path) -> io::Result<Profile> {
        Profile::parse(&std::fs::read(path)?)
    }

    /// Reads what a file has.
    pub fn parse(file: &[u8]) -> io::Result<Profile> {
        let message = messages::unpack(file)?;
        Profile::of(&message).ok_or_else(|| {
            io::Error::new(ErrorKind::InvalidData, "damaged: it speaks of what it does not have")
        })
    }

    /// `None` if a number leads nowhere.
    fn of(message: &messages::Profile) -> Option<Profile> {
        let string = |number: i64| message.string_table.get(usize::try_from(number).ok()?);
        let numbers = |ids: Vec<u64>| ids.into_iter().zip(0..).collect::<HashMap<u64, usize>>();
        let functions = numbers(message.function.iter().map(|function| function.id).collect());
        let mappings = numbers(message.mapping.iter().map(|mapping| mapping.id).collect());
        let places = numbers(message.location.iter().map(|location| location.id).collect());
        let line = |line: &messages::Line| {
            let function = message.function.get(*functions.get(&line.function_id)?)?;
            let (name, file) = (string(function.name)?.clone(), string(function.filename)?.clone());
            Some(Line { function: name, file, line: u32::try_from(line.line).unwrap_or(0) })
        };
        let location = |location: &messages::Location| {
            let mapping = match location.mapping_id {
                0 => None,
                id => Some(*mappings.get(&id)?),
            };
            let lines = location.line.iter().map(line).collect::<Option<_>>()?;
            Some(Location { address: location.address, mapping, lines })
        };
        let mapping = |mapping: &messages::Mapping| {
            Some(Mapping {
                start: mapping.memory_start,
                end: mapping.memory_limit,
                offset: mapping.file_offset,
                path: string(mapping.filename)?.clone(),
                build_id: string(mapping.build_id)?.clone(),
            })
        };
        let stack = |sample: &messages::Sample| {
            let locations = sample.location_id.iter().map(|id| places.get(id).copied());
            let fits = sample.value.len() == message.sample_type.len();
            Some(Stack {
                locations: locations.collect::<Option<_>>()?,
                values: fits.then(|| sample.value.clone())?,
            })
        };
        let kind = |kind: &ValueType| Some((string(kind.r#type)?.clone(), string(kind.unit)?.clone()));
        Some(Profile {
            kinds: message.sample_type.iter().map(kind).collect::<Option<_>>()?,
            first_kind: string(message.default_sample_type)?.clone(),
            stacks: message.sample.iter().map(stack).collect::<Option<_>>()?,
            locations: message.location.iter().map(location).collect::<Option<_>>()?,
            mappings: message.mapping.iter().map(mapping).collect::<Option<_>>()?,
            rate: message.period,
            time: message.time_nanos,
            duration: message.duration_nanos,
            comments: message
                .comment
                .iter()
                .map(|&comment| string(comment).cloned())
                .collect::<Option<_>>()?,
        })
    }
}

/// A small profile: `main` calls `parse`, which has `copy` inlined, and something unknown.
#[doc(hidden)] // For tests, those of the command included.
pub fn example() -> Profile {
    let line = |function: &str, line| Line { function: function.to_owned(), file: "a.c".to_owned(), line };
    let at = |address, mapping, lines| Location { address, mapping, lines };
    Profile {
        kinds: KINDS.map(|(name, unit)| (name.to_owned(), unit.to_owned())).to_vec(),
        first_kind: "inuse_space".to_owned(),
        stacks: vec![
            Stack { locations: vec![1, 0], values: vec![10, 1000, 4, 400, 5, 500, 6, 3_000_000] },
            Stack { locations: vec![2, 0], values: vec![1, 64, 1, 64, 0, 0, 0, 0] },
            Stack { locations: vec![3, 1, 0], values: vec![2, 20, 0, 0, 0, 0, 2, 1_000_000] },
        ],
        locations: vec![
            at(0x5010, Some(0), vec![line("main", 7)]),
            at(0x5020, Some(0), vec![line("copy", 3), line("parse", 12)]),
            at(0x5030, Some(0), vec![]),
            at(0x9, None, vec![]),
        ],
        mappings: vec![Mapping {
            start: 0x5000,
            end: 0x7000,
            offset: 0x1000,
            path: "/bin/a program".to_owned(),
            build_id: "00ff".to_owned(),
        }],
        rate: 524_288,
        time: 5,
        duration: 6,
        comments: vec!["7 samples".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let profile = example();
        assert_eq!(Profile::parse(&profile.bytes()).unwrap(), profile);
        use prost::Message;
        assert_eq!(Profile::parse(&profile.message().encode_to_vec()).unwrap(), profile);
    }

    #[test]
    fn what_is_no_profile_is_refused_and_so_is_every_part_of_one() {
        for wrong in [&b""[..], b"heap profile: 1: 2", b"\x1f\x8b", &[0xff; 100]] {
            assert!(Profile::parse(wrong).is_err(), "{wrong:?}");
        }
        let whole = example().bytes();
        for len in 0..whole.len() {
            assert!(Profile::parse(&whole[..len]).is_err(), "{len}");
        }
        // No panic, whatever comes out.
        use prost::Message;
        let plain = example().message().encode_to_vec();
        for at in 0..plain.len() {
            let mut damaged = plain.clone();
            damaged[at] = damaged[at].wrapping_add(1);
            let _ = Profile::parse(&damaged);
        }
    }
}
