//! The locks themselves. They allocate nothing, and are as good as such locks are: the readers' is one instruction each
//! way while nobody writes, and who waits for the other one sleeps.

use crate::pal::{Linux, Platform};
use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{CachePadded, spin_hint};

pub static INDEX: CachePadded<ReadWrite> = CachePadded::new(ReadWrite(AtomicU32::new(0)));
pub static GROWTH: CachePadded<Mutual> = CachePadded::new(Mutual(AtomicU32::new(FREE)));
static SYSTEM: Linux = Linux::new();

/// Looks at a lock before its processor is given away.
const SPINS: u32 = 100;

/// Readers come before writers, as in the C library's, for sections nest. Both wait by turns: what is done under it is
/// short.
pub struct ReadWrite(AtomicU32);

/// The bit of the one who writes; below it is the number of readers, and of those who are about to see it.
const WRITER: u32 = 1 << 31;

impl ReadWrite {
    #[inline(always)]
    pub fn read(&self) {
        // Acquire: partner is the Release of `written`.
        if self.0.fetch_add(1, Acquire) & WRITER != 0 {
            self.read_later();
        }
    }

    #[cold]
    fn read_later(&self) {
        // Acquire: as above.
        wait_until(|| self.0.load(Acquire) & WRITER == 0);
    }

    #[inline(always)]
    pub fn leave(&self) {
        // Release: partner is the Acquire of `write`.
        self.0.fetch_sub(1, Release);
    }

    pub fn write(&self) {
        // Acquire: partners are the Releases of `leave` and `written`.
        wait_until(|| self.0.compare_exchange(0, WRITER, Acquire, Relaxed).is_ok());
    }

    pub fn written(&self) {
        // Release: partners are the Acquires above.
        self.0.fetch_and(!WRITER, Release);
    }
}

fn wait_until(is_over: impl Fn() -> bool) {
    let mut looks = 0;
    while !is_over() {
        looks += 1;
        if looks < SPINS { spin_hint() } else { SYSTEM.yield_now() }
    }
}

/// One at a time; the others sleep.
pub struct Mutual(AtomicU32);

const FREE: u32 = 0;
const LOCKED: u32 = 1;
/// Locked, and somebody may sleep.
const WANTED: u32 = 2;

impl Mutual {
    pub fn lock(&self) {
        // Acquire, here and below: partner is the Release of `unlock`.
        if self.0.compare_exchange(FREE, LOCKED, Acquire, Relaxed).is_ok() {
            return;
        }
        while self.0.swap(WANTED, Acquire) != FREE {
            SYSTEM.wait(&self.0, WANTED, None);
        }
    }

    pub fn unlock(&self) {
        // Release: partner is the Acquire of `lock`.
        if self.0.swap(FREE, Release) == WANTED {
            SYSTEM.wake(&self.0, 1);
        }
    }
}

pub fn forget() {
    // Relaxed, both: the child has one thread.
    INDEX.0.store(0, Relaxed);
    GROWTH.0.store(FREE, Relaxed);
}
