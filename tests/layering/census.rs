//! A census of what is not modelled: every function that touches an atomic or makes a system call runs in a model
//! beside another thread, or stands in the table of those that do not, with the reason.
//!
//! Which model runs it is not claimed but noted: model builds write down from where atomics are used (`sync::census`),
//! `ci/models.sh` collects that, and `write_the_census` turns it into `census.txt`. Functions are known by layer, type
//! and name, so the file that they lie in does not matter.

use super::source::{Token, behind_group};
use super::{File, crate_files, files};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

const LAYERS: [&str; 5] = ["rcu", "region", "index", "heap", "global"];

/// Methods of atomics, if one of the words below is among their arguments.
const METHODS: [&str; 15] = [
    "exchange",
    "replace",
    "load",
    "store",
    "swap",
    "compare_exchange",
    "compare_exchange_weak",
    "fetch_add",
    "fetch_sub",
    "fetch_and",
    "fetch_or",
    "fetch_min",
    "fetch_max",
    "fetch_update",
    "fetch_xor",
];
const ORDERINGS: [&str; 7] = ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst", "acquire", "release"];
const FENCES: [&str; 5] = ["fence", "acquire_fence", "release_fence", "full_fence", "light_barrier"];
/// How a system call is made: see `pal`.
const SYSTEM_CALL: &str = "system_call";

/// The calls of a platform that change anything, or wait.
const CALLS: [&str; 12] = [
    "map",
    "unmap",
    "unmap_used",
    "protect",
    "purge",
    "resize",
    "move_pages",
    "name",
    "register_barrier",
    "heavy_barrier",
    "wait",
    "wake",
];

const MISSING: &str =
    "not in census.txt: `ci/models.sh` enters what models run; a reason is entered by hand: ";

/// A function: its layer, its type if it has one, and its name; and the lines on which it stands.
struct Function {
    name: String,
    lines: Range<usize>,
    touches: bool,
}

/// The type that the block of an `impl` at `index` is for, and the index of its brace.
fn type_of_impl(tokens: &[Token], index: usize) -> Option<(String, usize)> {
    let brace = (index..tokens.len()).find(|&at| tokens[at].is_mark('{') || tokens[at].is_mark(';'))?;
    let (mut depth, mut name) = (0, None);
    for (at, token) in tokens[index + 1..brace].iter().enumerate() {
        let is_arrow = token.is_mark('>') && tokens[index + at].is_mark('-');
        match token.word() {
            Some("where") if depth == 0 => break,
            Some("for") if depth == 0 => name = None,
            Some(word) if depth == 0 => name = Some(word.to_owned()),
            _ if token.is_mark('<') => depth += 1,
            _ if token.is_mark('>') && !is_arrow => depth -= 1,
            _ => {}
        }
    }
    Some((name?, brace))
}

fn touches(body: &[Token]) -> bool {
    (1..body.len()).any(|at| {
        let opens = body.get(at + 1).is_some_and(|next| next.is_mark('('));
        let Some(word) = body[at].word().filter(|_| opens) else { return false };
        if FENCES.contains(&word) || word == SYSTEM_CALL {
            return true;
        }
        if !body[at - 1].is_mark('.') {
            // A call of the C library's.
            return at >= 3 && body[at - 1].is_mark(':') && body[at - 3].is_word("libc") && word != "c_int";
        }
        let arguments = &body[at + 1..behind_group(body, at + 1)];
        let is_atomic = METHODS.contains(&word)
            && arguments.iter().any(|token| token.word().is_some_and(|word| ORDERINGS.contains(&word)));
        let by_os = at >= 2
            && (body[at - 2].is_word("os")
                || at >= 4 && body[at - 2].is_mark(')') && body[at - 4].is_word("os"));
        is_atomic || by_os && CALLS.contains(&word)
    })
}

/// The functions of a file that a normal build compiles.
fn functions(file: &File) -> Vec<Function> {
    let (tokens, layer) = (&file.product.tokens, &file.modules[0]);
    let mut functions = Vec::new();
    // Blocks of implementations: where they end, and for what type.
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        blocks.retain(|(end, _)| index < *end);
        let starts_item = index == 0
            || [';', '}', '{', ']'].iter().any(|&mark| tokens[index - 1].is_mark(mark))
            || tokens[index - 1].is_word("unsafe");
        if (tokens[index].is_word("impl") || tokens[index].is_word("trait"))
            && starts_item | tokens[index].is_word("trait")
            && let Some((name, brace)) = type_of_impl(tokens, index)
        {
            let name = if tokens[index].is_word("trait") {
                tokens[index + 1].word().unwrap_or_default().to_owned()
            } else {
                name
            };
            blocks.push((behind_group(tokens, brace), name));
            index = brace + 1;
            continue;
        }
        if tokens[index].is_word("fn")
            && let Some(name) = tokens.get(index + 1).and_then(Token::word)
        {
            let mut at = index + 2;
            while at < tokens.len() && !tokens[at].is_mark('{') && !tokens[at].is_mark(';') {
                let skips = tokens[at].is_mark('(') || tokens[at].is_mark('[');
                at = if skips { behind_group(tokens, at) } else { at + 1 };
            }
            if at < tokens.len() && tokens[at].is_mark('{') {
                let end = behind_group(tokens, at);
                let of = blocks.last().map_or(String::new(), |(_, name)| format!("{name}::"));
                functions.push(Function {
                    name: format!("{layer} {of}{name}"),
                    lines: tokens[index].line..tokens[end - 1].line + 1,
                    touches: touches(&tokens[at..end]),
                });
            }
        }
        index += 1;
    }
    functions
}

fn census_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layering/census.txt")
}

/// The entries of the table: a function's name, and behind two spaces the models that run it, or `-- ` and a reason.
fn entries(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once("  ").unwrap_or_else(|| panic!("no models and no reason: {line}")))
        .collect()
}

fn modelled_files() -> Vec<File> {
    let mut files = crate_files();
    files.retain(|file| LAYERS.contains(&file.modules[0].as_str()));
    files
}

/// The names of the functions that have to be in the table.
fn touching(files: &[File]) -> BTreeSet<String> {
    files
        .iter()
        .flat_map(functions)
        .filter(|function| function.touches)
        .map(|function| function.name)
        .collect()
}

#[test]
fn every_function_has_a_model_or_a_reason() {
    let text = std::fs::read_to_string(census_path()).expect("the census");
    let (entries, touching) = (entries(&text), touching(&modelled_files()));
    assert!(touching.len() > 200, "the functions are not found");
    let missing: Vec<_> = touching.iter().filter(|name| !entries.contains_key(name.as_str())).collect();
    assert!(missing.is_empty(), "{MISSING}{missing:#?}");
    let dead: Vec<_> = entries.keys().filter(|name| !touching.contains(**name)).collect();
    assert!(dead.is_empty(), "in census.txt, and gone: {dead:#?}");
}

/// Writes `census.txt` anew from what `SPECMALLOC_MODEL_CENSUS` names: what models have noted. Reasons stay; fails if a
/// function has neither.
#[test]
#[ignore = "for ci/models.sh, after all models"]
fn write_the_census() {
    let noted = std::env::var("SPECMALLOC_MODEL_CENSUS").expect("what the models have noted");
    let noted = std::fs::read_to_string(noted).expect("what the models have noted");
    let files = modelled_files();
    let mut places: BTreeMap<&str, Vec<Function>> = BTreeMap::new();
    for file in &files {
        places.insert(&file.path, functions(file));
    }
    let mut models: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for line in noted.lines() {
        let mut words = line.split(' ');
        let (Some(path), Some(at), Some(model)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let at: usize = at.parse().expect("a line");
        let path = path.trim_start_matches("src/");
        let inner = places.get(path).into_iter().flatten().filter(|function| function.lines.contains(&at));
        if let Some(function) = inner.min_by_key(|function| function.lines.len()) {
            models.entry(function.name.clone()).or_default().insert(model);
        }
    }
    let old = std::fs::read_to_string(census_path()).unwrap_or_default();
    let reasons = entries(&old);
    let mut text = old
        .lines()
        .take_while(|line| line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    let mut missing = Vec::new();
    for name in touching(&files) {
        // What the table says is kept while it is true.
        let old = reasons.get(name.as_str()).copied().unwrap_or_default();
        let found = models.get(&name).map(|models| {
            let is_true = !old.is_empty() && old.split(", ").all(|model| models.contains(model));
            let first = || models.iter().take(2).copied().collect::<Vec<_>>().join(", ");
            if is_true { old.to_owned() } else { first() }
        });
        let reason = old.starts_with("-- ").then(|| old.to_owned());
        // A reason stays though a model comes by at times: what models draw at random is not the same each time.
        match reason.or(found) {
            Some(entry) => text += &format!("{name}  {entry}\n"),
            None => missing.push(name),
        }
    }
    std::fs::write(census_path(), text).expect("the census");
    assert!(missing.is_empty(), "{MISSING}{missing:#?}");
}

#[test]
fn functions_are_found_by_type_and_name() {
    let found = |text: &str| {
        let files = files(vec![("heap/a.rs".to_owned(), text.to_owned())]);
        let functions = functions(&files[0]).into_iter().filter(|function| function.touches);
        functions.map(|function| function.name).collect::<Vec<_>>()
    };
    assert_eq!(found("fn f() { A.load(Ordering::Relaxed); } fn g(v: Vec<u8>) { v.swap(1, 2) }"), ["heap f"]);
    assert_eq!(
        found("impl<P: Platform> Drop for A<'_, P> where P: B { fn f(&self) -> u8 { full_fence(\"x\") } }"),
        ["heap A::f"]
    );
    assert_eq!(
        found("impl A { fn f(&self) {} } fn f() { self.os().unmap(1, 2); } fn g() { os.page_size() }"),
        ["heap f"]
    );
    assert_eq!(found("trait T { fn f(&self); fn g() { libc::pause() } }"), ["heap T::g"]);
    assert_eq!(found("impl Fn(u8) -> B for A { fn f() { a.b.swap(1, acquire(\"x\")) } }"), ["heap A::f"]);
}
