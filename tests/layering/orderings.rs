//! Every ordering stronger than Relaxed has a seeded bug that takes it away, and a model that must notice; or it stands
//! in the table of those that no model covers, with the reason.

use super::source::{self, Kind, Token};
use super::{File, crate_files, crate_sources, files};
use std::collections::{BTreeMap, BTreeSet};

/// The layers whose orderings are written `acquire("layer.place")` and so on.
const MODELLED: [&str; 4] = ["rcu", "region", "index", "heap"];
/// A file above them that is modelled, too.
const MODELLED_FILE: &str = "api/publication.rs";

/// The functions of `sync` that stand for an ordering or a fence.
const NAMED: [&str; 5] = ["acquire", "release", "acquire_fence", "release_fence", "full_fence"];

/// Where orderings are spelled all the same: how many, and why no model covers them.
const UNMODELLED: [(&str, usize, &str); 11] = [
    ("sync/mod.rs", 2, "what the fences of this layer are made of"),
    ("sync/seeded.rs", 5, "what the named orderings are made of"),
    (
        "global/start.rs",
        4,
        "a thread that finds the allocator started, or prepared at load, sees what was written until then: a store and a load \
         each, as a lock's; \
         the statics of a process cannot be made anew for each execution of a checker",
    ),
    (
        "global/helper.rs",
        1,
        "who waits for the helper's end and sees that it has ended reads its number, which it wrote when it began; all else \
         is in `heap::helper_state`",
    ),
    (
        "global/exit.rs",
        3,
        "the key is a number that the C library knows before anybody is told of it: one exchange, and one load",
    ),
    (
        "global/fork.rs",
        2,
        "who sees the witness's page sees the word in it: one store, when the allocator starts, and one load",
    ),
    (
        "files/faults.rs",
        2,
        "a fault is noted before the page of zeros comes: what carries the note to who reads the zeros is the mapping, which no \
         model has",
    ),
    (
        "heaps/memory.rs",
        4,
        "a region is in the list, or the one that served last, when it is complete: two stores, each with its load, as the \
         arenas' table has them; what lies in it is under `SliceMap` and `BlockMap`, which are modelled",
    ),
    (
        "heaps/large.rs",
        2,
        "a huge block's region that was left is taken by one thread: an exchange, and the store that left it",
    ),
    (
        "api/figures.rs",
        2,
        "the shared file's record is written once, before OPEN, by the thread that won OPENING: one store, one load",
    ),
    (
        "api/shared_record.rs",
        6,
        "between processes, in a file whose layout a checker's atomics do not have; pairs of one store and one load. What \
         changes in it often is a `Publication`, which is modelled",
    ),
];

const ORDERINGS: [&str; 4] = ["Acquire", "Release", "AcqRel", "SeqCst"];

fn is_modelled(file: &File) -> bool {
    MODELLED.contains(&file.modules[0].as_str()) || file.path == MODELLED_FILE
}

/// The index behind the next of `ends` at or after `from`.
fn behind(tokens: &[Token], from: usize, end: char) -> usize {
    (from..tokens.len()).find(|&index| tokens[index].is_mark(end)).map_or(tokens.len(), |index| index + 1)
}

fn literal(token: &Token) -> Option<&str> {
    match &token.kind {
        Kind::Literal(text) => Some(text.trim_matches('"')),
        _ => None,
    }
}

/// Where `if seeded("...") {` stands at `index`: the index behind the block, which is part of a bug.
fn behind_bug(tokens: &[Token], index: usize) -> Option<usize> {
    let [condition, seeded, open, name, close, brace] = tokens.get(index..index + 6)? else { return None };
    let is_bug = condition.is_word("if")
        && seeded.is_word("seeded")
        && open.is_mark('(')
        && literal(name).is_some()
        && close.is_mark(')')
        && brace.is_mark('{');
    is_bug.then(|| source::behind_group(tokens, index + 5))
}

/// The lines on which an ordering is spelled, outside imports and seeded bugs.
fn spelled(tokens: &[Token]) -> Vec<usize> {
    let mut lines = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        if tokens[index].is_word("use") {
            index = behind(tokens, index, ';');
        } else if let Some(end) = behind_bug(tokens, index) {
            index = end;
        } else {
            if tokens[index].word().is_some_and(|word| ORDERINGS.contains(&word)) {
                lines.push(tokens[index].line);
            }
            index += 1;
        }
    }
    lines
}

#[test]
fn every_ordering_has_a_name_or_a_reason() {
    let mut report = String::new();
    let mut explained: BTreeMap<&str, usize> = UNMODELLED.map(|(path, count, _)| (path, count)).into();
    for file in crate_files() {
        let lines = spelled(&file.product.tokens);
        let allowed = if is_modelled(&file) { 0 } else { explained.remove(file.path.as_str()).unwrap_or(0) };
        if lines.len() != allowed {
            report += &format!("src/{}: {allowed} orderings may be spelled, found on {lines:?}\n", file.path);
        }
    }
    assert!(report.is_empty() && explained.is_empty(), "\n{report}{explained:?}");
}

/// Names of bugs that `tokens` mention: those that are listed with their model, and all others, the named orderings
/// apart.
#[derive(Default)]
struct Names {
    listed: BTreeSet<String>,
    orderings: Vec<String>,
    steps: BTreeSet<String>,
}

impl Names {
    fn collect(&mut self, tokens: &[Token]) {
        let layers = [&MODELLED[..], &["pal", "api", "paging"]].concat();
        for (index, token) in tokens.iter().enumerate() {
            let Some(name) = literal(token) else { continue };
            let Some((layer, place)) = name.split_once('.') else { continue };
            let is_name = layers.contains(&layer)
                && !place.is_empty()
                && place.chars().all(|c| c.is_ascii_lowercase() || "._".contains(c));
            if !is_name {
                continue;
            }
            let function = (index >= 2 && tokens[index - 1].is_mark('(')).then(|| tokens[index - 2].word());
            match function.flatten() {
                Some("new") => drop(self.listed.insert(name.to_owned())),
                Some(function) if NAMED.contains(&function) => self.orderings.push(name.to_owned()),
                _ => drop(self.steps.insert(name.to_owned())),
            }
        }
    }

    /// What is wrong with them.
    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let orderings: BTreeSet<String> = self.orderings.iter().cloned().collect();
        for name in &orderings {
            if self.orderings.iter().filter(|other| *other == name).count() > 1 {
                complaints.push(format!("{name} stands for several orderings"));
            }
        }
        let planted: BTreeSet<String> = orderings.union(&self.steps).cloned().collect();
        complaints.extend(planted.difference(&self.listed).map(|name| format!("{name} has no model")));
        complaints.extend(self.listed.difference(&planted).map(|name| format!("{name} is planted nowhere")));
        complaints
    }
}

#[test]
fn every_seeded_bug_has_a_place_and_a_model() {
    let mut names = Names::default();
    for (_, text) in crate_sources() {
        names.collect(&source::tokens(&text));
    }
    assert!(names.orderings.len() > 40 && names.steps.len() > 40, "the names are not found");
    assert_eq!(names.complaints(), [] as [String; 0]);
}

#[test]
fn a_spelled_ordering_is_found() {
    let lines = |text: &str| {
        let files = files(vec![("heap/mod.rs".to_owned(), text.to_owned())]);
        spelled(&files[0].product.tokens)
    };
    assert_eq!(lines("fn f() {\n a.load(Ordering::Acquire);\n b.store(1, Release) }"), [2, 3]);
    assert_eq!(lines("use x::{Acquire, Relaxed};\nfn f() { fence(SeqCst) }"), [2]);
    assert_eq!(lines("fn f() { if seeded(\"heap.x\") { a.load(Acquire); } b.swap(1, AcqRel) }"), [1]);
    assert_eq!(lines("fn f() { if !seeded(\"heap.x\") { a.load(Acquire); } }"), [1]);
    assert_eq!(lines("fn f() { a.load(acquire(\"heap.x\")); b.load(Relaxed) } // Acquire"), [] as [usize; 0]);
}

#[test]
fn a_name_without_a_model_or_a_place_is_found() {
    let complaints = |text: &str| {
        let mut names = Names::default();
        names.collect(&source::tokens(text));
        names.complaints()
    };
    let listed = "SeededBug::new(\"heap.a\", \"x\", \"m\");";
    assert_eq!(complaints(&format!("{listed} acquire(\"heap.a\")")), [] as [&str; 0]);
    assert_eq!(complaints(&format!("{listed} [\"heap.a\"].any(seeded)")), [] as [&str; 0]);
    assert_eq!(complaints(listed), ["heap.a is planted nowhere"]);
    assert_eq!(complaints("if seeded(\"heap.b\") {}"), ["heap.b has no model"]);
    assert_eq!(complaints("full_fence(\"heap.b\")"), ["heap.b has no model"]);
    let twice = format!("{listed} acquire(\"heap.a\"); release(\"heap.a\")");
    assert_eq!(complaints(&twice), ["heap.a stands for several orderings"]);
}
