//! The threads that read faults, and which region a fault is one of.
//!
//! A process has one userfaultfd for all its regions, and as many threads as faults are served at the same time: one of
//! those that serve none waits for the next fault, the others for their turn. Whoever takes a fault and leaves nobody
//! waiting makes one more thread first. Those that are not needed for a while end, and the last with the last region.

use super::error::{Error, Result};
use super::userfault::{Fault, Userfault};
use crate::files::section;
use crate::global::process;
use crate::pal::Platform;
use crate::region::Region;
use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};

/// Faults that are served at the same time, at most.
const THREADS: usize = 64;
/// Milliseconds without a fault after which a thread ends that is not the last to wait.
const IDLE: i32 = if cfg!(test) { 5 } else { 5000 };

/// A region, to the threads.
pub(super) trait Served: Send + Sync {
    /// A thread waits for a page of the region. `room` is the calling thread's, to fetch bytes in.
    fn touched(&self, fault: Fault, room: &mut Vec<u8>);

    /// This process is a child by fork: its memory is a copy that nobody serves. Nothing is allocated or waited for.
    fn forked(&self);
}

struct State {
    /// With the number of its regions.
    service: Option<(Arc<Service>, usize)>,
    /// By the address of the descriptor. Some are gone.
    regions: BTreeMap<usize, Weak<dyn Served>>,
}

static STATE: Mutex<State> = Mutex::new(State { service: None, regions: BTreeMap::new() });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What serves the faults of this process's regions.
struct Service {
    userfault: Userfault,
    /// An eventfd: readable when all regions are gone.
    stop: OwnedFd,
    process: u32,
    /// Held by who waits for the next fault.
    turn: Mutex<()>,
    /// Threads that serve nobody: counted down by who has the turn.
    waiting: AtomicUsize,
    threads: AtomicUsize,
}

/// A region's share in the service, which ends with the last.
pub(super) struct Lease(Arc<Service>);

impl Lease {
    pub(super) fn take() -> Result<Lease> {
        static NOTICES_FORKS: Once = Once::new();
        NOTICES_FORKS.call_once(|| {
            // SAFETY: the handlers are functions of this library.
            let _no_memory =
                unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
        });
        let mut state = state();
        // One that was inherited by fork serves the parent.
        if let Some((service, count)) = &mut state.service
            && service.is_ours()
        {
            *count += 1;
            return Ok(Lease(service.clone()));
        }
        let userfault = Userfault::open()?;
        // SAFETY: makes a descriptor.
        let stop = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if stop < 0 {
            return Err(Error::last("eventfd"));
        }
        let service = Arc::new(Service {
            userfault,
            // SAFETY: made just now, and nobody else's.
            stop: unsafe { OwnedFd::from_raw_fd(stop) },
            process: std::process::id(),
            turn: Mutex::new(()),
            waiting: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
        });
        spawn(&service).map_err(|error| Error::System { call: "pthread_create", error: error.into() })?;
        state.service = Some((service.clone(), 1));
        Ok(Lease(service))
    }

    /// Whether this process made the region, and is served.
    pub(super) fn is_ours(&self) -> bool {
        self.0.is_ours()
    }

    pub(super) fn userfault(&self) -> &Userfault {
        &self.0.userfault
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = state();
        let Some((service, count)) = &mut state.service else { return };
        // In a child of fork it may be the parent's: nobody there is told anything.
        if !Arc::ptr_eq(service, &self.0) || !service.is_ours() {
            return;
        }
        *count -= 1;
        if *count == 0 {
            let one = 1u64;
            // SAFETY: eight bytes, as an eventfd takes them; it does not fail at a count of one.
            let _ = unsafe { libc::write(service.stop.as_raw_fd(), (&raw const one).cast(), 8) };
            state.service = None;
        }
    }
}

impl Service {
    fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }

    /// The next fault; `None` if the thread is not needed any more.
    fn next(self: &Arc<Service>) -> Option<Fault> {
        // Relaxed, here and below: what hangs on it is under the turn.
        self.waiting.fetch_add(1, Relaxed);
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = self.wait_for_fault();
        let others = self.waiting.fetch_sub(1, Relaxed) - 1;
        drop(turn);
        if fault.is_some() && others == 0 {
            // Where there is no other thread to be had, faults wait for this one.
            let _ = spawn(self);
        }
        fault
    }

    fn wait_for_fault(&self) -> Option<Fault> {
        let watch = |descriptor: &dyn AsRawFd| libc::pollfd {
            fd: descriptor.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        loop {
            let mut watched = [watch(&self.userfault), watch(&self.stop)];
            // SAFETY: as many as said.
            let ready = unsafe { libc::poll(watched.as_mut_ptr(), 2, IDLE) };
            if watched[1].revents != 0 || ready == 0 && self.waiting.load(Relaxed) > 1 {
                return None;
            }
            if let Some(fault) = self.userfault.read() {
                return Some(fault);
            }
        }
    }

    /// Looks up whose fault it is, and has it served.
    fn answer(&self, fault: Fault, room: &mut Vec<u8>) {
        let inside = section::enter();
        let pin = process().space().pin(fault.address, &inside);
        drop(inside);
        let key = pin.as_ref().map(|pin| key(pin.region()));
        let served = key.and_then(|key| state().regions.get(&key).and_then(Weak::upgrade));
        match &served {
            Some(region) => region.touched(fault, room),
            // It is gone, and who waits had no right to be there: it is to find that out.
            None => {
                let page = process().space().os().page_size();
                self.userfault.wake(fault.address & !(page - 1), page);
            }
        }
        drop((served, pin));
        if process().space().has_retired() {
            process().space().reap(section::slot());
        }
    }
}

fn spawn(service: &Arc<Service>) -> io::Result<()> {
    // Relaxed: a limit.
    if service.threads.fetch_add(1, Relaxed) >= THREADS {
        service.threads.fetch_sub(1, Relaxed);
        return Ok(());
    }
    let its = service.clone();
    let body = move || {
        let mut room = Vec::new();
        while let Some(fault) = its.next() {
            its.answer(fault, &mut room);
        }
        // Relaxed: as above.
        its.threads.fetch_sub(1, Relaxed);
    };
    let (mut blocked, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // The program's signals are for its own threads; those that a thread causes itself are its own.
    // SAFETY: sets of signals, filled before they are read.
    unsafe {
        libc::sigfillset(blocked.as_mut_ptr());
        for own in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT] {
            libc::sigdelset(blocked.as_mut_ptr(), own);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, blocked.as_ptr(), before.as_mut_ptr());
    }
    let made = std::thread::Builder::new().name("pager".to_owned()).spawn(body);
    // SAFETY: written by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    if made.is_err() {
        service.threads.fetch_sub(1, Relaxed);
    }
    made.map(drop)
}

fn key(region: &Region) -> usize {
    std::ptr::from_ref(region).addr()
}

/// Has the faults of a region served, until it is dropped. What stays after that is in the place of the next region that
/// has the descriptor.
pub(super) fn enter(region: &'static Region, served: Weak<dyn Served>) {
    state().regions.insert(key(region), served);
}

/// The lock, while a fork goes on: the child finds it free, and what is under it whole.
struct Kept(UnsafeCell<Option<MutexGuard<'static, State>>>);

// SAFETY: used by who holds the lock only.
unsafe impl Sync for Kept {}

static KEPT: Kept = Kept(UnsafeCell::new(None));

extern "C" fn before_fork() {
    let state = state();
    // SAFETY: under the lock.
    unsafe { *KEPT.0.get() = Some(state) };
}

extern "C" fn in_parent() {
    // SAFETY: under the lock, which `before_fork` took on this thread.
    drop(unsafe { (*KEPT.0.get()).take() });
}

extern "C" fn in_child() {
    // SAFETY: as above; this is that thread's copy.
    let state = unsafe { (*KEPT.0.get()).take() };
    for served in state.iter().flat_map(|state| state.regions.values()) {
        // Never the last: whoever held it holds it in the child, too.
        served.upgrade().inspect(|served| served.forked());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// Those that end are no longer counted, nor are those that could not be made.
    #[test]
    fn threads_are_counted_while_they_are_there() {
        let lease = match Lease::take() {
            Err(Error::NotAllowed { .. }) => return,
            lease => lease.unwrap(),
        };
        let service = &lease.0;
        let begun = Instant::now();
        for _ in 0..4 {
            (0..8).for_each(|_| spawn(service).unwrap());
            // One stays, and those that other tests need.
            while service.threads.load(Relaxed) > 4 {
                assert!(begun.elapsed() < Duration::from_secs(20), "{:?} threads", service.threads);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let before = service.threads.fetch_add(THREADS, Relaxed);
        // More than end meanwhile.
        (0..20).for_each(|_| spawn(service).unwrap());
        let after = service.threads.fetch_sub(THREADS, Relaxed);
        assert!(after <= before + THREADS, "{before} {after}");
    }
}
