//! Futexes without a kernel: by mutex and condition variable in tests, by the checker's park in models.
//!
//! Nothing wakes a model's sleeper but a wake, so a wake that a protocol forgets is a deadlock, which checkers report.

use crate::sync::atomic::AtomicU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

#[cfg(loom)]
use loom::thread;
#[cfg(shuttle)]
use shuttle::thread;

/// A list of sleepers by the address of the word that they sleep on.
#[derive(Default)]
pub(super) struct Parking {
    sleepers: Mutex<Sleepers>,
    #[cfg(not(any(loom, shuttle)))]
    changed: std::sync::Condvar,
}

#[derive(Default)]
struct Sleepers {
    next_ticket: u64,
    waiting: Vec<Sleeper>,
}

struct Sleeper {
    ticket: u64,
    word: usize,
    #[cfg(any(loom, shuttle))]
    thread: thread::Thread,
}

impl Sleepers {
    fn add(&mut self, word: &AtomicU32) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.push(Sleeper {
            ticket,
            word: std::ptr::from_ref(word) as usize,
            #[cfg(any(loom, shuttle))]
            thread: thread::current(),
        });
        ticket
    }

    #[cfg(not(any(loom, shuttle)))]
    fn holds(&self, ticket: u64) -> bool {
        self.waiting.iter().any(|sleeper| sleeper.ticket == ticket)
    }

    fn remove(&mut self, ticket: u64) {
        self.waiting.retain(|sleeper| sleeper.ticket != ticket);
    }

    /// Takes up to `count` sleepers on `word` out, those who came first.
    fn take(&mut self, word: &AtomicU32, count: u32) -> Vec<Sleeper> {
        let word = std::ptr::from_ref(word) as usize;
        let mut taken = 0;
        self.waiting
            .extract_if(.., |sleeper| {
                let chosen = sleeper.word == word && taken < count;
                taken += u32::from(chosen);
                chosen
            })
            .collect()
    }
}

impl Parking {
    /// How many sleep.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(not(any(loom, shuttle)))]
impl Parking {
    /// Sleeps while `word` is `expected`, until woken, or until the time is over or `early` says so.
    pub(super) fn wait(
        &self,
        word: &AtomicU32,
        expected: u32,
        timeout_ms: Option<u32>,
        early: impl Fn() -> bool,
    ) {
        use crate::sync::atomic::Ordering;

        let mut sleepers = self.lock();
        if word.load(Ordering::SeqCst) != expected {
            return;
        }
        let ticket = sleepers.add(word);
        let end =
            timeout_ms.map(|ms| std::time::Instant::now() + std::time::Duration::from_millis(u64::from(ms)));
        while sleepers.holds(ticket) && !early() {
            sleepers = match end.map(|end| end.saturating_duration_since(std::time::Instant::now())) {
                None => self.changed.wait(sleepers).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => break,
                Some(left) => {
                    self.changed.wait_timeout(sleepers, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        sleepers.remove(ticket);
    }

    /// Wakes up to `count` sleepers on `word`.
    pub(super) fn wake(&self, word: &AtomicU32, count: u32) {
        self.lock().take(word, count);
        self.changed.notify_all();
    }

    /// Lets every sleeper look again whether it may return early.
    pub(super) fn look_again(&self) {
        // Taken so that no sleeper is between its look and its sleep.
        let sleepers = self.lock();
        self.changed.notify_all();
        drop(sleepers);
    }
}

#[cfg(any(loom, shuttle))]
impl Parking {
    /// Sleeps while `word` is `expected`, until woken. A model has no time: a wait that has an end may end at once.
    pub(super) fn wait(
        &self,
        word: &AtomicU32,
        expected: u32,
        timeout_ms: Option<u32>,
        early: impl Fn() -> bool,
    ) {
        use crate::sync::atomic::{Ordering, fence};
        use crate::sync::{seeded, spin_hint};

        if timeout_ms.is_some() || early() {
            return spin_hint();
        }
        // Relaxed: ordered by the fences, here and in `wake`, as the kernel orders it. The sleeper is on the list
        // before it looks; so either it sees the store that came before a wake, or the wake finds it on the list.
        let changed = || word.load(Ordering::Relaxed) != expected;
        let late = seeded("pal.wait_compares");
        if late {
            // Looks too early: what happens from here on is missed.
            if changed() {
                return;
            }
            spin_hint();
        }
        let ticket = self.lock().add(word);
        fence(Ordering::SeqCst);
        if late || !changed() {
            thread::park();
        }
        self.lock().remove(ticket);
    }

    /// Wakes up to `count` sleepers on `word`.
    pub(super) fn wake(&self, word: &AtomicU32, count: u32) {
        crate::sync::atomic::fence(crate::sync::atomic::Ordering::SeqCst);
        let taken = self.lock().take(word, count);
        for sleeper in taken {
            sleeper.thread.unpark();
        }
    }

    /// Nobody sleeps by the clock here.
    pub(super) fn look_again(&self) {}
}
