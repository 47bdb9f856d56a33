//! A sequence lock over two copies, for figures that another process reads. Imports `sync` only.
//!
//! Publishers write the copy that is not current and then step the sequence; a reader copies the current one and
//! checks that nobody has begun to overwrite it. So a publisher that dies half way leaves the copy before it intact,
//! a reader is disturbed only by two publications during one copy, and nobody waits: a publisher that meets another
//! (or the one it interrupted, in a signal handler) leaves the publishing to it.
//!
//! The sequence counts half steps: even, 2n: n publications are complete and the n-th is current, in copy n mod 2;
//! odd, 2n+1: the same, and somebody writes copy (n+1) mod 2.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{acquire, acquire_fence, release, release_fence, seeded};

/// Words that one side publishes and another reads. Zero bytes are a valid empty one where
/// [`crate::sync::ZERO_IS_VALID`].
#[repr(C)]
pub(crate) struct Publication<const WORDS: usize> {
    sequence: AtomicU64,
    copies: [[AtomicU64; WORDS]; 2],
}

/// What one attempt to read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt<const WORDS: usize> {
    /// Nothing was ever published.
    Empty,
    /// The copy was overwritten meanwhile: try again.
    Disturbed,
    /// The words of one publication.
    Words([u64; WORDS]),
}

impl<const WORDS: usize> Publication<WORDS> {
    /// An empty one: in a file a record starts as zero bytes.
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        let copy = || core::array::from_fn(|_| AtomicU64::new(0));
        Self { sequence: AtomicU64::new(0), copies: [copy(), copy()] }
    }

    /// Publishes `words`, or returns `false` if another publication is under way. Async-signal-safe, never waits.
    pub(crate) fn publish(&self, words: &[u64; WORDS]) -> bool {
        self.publish_by(|copy| {
            for (shared, word) in copy.iter().zip(words) {
                // Relaxed: as `publish_by` says.
                shared.store(*word, Ordering::Relaxed);
            }
        })
    }

    /// As [`Publication::publish`], with the words as `write` stores them, by relaxed stores: what they find there is
    /// that of an older publication.
    pub(crate) fn publish_by(&self, write: impl FnOnce(&[AtomicU64; WORDS])) -> bool {
        // Relaxed: only a guess, which the exchange below checks.
        let before = self.sequence.load(Ordering::Relaxed);
        if before % 2 == 1 {
            return false;
        }
        // Acquire: partner is the release store of the publisher before us, so that our words come after its words in
        // a copy that both write.
        if self
            .sequence
            .compare_exchange(before, before + 1, acquire("api.publish.take"), Ordering::Relaxed)
            .is_err()
        {
            return false;
        }
        // Release: partner is the acquire fence in `attempt`. A reader that saw one of the words stored below sees the
        // odd sequence too, and takes nothing.
        release_fence("api.publish.fence");
        let copy = if !seeded("api.publish.copy") { before / 2 + 1 } else { 1 };
        // Its stores are ordered by the fence above and the store below.
        write(&self.copies[(copy % 2) as usize]);
        // Release: partners are the acquire load in `attempt` and the acquire exchange of the next publisher.
        self.sequence.store(before + 2, release("api.publish.done"));
        true
    }

    /// Copies the last complete publication, unless it is overwritten during the copy.
    pub(crate) fn attempt(&self) -> Attempt<WORDS> {
        // Acquire: partner is the release store that completed the publication; its words are visible.
        let complete = self.sequence.load(acquire("api.read.start")) / 2;
        if complete == 0 {
            return Attempt::Empty;
        }
        let copy = &self.copies[(complete % 2) as usize];
        // Relaxed: the sequence is checked after the copy.
        let words = core::array::from_fn(|word| copy[word].load(Ordering::Relaxed));
        // Acquire: partner is the release fence in `publish`.
        acquire_fence("api.read.fence");
        // Relaxed: ordered after the copy by the fence above.
        let after = self.sequence.load(Ordering::Relaxed);
        // The next publication goes to the other copy; the one after it, begun at 2 * complete + 3, to ours.
        if after <= 2 * complete + 2 || seeded("api.read.check") {
            Attempt::Words(words)
        } else {
            Attempt::Disturbed
        }
    }

    #[cfg(not(any(loom, shuttle)))]
    /// The last complete publication, or `None` if there is none or publishers come too fast for many attempts.
    pub(crate) fn read(&self) -> Option<[u64; WORDS]> {
        const ATTEMPTS: usize = 1000;
        (0..ATTEMPTS)
            .map(|_| self.attempt())
            .find_map(|attempt| match attempt {
                Attempt::Empty => Some(None),
                Attempt::Disturbed => None,
                Attempt::Words(words) => Some(Some(words)),
            })
            .flatten()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn an_empty_one_has_nothing_and_the_last_publication_wins() {
        let publication = Publication::<3>::new();
        assert_eq!(publication.read(), None);
        for round in 1..=5 {
            assert!(publication.publish(&[round, 2 * round, 3 * round]));
            assert_eq!(publication.read(), Some([round, 2 * round, 3 * round]));
        }
    }

    #[test]
    fn a_publisher_that_meets_another_steps_aside() {
        let publication = Publication::<1>::new();
        assert!(publication.publish(&[7]));
        publication.sequence.store(3, Ordering::SeqCst);
        assert!(!publication.publish(&[8]));
        assert_eq!(publication.read(), Some([7]));
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::sync::SeededBug;
    use crate::sync::checker::{explore_all, models};
    use loom::thread;
    use std::sync::Arc;

    /// Every place that can be weakened, and the model that must fail then.
    const SEEDED: &[SeededBug] = &[
        SeededBug::new(
            "api.publish.take",
            "the acquire when a publisher takes the sequence",
            "two_publishers",
        ),
        SeededBug::new(
            "api.publish.fence",
            "the release fence between the odd sequence and the words",
            "whole_words",
        ),
        SeededBug::new("api.publish.copy", "writing the copy that is not current", "dead_publisher"),
        SeededBug::new("api.publish.done", "the release when a publication is complete", "whole_words"),
        SeededBug::new("api.read.start", "the acquire of a complete publication", "whole_words"),
        SeededBug::new(
            "api.read.fence",
            "the acquire fence between the copy and the second look at the sequence",
            "whole_words",
        ),
        SeededBug::new("api.read.check", "the second look at the sequence", "whole_words"),
    ];

    // The publisher is the model's first thread, which runs first: loom looks for other orders from the last access
    // to each atomic only, and a publisher's own first load would hide the load of a reader that came before it.

    /// One publisher, one reader, three publications: what is read is one publication's words.
    fn whole_words() {
        explore_all(|| {
            let shared = Arc::new(Publication::<2>::new());
            let reader = {
                let shared = shared.clone();
                thread::spawn(move || {
                    if let Attempt::Words(words) = shared.attempt() {
                        assert!(words[0] == words[1] && words[0] > 0, "torn: {words:?}");
                    }
                })
            };
            for round in 1..=3 {
                assert!(shared.publish(&[round, round]));
            }
            reader.join().unwrap();
            assert_eq!(shared.attempt(), Attempt::Words([3, 3]));
        });
    }

    /// Two publishers, of two publications each: in the end a copy holds the words of one publication.
    fn two_publishers() {
        explore_all(|| {
            let shared = Arc::new(Publication::<2>::new());
            let other = {
                let shared = shared.clone();
                thread::spawn(move || (1..=2).filter(|&round| shared.publish(&[round, round])).count())
            };
            let mine = (11..=12).filter(|&round| shared.publish(&[round, round])).count();
            let complete = mine + other.join().unwrap();
            assert!(complete >= 1);
            let Attempt::Words(words) = shared.attempt() else { panic!("nothing there") };
            assert!(words[0] == words[1] && [1, 2, 11, 12].contains(&words[0]), "torn: {words:?}");
        });
    }

    /// A publisher that is gone after any of its stores: what was published before is still there.
    fn dead_publisher() {
        explore_all(|| {
            let shared = Arc::new(Publication::<2>::new());
            assert!(shared.publish(&[1, 1]));
            let reader = {
                let shared = shared.clone();
                // Wherever the publisher stands when this reads could be where it was killed.
                thread::spawn(move || assert!(matches!(shared.attempt(), Attempt::Words([1, 1] | [2, 2]))))
            };
            assert!(shared.publish(&[2, 2]));
            reader.join().unwrap();
        });
    }

    models! { whole_words two_publishers dead_publisher }
}
