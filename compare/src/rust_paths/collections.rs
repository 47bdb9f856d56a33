//! Standard collections: ordered and hashed maps, strings formatted, a vector that grows.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::hint::black_box;

use super::Bench;
use crate::harness::Random;

pub(super) const BENCHES: &[Bench] = &[
    Bench { name: "btreemap-insert-remove", ops: ENTRIES as u64, run: btree_map },
    Bench { name: "hashmap-string-keys", ops: ENTRIES as u64, run: hash_map },
    Bench { name: "string-format", ops: STRINGS as u64, run: strings },
    Bench { name: "vec-growth", ops: VECS * VEC_LEN, run: vec_growth },
];

const ENTRIES: usize = 10_000;
const STRINGS: usize = 1_000;
const VECS: u64 = 10;
const VEC_LEN: u64 = 10_000;

fn btree_map() {
    let mut random = Random::new(11);
    let mut map = BTreeMap::new();
    for count in 0..ENTRIES {
        map.insert(random.next_u64(), count);
        // A third of the entries leave again at random places, so that nodes merge as well as split.
        if count % 3 == 2 {
            let middle = random.next_u64();
            if let Some(key) = map.range(middle..).next().map(|entry| *entry.0) {
                map.remove(&key);
            }
        }
    }
    assert!(black_box(&map).len() > ENTRIES / 2);
}

fn hash_map() {
    // The same hasher in every process: the default's keys are random.
    let mut map: HashMap<String, u64, BuildHasherDefault<DefaultHasher>> = HashMap::default();
    let mut random = Random::new(12);
    for _ in 0..ENTRIES {
        *map.entry(format!("key-{}", random.below(ENTRIES / 2))).or_default() += 1;
    }
    assert_eq!(black_box(&map).values().sum::<u64>(), ENTRIES as u64);
}

fn strings() {
    let mut random = Random::new(13);
    let mut bytes = 0;
    for count in 0..STRINGS {
        let text = format!("{count}: {:x} of {}", random.next_u64(), "a name that is a little longer");
        bytes += black_box(&text).len();
    }
    assert!(bytes > 40 * STRINGS);
}

fn vec_growth() {
    for _ in 0..VECS {
        let mut items = Vec::new();
        for count in 0..VEC_LEN {
            items.push(count);
        }
        assert_eq!(black_box(&items).len() as u64, VEC_LEN);
    }
}
