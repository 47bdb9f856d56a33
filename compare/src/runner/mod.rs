//! Sets allocators side by side: finds their libraries, runs each workload under each of them in turn for several
//! rounds, and says the median, the spread and the ratio to one of them within each round.
//!
//! It builds nothing. What is missing is an error that names the command that builds it.

mod peers;
mod run;
mod rust;
mod sample;
mod table;
mod targets;

pub use peers::{Peer, find_peers};
pub use run::{Figures, run_workload};
pub use rust::{RustFigures, run_rust};
pub use sample::{Summary, geometric_mean, median};
pub use table::{Cell, Row, Settings, print_rust_table, print_table};
pub use targets::print_targets;

/// What went wrong, in words for the user.
pub type Failure = String;
