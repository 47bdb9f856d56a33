//! `compare`
fn main() {}
