//! Which places of the code run in models beside another thread. The tests of model builds take their atomics from
//! here: the checker's, which note where they are used from, if `SPECMALLOC_MODEL_CENSUS` names a file for that. See
//! `tests/layering/census.rs`.

#[cfg(loom)]
use loom::{sync::atomic as checked, thread};
#[cfg(shuttle)]
use shuttle::{sync::atomic as checked, thread};

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write;
use std::panic::Location;
use std::sync::OnceLock;

std::thread_local! {
    // A checker runs all threads of a model on the thread that asked for it.
    static SEEN: RefCell<Seen> = const { RefCell::new(Seen { first: None, is_beside: false, places: BTreeSet::new() }) };
}

struct Seen {
    /// The thread that came first in this execution, and whether another has come since.
    first: Option<thread::ThreadId>,
    is_beside: bool,
    places: BTreeSet<(&'static str, u32)>,
}

fn file() -> Option<&'static str> {
    static FILE: OnceLock<Option<String>> = OnceLock::new();
    FILE.get_or_init(|| std::env::var("SPECMALLOC_MODEL_CENSUS").ok()).as_deref()
}

/// Notes that the caller's caller uses an atomic.
#[track_caller]
fn note() {
    if file().is_none() {
        return;
    }
    let (place, thread) = (Location::caller(), thread::current().id());
    SEEN.with_borrow_mut(|seen| {
        seen.is_beside |= *seen.first.get_or_insert(thread) != thread;
        if seen.is_beside {
            seen.places.insert((place.file(), place.line()));
        }
    });
}

/// Does a step, and notes where it was asked for before and after: the checker may let others go first.
#[track_caller]
fn noted<T>(step: impl FnOnce() -> T) -> T {
    note();
    let done = step();
    note();
    done
}

/// Another execution of a model begins.
pub(super) fn begin_execution() {
    SEEN.with_borrow_mut(|seen| (seen.first, seen.is_beside) = (None, false));
}

/// A model has passed: writes down what it ran.
pub(super) fn end_model(layer: &str, name: &str) {
    let places = SEEN.with_borrow_mut(|seen| std::mem::take(&mut seen.places));
    let Some(path) = file() else { return };
    let model = format!("{layer}::{name}")
        .replace("specmalloc::", "")
        .replace("::models::", "::")
        .replace("pass::", "");
    let lines: String = places.iter().map(|(file, line)| format!("{file} {line} {model}\n")).collect();
    // One write, so that tests that run at the same time do not mix.
    let file = std::fs::File::options().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(lines.as_bytes())).expect("a file for the census");
}

/// The checker's atomics.
pub mod atomic {
    use super::{checked, noted};
    pub use checked::Ordering;
    use std::ops::{Deref, DerefMut};

    /// As the checker's.
    #[track_caller]
    pub fn fence(order: Ordering) {
        noted(|| checked::fence(order));
    }

    macro_rules! noted {
        ($name:ident $([$of:ident])?, $value:ty, { $($method:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)* }) => {
            /// As the checker's.
            #[derive(Debug)]
            pub struct $name$(<$of>)?(checked::$name$(<$of>)?);

            impl$(<$of>)? $name$(<$of>)? {
                /// As the checker's.
                #[track_caller]
                pub fn new(value: $value) -> Self {
                    $name(checked::$name::new(value))
                }

                $(
                    /// As the checker's.
                    #[track_caller]
                    pub fn $method(&self, $($argument: $kind),*) -> $answer {
                        noted(|| self.0.$method($($argument),*))
                    }
                )*

                /// As the checker's.
                #[track_caller]
                pub fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    update: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    noted(|| self.0.fetch_update(set, fetch, update))
                }
            }

            impl$(<$of>)? Deref for $name$(<$of>)? {
                type Target = checked::$name$(<$of>)?;

                fn deref(&self) -> &Self::Target {
                    &self.0
                }
            }

            impl$(<$of>)? DerefMut for $name$(<$of>)? {
                fn deref_mut(&mut self) -> &mut Self::Target {
                    &mut self.0
                }
            }
        };
    }

    macro_rules! numbers {
        ($($name:ident $value:ty;)*) => {$(
            noted!($name, $value, {
                load(order: Ordering) -> $value;
                store(value: $value, order: Ordering) -> ();
                swap(value: $value, order: Ordering) -> $value;
                compare_exchange(old: $value, new: $value, set: Ordering, fetch: Ordering) -> Result<$value, $value>;
                compare_exchange_weak(old: $value, new: $value, set: Ordering, fetch: Ordering) -> Result<$value, $value>;
                fetch_add(value: $value, order: Ordering) -> $value;
                fetch_sub(value: $value, order: Ordering) -> $value;
                fetch_and(value: $value, order: Ordering) -> $value;
                fetch_or(value: $value, order: Ordering) -> $value;
                fetch_min(value: $value, order: Ordering) -> $value;
                fetch_max(value: $value, order: Ordering) -> $value;
            });
        )*};
    }

    numbers! { AtomicU8 u8; AtomicU32 u32; AtomicU64 u64; AtomicUsize usize; }

    noted!(AtomicBool, bool, {
        load(order: Ordering) -> bool;
        store(value: bool, order: Ordering) -> ();
        swap(value: bool, order: Ordering) -> bool;
        compare_exchange(old: bool, new: bool, set: Ordering, fetch: Ordering) -> Result<bool, bool>;
    });

    noted!(AtomicPtr[T], *mut T, {
        load(order: Ordering) -> *mut T;
        store(value: *mut T, order: Ordering) -> ();
        swap(value: *mut T, order: Ordering) -> *mut T;
        compare_exchange(old: *mut T, new: *mut T, set: Ordering, fetch: Ordering) -> Result<*mut T, *mut T>;
        compare_exchange_weak(old: *mut T, new: *mut T, set: Ordering, fetch: Ordering) -> Result<*mut T, *mut T>;
    });
}
