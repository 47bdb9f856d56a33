//! The real library.

#![allow(dead_code, reason = "each test binary uses its own part")]

#[path = "../../../preload/tests/common/library.rs"]
mod library;

pub use library::{build, library};

/// The library that notes samples, which lies beside the other.
pub fn profiler() {
    if std::env::var_os("SPECMALLOC_LIB").is_none() {
        build("preload", "specmalloc-profile", "libspecmalloc_profile.so");
    }
}
