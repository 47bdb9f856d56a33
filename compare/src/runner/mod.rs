//! Sets allocators side by side: builds and finds them, runs each row under each of them in turn for several rounds,
//! and writes a report: tables, figures for other programs, and plots.
//!
//! A peer, a program or a run that fails is named, and the rest goes on.

mod build;
mod measure;
mod peer;
mod peers;
mod process;
mod programs;
mod report;
mod run;
mod speculation;
mod suite;
mod targets;
mod traces;

use specmalloc_measure::stats;

pub use build::Builder;
pub use measure::{Cell, Results, Row, measure};
pub use peer::{Malloc, Missing, Peer};
pub use peers::{Wanted, find_peers};
pub use programs::Kit;
pub use report::{means, write};
pub use run::Figures;
pub use speculation::tell;
pub use suite::{Group, Suite, Task};
pub use targets::print_targets;

/// What went wrong, in words for the user.
pub type Failure = String;

/// Why a run has no figures.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// It ran, but the allocator did not serve malloc.
    NotReached(Failure),
    /// It failed.
    Failed(Failure),
}
