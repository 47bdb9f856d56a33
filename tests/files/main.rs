//! Mapped files: readers, whatever changes under them, and pages that are gone.

#[path = "../again/mod.rs"]
mod again;
mod changes;
mod faults;
mod many;
mod placing;
mod process;
mod readers;
mod support;

use specmalloc::SpecMalloc;

#[global_allocator]
static ALLOC: SpecMalloc = SpecMalloc::new();
