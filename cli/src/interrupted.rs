//! How the command itself ends by a signal where it has something to put in order first: it notes the signal, ends what it
//! waits for, and whoever asks here next cleans up and ends by it. A second signal ends it at once.

use crate::descendants::Descendants;
use std::io;
use std::mem::MaybeUninit;
use std::process::{Child, ExitStatus};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// What a terminal, or another process, asks for the end with.
const ENDS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// What is asked to end, and has not after so long, is killed.
const PATIENCE: Duration = Duration::from_secs(2);

/// The signal that came; zero for none.
static CAME: AtomicI32 = AtomicI32::new(0);
/// The child that is to end with it; zero for none.
static CHILD: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    // Relaxed, here and below: flags, with nothing behind them.
    CAME.store(signal, Ordering::Relaxed);
    let child = CHILD.load(Ordering::Relaxed);
    if child > 0 {
        // SAFETY: no memory is involved; the child has not been waited for while it is noted.
        unsafe { libc::kill(child, libc::SIGTERM) };
    }
}

/// Those of them that are not ignored.
fn heeded() -> impl Iterator<Item = libc::c_int> {
    ENDS.into_iter().filter(|signal| {
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: `action` is valid for the write, and is read only if the call filled it in.
        unsafe {
            libc::sigaction(*signal, std::ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction != libc::SIG_IGN
        }
    })
}

/// Notes such signals from now on, but for those that are ignored.
pub(crate) fn watch() {
    for signal in heeded() {
        // SAFETY: the record is valid and initialised; the handler only makes async-signal-safe calls.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as *const () as usize;
            action.sa_flags = libc::SA_RESETHAND;
            libc::sigaction(signal, &raw const action, null_mut());
        }
    }
}

/// The signal that asked for the end, if one did.
pub(crate) fn signal() -> Option<libc::c_int> {
    Some(CAME.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// A child that is told of such a signal until this is dropped: which is before it is waited for.
pub(crate) struct TakenAlong(());

pub(crate) fn take_along(pid: u32) -> TakenAlong {
    CHILD.store(pid as i32, Ordering::Relaxed);
    if let Some(signal) = signal() {
        // It came before the child was noted.
        note(signal);
    }
    TakenAlong(())
}

impl Drop for TakenAlong {
    fn drop(&mut self) {
        CHILD.store(0, Ordering::Relaxed);
    }
}

/// The signals that ask for the end, and SIGCHLD, held back and taken one by one while this is there.
pub(crate) struct Held {
    before: libc::sigset_t,
    child: libc::sighandler_t,
    signals: libc::sigset_t,
}

impl Held {
    pub(crate) fn new() -> Self {
        let (mut before, mut signals) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: sigemptyset and sigprocmask fill the sets in before anybody reads them. Whoever started the command may
        // have had SIGCHLD ignored, and then it does not come.
        unsafe {
            libc::sigemptyset(signals.as_mut_ptr());
            heeded().chain([libc::SIGCHLD]).for_each(|signal| {
                libc::sigaddset(signals.as_mut_ptr(), signal);
            });
            let child = libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            libc::sigprocmask(libc::SIG_BLOCK, signals.as_ptr(), before.as_mut_ptr());
            Self { before: before.assume_init(), child, signals: signals.assume_init() }
        }
    }

    /// Waits until `ended` tells how the child ended. A signal that asks for the end is sent on to all that descend from
    /// the child, and what is still there some time after is killed; at once, if the same signal comes again.
    pub(crate) fn wait<T>(
        &self,
        child: u32,
        mut ended: impl FnMut() -> io::Result<Option<T>>,
    ) -> io::Result<T> {
        let mut ending = signal().map(|_| end(child));
        loop {
            if let Some(told) = ended()? {
                if let Some((descendants, end)) = ending {
                    descendants.end_by(end);
                }
                return Ok(told);
            }
            let left = ending.as_ref().map(|(_, end)| end.saturating_duration_since(Instant::now()));
            match self.next(left) {
                None => {
                    let (descendants, end) = ending.as_mut().expect("there is no other time");
                    descendants.send(libc::SIGKILL);
                    *end += PATIENCE;
                }
                Some(libc::SIGCHLD) => {}
                Some(came) => {
                    match &ending {
                        None => ending = Some(end(child)),
                        Some((descendants, _)) if signal() == Some(came) => descendants.send(libc::SIGKILL),
                        Some(_) => {}
                    }
                    // Relaxed: as in `note`, which would have done this.
                    CAME.store(came, Ordering::Relaxed);
                }
            }
        }
    }

    /// The next of them; none if none comes in time.
    fn next(&self, time: Option<Duration>) -> Option<libc::c_int> {
        let time = time.map(|time| libc::timespec {
            tv_sec: time.as_secs() as libc::time_t,
            tv_nsec: time.subsec_nanos().into(),
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        loop {
            // SAFETY: an initialised set, and a time or none.
            let signal = unsafe { libc::sigtimedwait(&raw const self.signals, null_mut(), time) };
            if signal > 0 {
                return Some(signal);
            }
            // Else stopped and continued.
            if io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN) {
                return None;
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: what was there before; an initialised set.
        unsafe {
            libc::signal(libc::SIGCHLD, self.child);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const self.before, null_mut());
        }
    }
}

/// Asks all that descend from a process to end, which are those, and tells until when they may.
fn end(process: u32) -> (Descendants, Instant) {
    let descendants = Descendants::of(process);
    descendants.send(libc::SIGTERM);
    (descendants, Instant::now() + PATIENCE)
}

/// Waits for a child's end, which such a signal brings about.
pub(crate) fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let status = Held::new().wait(child.id(), || child.try_wait());
    if let Some(signal) = signal() {
        // As after the handler, which had no chance.
        // SAFETY: no memory is involved.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    status
}
