//! Names of functions, found in the files that the program had in memory: those of debug information, with what was
//! inlined and the lines of the source, or else those of the symbol table. Outside the process, and at any time after it:
//! a file that is not the one of then, by its build id, is not asked.

use super::collect::below;
use super::data::{Line, Profile};
use super::objects::Object;
use super::separate::{debug_file, supplementary};
use addr2line::{Loader, demangle_auto};
use std::borrow::Cow;
use std::path::Path;

/// Finds the names of all functions that have none yet, and has stacks begin with whoever wanted memory. Returns what is
/// worth telling of files that did not help.
pub fn resolve(profile: &mut Profile) -> Vec<String> {
    resolve_below(Path::new("/"), profile)
}

/// The same of a process whose files lie below `root`, as one in a container.
pub fn resolve_below(root: &Path, profile: &mut Profile) -> Vec<String> {
    let mut notices = Vec::new();
    for number in 0..profile.mappings.len() {
        let mapping = profile.mappings[number].clone();
        let is_open = profile
            .locations
            .iter()
            .any(|location| location.mapping == Some(number) && location.lines.is_empty());
        if !is_open || mapping.path.is_empty() {
            continue;
        }
        let Some(object) = Object::read(&below(root, &mapping.path)) else {
            // The kernel's own has no file.
            if mapping.path.contains('/') {
                notices.push(format!("{} is not there any more: its functions have no names", mapping.path));
            }
            continue;
        };
        if object.build_id != mapping.build_id {
            let why =
                "is another file than when the program ran (by its build id): its functions have no names";
            notices.push(format!("{} {why}", mapping.path));
            continue;
        }
        let files = [debug_file(root, &mapping.path, &object), Some(below(root, &mapping.path))];
        let loaders: Vec<Loader> = files.into_iter().flatten().filter_map(|file| load(root, &file)).collect();
        for location in &mut profile.locations {
            if location.mapping == Some(number) && location.lines.is_empty() {
                let offset = location.address.wrapping_sub(mapping.start).wrapping_add(mapping.offset);
                let address = object.address_of(offset);
                let lines = address.and_then(|address| {
                    let by_debug = loaders.iter().find_map(|loader| by_debug_information(loader, address));
                    by_debug.or_else(|| loaders.iter().find_map(|loader| by_symbol(loader, address)))
                });
                location.lines = lines.unwrap_or_default();
            }
        }
    }
    super::entries::leave_out(profile);
    notices
}

/// What is known of a file's functions.
fn load(root: &Path, file: &Path) -> Option<Loader> {
    let whole = supplementary(root, file).and_then(|shared| Loader::new_with_sup(file, Some(shared)).ok());
    whole.or_else(|| Loader::new(file).ok())
}

/// The function at `address` and those it is inlined in, by debug information.
fn by_debug_information(loader: &Loader, address: u64) -> Option<Vec<Line>> {
    let mut frames = loader.find_frames(address).ok()?;
    let mut lines = Vec::new();
    while let Ok(Some(frame)) = frames.next() {
        let name = frame.function.as_ref().and_then(|function| Some(demangled(&function.raw_name().ok()?)));
        // A line of the source without a function: the symbol table may know more.
        let function = match name {
            Some(name) => name,
            None => loader.find_symbol(address).map(demangled)?,
        };
        let place = frame.location;
        let file = place.as_ref().and_then(|place| place.file).unwrap_or_default().to_owned();
        let line = place.and_then(|place| place.line).unwrap_or(0);
        lines.push(Line { function, file, line });
    }
    (!lines.is_empty()).then_some(lines)
}

fn by_symbol(loader: &Loader, address: u64) -> Option<Vec<Line>> {
    let function = loader.find_symbol(address).map(demangled)?;
    Some(vec![Line { function, ..Line::default() }])
}

/// As its author wrote it. Only what begins as mangled names do is one: else a function `f` would be `float`.
fn demangled(symbol: &str) -> String {
    let is_mangled = ["_Z", "__Z", "_R", "__R"].iter().any(|start| symbol.starts_with(start));
    let name = Cow::from(symbol);
    short(if is_mangled { demangle_auto(name, None) } else { name }.into_owned())
}

/// Without the hash that Rust puts behind its names, and without a symbol's version.
fn short(name: String) -> String {
    let name = name.split_once("@@").map_or(name.as_str(), |(name, _)| name);
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            path.to_owned()
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_their_authors_wrote_them() {
        assert_eq!(
            demangled("_ZN5alloc3vec12Vec$LT$T$GT$4push17h0123456789abcdefE"),
            "alloc::vec::Vec<T>::push"
        );
        assert_eq!(
            demangled("_ZNSt6vectorIiSaIiEE9push_backERKi"),
            "std::vector<int, std::allocator<int> >::push_back(int const&)"
        );
        assert_eq!(demangled("malloc@@GLIBC_2.2.5"), "malloc");
        for plain in ["main", "f", "i", "v", "_start", "St"] {
            assert_eq!(demangled(plain), plain);
        }
    }
}
