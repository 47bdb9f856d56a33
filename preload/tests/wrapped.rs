//! A program's own malloc family may do its work by glibc's second names (`__libc_calloc`): they are not to come back to
//! it.

mod common;

passing_cases! { "wrapped.c":
    each_wrapper_is_called_once_for_a_call,
}

/// What stays bound by name is what a program may replace alone: `new[]` calls the `new` that there is, `reallocarray` the
/// `realloc`.
#[test]
fn no_second_name_calls_a_first_one_by_name() {
    let output =
        std::process::Command::new("readelf").args(["-rW"]).arg(common::library()).output().expect("readelf");
    let text = String::from_utf8(output.stdout).expect("symbols in ASCII");
    let bound: Vec<_> =
        text.lines().filter(|line| line.contains("GLOB_DAT") || line.contains("JUMP_SLO")).collect();
    assert!(!bound.is_empty(), "{text}");
    for name in ["malloc", "calloc", "free", "memalign", "posix_memalign", "malloc_usable_size", "mallinfo2"]
    {
        let by_name = bound.iter().any(|line| line.split_whitespace().any(|word| word == name));
        assert!(!by_name, "{name} is called by name");
    }
}
