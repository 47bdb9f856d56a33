//! What the library needs in order to be loaded, and how it stays: read from the file, as built by either profile.

mod common;

use std::path::Path;
use std::process::Command;

/// The lines of the dynamic section of `library`.
fn dynamic_section(library: &Path) -> Vec<String> {
    let output = common::succeed(Command::new("readelf").args(["--dynamic", "--wide"]).arg(library));
    String::from_utf8(output.stdout).expect("text in ASCII").lines().map(str::to_owned).collect()
}

#[track_caller]
fn is_linked_as_it_should(library: &Path) {
    let lines = dynamic_section(library);
    let needed: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.split_once(']'))
        .map(|(name, _)| name)
        .collect();
    let libc_only = |name: &&str| *name == "libc.so.6" || name.starts_with("ld-linux-");
    assert!(needed.iter().all(libc_only), "every program would load {needed:?}");
    let flags = lines.iter().find(|line| line.contains("(FLAGS_1)")).expect("flags");
    assert!(flags.contains("NOW") && flags.contains("NODELETE"), "{flags}");
}

#[test]
fn needs_libc_and_nothing_else_and_is_never_unloaded() {
    is_linked_as_it_should(common::library());
}

#[test]
fn so_does_the_one_that_a_release_build_leaves() {
    is_linked_as_it_should(&common::library::build("release", "specmalloc-preload", "libspecmalloc.so"));
}
