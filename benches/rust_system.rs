//! The Rust workloads on the C library's allocator.

use std::alloc::System;

#[global_allocator]
static ALLOCATOR: System = System;

fn main() {
    compare::rust_paths::main("system");
}
