//! Heaps as values, in a program whose allocator is specmalloc. (`heaps_alone` is one whose allocator is another.)

mod blocks;
mod files;
mod giving_back;
mod limits;
mod misuse;
mod threads;

#[global_allocator]
static ALLOC: specmalloc::SpecMalloc = specmalloc::SpecMalloc::new();
