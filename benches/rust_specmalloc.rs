//! The Rust workloads on specmalloc.

use specmalloc::SpecMalloc;

#[global_allocator]
static ALLOCATOR: SpecMalloc = SpecMalloc::new();

fn main() {
    compare::rust_paths::main("specmalloc");
}
