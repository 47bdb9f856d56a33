//! `libspecmalloc_profile.so`: where the samples were allocated.
//!
//! Loaded beside `libspecmalloc.so`, whose samples it asks for (`specmalloc_on_samples`). What it learns of them is
//! counted by `specmalloc-samples`: in a file that the command `specmalloc profile` has made, and reads when the process
//! has ended, however it ended; or in memory of the process's own.

mod hooks;
