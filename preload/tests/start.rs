//! What the library costs a program at its start, and a small one that sleeps: system calls, page faults, resident
//! memory, and what the dynamic linker has to do, beside the same program without the library.

mod common;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

/// The program, with the library or without, at addresses that are the same each time.
fn program(case: &str, preloaded: bool) -> Command {
    let mut command = Command::new(common::compile("start.c", &[]));
    command.arg(case).env_remove("LD_PRELOAD");
    if preloaded {
        command.env("LD_PRELOAD", common::library());
    }
    common::by_single_pages(&mut command);
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // Where that is forbidden they differ, and so do the figures, a little.
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
            Ok(())
        })
    };
    command
}

/// The figure that the program prints, the least of a few runs: what is in the page cache matters.
fn figure(case: &str, preloaded: bool) -> i64 {
    let run = || {
        let output = common::succeed(&mut program(case, preloaded));
        String::from_utf8(output.stdout).expect("a number").trim().parse().expect("a number")
    };
    (0..10).map(|_| run()).min().expect("ten runs")
}

/// How often a program makes each system call, by number.
fn system_calls(mut command: Command) -> BTreeMap<u64, i64> {
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    #[expect(clippy::zombie_processes, reason = "waited for below, by the call that tells of stops")]
    let child = command.spawn().expect("a program to trace");
    let pid = child.id() as libc::pid_t;
    let mut counts = BTreeMap::new();
    loop {
        let mut status = 0;
        // SAFETY: the child is ours and traced; the kernel writes what it is given room for.
        unsafe {
            assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
            if !libc::WIFSTOPPED(status) {
                break;
            }
            // Without this option the kernel does not tell a system call's stop from others.
            libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_TRACESYSGOOD);
            let mut info: libc::ptrace_syscall_info = std::mem::zeroed();
            libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size_of_val(&info), &raw mut info);
            if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                *counts.entry(info.u.entry.nr).or_insert(0) += 1;
            }
            assert_eq!(libc::ptrace(libc::PTRACE_SYSCALL, pid, ptr::null_mut::<u8>(), 0), 0);
        }
    }
    counts
}

#[test]
fn system_calls_at_the_start() {
    let mut more = system_calls(program("nothing", true));
    for (number, count) in system_calls(program("nothing", false)) {
        *more.entry(number).or_insert(0) -= count;
    }
    let mut take = |number: libc::c_long| more.remove(&(number as u64)).unwrap_or(0);
    // The dynamic linker's, for any library: one mapping for all, one for each further part of the file, and one for
    // what starts as zeros.
    assert!(take(libc::SYS_mmap) <= 5, "the allocator maps memory before the program asks for any");
    for number in
        [libc::SYS_openat, libc::SYS_read, libc::SYS_newfstatat, libc::SYS_close, libc::SYS_mprotect]
    {
        let count = take(number);
        assert!(count <= 1, "system call {number}: {count}");
    }
    // Ours: what may be forbidden later. The barrier is registered and tried.
    assert_eq!(take(libc::SYS_membarrier), 2);
    let once = [libc::SYS_prlimit64, libc::SYS_sched_getaffinity, libc::SYS_brk, libc::SYS_getrandom];
    assert!(once.map(take).into_iter().all(|count| count <= 1));
    more.retain(|_, count| *count != 0);
    assert!(more.is_empty(), "{more:?}, by number");
}

/// A filter may kill for it.
#[test]
fn what_is_off_is_not_called() {
    let mut command = program("small", true);
    command.env("SPECMALLOC_CONF", "membarrier:off");
    let made = system_calls(command);
    // Names of mappings are off unless they are asked for.
    for number in [libc::SYS_membarrier, libc::SYS_prctl] {
        assert_eq!(made.get(&(number as u64)), None, "system call {number}");
    }
    assert!(made.contains_key(&(libc::SYS_mmap as u64)), "none is seen");
}

#[test]
fn faults_at_the_start() {
    let (with, without) = (figure("faults", true), figure("faults", false));
    assert!(with <= without + 14, "{with} page faults, {without} without the library");
}

#[test]
fn resident_memory_of_a_small_program() {
    let (with, without) = (figure("small", true), figure("small", false));
    assert!(with <= without + (256 << 10), "{with} bytes resident, {without} without the library");
}

/// Each is work before the program's first instruction.
#[test]
fn relocations() {
    let output = common::relocations();
    let (relative, named): (Vec<_>, Vec<_>) =
        output.lines().filter(|line| line.contains(" R_")).partition(|line| line.contains("_RELATIVE"));
    assert!(relative.len() <= 80 && named.len() <= 60, "{} and {}:\n{output}", relative.len(), named.len());
}
