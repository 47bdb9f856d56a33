//! ISO C leaves most names of the C library to the program. What a program calls `munmap` or `open` is not called by
//! malloc, nor by anything else of this library.

mod common;

passing_cases! { "names.c":
    all_kinds_of_use,
}

#[test]
fn a_message_is_written_and_the_process_ended_without_them() {
    let outcome = common::case("names.c", "message_of_a_double_free");
    assert_eq!(outcome.signal, Some(libc::SIGABRT), "{}", outcome.stderr);
    let lines = outcome.stderr.lines().collect::<Vec<_>>();
    assert!(matches!(&lines[..], [line] if line.starts_with("specmalloc: ")), "{lines:?}");
}
