//! Builds mimalloc's own C source, as the `mimalloc` crate ships it, into the shared object that the runner preloads.
//! The same source then serves both comparisons: preloaded here, as Rust's global allocator in the benches.
//!
//! It is built as its authors build it (release, malloc overridden, initial-exec thread-local memory), whatever the
//! profile of this package, and without a Rust wrapper around it, which would cost it resident memory.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let include =
        std::env::var("DEP_MIMALLOC_INCLUDE_DIR").expect("libmimalloc-sys tells where its headers are");
    let source = Path::new(&include).with_file_name("src").join("static.c");
    let library = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it")).join("libmimalloc.so");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(&compiler)
        .args(["-std=gnu11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-ftls-model=initial-exec"])
        .args(["-fno-builtin-malloc", "-DNDEBUG", "-DMI_DEBUG=0", "-DMI_BUILD_RELEASE"])
        .args(["-DMI_MALLOC_OVERRIDE", "-DMI_SHARED_LIB", "-DMI_SHARED_LIB_EXPORT", "-I", &include, "-o"])
        .args([&library, &source])
        .arg("-lpthread")
        .status();
    assert!(status.is_ok_and(|status| status.success()), "{compiler} does not build {}", source.display());
    println!("cargo::rustc-env=MIMALLOC_LIBRARY={}", library.display());
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CC");
}
