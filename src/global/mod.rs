//! `global`: the only statics of the allocator. Start-up, threads, fork, the helper thread, options.
//!
//! May import everything below. A process has one allocator, [`process`]; which heap a thread uses is kept wherever its
//! [`Thread`] type says: in a `thread_local!` of a Rust program, or in an initial-exec variable of the preload library.
//!
//! Its rooms, the lowest first; none imports one that comes after it (`tests/layering` checks): `process`, `lookout`,
//! `presence`, `options`, `thread`, `pressure`, `fork`, `start`, `readers`, `heaps`, `helper`; and `exit`, which stands alone.

mod exit;
mod fork;
mod heaps;
mod helper;
mod lookout;
mod options;
mod presence;
mod pressure;
mod process;
#[cfg(feature = "files")]
mod readers;
mod start;
mod thread;

pub use exit::{ExitKey, exit_value, was_counted};
pub use heaps::{
    attach_to, begin_process, begin_thread, enter_or_readmit, exit_thread, make_room, trim, with_heap,
    with_heap_to_free, with_relief,
};
pub use helper::{dismiss_helper, end_thread, start_helper, thread_found, thread_made};
pub use lookout::is_shut_off;
pub use options::{MOST_RATE, OptionError, Options, limit, sample_at};
pub use pressure::{OnPressure, Pressure, on_pressure, tell_if_due};
pub use process::{
    adapt_to_late_limit, environment, has_room, in_use, learn_limits, process, reserve_nothing,
};
#[cfg(feature = "files")]
pub use readers::{attach_reader, possess_reader};
pub use start::{before_a_filter, get_option, honours_deepbind, set_limits, set_option};
pub use thread::{
    Caller, EXITED, Main, NOBODY, Sample, Stray, Thread, enter_step, is_own, leave_step, undo_step,
};
