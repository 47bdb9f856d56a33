//! The C library around ours: its own malloc, which libraries would bind to and blocks come from, and its parts that
//! allocate while they hold locks, load libraries, or run before our constructors.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn plugin() -> PathBuf {
    common::compile("deep.c", &["-shared", "-fPIC"])
}

/// Runs a case of `beside.c`, with `conf` as the options.
#[track_caller]
fn passes(case: &str, conf: &str) {
    let mut program = Command::new(common::compile("beside.c", &["-rdynamic"]));
    common::run(program.arg(case).env("PLUGIN", plugin()).env("SPECMALLOC_CONF", conf)).passed();
}

macro_rules! passing {
    ($conf:literal: $($case:ident),* $(,)?) => {$(
        #[test]
        fn $case() {
            passes(stringify!($case), $conf);
        }
    )*};
}

passing! { "":
    plugin_keeps_to_itself,
    plugin_frees_ours,
    plugin_grows_ours,
    plugin_frees_what_libc_made,
    plugin_gives,
    deepbind_is_cleared,
    errors_are_libcs,
    blocks_of_the_main_arena,
    blocks_of_other_arenas,
    blocks_of_an_arenas_second_heap,
    blocks_of_second_heaps_in_a_thread,
    blocks_of_another_namespace,
}

passing! { "deepbind:on":
    deepbind_is_honoured,
}

/// A library that was bound to glibc's malloc gives us its blocks. (Ours it would give to glibc: that is why it is not
/// to be.)
#[test]
fn what_a_deeply_bound_library_makes_can_be_freed() {
    passes("plugin_keeps_to_itself", "deepbind:on");
    passes("plugin_gives", "deepbind:on");
}

/// A program, a library along its RUNPATH, and another along that one's: `$ORIGIN/plugins` and `$ORIGIN/parts`.
#[test]
fn the_callers_runpath_counts() {
    let folder = common::scratch().join(format!("runpath-{}", std::process::id()));
    let (plugins, parts) = (folder.join("plugins"), folder.join("plugins/parts"));
    fs::create_dir_all(&parts).expect("a folder");
    // Not copies: what a thread of this process has just written cannot be executed while a child that another one
    // makes has the file open for writing, too.
    let link = |from: PathBuf, to: PathBuf| fs::hard_link(from, to).expect("another name");
    let (outer, inner) = ("-Wl,-rpath,$ORIGIN/parts", "-Wl,-rpath,$ORIGIN/nowhere");
    link(common::compile("deep.c", &["-shared", "-fPIC", outer]), plugins.join("libouter.so"));
    link(common::compile("deep.c", &["-shared", "-fPIC", inner]), parts.join("libinner.so"));
    let program = folder.join("program");
    link(common::compile("beside.c", &["-Wl,-rpath,$ORIGIN/plugins"]), program.clone());
    common::run(Command::new(program).arg("the_callers_runpath_counts")).passed();
    fs::remove_dir_all(folder).expect("the folder was just made");
}

passing_cases! { "inside_libc.c":
    one_thread_uses_all,
    many_threads_use_all,
    before_constructors,
}
