//! Where libspecmalloc.so is, and the library that records calls, and how the dynamic loader is told of them.

use crate::Failure;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const NAME: &str = "libspecmalloc.so";
const PROFILER: &str = "libspecmalloc_profile.so";
const RECORDER: &str = "libspecmalloc_record.so";

/// How to come by the library.
pub(crate) const BUILD: &str = "cargo build --profile preload -p specmalloc-preload";

/// The library: beside this command, in `../lib`, or what SPECMALLOC_LIB names.
pub(crate) fn find() -> Result<PathBuf, Failure> {
    locate(NAME, "SPECMALLOC_LIB").ok_or_else(|| absent(NAME, "SPECMALLOC_LIB", BUILD))
}

/// The library that records calls: in the same places, or what SPECMALLOC_RECORD_LIB names.
pub(crate) fn recorder() -> Result<PathBuf, Failure> {
    let (variable, build) = ("SPECMALLOC_RECORD_LIB", "cargo build --profile preload -p specmalloc-recorder");
    locate(RECORDER, variable).ok_or_else(|| absent(RECORDER, variable, build))
}

/// Whether there is /proc, by which a program finds what this command has made for it.
pub(crate) fn demand_proc() -> Result<(), Failure> {
    if Path::new("/proc/self").exists() {
        return Ok(());
    }
    let message = "/proc is not there, and a program cannot tell what it does: mount -t proc proc /proc";
    Err(Failure::own(message.to_owned()))
}

fn locate(name: &str, variable: &str) -> Option<PathBuf> {
    let command = std::env::current_exe().and_then(std::fs::canonicalize);
    let folder = command.as_deref().ok().and_then(Path::parent);
    search(name, folder, std::env::var_os(variable).map(PathBuf::from))
}

fn search(name: &str, folder: Option<&Path>, variable: Option<PathBuf>) -> Option<PathBuf> {
    let beside = folder.map(|folder| folder.join(name));
    let lib = folder.and_then(Path::parent).map(|parent| parent.join("lib").join(name));
    // The loader reads the path in the program's working directory, which may not stay ours.
    let places = [beside, lib, variable].into_iter().flatten();
    places.filter_map(|path| path.canonicalize().ok()).find(|path| path.is_file())
}

fn absent(name: &str, variable: &str, build: &str) -> Failure {
    Failure::own(format!(
        "{name} is not beside this command, not in ../lib, and not what {variable} names; build it with: {build}"
    ))
}

/// The library that notes samples: beside the allocator's.
pub(crate) fn profiler(library: &Path) -> Result<PathBuf, Failure> {
    let path = library.with_file_name(PROFILER);
    if path.is_file() {
        return Ok(path);
    }
    let build = "cargo build --profile preload -p specmalloc-profile";
    Err(Failure::own(format!("{PROFILER} is not beside {}; build it with: {build}", library.display())))
}

/// The value of LD_PRELOAD that loads `library` before what `existing` names.
pub(crate) fn preload(library: &Path, existing: Option<OsString>) -> Result<OsString, Failure> {
    if library.as_os_str().as_bytes().iter().any(|byte| b": $".contains(byte)) {
        return Err(Failure::own(format!(
            "{}: the dynamic loader takes no path with a colon, a space or a dollar sign in LD_PRELOAD",
            library.display()
        )));
    }
    let mut value = library.as_os_str().to_owned();
    if let Some(existing) = existing.filter(|existing| !existing.is_empty()) {
        // Nested runs name the library once.
        let mut names = existing.as_bytes().split(|byte| b": ".contains(byte));
        if names.next() == Some(library.as_os_str().as_bytes()) {
            return Ok(existing);
        }
        value.push(":");
        value.push(existing);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_comes_before_lib_before_the_variable() {
        let root = std::env::temp_dir().join(format!("specmalloc-find-{}", std::process::id()));
        let (bin, lib) = (root.join("bin"), root.join("lib"));
        for folder in [&bin, &lib] {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join(NAME), "").unwrap();
        }
        let other = root.join("other.so");
        std::fs::write(&other, "").unwrap();
        let found = || search(NAME, Some(&bin), Some(other.clone()));
        assert_eq!(found(), bin.join(NAME).canonicalize().ok());
        std::fs::remove_file(bin.join(NAME)).unwrap();
        assert_eq!(found(), lib.join(NAME).canonicalize().ok());
        std::fs::remove_file(lib.join(NAME)).unwrap();
        assert_eq!(found(), other.canonicalize().ok());
        std::fs::remove_file(&other).unwrap();
        assert!(found().is_none());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_was_preloaded_stays_preloaded() {
        let value = |path: &str, existing: Option<&str>| {
            preload(Path::new(path), existing.map(OsString::from))
                .ok()
                .map(|value| value.into_string().unwrap())
        };
        assert_eq!(value("/a.so", None).unwrap(), "/a.so");
        assert_eq!(value("/a.so", Some("")).unwrap(), "/a.so");
        assert_eq!(value("/a.so", Some("b.so c.so")).unwrap(), "/a.so:b.so c.so");
        assert_eq!(value("/a.so", Some("/a.so:b.so")).unwrap(), "/a.so:b.so");
        assert_eq!(value("/has space/a.so", None), None);
    }
}
