//! `lives`: heaps and the threads that come and go. Visits in the heaps of threads that sleep, what a thread does at
//! its exit, the helper's state and its looks at files, and what is mended after a fork. May import the rooms before it.

mod fork;
mod helper_state;
mod looks;
mod sweeps;
mod visits;

pub use helper_state::HelperState;
pub use looks::Looks;
pub(in crate::heap) use visits::Round;
