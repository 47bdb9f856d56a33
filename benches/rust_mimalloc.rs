//! The Rust workloads on the mimalloc crate.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() {
    compare::rust_paths::main("mimalloc");
}
