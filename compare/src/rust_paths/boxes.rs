//! `Box`: a lone one of several constant sizes made and dropped, a thousand in order, a hundred thousand dropped in
//! random order. The pointer of each goes through `black_box`, or the compiler leaves the pair out.

use std::hint::black_box;
use std::mem::MaybeUninit;

use super::Bench;
use crate::harness::Random;

pub(super) const BENCHES: &[Bench] = &[
    Bench { name: "box-pair-8", ops: PAIRS, run: pair::<1> },
    Bench { name: "box-pair-16", ops: PAIRS, run: pair::<2> },
    Bench { name: "box-pair-32", ops: PAIRS, run: pair::<4> },
    Bench { name: "box-pair-64", ops: PAIRS, run: pair::<8> },
    Bench { name: "box-pair-256", ops: PAIRS, run: pair::<32> },
    Bench { name: "box-pair-1024", ops: PAIRS, run: pair::<128> },
    Bench { name: "box-1000-in-order", ops: 1_000 * ROUNDS, run: in_order },
    Bench { name: "box-100k-random-order", ops: 100_000, run: random_order },
];

const PAIRS: u64 = 10_000;
const ROUNDS: u64 = 10;

/// A box of words of which only the first is written: the allocator is measured, not memset.
#[inline(always)]
fn boxed<const WORDS: usize>(first: u64) -> Box<[MaybeUninit<u64>; WORDS]> {
    let mut words = Box::new([const { MaybeUninit::uninit() }; WORDS]);
    words[0].write(first);
    black_box(words.as_ptr());
    words
}

/// What `boxed` wrote.
fn first<const WORDS: usize>(words: &[MaybeUninit<u64>; WORDS]) -> u64 {
    // SAFETY: `boxed` makes every box here, and writes its first word.
    unsafe { words[0].assume_init() }
}

fn pair<const WORDS: usize>() {
    for count in 0..PAIRS {
        drop(boxed::<WORDS>(count));
    }
}

fn in_order() {
    let mut boxes = Vec::with_capacity(1_000);
    for _ in 0..ROUNDS {
        boxes.extend((0..1_000).map(boxed::<4>));
        assert_eq!(first(&boxes[500]), 500);
        boxes.clear();
    }
}

fn random_order() {
    let mut boxes: Vec<_> = (0..100_000).map(|count| Some(boxed::<4>(count))).collect();
    assert!(boxes[777].as_deref().is_some_and(|words| first(words) == 777));
    let mut random = Random::new(5);
    for left in (1..=boxes.len()).rev() {
        let drawn = random.below(left);
        boxes.swap(drawn, left - 1);
        boxes[left - 1] = None;
    }
    assert!(boxes.iter().all(Option::is_none));
}
