//! Tests of the index and of the space, on the simulated system.
