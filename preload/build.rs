//! How the library is linked: with nothing but libc and ld.so behind it, and in memory until the process ends.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // std asks for `libgcc_s`, whose loading would be two thirds of what the library costs a small program at its
    // start. This linker script stands in for it and leads to the archive with the same functions.
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo names a directory"));
    std::fs::write(out.join("libgcc_s.so"), "INPUT(-lgcc_eh)\n").expect("the directory can be written to");
    println!("cargo::rustc-link-search=native={}", out.display());
    // The C compiler's own start-up files register this library with tools that are not there: six symbols that the
    // dynamic linker looks for in vain, in every program.
    println!("cargo::rustc-cdylib-link-arg=-nostartfiles");
    // Each part of the file on pages of its own. Otherwise a page that two parts share is mapped twice; and where a part
    // happens to end at the end of a page, one is left between it and the next, which costs a system call at the start.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,separate-loadable-segments");
    let rare = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("rare.ld");
    println!("cargo::rerun-if-changed=rare.ld");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-T,{}", rare.display());
    // Threads and their exit handlers lead here after a dlclose, too.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
