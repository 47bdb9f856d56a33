//! The *locked twin*: the same allocator with a lock round the index and a lock round growth and unmapping, one of each
//! for the whole process. `compare` builds it, to show what it is worth that there are none. In a product nothing of
//! this is left.
//!
//! A section holds the index for reading. Who publishes a region holds it for writing meanwhile; who waits for a grace
//! period has held it for writing once, and that is all the grace period there is. (A region may be unlinked inside a
//! section, so that is not where the lock can be taken.) Mapped files are not of the twin.

#[cfg(feature = "locked-twin")]
mod locks;

/// Whether this is the twin.
pub const IS_LOCKED: bool = cfg!(feature = "locked-twin");

/// One of the locks, until it is dropped.
#[must_use = "a lock that is dropped at once protects nothing"]
pub struct Held(#[cfg(feature = "locked-twin")] fn());

#[cfg(feature = "locked-twin")]
impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The index, for reading. Nests.
#[inline(always)]
pub fn reading() -> Held {
    #[cfg(feature = "locked-twin")]
    locks::INDEX.read();
    Held(
        #[cfg(feature = "locked-twin")]
        || locks::INDEX.leave(),
    )
}

/// The index, for writing.
#[inline(always)]
pub fn writing() -> Held {
    #[cfg(feature = "locked-twin")]
    locks::INDEX.write();
    Held(
        #[cfg(feature = "locked-twin")]
        || locks::INDEX.written(),
    )
}

/// Growth and unmapping.
#[inline(always)]
pub fn growing() -> Held {
    #[cfg(feature = "locked-twin")]
    locks::GROWTH.lock();
    Held(
        #[cfg(feature = "locked-twin")]
        || locks::GROWTH.unlock(),
    )
}

/// Frees both in the child of a fork.
#[inline(always)]
pub fn forget() {
    #[cfg(feature = "locked-twin")]
    locks::forget();
}
