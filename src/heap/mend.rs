//! Mending after a fork: each part of an allocator mends itself, and `lives::fork` says in which order.

/// What a thread that vanished in a fork may have left half done.
pub trait Mend {
    /// In the child of a fork, whose one thread is the caller: makes it whole.
    fn mend(&self);
}
