//! Who serves malloc in a program, or in a process that runs.

use super::machine::Machine;
use super::{Finding, State};
use crate::elf::{self, Image};
use crate::{Failure, library, target};
use std::ffi::OsStr;
use std::fs::File;
use std::io;

const TOPIC: &str = "who serves malloc";

/// Parts of the names of libraries that have a malloc, and what they are called.
const LIBRARIES: [(&str, &str); 8] = [
    ("libspecmalloc", "specmalloc"),
    ("libjemalloc", "jemalloc"),
    ("libtcmalloc", "tcmalloc"),
    ("libmimalloc", "mimalloc"),
    ("libsnmalloc", "snmalloc"),
    ("librpmalloc", "rpmalloc"),
    ("libhardened_malloc", "hardened_malloc"),
    ("libtbbmalloc_proxy", "tbbmalloc"),
];

/// Libraries of ours that have none: they are loaded beside one.
const BESIDE: [&str; 2] = ["libspecmalloc_profile", "libspecmalloc_record"];

/// The allocator that a library called so has.
fn known(library: &str) -> Option<&'static str> {
    let name = library.rsplit('/').next().unwrap_or(library);
    if BESIDE.iter().any(|beside| name.starts_with(beside)) {
        return None;
    }
    LIBRARIES.iter().find(|known| name.starts_with(known.0)).map(|known| known.1)
}

/// Whether this command finds the library that it preloads.
pub(super) fn check_library() -> Finding {
    match library::find() {
        Ok(path) => Finding::fine("libspecmalloc.so", path.display().to_string()),
        Err(_) => {
            let advice = format!("The commands run and compare need it.\n$ {}", library::BUILD);
            Finding::new("libspecmalloc.so", State::Note, "not found", advice)
        }
    }
}

/// A program that is not running.
pub(super) fn check(name: &OsStr) -> Result<Vec<Finding>, Failure> {
    let failed = |error| Failure::start(name, &io::Error::from_raw_os_error(error));
    let (Some(named), Some(path)) = (target::file_of(name), target::program(name)) else {
        return Err(failed(libc::ENOENT));
    };
    if !named.exists() || !path.exists() {
        return Err(failed(libc::ENOENT));
    }
    if !target::can_run(&named) || !target::can_run(&path) {
        return Err(failed(libc::EACCES));
    }
    let notices = target::notices(name);
    if !notices.is_empty() {
        let advice = "LD_PRELOAD changes nothing here. Build the program with specmalloc, or without an allocator of its own.";
        return Ok(notices
            .into_iter()
            .map(|notice| Finding::new(TOPIC, State::Act, notice, advice))
            .collect());
    }
    let file = File::open(&path).map_err(|error| Failure::start(name, &error))?;
    let needed = match elf::read(&file) {
        Ok(Image::Elf { needed, .. }) => needed,
        _ => Vec::new(),
    };
    let preloaded = std::env::var("LD_PRELOAD").unwrap_or_default();
    let preloaded = preloaded.split([':', ' ']).find_map(|library| known(library));
    let own = needed.iter().find_map(|library| known(library));
    let is_for_shell = File::open(&named).is_ok_and(|file| target::is_for_shell(&file));
    let path = match is_for_shell {
        true => format!("{}, which runs what has no #! line", path.display()),
        false => path.display().to_string(),
    };
    let found = match (preloaded, own) {
        (Some(preloaded), _) => format!("{preloaded} in {path}: LD_PRELOAD names it"),
        (None, Some(own)) => format!("{own} in {path}, which is linked to it"),
        (None, None) => format!("the C library in {path}"),
    };
    if preloaded.or(own) == Some("specmalloc") {
        return Ok(vec![Finding::fine(TOPIC, found)]);
    }
    let program = name.display();
    let advice = format!("$ specmalloc run -- {program}\n$ specmalloc compare -- {program}");
    Ok(vec![Finding::new(TOPIC, State::Note, found, advice)])
}

/// The process asked about.
pub(super) fn check_process(machine: &Machine) -> Finding {
    let executable = machine.path("/proc/PROCESS/exe");
    let image = File::open(&executable).and_then(|file| elf::read(&file));
    let Some(maps) = machine.read("/proc/PROCESS/maps") else {
        let advice = "Ask as the user that the process belongs to, or as root.";
        return Finding::new(TOPIC, State::Note, "its mappings cannot be read", advice);
    };
    if let Ok(Image::Elf { own_malloc: Some(name), .. }) = image {
        let found = format!("the program brings its own malloc ({name})");
        return Finding::new(TOPIC, State::Note, found, "LD_PRELOAD would change nothing.");
    }
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let found: Vec<_> = paths.filter_map(|path| known(path).map(|name| (name, path))).collect();
    // What is preloaded comes before what the program is linked to.
    let environment = machine.read("/proc/PROCESS/environ").unwrap_or_default();
    let preloaded = environment.split('\0').find_map(|variable| variable.strip_prefix("LD_PRELOAD="));
    let first = preloaded.unwrap_or_default().split([':', ' ']).find_map(known);
    match found.iter().find(|found| Some(found.0) == first).or(found.first()).copied() {
        Some(("specmalloc", path)) => Finding::fine(TOPIC, format!("specmalloc, {path}")),
        Some((name, path)) => {
            let advice = "To have specmalloc instead, start it with:\n$ specmalloc run -- PROGRAM";
            Finding::new(TOPIC, State::Note, format!("{name}, {path}"), advice)
        }
        None => {
            let advice = "To have specmalloc instead, start it with:\n$ specmalloc run -- PROGRAM";
            Finding::new(TOPIC, State::Note, "the C library", advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::made;
    use super::*;

    #[test]
    fn libraries_are_known_by_their_names() {
        assert_eq!(known("/usr/lib/libjemalloc.so.2"), Some("jemalloc"));
        assert_eq!(known("libtcmalloc_minimal.so.4"), Some("tcmalloc"));
        assert_eq!((known("libc.so.6"), known("")), (None, None));
    }

    #[test]
    fn a_program_is_served_by_the_c_library_unless_something_says_otherwise() {
        let finding = check("sh".as_ref()).ok().unwrap().remove(0);
        assert!(finding.found.starts_with("the C library in /"), "{finding:?}");
        assert_eq!(check("no such program".as_ref()).err().unwrap().status, 127);
        assert_eq!(check("/proc/self/status".as_ref()).err().unwrap().status, 126);
        assert_eq!(check("/proc".as_ref()).err().unwrap().status, 126);
    }

    #[test]
    fn a_process_is_served_by_what_it_has_mapped() {
        let state = |maps: &str| check_process(&made(&[("/proc/self/maps", maps)]).0);
        let line = "7f00-7f10 r-xp 00000000 00:1f 12   /lib/libspecmalloc.so\n";
        assert_eq!(state(line).state, State::Fine);
        assert!(
            state("7f00-7f10 r-xp 00000000 00:1f 12   /lib/libjemalloc.so.2\n").found.starts_with("jemalloc")
        );
        assert_eq!(state("55-56 r--p 00000000 00:1f 12   /bin/sh\n").found, "the C library");
        // The program is linked to one, and started with another.
        let both = "7e00-7e10 r-xp 00000000 00:1f 12   /lib/libjemalloc.so.2\n".to_owned() + line;
        let environment = "HOME=/\0LD_PRELOAD=/lib/libspecmalloc.so\0";
        let files = [("/proc/self/maps", &*both), ("/proc/self/environ", environment)];
        assert_eq!(check_process(&made(&files).0).found, "specmalloc, /lib/libspecmalloc.so");
        assert!(state(&both).found.starts_with("jemalloc"));
        let beside = "7f00-7f10 r-xp 00000000 00:1f 12   /lib/libspecmalloc_record.so\n";
        assert_eq!(state(beside).found, "the C library");
        assert!(check_process(&made(&[]).0).found.contains("cannot be read"));
    }
}
