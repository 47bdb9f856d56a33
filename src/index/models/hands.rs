//! A model of what threads note that they have in hand.

use super::on_thread;
use crate::index::hands::Hands;
use crate::region::Region;
use crate::sync::checker::explore;
use loom::cell::UnsafeCell;
use std::boxed::Box;
use std::sync::Arc;

/// Who finds the place free finds what its last holder wrote.
pub(super) fn held_by_turns() {
    explore(3, || {
        // In the cell's stead the words of the note, which nobody reads but the child of a fork.
        let world = Arc::new((Hands::new(), UnsafeCell::new(0)));
        let region: &Region = Box::leak(Box::new(Region::new()));
        let hold = move |holder| {
            move |(hands, words): &(Hands, UnsafeCell<usize>)| {
                let held = hands.hold(holder, region, 0..0);
                if held.is_noted() {
                    // SAFETY: the checker verifies that no access overlaps.
                    words.with_mut(|words| unsafe { *words += 1 });
                }
            }
        };
        let others = [1, 2].map(|holder| on_thread(&world, hold(holder)));
        hold(3)(&world);
        for other in others {
            other.join().unwrap();
        }
        // SAFETY: as above.
        let noted = world.1.with(|words| unsafe { *words });
        assert!((1..=3).contains(&noted));
        assert!(world.0.hold(4, region, 0..0).is_noted(), "a place is lost");
    });
}
