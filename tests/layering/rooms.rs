//! The rooms of a layer: its files and folders stand in an order, too, and none imports one behind it.
//!
//! A room imports another by its name, not through the umbrella, the layer's `mod.rs`, which only gathers them.

use super::source::Token;
use super::{File, behind_colons, files, sources};

/// A crate or a layer of one whose rooms have an order.
struct House {
    /// Where the crate's sources are.
    crate_at: &'static str,
    /// The modules from the root of the crate to the layer; none for the crate itself.
    layer: &'static [&'static str],
    /// Lowest first.
    rooms: &'static [&'static str],
}

const HOUSES: [House; 8] = [
    House {
        crate_at: "src",
        layer: &["heap"],
        rooms: &[
            "mend",
            "possession",
            "gate",
            "block",
            "ground",
            "seat",
            "record",
            "large",
            "backend",
            "small",
            "place",
            "census",
            "lives",
            "allocator",
            "walk",
        ],
    },
    House {
        crate_at: "src",
        layer: &["global"],
        rooms: &[
            "exit", "process", "lookout", "presence", "options", "thread", "pressure", "fork", "start",
            "readers", "heaps", "helper",
        ],
    },
    House {
        crate_at: "src",
        layer: &["files"],
        rooms: &[
            "error", "source", "options", "faults", "mapping", "section", "guard", "region", "open",
            "access", "system",
        ],
    },
    House {
        crate_at: "src",
        layer: &["heaps"],
        rooms: &["backing", "record", "memory", "small", "large", "heap", "options", "allocator"],
    },
    House {
        crate_at: "samples/src",
        layer: &[],
        rooms: &[
            "system", "cfi", "unwind", "lives", "image", "file", "watch", "own", "pool", "report", "guard",
            "pprof",
        ],
    },
    House {
        crate_at: "samples/src",
        layer: &["pprof"],
        rooms: &["messages", "data", "entries", "objects", "collect", "separate", "symbols"],
    },
    House {
        crate_at: "src",
        layer: &["paging"],
        rooms: &["error", "waiting", "userfault", "service", "mapping", "pages", "held", "region"],
    },
    House {
        crate_at: "preload/src",
        layer: &[],
        rooms: &[
            "errno",
            "line",
            "next",
            "glibc",
            "guarded",
            "samples",
            "thread",
            "raw",
            "family",
            "operators",
            "control",
            "tuning",
            "loader",
            "launch",
            "process",
            "locking",
        ],
    },
];

/// All paths that a tree of names at `index` stands for, each behind `path`.
fn expand(tokens: &[Token], mut index: usize, mut path: Vec<String>, paths: &mut Vec<Vec<String>>) {
    loop {
        let Some(token) = tokens.get(index) else { return paths.push(path) };
        if token.is_mark('{') {
            let end = super::source::behind_group(tokens, index);
            index += 1;
            while index + 1 < end {
                expand(&tokens[..end - 1], index, path.clone(), paths);
                while index + 1 < end && !tokens[index].is_mark(',') {
                    let opens = tokens[index].is_mark('{');
                    index = if opens { super::source::behind_group(tokens, index) } else { index + 1 };
                }
                index += 1;
            }
            return;
        }
        match token.word() {
            // Of a group: what it stands in.
            Some("self") => return paths.push(path),
            Some(word) => path.push(word.to_owned()),
            None => {
                path.push("*".to_owned());
                return paths.push(path);
            }
        }
        match behind_colons(tokens, index + 1) {
            Some(next) => index = next,
            None => return paths.push(path),
        }
    }
}

/// Every path that the file names from the root of the crate or from a module that it lies in, from the root, with its
/// line.
fn paths(file: &File) -> Vec<(Vec<String>, usize)> {
    let tokens = &file.product.tokens;
    let mut found = Vec::new();
    let mut depth = 0;
    let mut inline: Vec<(usize, String)> = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let token = &tokens[index];
        if token.is_mark('{') {
            depth += 1;
            if index >= 2 && tokens[index - 2].is_word("mod") {
                inline.push((depth, tokens[index - 1].word().unwrap_or("").to_owned()));
            }
        } else if token.is_mark('}') {
            if inline.last().is_some_and(|(opened, _)| *opened == depth) {
                inline.pop();
            }
            depth -= 1;
        }
        let here: Vec<String> =
            file.modules.iter().chain(inline.iter().map(|(_, name)| name)).cloned().collect();
        // `pub(in crate::heap)` names who may look, not what is looked at.
        let restricts = index > 0 && tokens[index - 1].is_word("in");
        let mut base = if token.is_word("crate") && !restricts {
            Vec::new()
        } else if token.is_word("super") {
            here[..here.len() - 1].to_vec()
        } else {
            index += 1;
            continue;
        };
        index += 1;
        while let Some(after) = behind_colons(tokens, index) {
            if !tokens.get(after).is_some_and(|token| token.is_word("super")) {
                let mut expanded = Vec::new();
                expand(tokens, after, base, &mut expanded);
                found.extend(expanded.into_iter().map(|path| (path, token.line)));
                break;
            }
            base.pop();
            index = after + 1;
        }
    }
    found
}

/// What `file` imports and may not: it lies below `layer`, whose rooms are `rooms`.
fn breaches(file: &File, layer: &[&str], rooms: &[&str]) -> Vec<(usize, String)> {
    let place = |name: &str| rooms.iter().position(|room| *room == name);
    let Some(room) = file.modules.get(layer.len()) else { return Vec::new() };
    let Some(own) = place(room) else { return vec![(1, format!("{room} is no room of {layer:?}"))] };
    paths(file)
        .into_iter()
        .filter(|(path, _)| lies_below(path, layer))
        .filter(|(path, _)| {
            path.get(layer.len()).and_then(|name| place(name)).is_none_or(|imported| imported > own)
        })
        .map(|(path, line)| (line, path.join("::")))
        .collect()
}

fn lies_below(path: &[String], layer: &[&str]) -> bool {
    path.len() >= layer.len() && path.iter().zip(layer).all(|(name, of_layer)| name == of_layer)
}

/// The files of the house's layer.
fn files_of(house: &House) -> Vec<File> {
    let mut files = files(sources(house.crate_at));
    files.retain(|file| lies_below(&file.modules, house.layer));
    files
}

#[test]
fn the_rooms_of_a_layer_keep_to_their_order() {
    let mut report = String::new();
    for house in HOUSES {
        for file in files_of(&house) {
            for (line, breach) in breaches(&file, house.layer, house.rooms) {
                report += &format!("{}/{}:{line}: {breach}\n", house.crate_at, file.path);
            }
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn every_room_that_is_listed_is_there() {
    for house in HOUSES {
        let files = files_of(&house);
        for room in house.rooms {
            let is_there = |file: &File| file.modules.get(house.layer.len()).is_some_and(|name| name == room);
            assert!(files.iter().any(is_there), "{room} of {}: {:?}", house.crate_at, house.layer);
        }
    }
}

#[test]
fn an_import_of_a_room_above_is_found_however_it_is_written() {
    let found = |path: &str, text: &str| -> Vec<String> {
        let files = files(vec![(path.to_owned(), text.to_owned())]);
        breaches(&files[0], &["heap"], &["low", "middle", "high"])
            .into_iter()
            .map(|(_, breach)| breach)
            .collect()
    };
    for text in [
        "use super::high::X;",
        "use super::{low::Y, high::X};",
        "use super::{high::{X}, low};",
        "use crate::{base, heap::{low, high::X}};",
        "fn f() { crate::heap::high::X::new() }",
        "mod inner { use super::super::high::X; }",
    ] {
        assert_eq!(found("heap/middle.rs", text).len(), 1, "{text}");
    }
    assert_eq!(found("heap/middle/deep.rs", "use super::super::high::X;"), ["heap::high::X"]);
    assert_eq!(found("heap/middle.rs", "use super::X;"), ["heap::X"], "through the umbrella");
    assert_eq!(found("heap/middle.rs", "use super::*;"), ["heap::*"]);
    assert_eq!(found("heap/other.rs", ""), ["other is no room of [\"heap\"]"]);
    for text in [
        "use super::low::X; use super::{low::{self, Y}, middle::Z}; use crate::heap::low;",
        "use crate::base::high; mod high { use super::X; } pub(in crate::heap) fn f() {}",
        "#[cfg(test)] mod tests { use super::super::high::X; }",
    ] {
        assert_eq!(found("heap/middle.rs", text), [] as [&str; 0], "{text}");
    }
    assert_eq!(found("heap/mod.rs", "pub use high::X; use crate::heap::high::Y;"), [] as [&str; 0]);
}
