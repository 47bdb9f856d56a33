//! Mapped files: readers, whatever changes under them, and pages that are gone.

mod changes;
mod faults;
mod many;
mod process;
mod readers;
mod support;

use specmalloc::SpecMalloc;

#[global_allocator]
static ALLOC: SpecMalloc = SpecMalloc::new();
