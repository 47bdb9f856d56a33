//! The Rust workloads on the global allocator that the feature names.

/// `allocator!(feature, type, value)`: the feature's allocator, and its name for the figures.
macro_rules! allocator {
    ($feature:literal, $allocator:ty, $value:expr) => {
        #[cfg(feature = $feature)]
        #[global_allocator]
        static ALLOCATOR: $allocator = $value;
        #[cfg(feature = $feature)]
        const NAME: &str = $feature;
    };
}

allocator!("system", std::alloc::System, std::alloc::System);
allocator!("specmalloc", specmalloc::SpecMalloc, specmalloc::SpecMalloc::new());
allocator!("mimalloc3", mimalloc::MiMalloc, mimalloc::MiMalloc);
allocator!("mimalloc2", mimalloc::MiMalloc, mimalloc::MiMalloc);
allocator!("jemalloc", tikv_jemallocator::Jemalloc, tikv_jemallocator::Jemalloc);
allocator!("snmalloc", snmalloc_rs::SnMalloc, snmalloc_rs::SnMalloc);
allocator!("rpmalloc", rpmalloc::RpMalloc, rpmalloc::RpMalloc);
allocator!("tcmalloc", tcmalloc_better::TCMalloc, tcmalloc_better::TCMalloc);
allocator!("rusty_alloc", rusty_alloc_api::RustyAlloc, rusty_alloc_api::RustyAlloc);
allocator!("bomalloc", bomalloc::BoGlobalAllocator, bomalloc::BoGlobalAllocator::new());
allocator!("stoolap-jemalloc", stoolap_jemalloc::Jemalloc, stoolap_jemalloc::Jemalloc::new());

fn main() {
    compare::rust_paths::main(NAME);
}
