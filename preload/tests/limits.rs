//! What happens when memory runs out, and after: null with ENOMEM, nothing lost, and it works again.

mod common;

use std::os::unix::process::CommandExt;
use std::process::Command;

passing_cases! { "limits.c":
    exhaust_the_data_segment,
    from_small_to_huge_and_back,
    threads_exhaust_together,
    a_thread_after_all_was_freed,
    limits_are_learned_on_a_small_stack,
    at_the_limit_pages_stay,
}

/// Runs a case that prints how many MiB it could use, and demands at least `expected`.
#[track_caller]
fn uses(case: &str, expected: u64) {
    let printed = common::case("limits.c", case).passed();
    let used: u64 = printed.trim_end().parse().expect("the MiB used");
    assert!(used >= expected, "{used} MiB of 512");
}

#[test]
fn exhaust_with_large() {
    uses("exhaust_with_large", 480);
}

#[test]
fn exhaust_with_small() {
    uses("exhaust_with_small", 480);
}

/// Blocks of 40 MiB: eleven fit into 480 MiB.
#[test]
fn exhaust_with_huge() {
    uses("exhaust_with_huge", 440);
}

/// At the first attempt: what is reserved behind blocks counts against a limit that the program sets itself.
#[test]
fn exhaust_once_with_the_smallest_huge() {
    uses("exhaust_once_with_the_smallest_huge", 480);
}

#[test]
fn exhaust_the_data_segment_once_with_the_smallest_huge() {
    uses("exhaust_the_data_segment_once_with_the_smallest_huge", 480);
}

/// The program starts in 64 MiB of address space, and most of what it leaves free can be used.
#[test]
fn starts_in_64_mib() {
    let mut command = Command::new(common::compile("limits.c", &[]));
    command.arg("works_in_64_mib");
    // SAFETY: setrlimit is async-signal-safe, as what runs between fork and exec must be.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 64 << 20, rlim_max: 64 << 20 };
            match libc::setrlimit(libc::RLIMIT_AS, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let printed = common::run(&mut command).passed();
    let used: u64 = printed.trim_end().parse().expect("the MiB used");
    assert!(used >= 40, "{used} MiB of 64");
}

/// Runs a case that locks its memory and prints how many bytes are resident, `expected` at most. Where a process may not
/// lock that much, there is nothing to see.
#[track_caller]
fn locked_memory_is_within(case: &str, expected: u64) {
    let outcome = common::case("limits.c", case);
    if outcome.code == Some(3) {
        eprintln!("not run: this user may not lock memory");
        return;
    }
    let resident: u64 = outcome.passed().trim_end().parse().expect("the resident bytes");
    assert!(resident <= expected, "{resident} bytes resident");
}

/// Reserved address space must not become memory.
#[test]
fn locked_memory_stays_small() {
    locked_memory_is_within("locked_memory_stays_small", 40 << 20);
}

/// Nor what is reserved behind blocks: 48 MiB are live, beside an arena.
#[test]
fn locked_huge_blocks_have_nothing_behind_them() {
    locked_memory_is_within("locked_huge_blocks_have_nothing_behind_them", 90 << 20);
}

/// 56 MiB are live, of which hardly any was touched, and all is to be resident from then on: not what lies behind it.
#[test]
fn what_is_there_is_locked() {
    locked_memory_is_within("what_is_there_is_locked", 75 << 20);
}

#[test]
fn what_is_there_and_what_comes_is_locked() {
    locked_memory_is_within("what_is_there_and_what_comes_is_locked", 75 << 20);
}
