//! The allocators that are compared, and where their libraries are.

use std::path::{Path, PathBuf};

use super::Failure;

/// An allocator: a name for tables, and the library to preload, none for the C library's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// The name in tables.
    pub name: String,
    /// The library to preload, as an absolute path without symbolic links.
    pub library: Option<PathBuf>,
}

impl Peer {
    /// Reads `name=/path/to/library.so`.
    pub fn parse(text: &str) -> Result<Peer, Failure> {
        let (name, path) =
            text.split_once('=').ok_or(format!("'{text}' is not of the form name=/path.so"))?;
        let library = Path::new(path).canonicalize().map_err(|error| format!("{path}: {error}"))?;
        Ok(Peer { name: name.to_owned(), library: Some(library) })
    }

    /// Whether `library`, the object that served malloc in a run, is the one that should have.
    pub fn is_served_by(&self, library: &Path) -> bool {
        match &self.library {
            Some(expected) => library.canonicalize().is_ok_and(|path| path == *expected),
            None => library.file_name().is_some_and(|name| {
                let name = name.to_string_lossy();
                name.starts_with("libc.") || name.starts_with("libc-") || name.starts_with("ld-musl")
            }),
        }
    }
}

/// The allocators of a comparison: glibc, mimalloc, specmalloc, then `more`; without those named in `without`.
/// `build_folder` is the folder of build output that holds this program's own folder.
pub fn find_peers(build_folder: &Path, more: &[Peer], without: &[String]) -> Result<Vec<Peer>, Failure> {
    let wanted = |name: &str| !without.iter().any(|other| other == name);
    let mut peers = Vec::new();
    if wanted("glibc") {
        peers.push(Peer { name: "glibc".to_owned(), library: None });
    }
    if wanted("mimalloc") {
        let path = Path::new(env!("MIMALLOC_LIBRARY"));
        let library = path.canonicalize().map_err(|_| {
            format!(
                "mimalloc's library is gone; build it with: cargo build --release -p compare ({})",
                path.display()
            )
        })?;
        peers.push(Peer { name: "mimalloc".to_owned(), library: Some(library) });
    }
    if wanted("specmalloc") {
        peers.push(Peer { name: "specmalloc".to_owned(), library: Some(find_specmalloc(build_folder)?) });
    }
    for peer in more {
        if peers.iter().any(|other| other.name == peer.name) {
            return Err(format!("two allocators are called {}", peer.name));
        }
        peers.push(peer.clone());
    }
    if peers.is_empty() {
        return Err("no allocator is left to measure".to_owned());
    }
    Ok(peers)
}

fn find_specmalloc(build_folder: &Path) -> Result<PathBuf, Failure> {
    ["preload", "release"]
        .iter()
        .find_map(|profile| build_folder.join(profile).join("libspecmalloc.so").canonicalize().ok())
        .ok_or_else(|| {
            "libspecmalloc.so is not built; build it with: cargo build --profile preload -p specmalloc-preload \
             (or leave it out with --without specmalloc)"
                .to_owned()
        })
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
    }

    #[test]
    fn a_missing_library_names_the_build_command() {
        let nowhere = Path::new("/no/such/folder");
        let failure = find_peers(nowhere, &[], &[]).unwrap_err();
        assert!(failure.contains("cargo build --profile preload -p specmalloc-preload"), "{failure}");
        let names: Vec<_> = find_peers(nowhere, &[], &["specmalloc".to_owned()]).unwrap();
        assert_eq!(names.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["glibc", "mimalloc"]);
    }
}
