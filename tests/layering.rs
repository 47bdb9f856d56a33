//! The layers of DESIGN.md, enforced: reads the sources and fails on an import of an upper layer, on a static below
//! `global`, and on what allocates below `api`. `rooms` holds the order of the rooms of a layer, `orderings` demands a
//! seeded bug of every ordering, and `surface` lists what is public.
//!
//! What only tests and models compile is not looked at, nor is the simulated system, which nothing may use but they.

#[path = "layering/census.rs"]
mod census;
#[path = "layering/orderings.rs"]
mod orderings;
#[path = "layering/rooms.rs"]
mod rooms;
#[path = "layering/source.rs"]
mod source;
#[path = "layering/surface.rs"]
mod surface;

use source::{Kind, Product, Token};
use std::collections::BTreeSet;
use std::path::Path;

/// The layers, lowest first. A layer may import those before it.
const LAYERS: [&str; 12] =
    ["base", "sync", "pal", "rcu", "region", "index", "heap", "global", "api", "files", "heaps", "paging"];

/// Macros that live at the root of the crate because exported macros do, and the layer that defines them.
const ROOT_MACROS: [(&str, &str); 2] = [("const_unless_model", "sync"), ("atomic_array", "sync")];

/// Statics below `global` that are allowed, for they never change.
const CONSTANT_TABLES: [(&str, &str); 6] = [
    ("base/size_class.rs", "INFO"),
    ("heap/small/bin.rs", "BY_SIZE"),
    ("heap/small/bin.rs", "BY_GRANULES"),
    ("heap/small/bin.rs", "BY_LINES"),
    ("heap/small/own.rs", "NO_SLAB"),
    ("heap/small/own.rs", "NOTHING"),
];

/// Types of std that allocate, or whose blocking does.
const ALLOCATING_TYPES: [&str; 12] = [
    "Vec", "VecDeque", "Box", "String", "Rc", "Arc", "HashMap", "HashSet", "BTreeMap", "Mutex", "RwLock",
    "Condvar",
];

/// Macros that allocate or take a lock of std.
const ALLOCATING_MACROS: [&str; 6] = ["format", "vec", "print", "println", "eprint", "eprintln"];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Breach {
    /// A file of no known layer.
    NoLayer,
    /// An import from a layer above, or from nowhere known.
    Upward(String),
    /// A static below `global` that is not in the list of constant tables.
    Static(String),
    /// Something that allocates, below `api`.
    Allocates(String),
    /// The simulated system, used outside tests.
    Simulated,
}

/// One file below `src`, by its path there.
struct File {
    path: String,
    /// The modules from the root of the crate to this file.
    modules: Vec<String>,
    product: Product,
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| *layer == name)
}

fn modules_of(path: &str) -> Vec<String> {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    path.strip_suffix("/mod").unwrap_or(path).split('/').map(str::to_owned).collect()
}

/// The files that a normal build compiles, but for the root of the crate.
fn files(sources: Vec<(String, String)>) -> Vec<File> {
    let mut absent: Vec<Vec<String>> = Vec::new();
    let mut files = Vec::new();
    for (path, text) in sources {
        let modules = if path == "lib.rs" { Vec::new() } else { modules_of(&path) };
        let Some(product) = source::product(&text) else {
            absent.push(modules);
            continue;
        };
        absent.extend(
            product
                .absent_modules
                .iter()
                .map(|name| [modules.as_slice(), std::slice::from_ref(name)].concat()),
        );
        files.push(File { path, modules, product });
    }
    files.retain(|file| file.path != "lib.rs" && !absent.iter().any(|gone| file.modules.starts_with(gone)));
    files
}

/// The index behind a `::` at `index`, if there is one.
fn behind_colons(tokens: &[Token], index: usize) -> Option<usize> {
    let two = tokens.get(index..index + 2)?;
    two.iter().all(|token| token.is_mark(':')).then_some(index + 2)
}

/// The first names of what is imported at `index`: one, or those of a group in braces. A star imports everything.
fn first_names(tokens: &[Token], index: usize) -> Vec<String> {
    if !tokens.get(index).is_some_and(|token| token.is_mark('{')) {
        let name = tokens.get(index).and_then(Token::word).unwrap_or("*");
        return vec![name.to_owned()];
    }
    let mut names = Vec::new();
    let (mut depth, mut expected) = (0, true);
    for token in &tokens[index..] {
        match &token.kind {
            Kind::Mark('{') => depth += 1,
            Kind::Mark('}') => depth -= 1,
            Kind::Mark(',') if depth == 1 => expected = true,
            Kind::Word(name) if expected => {
                names.push(name.clone());
                expected = false;
            }
            Kind::Mark('*') if expected => names.push("*".to_owned()),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Every name that the file takes from the root of the crate, by `crate::` or by enough `super::`, with its line.
fn root_imports(file: &File) -> Vec<(String, usize)> {
    let tokens = &file.product.tokens;
    let mut imports = Vec::new();
    let mut depth = 0;
    let mut inline_modules = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let token = &tokens[index];
        if token.is_mark('{') {
            depth += 1;
            let names_module = index >= 2 && tokens[index - 2].is_word("mod");
            if names_module {
                inline_modules.push(depth);
            }
        } else if token.is_mark('}') {
            if inline_modules.last() == Some(&depth) {
                inline_modules.pop();
            }
            depth -= 1;
        }
        let mut height = file.modules.len() + inline_modules.len();
        let mut next = index + 1;
        if token.is_word("crate") {
            height = 0;
        } else if token.is_word("super") {
            height = height.saturating_sub(1);
            while let Some(after) = behind_colons(tokens, next)
                && tokens.get(after).is_some_and(|token| token.is_word("super"))
            {
                height = height.saturating_sub(1);
                next = after + 1;
            }
        } else {
            index += 1;
            continue;
        }
        if height == 0
            && let Some(after) = behind_colons(tokens, next)
        {
            imports.extend(first_names(tokens, after).into_iter().map(|name| (name, token.line)));
        }
        index = next;
    }
    imports
}

/// Everything that `file` does and its layer may not, with the line.
fn breaches_of(file: &File) -> Vec<(usize, Breach)> {
    let Some(layer) = layer_of(&file.modules[0]) else { return vec![(1, Breach::NoLayer)] };
    let below = |name| layer < layer_of(name).expect("a layer");
    let mut breaches = Vec::new();
    for (name, line) in root_imports(file) {
        let home =
            ROOT_MACROS.iter().find(|(root, _)| *root == name).map_or(name.as_str(), |(_, home)| *home);
        if layer_of(home).is_none_or(|imported| imported > layer) {
            breaches.push((line, Breach::Upward(name)));
        }
    }
    let tokens = &file.product.tokens;
    for (index, token) in tokens.iter().enumerate() {
        let Some(word) = token.word() else { continue };
        let next = tokens.get(index + 1);
        let declares = index > 0 && tokens[index - 1].is_word("mod");
        if word.eq_ignore_ascii_case("simulated") && !declares {
            breaches.push((token.line, Breach::Simulated));
        }
        if word == "static" && below("global") {
            let name =
                tokens[index + 1..].iter().filter_map(Token::word).find(|name| *name != "mut").unwrap_or("");
            if !CONSTANT_TABLES.contains(&(file.path.as_str(), name)) {
                breaches.push((token.line, Breach::Static(name.to_owned())));
            }
        }
        let is_macro = next.is_some_and(|next| next.is_mark('!')) && ALLOCATING_MACROS.contains(&word);
        let reads_environment = word == "env"
            && behind_colons(tokens, index + 1).and_then(|after| tokens.get(after)).is_some_and(|token| {
                ["var", "var_os", "vars", "args"].iter().any(|name| token.is_word(name))
            });
        if below("api") && (ALLOCATING_TYPES.contains(&word) || is_macro || reads_environment) {
            breaches.push((token.line, Breach::Allocates(word.to_owned())));
        }
    }
    breaches
}

/// All sources below `folder`, by their paths relative to `root`.
fn read(root: &Path, folder: &Path, sources: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            read(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            sources.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// All sources of the crate whose root lies in `folder`.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut sources = Vec::new();
    read(&root, &root, &mut sources);
    sources
}

fn crate_sources() -> Vec<(String, String)> {
    sources("src")
}

fn crate_files() -> Vec<File> {
    files(crate_sources())
}

#[test]
fn the_sources_keep_to_their_layers() {
    let mut report = String::new();
    for file in crate_files() {
        for (line, breach) in breaches_of(&file) {
            report += &format!("src/{}:{line}: {breach:?}\n", file.path);
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn every_layer_and_every_exception_is_in_use() {
    let files = crate_files();
    let seen: BTreeSet<&str> = files.iter().map(|file| file.modules[0].as_str()).collect();
    assert!(seen.is_superset(&BTreeSet::from(["base", "sync", "pal"])), "{seen:?}");
    assert!(files.iter().any(|file| file.path == "pal/linux.rs" && root_imports(file).len() >= 3));
    assert!(!files.iter().any(|file| file.path.starts_with("pal/simulated") || file.path == "pal/models.rs"));
    for (path, name) in CONSTANT_TABLES {
        let file = files.iter().find(|file| file.path == path).expect(path);
        assert!(file.product.tokens.iter().any(|token| token.is_word(name)), "{name} is gone from {path}");
    }
}

/// What is found in a crate of one file.
fn found(path: &str, text: &str) -> Vec<Breach> {
    files(vec![(path.to_owned(), text.to_owned())])
        .iter()
        .flat_map(breaches_of)
        .map(|(_, breach)| breach)
        .collect()
}

fn upward(names: &[&str]) -> Vec<Breach> {
    names.iter().map(|name| Breach::Upward((*name).to_owned())).collect()
}

#[test]
fn an_upward_import_is_found_however_it_is_written() {
    for text in [
        "use crate::heap::Heap;",
        "pub use crate::heap;",
        "use crate::{base::SLICE, heap::{self, base}, sync};",
        "use super::heap::Heap;",
        "fn f() { let _ = crate :: heap /* x */ :: f(); }",
        "macro_rules! m { () => { $crate::heap::f() } }",
        "mod inner { use super::super::heap::Heap; mod deeper {} use super::inner; }",
        "#[cfg(target_arch = \"x86_64\")] use crate::heap::Heap;",
        "#[cfg(not(test))] use crate::heap::Heap;",
        "#[cfg(not(any(loom, shuttle)))] use crate::heap::Heap;",
        "#[cfg(test)] mod tests { fn f() {} } use crate::heap::Heap;",
        "#[cfg(test)] use std::{vec, mem}; use crate::heap::Heap;",
        "struct S { #[cfg(test)] a: u8, b: crate::heap::Heap }",
        "const Q: char = '\"'; use crate::heap::Heap; const R: char = '\"';",
        "const Q: &str = r#\" \" \"#; use crate::heap::Heap;",
        "fn f<'a>(x: &'a u8) { let c = 'a'; crate::heap::f() }",
    ] {
        assert_eq!(found("index/mod.rs", text), upward(&["heap"]), "{text}");
    }
    assert_eq!(found("index/nodes/page.rs", "use super::super::super::heap::Heap;"), upward(&["heap"]));
    assert_eq!(found("index/mod.rs", "use crate::*;"), upward(&["*"]));
    assert_eq!(found("index/mod.rs", "use crate::{base, *};"), upward(&["*"]));
    assert_eq!(found("index/mod.rs", "use crate::SpecMalloc;"), upward(&["SpecMalloc"]));
    assert_eq!(found("other/mod.rs", "fn f() {}"), [Breach::NoLayer]);
    assert_eq!(found("other.rs", "fn f() {}"), [Breach::NoLayer]);
    // Each layer against each: exactly the upper ones are found.
    for (index, layer) in LAYERS.iter().enumerate() {
        let imports: String = LAYERS.iter().map(|imported| format!("use crate::{imported}::X;")).collect();
        assert_eq!(found(&format!("{layer}/mod.rs"), &imports), upward(&LAYERS[index + 1..]));
    }
    assert_eq!(found("base/mod.rs", "use crate::const_unless_model;"), upward(&["const_unless_model"]));
}

#[test]
fn what_is_no_import_of_a_normal_build_is_passed_over() {
    for text in [
        "// use crate::heap::Heap;\n/* crate::heap /* nested */ crate::heap */",
        "const A: &str = \"crate::heap \\\" crate::heap\"; const B: &[u8] = br##\"\"# crate::heap\"##;",
        "const C: &core::ffi::CStr = c\"crate::heap\"; const D: char = '\\''; const E: u8 = b'\"';",
        "#[cfg(test)] mod tests { use crate::heap::Heap; }",
        "#[cfg(all(test, not(any(loom, shuttle))))] #[doc(hidden)] pub(crate) mod tests { use crate::heap::Heap; }",
        "#[cfg(any(loom, shuttle))] use crate::heap::{Heap, Slab};",
        "#[test] fn f() -> [u8; 2] { crate::heap::f() }",
        "#[cfg(loom)] impl<A, B> X<A, B> { fn f() { crate::heap::f() } }",
        "struct S { #[cfg(test)] a: crate::heap::Heap, b: u8 }",
        "fn f() { #[cfg(loom)] return crate::heap::f(); #[cfg(shuttle)] { crate::heap::f() } }",
        "#![cfg(test)] use crate::heap::Heap;",
        "#[cfg(any(test, feature = \"simulated\"))] pub mod simulated { use crate::heap::Heap; }",
        "use self::heap::X; pub(crate) fn f() {} pub(in crate::index) fn g() {}",
        "mod heap { pub fn f() {} } mod inner { use super::heap::f; }",
        "use crate::const_unless_model; use crate::{base::X, sync::{Y, heap}, region};",
    ] {
        assert_eq!(found("index/mod.rs", text), [], "{text}");
    }
    assert_eq!(found("index/nodes.rs", "use super::heap::X; mod inner { use super::super::heap::X; }"), []);
    assert_eq!(found("lib.rs", "pub mod heap; pub use crate::heap::Heap; static A: u8 = 0;"), []);
}

#[test]
fn a_module_that_is_declared_for_tests_is_left_out_with_all_below_it() {
    let declared = |attribute: &str| {
        let sources = [
            ("heap/mod.rs", format!("{attribute} mod models; mod slab;")),
            ("heap/models/mod.rs", "use crate::api::A;".to_owned()),
            ("heap/models/exit.rs", "use crate::api::A;".to_owned()),
            ("heap/slab.rs", "use crate::api::A;".to_owned()),
        ];
        let sources = sources.into_iter().map(|(path, text)| (path.to_owned(), text)).collect();
        files(sources).iter().map(|file| breaches_of(file).len()).sum::<usize>()
    };
    assert_eq!(declared("#[cfg(all(test, loom))] pub(crate)"), 1);
    assert_eq!(declared("#[cfg(target_os = \"linux\")]"), 3);
    assert_eq!(declared("#[cfg(not(loom))]"), 3);
}

#[test]
fn a_static_below_global_is_found() {
    let a = || vec![Breach::Static("A".to_owned())];
    for text in [
        "static A: AtomicU32 = AtomicU32::new(0);",
        "pub(crate) static mut A: u8 = 0;",
        "fn f() -> &'static u8 { static A: u8 = 0; &A }",
        "std::thread_local! { static A: u8 = const { 0 }; }",
        "unsafe extern \"C\" { static A: u8; }",
    ] {
        assert_eq!(found("heap/mod.rs", text), a(), "{text}");
        assert_eq!(found("base/mod.rs", text), a(), "{text}");
        assert_eq!(found("global/mod.rs", text), [], "{text}");
    }
    assert_eq!(found("heap/mod.rs", "fn f(x: &'static str) -> impl Sized + 'static { x }"), []);
    assert_eq!(found("base/size_class.rs", "static INFO: [u8; 1] = [0]; static A: u8 = 0;"), a());
    assert_eq!(found("heap/mod.rs", "static INFO: [u8; 1] = [0];"), [Breach::Static("INFO".to_owned())]);
}

#[test]
fn what_allocates_below_api_is_found() {
    for (text, word) in [
        ("use std::vec::Vec;", "Vec"),
        ("fn f(b: Box<u8>) {}", "Box"),
        ("fn f() -> String { todo!() }", "String"),
        ("use std::sync::{Mutex, atomic};", "Mutex"),
        ("fn f() { std::sync::RwLock::new(0); }", "RwLock"),
        ("fn f() { let x = format!(\"{}\", 1); }", "format"),
        ("fn f() { vec![1]; }", "vec"),
        ("fn f() { eprintln!(\"x\"); }", "eprintln"),
        ("fn f() { std::env::var(\"X\"); }", "env"),
        ("use std::env; fn f() { env::var_os(\"X\"); }", "env"),
    ] {
        assert_eq!(found("global/mod.rs", text), [Breach::Allocates(word.to_owned())], "{text}");
        assert_eq!(found("base/mod.rs", text), [Breach::Allocates(word.to_owned())], "{text}");
        assert_eq!(found("api/mod.rs", text), [], "{text}");
    }
    for text in [
        "/// A Vec.\n// Box\nfn f() {}",
        "fn format() {} fn g() { format(); env!(\"X\"); }",
        "struct VecLike;",
    ] {
        assert_eq!(found("heap/mod.rs", text), [], "{text}");
    }
}

#[test]
fn the_simulated_system_is_for_tests() {
    assert_eq!(found("api/mod.rs", "use crate::pal::simulated;"), [Breach::Simulated]);
    assert_eq!(
        found("global/mod.rs", "type P = crate::pal::simulated::Simulated;"),
        [Breach::Simulated, Breach::Simulated]
    );
    assert_eq!(found("pal/mod.rs", "#[doc(hidden)] pub mod simulated;"), []);
    assert_eq!(found("heap/mod.rs", "#[cfg(test)] use crate::pal::simulated::Simulated;"), []);
}
