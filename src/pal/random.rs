//! Random bits for secrets and placement: one word of the kernel's, and splitmix64 from there.

use super::errno::auxiliary;
use super::system_call;
use crate::const_unless_model;
use crate::sync::atomic::{AtomicU64, Ordering};

/// What the next number is made from; zero before the kernel was asked, which happens once, at start.
pub(super) struct Random(AtomicU64);

impl Random {
    const_unless_model! {
        pub(super) fn new() -> Random {
            Random(AtomicU64::new(0))
        }
    }

    pub(super) fn next(&self) -> u64 {
        // Relaxed (all): whoever comes first decides, and everybody steps from there; no other memory hangs on it.
        if self.0.load(Ordering::Relaxed) == 0 {
            let _lost = self.0.compare_exchange(0, seed() | 1, Ordering::Relaxed, Ordering::Relaxed);
        }
        // The even step keeps the number odd: it never is zero again.
        scramble(self.0.fetch_add(STEP, Ordering::Relaxed))
    }
}

/// `getrandom` for one word, without waiting for the kernel's pool.
fn kernel_random(flags: libc::c_uint) -> Option<u64> {
    let mut word = 0u64;
    // SAFETY: getrandom writes at most the eight bytes of `word`.
    let got = unsafe {
        let at = (&raw mut word).expose_provenance();
        system_call(libc::SYS_getrandom, [at, size_of::<u64>(), flags as usize])
    };
    (got == Ok(size_of::<u64>())).then_some(word)
}

/// The finalizer of splitmix64 (Steele, Lea, Flood, 2014): a bijection in which every input bit reaches every output
/// bit.
fn scramble(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// From one random number to the next: close to the golden ratio of 2^64, and even.
const STEP: u64 = 0x9e37_79b9_7f4a_7c16;

/// What the kernel has of randomness for this process.
fn seed() -> u64 {
    // Sixteen bytes that the kernel leaves for each exec, the same until then: libc uses them too, so they are
    // hashed and never handed out as they are.
    let seed = match auxiliary(libc::AT_RANDOM) as *const [u64; 2] {
        at if at.is_null() => [0; 2],
        // SAFETY: the kernel left sixteen bytes at this address, at the far end of the first thread's stack.
        at => unsafe { at.read_unaligned() },
    };
    // GRND_INSECURE (5.6) never blocks; before it, GRND_NONBLOCK fails until the pool is ready.
    let fresh = kernel_random(libc::GRND_NONBLOCK | libc::GRND_INSECURE)
        .or_else(|| kernel_random(libc::GRND_NONBLOCK))
        .unwrap_or(seed[0]);
    scramble(seed[0] ^ scramble(seed[1] ^ scramble(fresh)))
}
