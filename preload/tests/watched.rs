//! Programs that want to be called when a sample is allocated and when it is freed; and what tracers find of that.

mod common;

use common::library::{build, library};
use std::path::PathBuf;
use std::process::Command;

fn profiler() -> PathBuf {
    build("preload", "specmalloc-profile", "libspecmalloc_profile.so")
}

/// The program, with those libraries.
fn program(case: &str, libraries: &str) -> Command {
    let mut command = Command::new(common::compile("watched.c", &["-ldl"]));
    command.arg(case).env("LD_PRELOAD", libraries).env_remove("SPECMALLOC_CONF");
    command
}

fn passes(case: &str) {
    common::succeed(&mut program(case, &format!("{}:{}", library().display(), profiler().display())));
}

cases! { passes:
    a_sample_is_told_from_its_malloc_to_its_free,
    what_grows_is_freed_and_allocated,
    a_watcher_allocates_itself,
    threads_are_told_of,
    in_handlers,
    a_child_is_told_of,
    wrong_watchers,
}

#[test]
fn without_the_allocator() {
    common::succeed(&mut program("without_the_allocator", &profiler().display().to_string()));
}

/// The notes of probes, as `readelf -n` has them: name, and how many arguments.
#[test]
fn probes_have_notes() {
    let output = common::succeed(Command::new("readelf").args(["-n", "--wide"]).arg(library()));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines = text.lines().map(str::trim);
    let register = if cfg!(target_arch = "x86_64") { "8@%r" } else { "8@x" };
    let mut found = Vec::new();
    while lines.by_ref().any(|line| line.ends_with("Provider: specmalloc")) {
        let name = lines.next().and_then(|line| line.strip_prefix("Name: ")).expect("a name");
        let place = lines.next().expect("a place");
        assert!(place.contains("Location: 0x") && !place.contains("Base: 0x0000000000000000"), "{place}");
        let arguments = lines.next().and_then(|line| line.strip_prefix("Arguments: ")).expect("arguments");
        assert!(arguments.split(' ').all(|argument| argument.starts_with(register)), "{arguments}");
        found.push((name, arguments.split(' ').count()));
    }
    found.sort_unstable();
    assert_eq!(found, [("sample_allocated", 4), ("sample_freed", 3)], "{text}");
}
