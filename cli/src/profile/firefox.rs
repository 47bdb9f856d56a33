//! A profile as the Firefox Profiler reads it (profiler.firefox.com): its processed format, tables of columns whose rows
//! are meant by their numbers. Each kind of values is a thread, with a table of allocations as files of dhat have there.

use super::view::What;
use crate::Failure;
use serde_json::{Value, json};
use specmalloc_samples::pprof::{Location, Mapping, Object, Profile};
use std::collections::HashMap;
use std::path::Path;

/// Versions of the format, and of the one that it is made from: newer programs read older files.
const VERSION: u32 = 62;
const RAW_VERSION: u32 = 24;

/// Strings, and other rows that are there once.
#[derive(Default)]
struct Rows<Row> {
    all: Vec<Row>,
    numbers: HashMap<Row, usize>,
}

impl<Row: Clone + Eq + std::hash::Hash> Rows<Row> {
    fn number(&mut self, row: Row) -> usize {
        *self.numbers.entry(row).or_insert_with_key(|row| {
            self.all.push(row.clone());
            self.all.len() - 1
        })
    }
}

/// A function: its name, its file of code and that of its source.
type Function = (usize, Option<usize>, Option<usize>);
/// A frame: its function, its address in the file of code, how deep it is inlined there, and the line of its source.
type Frame = (usize, Option<u64>, usize, u32);

#[derive(Default)]
struct Tables {
    strings: Rows<String>,
    sources: Rows<usize>,
    functions: Rows<Function>,
    frames: Rows<Frame>,
    /// A frame and who called it.
    stacks: Rows<(usize, Option<usize>)>,
}

impl Tables {
    /// Adds what a location has to the stack `caller`.
    fn push(
        &mut self,
        profile: &Profile,
        location: &Location,
        address: Option<u64>,
        caller: Option<usize>,
    ) -> Option<usize> {
        let lines = profile.functions(location);
        lines.into_iter().rev().enumerate().fold(caller, |caller, (depth, line)| {
            let name = self.strings.number(line.function);
            let source = (!line.file.is_empty()).then(|| {
                let file = self.strings.number(line.file);
                self.sources.number(file)
            });
            let function = self.functions.number((name, location.mapping, source));
            let frame = self.frames.number((function, address, depth, line.line));
            Some(self.stacks.number((frame, caller)))
        })
    }
}

pub(super) fn json(profile: &Profile, first: What) -> Result<String, Failure> {
    let mut tables = Tables::default();
    let objects: Vec<Option<Object>> =
        profile.mappings.iter().map(|mapping| Object::read(Path::new(&mapping.path))).collect();
    let address = |location: &Location| {
        let number = location.mapping?;
        let mapping = &profile.mappings[number];
        let offset = location.address.wrapping_sub(mapping.start).wrapping_add(mapping.offset);
        Some(objects[number].as_ref().and_then(|object| object.address_of(offset)).unwrap_or(offset))
    };
    let stacks: Vec<Option<usize>> = profile
        .stacks
        .iter()
        .map(|stack| {
            let outermost_first = stack.locations.iter().rev().map(|&at| &profile.locations[at]);
            outermost_first.fold(None, |caller, at| tables.push(profile, at, address(at), caller))
        })
        .collect();
    let others = What::SIZES.into_iter().filter(|&what| what != first);
    let threads = std::iter::once(first).chain(others).enumerate().filter_map(|(number, what)| {
        let columns = what.columns(profile).ok()?;
        Some(thread(profile, &stacks, what, columns[1], number))
    });
    let threads: Vec<Value> = threads.collect();
    let has_any = |thread: &Value| thread["nativeAllocations"]["length"] != 0;
    let selected = threads.iter().position(has_any).unwrap_or(0);
    let libraries: Vec<Value> = profile.mappings.iter().map(library).collect();
    let document = json!({
        "meta": {
            "categories": [{ "name": "Other", "color": "grey", "subcategories": ["Other"] }],
            "debug": false,
            "extensions": { "baseURL": [], "id": [], "length": 0, "name": [] },
            "initialSelectedThreads": [selected],
            "initialVisibleThreads": (0..threads.len()).collect::<Vec<usize>>(),
            "interval": 1.0,
            "keepProfileThreadOrder": true,
            "markerSchema": [],
            "pausedRanges": [],
            "preprocessedProfileVersion": VERSION,
            "processType": 0,
            "product": "specmalloc",
            // Where it is empty (no samples by time, all allocations at its start), nothing at all is shown.
            "profilingEndTime": (profile.duration as f64 / 1e6).max(1.0),
            "profilingStartTime": 0.0,
            "sampleUnits": { "eventDelay": "ms", "threadCPUDelta": "µs", "time": "ms" },
            "sourceCodeIsNotOnSearchfox": true,
            "startTime": (profile.time - profile.duration) as f64 / 1e6,
            "symbolicated": true,
            "usesOnlyOneStackType": true,
            "version": RAW_VERSION,
        },
        "libs": libraries,
        "pages": [],
        "counters": [],
        "profilerOverhead": [],
        "shared": shared(tables, profile),
        "threads": threads,
    });
    Ok(document.to_string())
}

/// What was allocated of one kind, the largest first, at no times that are known. (Samples, which such programs take for
/// time spent, are none.)
fn thread(profile: &Profile, stacks: &[Option<usize>], what: What, bytes: usize, number: usize) -> Value {
    let mut order: Vec<usize> =
        (0..stacks.len()).filter(|&at| profile.stacks[at].values[bytes] > 0).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(profile.stacks[at].values[bytes]));
    let own: Vec<Option<usize>> = order.iter().map(|&at| stacks[at]).collect();
    let weight: Vec<i64> = order.iter().map(|&at| profile.stacks[at].values[bytes]).collect();
    json!({
        "isMainThread": number == 0,
        "markers": {
            "category": [], "data": [], "endTime": [], "length": 0, "name": [], "phase": [], "startTime": [],
        },
        "name": what.name(),
        "nativeAllocations": {
            "length": order.len(),
            "stack": own,
            "time": vec![0.0; order.len()],
            "weight": weight,
            "weightType": "bytes",
        },
        "pausedRanges": [],
        "pid": pid(profile),
        "processName": profile.mappings.first().map_or("program", Mapping::name),
        "processShutdownTime": null,
        "processStartupTime": 0.0,
        "processType": "default",
        "registerTime": 0.0,
        "samples": { "length": 0, "stack": [], "timeDeltas": [], "weight": null, "weightType": "samples" },
        "showMarkersInTimeline": false,
        "tid": number.to_string(),
        "unregisterTime": null,
    })
}

/// The process's number, which a remark tells (`process 2983, ...`); zero in other tools' files.
fn pid(profile: &Profile) -> &str {
    let rest = profile.comments.iter().find_map(|remark| remark.strip_prefix("process ")).unwrap_or("0");
    rest.split(',').next().filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())).unwrap_or("0")
}

/// A file of code.
fn library(mapping: &Mapping) -> Value {
    json!({
        "arch": null,
        "breakpadId": breakpad_id(&mapping.build_id),
        "codeId": mapping.build_id,
        "debugName": mapping.name(),
        "debugPath": mapping.path,
        "name": mapping.name(),
        "path": mapping.path,
    })
}

/// The first half of a build id as Breakpad writes it, which takes it for numbers in the order of this machine.
fn breakpad_id(build_id: &str) -> String {
    let padded = format!("{build_id:0<32}");
    let byte = |at: usize| padded.get(at * 2..at * 2 + 2).unwrap_or("00").to_uppercase();
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    order.map(byte).concat() + "0"
}

/// The tables that all threads have in common.
fn shared(mut tables: Tables, profile: &Profile) -> Value {
    // A resource for each file of code, by the same number.
    let names: Vec<usize> =
        profile.mappings.iter().map(|mapping| tables.strings.number(mapping.name().to_owned())).collect();
    let (frames, functions) = (&tables.frames.all, &tables.functions.all);
    let (stacks, sources) = (&tables.stacks.all, &tables.sources.all);
    let count = frames.len();
    json!({
        "frameTable": {
            "address": frames.iter().map(|frame| frame.1.map_or(-1, |at| at as i64)).collect::<Vec<i64>>(),
            "category": vec![0; count],
            "column": vec![Value::Null; count],
            "func": frames.iter().map(|frame| frame.0).collect::<Vec<usize>>(),
            "inlineDepth": frames.iter().map(|frame| frame.2).collect::<Vec<usize>>(),
            "innerWindowID": vec![0; count],
            "length": count,
            "line": frames.iter().map(|frame| (frame.3 != 0).then_some(frame.3)).collect::<Vec<Option<u32>>>(),
            "nativeSymbol": vec![Value::Null; count],
            "subcategory": vec![0; count],
        },
        "funcTable": {
            "columnNumber": vec![Value::Null; functions.len()],
            "isJS": vec![false; functions.len()],
            "length": functions.len(),
            "lineNumber": vec![Value::Null; functions.len()],
            "name": functions.iter().map(|function| function.0).collect::<Vec<usize>>(),
            "relevantForJS": vec![false; functions.len()],
            "resource": functions.iter().map(|function| function.1.map_or(-1, |at| at as i64)).collect::<Vec<i64>>(),
            "source": functions.iter().map(|function| function.2).collect::<Vec<Option<usize>>>(),
        },
        "nativeSymbols": { "address": [], "functionSize": [], "length": 0, "libIndex": [], "name": [] },
        "resourceTable": {
            "host": vec![Value::Null; names.len()],
            "length": names.len(),
            "lib": (0..names.len()).collect::<Vec<usize>>(),
            "name": names,
            "type": vec![1; profile.mappings.len()],
        },
        "sources": {
            "filename": sources,
            "id": vec![Value::Null; sources.len()],
            "length": sources.len(),
            "sourceMapURL": vec![Value::Null; sources.len()],
            "startColumn": vec![1; sources.len()],
            "startLine": vec![1; sources.len()],
        },
        "stackTable": {
            "frame": stacks.iter().map(|stack| stack.0).collect::<Vec<usize>>(),
            "length": stacks.len(),
            "prefix": stacks.iter().map(|stack| stack.1).collect::<Vec<Option<usize>>>(),
        },
        "stringArray": tables.strings.all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use specmalloc_samples::pprof::example;

    #[test]
    fn every_number_leads_to_a_row_and_stacks_to_who_called() {
        let text = json(&example(), What::Live).ok().unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let shared = &document["shared"];
        let len = |table: &str| shared[table]["length"].as_u64().unwrap();
        let all = |table: &str, column: &str| shared[table][column].as_array().unwrap().clone();
        for (table, column, to) in [
            ("stackTable", "frame", len("frameTable")),
            ("frameTable", "func", len("funcTable")),
            ("funcTable", "name", shared["stringArray"].as_array().unwrap().len() as u64),
            ("funcTable", "source", len("sources")),
            ("sources", "filename", shared["stringArray"].as_array().unwrap().len() as u64),
            ("resourceTable", "lib", document["libs"].as_array().unwrap().len() as u64),
        ] {
            let numbers = all(table, column);
            assert_eq!(numbers.len() as u64, len(table));
            assert!(numbers.iter().filter_map(Value::as_u64).all(|number| number < to), "{table} {column}");
        }
        let prefixes = all("stackTable", "prefix");
        let earlier = |(at, prefix): (usize, &Value)| prefix.as_u64().is_none_or(|prefix| prefix < at as u64);
        assert!(prefixes.iter().enumerate().all(earlier), "{prefixes:?}");
        let threads = document["threads"].as_array().unwrap();
        assert_eq!(threads.len(), 3);
        assert_eq!(threads[0]["nativeAllocations"]["weight"], json!([400, 64]));
        assert_eq!(threads[1]["name"], "allocated");
        let allocated = &threads[1]["nativeAllocations"];
        assert_eq!(allocated["weight"], json!([1000, 64, 20]));
        assert_eq!(allocated["time"], json!([0.0, 0.0, 0.0]));
        let stacks = allocated["stack"].as_array().unwrap();
        assert!(stacks.len() == 3 && stacks.iter().all(|at| at.as_u64().unwrap() < len("stackTable")));
        assert_eq!(threads[1]["samples"]["length"], 0);
        assert_eq!(document["meta"]["initialVisibleThreads"], json!([0, 1, 2]));
        assert!(document["meta"]["profilingEndTime"].as_f64().unwrap() > 0.0);
    }

    #[test]
    fn what_is_shown_first_has_something() {
        let mut profile = example();
        let selected = |profile: &Profile| {
            let text = json(profile, What::Live).ok().unwrap();
            serde_json::from_str::<Value>(&text).unwrap()["meta"]["initialSelectedThreads"].clone()
        };
        assert_eq!(selected(&profile), json!([0]));
        let live = What::Live.columns(&profile).ok().unwrap()[1];
        profile.stacks.iter_mut().for_each(|stack| stack.values[live] = 0);
        assert_eq!(selected(&profile), json!([1]));
    }

    #[test]
    fn ids_are_as_breakpad_has_them() {
        let id = breakpad_id("f0fc29165cbe6088c0e1adf03b0048fbecbc003a");
        assert_eq!(id, "1629FCF0BE5C8860C0E1ADF03B0048FB0");
        assert_eq!(breakpad_id(""), "0".repeat(33));
    }
}
