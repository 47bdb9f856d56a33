//! The allocators that are compared: what they are called, where they come from, and which of them are there.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Failure;
use super::build::{Builder, Source, TCMALLOC};

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
            program: None,
        })
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

/// The same for the C library's own allocator, behind a library that watches it.
pub fn preload_list_of_c_library(first: &Path) -> String {
    list(first, c_library())
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

/// An allocator that `compare` knows how to get.
struct Known {
    name: &'static str,
    /// The feature of the package `peers`.
    feature: Option<&'static str>,
    source: Source,
    environment: &'static [(&'static str, &'static str)],
    /// Left out of a quick look: an older build of another in the list.
    older: bool,
}

const fn known(name: &'static str, feature: Option<&'static str>, source: Source) -> Known {
    Known { name, feature, source, environment: &[], older: false }
}

const KNOWN: &[Known] = &[
    known("glibc", Some("system"), Source::CLibrary),
    known("specmalloc", Some("specmalloc"), Source::Specmalloc),
    known("mimalloc3", Some("mimalloc3"), Source::Mimalloc("v3")),
    known("mimalloc2", Some("mimalloc2"), Source::Mimalloc("v2")),
    known("jemalloc", Some("jemalloc"), Source::Archive("tikv-jemalloc-sys", &[])),
    known("snmalloc", Some("snmalloc"), Source::Snmalloc),
    known("rpmalloc", Some("rpmalloc"), Source::Rpmalloc),
    Known {
        // Its caches for each processor want the restartable sequences that glibc registers for itself.
        environment: &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")],
        ..known("tcmalloc", Some("tcmalloc"), Source::Archive("libtcmalloc-sys", TCMALLOC))
    },
    known("gperftools", None, Source::Installed("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4")),
    known("scudo", None, Source::Installed("libclang_rt.scudo_standalone-*.so", "libclang-rt-14-dev")),
    Known {
        older: true,
        ..known("jemalloc-debian", None, Source::Installed("libjemalloc.so.2", "libjemalloc2"))
    },
    Known {
        older: true,
        ..known("mimalloc-debian", None, Source::Installed("libmimalloc.so.2", "libmimalloc2.0"))
    },
    known("rusty_alloc", Some("rusty_alloc"), Source::Never("rusty_alloc")),
    known("bomalloc", Some("bomalloc"), Source::Never("bomalloc")),
    known("stoolap-jemalloc", Some("stoolap-jemalloc"), Source::Never("stoolap-jemalloc")),
];

/// Which allocators are wanted, and for what.
pub struct Wanted<'a> {
    /// Only these; all if empty.
    pub only: &'a [String],
    /// Not these.
    pub without: &'a [String],
    /// Given by the user.
    pub more: &'a [Peer],
    /// Not those that are older builds of others.
    pub quick: bool,
    /// Whether rows need them as libraries.
    pub libraries: bool,
    /// Whether rows need them in Rust programs.
    pub programs: bool,
}

/// Builds and finds the allocators wanted; names those that are missing. An error is a request that makes no sense.
pub fn find_peers(wanted: &Wanted, builder: &mut Builder) -> Result<(Vec<Peer>, Vec<Missing>), Failure> {
    let named = |name: &str| wanted.only.iter().any(|other| other == name);
    if let Some(unknown) = wanted.only.iter().chain(wanted.without).find(|name| {
        !KNOWN.iter().any(|known| known.name == name.as_str())
            && !wanted.more.iter().any(|peer| peer.name == **name)
    }) {
        return Err(format!("there is no allocator {unknown}"));
    }
    if let Some(twice) = wanted.more.iter().find(|peer| KNOWN.iter().any(|known| known.name == peer.name)) {
        return Err(format!("two allocators are called {}", twice.name));
    }
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    for known in KNOWN {
        let asked = if wanted.only.is_empty() { !(wanted.quick && known.older) } else { named(known.name) };
        let useful = (wanted.libraries && !matches!(known.source, Source::Never(_)))
            || (wanted.programs && known.feature.is_some());
        if !asked || !useful || wanted.without.iter().any(|other| other == known.name) {
            continue;
        }
        let mut lacks = |why| missing.push(Missing { name: known.name.to_owned(), why });
        let feature = known.feature.filter(|_| wanted.programs || known.source.needs_cargo());
        let program = feature.and_then(|feature| {
            builder.program(feature).map_err(|why| lacks(format!("no Rust program: {why}"))).ok()
        });
        let malloc = if wanted.libraries {
            builder.library(known.name, &known.source).unwrap_or_else(|why| {
                lacks(format!("no library: {why}"));
                Malloc::Never
            })
        } else {
            Malloc::Never
        };
        if malloc != Malloc::Never || program.is_some() {
            peers.push(Peer {
                name: known.name.to_owned(),
                version: builder.version(&known.source, &malloc),
                malloc,
                environment: known.environment,
                program: program.filter(|_| wanted.programs),
            });
        }
    }
    peers.extend(wanted.more.iter().filter(|_| wanted.libraries).cloned());
    if peers.is_empty() {
        return Err("no allocator is left to measure".to_owned());
    }
    Ok((peers, missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(only: &'a [String], more: &'a [Peer]) -> Wanted<'a> {
        Wanted { only, without: &[], more, quick: true, libraries: true, programs: false }
    }

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
            program: None,
        };
        let (libc, other) = (Path::new("/lib/libc.so.6"), Path::new("/lib/libm.so.6"));
        assert!(peer.is_served_by(libc) && !peer.is_served_by(other));
        assert!(peer.is_served_by(&c_library().expect("is loaded")));
        assert!(peer.preload_list(Path::new("/who.so")).starts_with("/who.so:/"));
        peer.malloc = Malloc::Never;
        assert!(!peer.is_served_by(libc));
    }

    #[test]
    fn what_cannot_be_built_is_missing_by_name_and_the_rest_is_there() {
        let mut builder = Builder::new(Path::new("/no/such/root"), Path::new("/no/such/folder"));
        let only = ["glibc", "specmalloc"].map(str::to_owned);
        let (peers, missing) = find_peers(&wanted(&only, &[]), &mut builder).unwrap();
        assert_eq!(peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["glibc"]);
        assert_eq!(missing.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["specmalloc"]);
    }

    #[test]
    fn a_name_is_known_once() {
        let mut builder = Builder::new(Path::new("/no/such/root"), Path::new("/no/such/folder"));
        let executable = std::env::current_exe().unwrap();
        let more = [Peer::parse(&format!("glibc={}", executable.display())).unwrap()];
        assert!(find_peers(&wanted(&[], &more), &mut builder).unwrap_err().contains("two allocators"));
        let only = ["no-such".to_owned()];
        assert!(find_peers(&wanted(&only, &[]), &mut builder).unwrap_err().contains("no allocator no-such"));
    }
}
