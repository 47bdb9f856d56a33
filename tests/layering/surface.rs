//! What is public: `surface.txt` lists it, and is to be changed together with it.
//!
//! Read from the sources: the names that the root of the crate exports, of `api` but for one file, and the fields,
//! functions and traits of each. What stands in `internals` promises nothing and is not listed.

use super::source::{self, Kind, Token};
use super::{crate_files, crate_sources};
use std::collections::BTreeSet;

/// Tokens as one line, the spaces near enough where they are usual.
fn text(tokens: &[Token]) -> String {
    let mut text = String::new();
    for token in tokens {
        let next = match &token.kind {
            Kind::Word(word) => word.clone(),
            Kind::Mark(mark) => mark.to_string(),
            Kind::Literal(literal) => literal.clone(),
            Kind::Lifetime => "'_".to_owned(),
        };
        let is_word = !matches!(token.kind, Kind::Mark(_));
        let before = text.chars().next_back().unwrap_or(' ');
        let parted = ",:;".contains(before) || ")>".contains(before) && (is_word || next == "-");
        if parted || is_word && before.is_alphanumeric() {
            text.push(' ');
        }
        text += &next;
    }
    text
}

/// Whether the item at `index` is public: not to the crate alone.
fn is_public(tokens: &[Token], index: usize) -> bool {
    tokens[index].is_word("pub") && !tokens[index + 1].is_mark('(')
}

/// What the root of the crate or of a module exports, by name.
fn roots(file: &str) -> BTreeSet<String> {
    let (_, text) = crate_sources().into_iter().find(|(path, _)| path == file).expect(file);
    let tokens = source::product(&text).expect("it is compiled").tokens;
    let mut names = BTreeSet::new();
    let (mut index, mut depth) = (0, 0);
    while index < tokens.len() {
        match tokens[index].kind {
            Kind::Mark('{') => depth += 1,
            Kind::Mark('}') => depth -= 1,
            _ => {}
        }
        if depth == 0 && is_public(&tokens, index) && !tokens[index + 1].is_word("fn") {
            let end = (index..tokens.len())
                .find(|&at| {
                    tokens[at].is_mark(';') || tokens[index + 1].is_word("mod") && tokens[at].is_mark('{')
                })
                .expect("the item ends");
            let item = &tokens[index..end];
            // The last name of each path of a `use`; the name of anything else.
            let is_last =
                |at: usize| item.get(at + 1).is_none_or(|next| ",}".chars().any(|c| next.is_mark(c)));
            names.extend(
                (0..item.len()).filter(|&at| is_last(at)).filter_map(|at| item[at].word().map(str::to_owned)),
            );
            names.extend(item.iter().any(|token| token.is_mark('*')).then(|| "*".to_owned()));
            index = end;
        } else {
            index += 1;
        }
    }
    names
}

/// The public parts of what stands in braces from `open`: fields of a struct, functions of an `impl`.
fn parts(tokens: &[Token], open: usize) -> Vec<String> {
    let end = source::behind_group(tokens, open) - 1;
    let mut parts = Vec::new();
    let mut index = open + 1;
    while index < end {
        if is_public(tokens, index) {
            let is_end = |at: usize| [',', '{', ';'].iter().any(|&mark| tokens[at].is_mark(mark));
            let mut stop = index;
            while stop < end && !is_end(stop) {
                let opens = ['(', '['].iter().any(|&mark| tokens[stop].is_mark(mark));
                stop = if opens { source::behind_group(tokens, stop) } else { stop + 1 };
            }
            parts.push(text(&tokens[index + 1..stop]));
            index = stop;
        } else {
            let opens = ['(', '[', '{'].iter().any(|&mark| tokens[index].is_mark(mark));
            index = if opens { source::behind_group(tokens, index) } else { index + 1 };
        }
    }
    parts
}

/// What `api` exports of a layer below.
const BELOW: [&str; 4] = ["heap/ground/bets.rs", "global/pressure.rs", "heap/allocator.rs", "heap/walk.rs"];

/// What these layers export that is no type of ours.
const NO_TYPES: [&str; 4] = ["Advice", "PagerError", "Result", "memfd"];

/// Everything about the type `name` of a layer that its users see.
fn lines_of(layer: &str, name: &str, lines: &mut Vec<String>) {
    for file in
        crate_files().iter().filter(|file| file.modules[0] == layer || BELOW.contains(&file.path.as_str()))
    {
        let tokens = &file.product.tokens;
        for (index, token) in tokens.iter().enumerate() {
            let is_type = ["struct", "enum", "trait"].iter().any(|keyword| token.is_word(keyword));
            let declares = is_type && is_public(tokens, index - 1) && tokens[index + 1].is_word(name);
            if !declares && !token.is_word("impl") {
                continue;
            }
            let Some(open) = (index..tokens.len()).find(|&at| tokens[at].is_mark('{')) else { continue };
            let head = &tokens[index + 1..open];
            let is_inherent = head.len() == 1 && head[0].is_word(name);
            let of_trait = head.iter().position(|token| token.is_word("for"));
            if declares {
                lines.push(format!("{} {name}", text(&tokens[index..=index])));
                lines.extend(parts(tokens, open).into_iter().map(|field| format!("{name}.{field}")));
            } else if is_inherent {
                lines.extend(parts(tokens, open).into_iter().map(|part| format!("{name}: {part}")));
            } else if of_trait.is_some_and(|at| head[at + 1..].first().is_some_and(|of| of.is_word(name))) {
                lines.push(format!("impl {}", text(head)));
            }
        }
    }
}

/// The public functions of a module, as they are declared.
fn functions(file: &str) -> Vec<String> {
    let (_, text_of_file) = crate_sources().into_iter().find(|(path, _)| path == file).expect(file);
    let tokens = source::product(&text_of_file).expect("it is compiled").tokens;
    let declares = |&at: &usize| is_public(&tokens, at) && tokens[at + 1].is_word("fn");
    let end = |from: usize| (from..tokens.len()).find(|&at| tokens[at].is_mark('{')).expect("a body");
    (0..tokens.len() - 1).filter(declares).map(|at| text(&tokens[at + 1..end(at)])).collect()
}

#[test]
fn the_c_header_has_the_figures_in_their_order() {
    let header = include_str!("../../preload/include/specmalloc.h");
    let figures =
        header.split("struct specmalloc_statistics {").nth(1).and_then(|rest| rest.split("};").next());
    let fields = figures
        .expect("the record")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("uint64_t ")?.split(';').next());
    assert_eq!(fields.collect::<Vec<_>>(), specmalloc::internals::api::statistics::FIGURES);
}

#[test]
fn what_is_public_is_listed() {
    let mut lines = Vec::new();
    for name in roots("lib.rs") {
        if ["internals", "files", "heaps", "paging", "profile"].contains(&name.as_str()) {
            lines.push(format!("mod {name}"));
        } else {
            let before = lines.len();
            lines_of("api", &name, &mut lines);
            assert!(lines.len() > before, "{name} is exported and not found");
        }
    }
    // Functions, and types of another crate.
    let of_profile = roots("api/profile.rs").into_iter().chain(functions("api/profile.rs"));
    lines.extend(of_profile.map(|name| format!("profile: {name}")));
    for layer in ["files", "heaps", "paging"] {
        for name in roots(&format!("{layer}/mod.rs")) {
            let mut of_layer = Vec::new();
            lines_of(layer, &name, &mut of_layer);
            let is_no_type = NO_TYPES.contains(&name.as_str());
            assert_eq!(of_layer.is_empty(), is_no_type, "{name} is exported and not found");
            lines.extend(of_layer.into_iter().map(|line| format!("{layer}: {line}")));
            lines.extend(is_no_type.then(|| format!("{layer}: {name}")));
        }
    }
    let listed: BTreeSet<&str> = include_str!("surface.txt").lines().collect();
    let found: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    let more: Vec<_> = found.difference(&listed).collect();
    let less: Vec<_> = listed.difference(&found).collect();
    assert!(more.is_empty() && less.is_empty(), "not listed: {more:#?}\nnot there: {less:#?}");
}
