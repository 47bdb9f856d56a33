//! The real library.

#[path = "../../../preload/tests/common/library.rs"]
mod library;

pub use library::library;
