//! Models of the limit, by loom: threads that take at the same time do not come beyond it together.

use super::super::Limit;
use super::*;
use crate::sync::Counter;
use crate::sync::checker::{explore, models};
use loom::thread;
use std::sync::Arc;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("heap.limit_promise", "the acquire of what others have taken", "taken_together"),
    SeededBug::new("heap.limit_keep", "the release of what was taken", "taken_together"),
    SeededBug::new("heap.limit_others", "what others promised before", "taken_together"),
];

struct World {
    limit: Limit,
    held: Counter,
}

impl World {
    /// Takes 2 of the 3 that there may be.
    fn take(&self) -> bool {
        let may = self.limit.promise(2, 3, || self.held.get());
        if may {
            self.held.add(2);
            self.limit.keep(2);
        }
        may
    }
}

/// Two threads take what there is for one: one of them gets it.
fn taken_together() {
    explore(3, || {
        let world = Arc::new(World { limit: Limit::new(), held: Counter::new() });
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.take())
        };
        let took = [world.take(), other.join().unwrap()];
        assert!(took[0] != took[1], "taken by both, or by none: {took:?}");
    });
}

models! { taken_together }
