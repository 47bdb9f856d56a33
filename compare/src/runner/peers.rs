//! The allocators that are compared: where they come from, and which of them are there.

use super::Failure;
use super::build::{Builder, Source, TCMALLOC};
use super::peer::{Malloc, Missing, Peer};

/// An allocator that `compare` knows how to get.
struct Known {
    name: &'static str,
    /// The feature of the package `peers`.
    feature: Option<&'static str>,
    source: Source,
    environment: &'static [(&'static str, &'static str)],
    /// See [`Peer::arguments`].
    arguments: &'static [&'static str],
    /// Left out of a quick look: an older build of another in the list.
    older: bool,
    /// Of the table of speculation only, unless it is named.
    speculation: bool,
}

const fn known(name: &'static str, feature: Option<&'static str>, source: Source) -> Known {
    Known { name, feature, source, environment: &[], arguments: &[], older: false, speculation: false }
}

const KNOWN: &[Known] = &[
    known("glibc", Some("system"), Source::CLibrary),
    known("specmalloc", Some("specmalloc"), Source::Specmalloc),
    Known { speculation: true, ..known("twin", None, Source::Twin) },
    Known {
        environment: &[("SPECMALLOC_CONF", "membarrier:off")],
        speculation: true,
        ..known("fence", None, Source::Specmalloc)
    },
    Known { arguments: &["--limit"], speculation: true, ..known("limit", None, Source::CLibrary) },
    Known { arguments: &["--tree"], speculation: true, ..known("tree", None, Source::CLibrary) },
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
    /// Those of the table of speculation, too.
    pub speculation: bool,
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
        let asked = if wanted.only.is_empty() {
            !(wanted.quick && known.older) && (wanted.speculation || !known.speculation)
        } else {
            named(known.name)
        };
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
                arguments: known.arguments,
                workloads: match known.source {
                    Source::Twin => Some(builder.twin_workloads()),
                    _ => None,
                },
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
    use std::path::Path;

    fn wanted<'a>(only: &'a [String], more: &'a [Peer]) -> Wanted<'a> {
        Wanted { only, without: &[], more, quick: true, speculation: false, libraries: true, programs: false }
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
