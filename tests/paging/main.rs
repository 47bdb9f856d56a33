//! Regions whose bytes the program fetches. Where the process may not have a userfaultfd, each test says so and checks
//! that making a region says it, too.

mod access;
#[path = "../again/mod.rs"]
mod again;
mod ending;
mod evicting;
mod process;
mod support;
