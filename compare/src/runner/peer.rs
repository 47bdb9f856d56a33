//! An allocator as it is measured: what it is called, and how it serves a program.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Failure;
use crate::workloads::LIMITED;

/// How an allocator serves the C library's `malloc`.
#[derive(Clone, Debug, PartialEq)]
pub enum Malloc {
    /// It is the C library's own.
    CLibrary,
    /// As this library, preloaded: an absolute path without symbolic links.
    Library(PathBuf),
    /// Not at all: it is there for Rust programs only.
    Never,
}

/// An allocator as it is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// The name in tables.
    pub name: String,
    /// Its version, as far as it tells.
    pub version: String,
    /// How it serves `malloc`.
    pub malloc: Malloc,
    /// What its authors ask to be set in the environment.
    pub environment: &'static [(&'static str, &'static str)],
    /// Further arguments for the program `workloads`: then only those take part that know them ([`Peer::takes_part`]).
    pub arguments: &'static [&'static str],
    /// The program `workloads`, where it is not everybody's.
    pub workloads: Option<PathBuf>,
    /// The Rust workloads with it as the global allocator.
    pub program: Option<PathBuf>,
}

/// An allocator, or one way of using it, that is not there, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    /// The name in tables.
    pub name: String,
    /// Why it is missing.
    pub why: String,
}

impl Peer {
    /// Reads `name=/path/to/library.so`.
    pub fn parse(text: &str) -> Result<Peer, Failure> {
        let (name, path) =
            text.split_once('=').ok_or(format!("'{text}' is not of the form name=/path.so"))?;
        let library = Path::new(path).canonicalize().map_err(|error| format!("{path}: {error}"))?;
        Ok(Peer {
            name: name.to_owned(),
            version: String::new(),
            malloc: Malloc::Library(library),
            environment: &[],
            arguments: &[],
            workloads: None,
            program: None,
        })
    }

    /// Whether a workload makes sense for it. Where it is the index by itself that is asked, other allocators have none.
    pub fn takes_part(&self, workload: &str) -> bool {
        match self.arguments {
            _ if workload == "lookup-arenas" => {
                !self.arguments.is_empty() || ["specmalloc", "twin"].contains(&&*self.name)
            }
            ["--limit"] => LIMITED.contains(&workload),
            arguments => arguments.is_empty(),
        }
    }

    /// Sets `command`, a program of ours, up to run under this allocator.
    pub fn preload(&self, command: &mut Command) {
        command.envs(self.environment.iter().copied()).env_remove("LD_PRELOAD");
        if let Malloc::Library(library) = &self.malloc {
            command.env("LD_PRELOAD", library);
        }
    }

    /// What `LD_PRELOAD` has to be for a program that may have been linked to another allocator: then the C library,
    /// too, has to come before that.
    pub fn preload_list(&self, first: &Path) -> String {
        let own = match &self.malloc {
            Malloc::Library(library) => Some(library.clone()),
            Malloc::CLibrary => c_library(),
            Malloc::Never => None,
        };
        list(first, own)
    }

    /// Whether `object`, which served malloc in a run, is the one that should have.
    pub fn is_served_by(&self, object: &Path) -> bool {
        match &self.malloc {
            Malloc::Library(expected) => object.canonicalize().is_ok_and(|path| path == *expected),
            Malloc::CLibrary => object.file_name().is_some_and(|name| {
                let name = name.to_string_lossy();
                name.starts_with("libc.") || name.starts_with("libc-") || name.starts_with("ld-musl")
            }),
            Malloc::Never => false,
        }
    }
}

fn list(first: &Path, second: Option<PathBuf>) -> String {
    let all = std::iter::once(first.to_owned()).chain(second);
    all.map(|path| path.display().to_string()).collect::<Vec<_>>().join(":")
}

/// The object of the C library in this process.
fn c_library() -> Option<PathBuf> {
    // SAFETY: the address is that of a function; dladdr fills the record in, and its names live as long as the object.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let function = libc::gnu_get_libc_version as *const () as *const libc::c_void;
        if libc::dladdr(function, &raw mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        let name = std::ffi::CStr::from_ptr(info.dli_fname);
        Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())).canonicalize().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_name_and_a_library_that_exists() {
        let executable = std::env::current_exe().unwrap().canonicalize().unwrap();
        let peer = Peer::parse(&format!("je={}", executable.display())).unwrap();
        assert!(
            peer.name == "je" && peer.is_served_by(&executable) && !peer.is_served_by(Path::new("/dev/null"))
        );
        assert!(Peer::parse("je").is_err() && Peer::parse("je=/no/such/file").is_err());
        assert_eq!(peer.preload_list(Path::new("/who.so")), format!("/who.so:{}", executable.display()));
    }

    #[test]
    fn the_c_library_serves_itself_and_a_rust_allocator_nobody() {
        let mut peer = Peer {
            name: "x".to_owned(),
            version: String::new(),
            malloc: Malloc::CLibrary,
            environment: &[],
            arguments: &[],
            workloads: None,
            program: None,
        };
        let (libc, other) = (Path::new("/lib/libc.so.6"), Path::new("/lib/libm.so.6"));
        assert!(peer.is_served_by(libc) && !peer.is_served_by(other));
        assert!(peer.is_served_by(&c_library().expect("is loaded")));
        assert!(peer.preload_list(Path::new("/who.so")).starts_with("/who.so:/"));
        peer.malloc = Malloc::Never;
        assert!(!peer.is_served_by(libc));
    }
}
