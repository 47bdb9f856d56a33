//! Runs the program so that nobody outside can tell that the command stands between: signals go through, stops and
//! continues too, and the command ends as the program ended.
//!
//! The program stays in the command's process group, so what a terminal sends reaches both; what another process sends
//! to the command alone is sent on. All such signals are blocked here and taken one by one with sigwaitinfo: there
//! is no handler. The program starts with the signal mask and the ignored signals that the command was started with.

use std::convert::Infallible;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Signals that are not for the program: those that cannot be blocked, those that tell of the command's own faults or
/// of its children, and the terminal's stops, which stop the command like any other process.
const KEPT: [libc::c_int; 13] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGCHLD,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGSYS,
];

/// Whether SIGPIPE was ignored when the command started: Rust's runtime ignores it before `main`.
static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_sigpipe() {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: `action` is valid for the write, and is read only if the call filled it in.
    let ignored = unsafe {
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    };
    // Relaxed: start-up has one thread.
    PIPE_IGNORED.store(ignored, Ordering::Relaxed);
}

// SAFETY: the section holds pointers to C functions that run once each before `main`, and this is one.
#[unsafe(link_section = ".init_array")]
#[used]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

/// What a program inherits and the command changes for itself.
#[derive(Clone, Copy)]
pub(crate) struct Inherited {
    mask: libc::sigset_t,
    pipe: libc::sighandler_t,
    child: libc::sighandler_t,
}

impl Inherited {
    pub(crate) fn read() -> Self {
        let mut mask = MaybeUninit::uninit();
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: both are valid for the write; with these arguments neither call can fail, so both are filled in.
        let (mask, action) = unsafe {
            libc::sigprocmask(libc::SIG_SETMASK, std::ptr::null(), mask.as_mut_ptr());
            libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr());
            (mask.assume_init(), action.assume_init())
        };
        // Relaxed: stored before `main`.
        let pipe = if PIPE_IGNORED.load(Ordering::Relaxed) { libc::SIG_IGN } else { libc::SIG_DFL };
        Self { mask, pipe, child: action.sa_sigaction }
    }

    /// Sets them for the process that is about to run a program. Async-signal-safe.
    pub(crate) fn restore(&self) {
        // SAFETY: async-signal-safe calls on values that `self` owns.
        unsafe {
            libc::signal(libc::SIGPIPE, self.pipe);
            libc::signal(libc::SIGCHLD, self.child);
            libc::sigprocmask(libc::SIG_SETMASK, &self.mask, null_mut());
        }
    }

    /// Has `command` start its program with these.
    pub(crate) fn hand_down(self, command: &mut Command) {
        let restore = move || {
            self.restore();
            Ok(())
        };
        // SAFETY: `restore` only makes async-signal-safe calls and allocates nothing.
        unsafe { command.pre_exec(restore) };
    }
}

/// Becomes the program of `command`; returns only if that failed.
pub(crate) fn exec(command: &mut Command) -> io::Error {
    Inherited::read().hand_down(command);
    command.exec()
}

/// Runs `command` to its end. Returns its process id and how it ended; an error only if it could not be started.
pub(crate) fn run(command: &mut Command) -> io::Result<(u32, ExitStatus)> {
    Inherited::read().hand_down(command);
    let signals = passed_on();
    let mut waited = signals;
    // SAFETY: `waited` and `signals` are initialised sets. Whoever started the command may have had SIGCHLD ignored,
    // and then a program's status would be lost.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::sigaddset(&mut waited, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &waited, null_mut());
    }
    let pid = command.spawn()?.id();
    loop {
        let (signal, sender) = next_signal(&waited);
        if signal != libc::SIGCHLD {
            // Not what the kernel sent for the terminal, which reached the program too, and not its own.
            if sender.is_some_and(|sender| sender != pid) {
                send(pid, signal);
            }
            continue;
        }
        let mut status = 0;
        // SAFETY: `status` is valid for the write.
        let changed =
            unsafe { libc::waitpid(pid as libc::pid_t, &mut status, libc::WNOHANG | libc::WUNTRACED) };
        if changed != pid as libc::pid_t {
            continue;
        }
        if !libc::WIFSTOPPED(status) {
            return Ok((pid, ExitStatus::from_raw(status)));
        }
        stop_with(pid);
    }
}

/// The program has stopped: stop too, so that whoever waits for the command sees it, and let both go on together.
fn stop_with(pid: u32) {
    // A continue sent to the whole process group may reach the program just after this command.
    std::thread::sleep(Duration::from_millis(10));
    let stat = crate::output::read_lossily(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may contain some.
    let stopped = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'));
    if stopped {
        // SAFETY: no memory is involved.
        unsafe { libc::raise(libc::SIGSTOP) };
        send(pid, libc::SIGCONT);
    }
}

/// Every signal that is sent on.
fn passed_on() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set; sigdelset works on an initialised one.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for signal in KEPT {
            libc::sigdelset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Waits for a signal of `set`; with it the process that sent it, none if it was the kernel.
fn next_signal(set: &libc::sigset_t) -> (libc::c_int, Option<u32>) {
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
        // SAFETY: `info` is valid for the write.
        let signal = unsafe { libc::sigwaitinfo(set, info.as_mut_ptr()) };
        if signal > 0 {
            // SAFETY: filled in by the call that succeeded; a code of zero or less comes with a sender.
            let sender = unsafe {
                let info = info.assume_init();
                (info.si_code <= 0).then(|| info.si_pid() as u32)
            };
            return (signal, sender);
        }
        // EINTR: stopped and continued.
    }
}

fn send(pid: u32, signal: libc::c_int) {
    // SAFETY: no memory is involved. The process has not been waited for, so its id is still its own.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Ends the command as the program ended: with its exit status, or by its signal.
pub(crate) fn end_as(status: ExitStatus) -> Result<Infallible, crate::Failure> {
    let Some(signal) = status.signal() else { std::process::exit(status.code().unwrap_or(0)) };
    // SAFETY: no memory but these locals is involved. A core file, if any, is the program's: none of ours beside it.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::signal(signal, libc::SIG_DFL);
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, set.as_ptr(), null_mut());
        libc::raise(signal);
    }
    // Not reached but for a signal that does not end a process.
    std::process::exit(128 + signal)
}
