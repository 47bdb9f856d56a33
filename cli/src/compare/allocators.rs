//! The allocators that a program is measured under: where each is looked for, and whether one served a program.

use super::launcher::Seen;
use crate::elf::{self, Image};
use crate::{Failure, library, target};
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

/// An allocator that is there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Allocator {
    /// What it is called in tables.
    pub(crate) name: String,
    /// The library to preload: an absolute path without symbolic links.
    pub(crate) library: PathBuf,
}

/// Those that are found by themselves, with the names that their libraries have, the newest first.
const KNOWN: [(&str, &[&str]); 5] = [
    ("glibc", &["libc.so.6"]),
    ("specmalloc", &[]),
    ("jemalloc", &["libjemalloc.so.2", "libjemalloc.so"]),
    (
        "tcmalloc",
        &["libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libtcmalloc_minimal.so", "libtcmalloc.so"],
    ),
    ("mimalloc", &["libmimalloc.so.3", "libmimalloc.so.2", "libmimalloc.so.2.0", "libmimalloc.so"]),
];

#[cfg(target_arch = "x86_64")]
const MULTIARCH: &str = "x86_64-linux-gnu";
#[cfg(target_arch = "aarch64")]
const MULTIARCH: &str = "aarch64-linux-gnu";

/// Where libraries lie, after the folders that LD_LIBRARY_PATH names.
const FOLDERS: [&str; 8] = [
    "/usr/local/lib/MULTIARCH",
    "/usr/local/lib64",
    "/usr/local/lib",
    "/usr/lib/MULTIARCH",
    "/usr/lib64",
    "/lib/MULTIARCH",
    "/lib64",
    "/usr/lib",
];

/// Reads `NAME=PATH.so`.
pub(crate) fn parse(text: &str) -> Result<Allocator, String> {
    let (name, path) = text.split_once('=').ok_or("not of the form NAME=PATH.so")?;
    if name.is_empty() {
        return Err("the allocator has no name".to_owned());
    }
    let library = Path::new(path).canonicalize().map_err(|error| format!("{path}: {error}"))?;
    Ok(Allocator { name: name.to_owned(), library })
}

/// The library at that path.
pub(crate) fn at(path: &str) -> Result<Allocator, String> {
    parse(&format!("{path}={path}"))
}

/// The allocator of that name, or the library at that path.
fn named(text: &str) -> Result<Allocator, String> {
    if text.contains('/') {
        return at(text);
    }
    let (found, missing) = find(&[text.to_owned()], &[]).map_err(|failure| failure.message)?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| missing.into_iter().map(|(name, why)| format!("{name}: {why}")).collect())
}

/// Reads a name that may be another than those that are known; these are told to who asks, and to shells.
pub(crate) fn names() -> impl TypedValueParser<Value = String> {
    #[derive(Clone)]
    struct Names;
    impl TypedValueParser for Names {
        type Value = String;

        fn parse_ref(&self, to: &Command, of: Option<&Arg>, text: &OsStr) -> Result<String, clap::Error> {
            StringValueParser::new().parse_ref(to, of, text)
        }

        fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
            Some(Box::new(KNOWN.iter().map(|known| PossibleValue::new(known.0))))
        }
    }
    Names
}

/// Reads what [`named`] understands.
pub(crate) fn one() -> impl TypedValueParser<Value = Allocator> {
    names().try_map(|name: String| named(&name))
}

/// Names of allocators that are not there, each with the reason.
pub(crate) type Missing = Vec<(String, String)>;

/// The allocators that are there, and those that are not. `only` are the names wanted, all if it is empty; `more` are
/// the user's own: one of a name that is known stands for what would have been looked for.
pub(crate) fn find(only: &[String], more: &[Allocator]) -> Result<(Vec<Allocator>, Missing), Failure> {
    let known = |name: &str| KNOWN.iter().any(|known| known.0 == name);
    if let Some(twice) = more.iter().enumerate().find_map(|(index, one)| {
        more[..index].iter().any(|other| other.name == one.name).then_some(&one.name)
    }) {
        return Err(Failure::own(format!("two allocators are called {twice}")));
    }
    if let Some(unknown) = only.iter().find(|name| !known(name) && !more.iter().any(|one| one.name == **name))
    {
        let names: Vec<_> = KNOWN.iter().map(|known| known.0).collect();
        return Err(Failure::own(format!(
            "there is no allocator {unknown}: {} and those given as NAME=PATH.so",
            names.join(", ")
        )));
    }
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (name, files) in KNOWN {
        if let Some(given) = more.iter().find(|one| one.name == name) {
            found.push(given.clone());
            continue;
        }
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let library = match name {
            "glibc" => c_library().or_else(|| installed(files)),
            "specmalloc" => {
                library::find().map_err(|failure| missing.push((name.to_owned(), failure.message))).ok()
            }
            _ => installed(files),
        };
        match library {
            Some(library) => found.push(Allocator { name: name.to_owned(), library }),
            None if name == "specmalloc" => {}
            None => missing.push((name.to_owned(), format!("no {} in the usual folders", files[0]))),
        }
    }
    found.extend(more.iter().filter(|one| !known(&one.name)).cloned());
    Ok((found, missing))
}

fn installed(files: &[&str]) -> Option<PathBuf> {
    let variable = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let named = std::env::split_paths(&variable).filter(|folder| folder.is_absolute());
    let usual = FOLDERS.map(|folder| PathBuf::from(folder.replace("MULTIARCH", MULTIARCH)));
    let folders: Vec<_> = named.chain(usual).collect();
    let paths = files.iter().flat_map(|file| folders.iter().map(move |folder| folder.join(file)));
    // What is called .so may be a linker's script.
    paths.filter(|path| defines_malloc(path)).find_map(|path| path.canonicalize().ok())
}

/// The C library of this process.
fn c_library() -> Option<PathBuf> {
    let maps = crate::output::read_lossily("/proc/self/maps").ok()?;
    let path = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libc.so")))?;
    path.canonicalize().ok()
}

fn defines_malloc(path: &Path) -> bool {
    let image = File::open(path).and_then(|file| elf::read(&file));
    matches!(image, Ok(Image::Elf { own_malloc: Some("malloc"), .. }))
}

impl Allocator {
    /// What LD_PRELOAD is for a program under this allocator, before what it is already. The C library is preloaded,
    /// too: it would come last, behind an allocator that the program is linked to.
    pub(crate) fn preload(&self) -> Result<OsString, Failure> {
        library::preload(&self.library, std::env::var_os("LD_PRELOAD"))
    }

    /// Why the allocator did not serve malloc in a process that had loaded `seen`, if that is so.
    pub(crate) fn unserved(&self, seen: &Seen) -> Option<String> {
        let image = File::open(&seen.executable).and_then(|file| elf::read(&file));
        if let Some(why) = image.ok().and_then(|image| target::judge(&image)) {
            return Some(format!("{} {why}", seen.executable.display()));
        }
        if !seen.objects.contains(&self.library) {
            let program = seen.executable.display();
            return Some(match target::more_rights(&seen.executable) {
                true => format!("{program} {}", target::MORE_RIGHTS),
                false => format!("{program} did not load {}", self.library.display()),
            });
        }
        // The first in the order of look-up after the program, which has none.
        (!defines_malloc(&self.library)).then(|| format!("{} defines no malloc", self.library.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocator_is_a_name_and_a_library_that_exists() {
        let libc = c_library().unwrap();
        let own = parse(&format!("own={}", libc.display())).unwrap();
        assert_eq!((own.name.as_str(), &own.library), ("own", &libc));
        for bad in ["own", "=/", "own=/no/such/file"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_known_once_and_the_first_is_always_there() {
        let libc = c_library().unwrap();
        let one = |name: &str| Allocator { name: name.to_owned(), library: libc.clone() };
        let names = |only: &[&str], more: &[Allocator]| {
            let only: Vec<_> = only.iter().map(|name| (*name).to_owned()).collect();
            find(&only, more).map(|found| found.0.into_iter().map(|one| one.name).collect::<Vec<_>>()).ok()
        };
        assert_eq!(names(&[], &[]).unwrap()[0], "glibc");
        assert_eq!(names(&["glibc"], &[one("own")]).unwrap(), ["glibc", "own"]);
        assert!(names(&["nobody"], &[]).is_none());
        assert!(names(&[], &[one("a"), one("a")]).is_none());
        assert!(names(&[], &[one("jemalloc"), one("jemalloc")]).is_none());
        // One that is known is in its place, once, wherever the library is.
        let replaced = find(&[], &[one("mimalloc"), one("jemalloc"), one("own")]).ok().unwrap();
        let of = |name: &str| replaced.0.iter().filter(|one| one.name == name).collect::<Vec<_>>();
        assert_eq!([of("jemalloc"), of("mimalloc")], [[&one("jemalloc")], [&one("mimalloc")]]);
        assert!(!replaced.1.iter().any(|(name, _)| name == "jemalloc" || name == "mimalloc"));
        assert_eq!(replaced.0.last().unwrap().name, "own");
        assert_eq!(names(&["glibc"], &[one("jemalloc")]).unwrap(), ["glibc", "jemalloc"]);
    }

    #[test]
    fn a_process_is_served_by_what_it_has_loaded_and_only_if_that_has_a_malloc() {
        let (libc, executable) = (c_library().unwrap(), std::env::current_exe().unwrap());
        let seen = |objects: &[&PathBuf]| Seen {
            executable: executable.clone(),
            objects: objects.iter().map(|path| (*path).clone()).collect(),
        };
        let allocator = |library: &PathBuf| Allocator { name: "x".to_owned(), library: library.clone() };
        assert_eq!(allocator(&libc).unserved(&seen(&[&executable, &libc])), None);
        assert!(allocator(&libc).unserved(&seen(&[&executable])).unwrap().contains("did not load"));
        let none = allocator(&executable).unserved(&seen(&[&executable]));
        assert!(none.unwrap().contains("no malloc"));
        let own = Seen { executable: libc.clone(), objects: vec![libc.clone()] };
        assert!(allocator(&libc).unserved(&own).unwrap().contains("own malloc"));
    }
}
