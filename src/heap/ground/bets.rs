//! Bets: steps that are taken on a guess and checked afterwards, and how they have gone.

use crate::const_unless_model;
use crate::sync::Counter;

/// How one of the three bets has gone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bet {
    /// Times the step was taken without a lock or ahead of need.
    pub taken: u64,
    /// Times it was validated.
    pub won: u64,
    /// Times it fell back to the ordinary path.
    pub lost: u64,
}

impl Bet {
    pub(in crate::heap) fn sum(bets: impl Iterator<Item = Bet>) -> Bet {
        bets.fold(Bet::default(), |sum, bet| Bet {
            taken: sum.taken + bet.taken,
            won: sum.won + bet.won,
            lost: sum.lost + bet.lost,
        })
    }
}

/// The three bets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bets {
    /// An arena is looked up without a lock and asked for a run of slices: lost where it has none.
    pub lookup: Bet,
    /// A huge block is to grow, and address space was reserved behind it: lost where that is not enough.
    pub space: Bet,
    /// A region is to be populated by huge pages: lost where the system has none.
    pub population: Bet,
}

/// Counts how a bet goes.
pub struct BetCount {
    won: Counter,
    lost: Counter,
}

impl BetCount {
    const_unless_model! {
        /// Never taken.
        pub(in crate::heap) fn new() -> BetCount {
            BetCount { won: Counter::new(), lost: Counter::new() }
        }
    }

    /// Counts a bet that was taken, and won or lost.
    pub(in crate::heap) fn count(&self, won: bool) {
        if won { self.won.add(1) } else { self.lost.add(1) }
    }

    /// The same where one thread at a time counts.
    pub(in crate::heap) fn count_alone(&self, won: bool) {
        if won { self.won.add_alone(1) } else { self.lost.add_alone(1) }
    }

    /// How it has gone.
    pub fn get(&self) -> Bet {
        let (won, lost) = (self.won.get() as u64, self.lost.get() as u64);
        Bet { taken: won + lost, won, lost }
    }
}
