//! Seeded bugs: places that the argument for a protocol relies on, each of which a model build can weaken.
//!
//! In a normal build [`seeded`] is the constant `false` and leaves nothing behind. In a model build a test plants one
//! bug by name and demands that the checker finds the failure. Each layer's models list theirs as [`SeededBug`]s.
//! Orderings and fences are written [`acquire`], [`release`] and [`full_fence`] with the name of the bug that takes
//! that one away; a bug that leaves a step out asks [`seeded`]. `tests/layering` demands that the modelled layers name
//! no ordering themselves but Relaxed, that each name stands in one place, and that a list of bugs has it.

use super::atomic::{Ordering, fence};

/// One seeded bug: its name, what it takes away, and the test that must catch it.
#[derive(Clone, Copy, Debug)]
pub struct SeededBug {
    /// `layer.place`: the argument of [`seeded`] at the place.
    pub name: &'static str,
    /// The step or ordering that is missing when the bug is planted.
    pub removes: &'static str,
    /// The model that must fail with it.
    pub caught_by: &'static str,
}

impl SeededBug {
    /// The bug `name` takes away what `removes` says; the model `caught_by` must notice.
    pub const fn new(name: &'static str, removes: &'static str, caught_by: &'static str) -> SeededBug {
        SeededBug { name, removes, caught_by }
    }
}

#[cfg(any(loom, shuttle))]
std::thread_local! {
    // For all threads of a model, as `PLANTED`.
    static BARE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether the light barrier is nothing, as on the real machine: in models in which no heavy one may be relied upon.
#[cfg(any(loom, shuttle))]
pub(super) fn is_bare() -> bool {
    BARE.with(std::cell::Cell::get)
}

/// Says whether it is.
#[cfg(all(test, loom))]
pub(crate) fn set_bare(bare: bool) {
    BARE.with(|cell| cell.set(bare));
}

/// Whether the bug `name` is planted: always `false` outside model builds.
#[cfg(not(any(loom, shuttle)))]
#[inline(always)]
pub const fn seeded(_name: &str) -> bool {
    false
}

#[cfg(any(loom, shuttle))]
std::thread_local! {
    // A checker runs all its threads as coroutines of one thread of the OS: the plant reaches all of them, and no
    // model that runs beside it.
    static PLANTED: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Whether the bug `name` is planted.
#[cfg(any(loom, shuttle))]
pub fn seeded(name: &str) -> bool {
    PLANTED.with(std::cell::Cell::get) == Some(name)
}

/// Whether any bug is planted.
#[cfg(any(loom, shuttle))]
pub fn is_any_planted() -> bool {
    PLANTED.with(std::cell::Cell::get).is_some()
}

/// The ordering Acquire, which a model proves to be needed: Relaxed where the bug `name` is planted.
#[inline(always)]
pub fn acquire(name: &str) -> Ordering {
    if seeded(name) { Ordering::Relaxed } else { Ordering::Acquire }
}

/// The ordering Release, which a model proves to be needed: Relaxed where the bug `name` is planted.
#[inline(always)]
pub fn release(name: &str) -> Ordering {
    if seeded(name) { Ordering::Relaxed } else { Ordering::Release }
}

/// A fence of the ordering Acquire, which a model proves to be needed: none where the bug `name` is planted.
#[inline(always)]
#[cfg_attr(any(loom, shuttle), track_caller)]
pub fn acquire_fence(name: &str) {
    if !seeded(name) {
        fence(Ordering::Acquire);
    }
}

/// A fence of the ordering Release, which a model proves to be needed: none where the bug `name` is planted.
#[inline(always)]
#[cfg_attr(any(loom, shuttle), track_caller)]
pub fn release_fence(name: &str) {
    if !seeded(name) {
        fence(Ordering::Release);
    }
}

/// A sequentially consistent fence, which a model proves to be needed: none where the bug `name` is planted.
#[inline(always)]
#[cfg_attr(any(loom, shuttle), track_caller)]
pub fn full_fence(name: &str) {
    if !seeded(name) {
        fence(Ordering::SeqCst);
    }
}

/// Takes `first`, then `second`, in which order a model proves that they must be: the other way round where the bug
/// `name` is planted. Returns what both return.
#[inline(always)]
pub fn in_order<A, B>(first: impl FnOnce() -> A, second: impl FnOnce() -> B, name: &str) -> (A, B) {
    if !seeded(name) {
        return (first(), second());
    }
    let second = second();
    (first(), second)
}

/// Asks `first`, and takes `second` if it says so: where the bug `name` is planted, takes `second` before it asks.
/// Returns what `first` says.
#[inline(always)]
pub fn if_first(first: impl FnOnce() -> bool, second: impl FnOnce(), name: &str) -> bool {
    if seeded(name) {
        second();
        return first();
    }
    let says = first();
    if says {
        second();
    }
    says
}

/// Plants `bug` while `model` runs and returns what the model failed with, if it did.
#[cfg(all(test, any(loom, shuttle)))]
pub(super) fn plant(bug: &'static str, model: impl FnOnce() + std::panic::UnwindSafe) -> Option<String> {
    PLANTED.with(|planted| planted.set(Some(bug)));
    let failure = std::panic::catch_unwind(model).err();
    PLANTED.with(|planted| planted.set(None));
    let text = |failure: Box<dyn std::any::Any + Send>| match failure.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => (*other.downcast::<&str>().unwrap_or(Box::new("a panic without words"))).to_owned(),
    };
    failure.map(text)
}
