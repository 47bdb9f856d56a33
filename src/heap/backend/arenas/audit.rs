//! What must hold of the arenas while nobody is in the middle of anything: for tests and models, after each step or at
//! the end.

use super::Arenas;
use super::hints::{Asked, MOST, Way};
use super::known::counted;
use crate::heap::ground::{Count, Ground};
use crate::pal::Platform;
use crate::region::Kind;
use crate::sync::atomic::Ordering;

impl Arenas {
    /// Demands that all figures of arenas are what can be counted, and that the hints forget nothing. Returns whether all
    /// arenas have a place in the table.
    pub(in crate::heap) fn audit<P: Platform>(&self, ground: &Ground<P>) -> bool {
        let (mut sums, mut listed) = ([0; Count::ALL.len()], 0);
        for position in 0..self.high.load(Ordering::Relaxed) {
            if let Some(region) = self.glance(position) {
                assert_eq!(region.arena().position(), Some(position), "an arena in another's place");
                listed += 1;
                let (slabs, found) = counted(region, ground.page_size());
                assert_eq!(region.arena().slabs().load(Ordering::Relaxed), slabs, "slabs of an arena");
                sums = core::array::from_fn(|index| sums[index] + found[index]);
            }
            for asked in Asked::ALL {
                let least = self.measure(asked, position, MOST);
                let found = self.hints.find(asked, Way::Up, position, least);
                assert!(least == 0 || found == Some(position), "{asked:?}, {least}: forgotten at {position}");
            }
        }
        let is_whole = ground.space().counts().regions[Kind::Arena as usize] == listed;
        for (count, sum) in Count::ALL.into_iter().zip(sums) {
            let (figure, sum) = (ground.tally().balance(count), sum as isize);
            // Of an arena that has none it is counted what large blocks soil, and do not hold, and nothing else.
            let is_right = if is_whole || ![Count::Soiled, Count::Unheld].contains(&count) {
                figure == sum
            } else {
                figure >= sum
            };
            assert!(is_right, "{count:?}: {figure} in the figures, {sum} counted");
        }
        is_whole
    }
}
