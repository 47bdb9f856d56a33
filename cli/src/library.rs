//! Where libspecmalloc.so is, and how the dynamic loader is told of it.

use crate::Failure;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const NAME: &str = "libspecmalloc.so";

/// How to come by the library.
pub(crate) const BUILD: &str = "cargo build --profile preload -p specmalloc-preload";

/// The library: beside this command, in `../lib`, or what SPECMALLOC_LIB names.
pub(crate) fn find() -> Result<PathBuf, Failure> {
    let command = std::env::current_exe().and_then(std::fs::canonicalize);
    let folder = command.as_deref().ok().and_then(Path::parent);
    search(folder, std::env::var_os("SPECMALLOC_LIB").map(PathBuf::from))
}

fn search(folder: Option<&Path>, variable: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let beside = folder.map(|folder| folder.join(NAME));
    let lib = folder.and_then(Path::parent).map(|parent| parent.join("lib").join(NAME));
    // The loader reads the path in the program's working directory, which may not stay ours.
    let places = [beside, lib, variable].into_iter().flatten();
    places.filter_map(|path| path.canonicalize().ok()).find(|path| path.is_file()).ok_or_else(|| {
        Failure::own(format!(
            "{NAME} is not beside this command, not in ../lib, and not what SPECMALLOC_LIB names; \
             build it with: {BUILD}"
        ))
    })
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
        let found = || search(Some(&bin), Some(other.clone())).ok();
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
