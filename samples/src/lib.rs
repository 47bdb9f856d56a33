//! What is noted of the allocations that are samples: counted by stack and size in an [`Image`], which lies in a file that
//! another process reads ([`ProfileFile`]), or in memory of the process's own; and the profile that is made of it.
//!
//! The process only counts. That may happen in the middle of anything, in signal handlers, with any lock of the C
//! library's held: it allocates nothing, takes no lock, and calls nothing of the C library's but system calls and
//! `_dl_find_object`, which is made for that. Names of functions are found afterwards (`pprof`, a feature).
//!
//! Its rooms, the lowest first: `system`; `cfi`, the part of the unwind tables that is needed; `unwind`, stacks;
//! `lives`, what is live; `image`, what is counted; `file`, images in a file; `watch`, the program's own functions;
//! `own`, the image of this process; `pool`, samples against guard pages, `report`, what was done to them, and
//! `guard`, the door of both; `pprof`, profiles.

mod cfi;
mod file;
mod guard;
mod image;
mod lives;
mod own;
mod pool;
#[cfg(feature = "pprof")]
pub mod pprof;
mod report;
mod system;
mod unwind;
mod watch;

pub use file::{IMAGES, ProfileFile, VARIABLE};
pub use guard::{allocate_guarded, free_guarded, guard, is_guarded, next_guarded, size_of_guarded};
pub use image::{Image, ModuleAt, Sampled, Stack};
pub use own::{allocated, freed, noted, open_shared};
pub use unwind::set_allocator;
pub use watch::{Sample, Told, Watcher, watch};
