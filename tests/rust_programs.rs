//! Rust programs on specmalloc that use the ecosystem's ways to run in parallel: rayon, crossbeam's channels, tokio.
//! Blocks are made on one thread, and read, grown and freed on others; every result is compared with what it must be.

use rayon::prelude::*;
use specmalloc::SpecMalloc;
use std::collections::HashMap;

#[global_allocator]
static ALLOC: SpecMalloc = SpecMalloc::new();

/// A number that looks random, of a number.
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (number ^ number >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[test]
fn rayon_sorts_and_collects() {
    let mut words: Vec<String> =
        (0..200_000u64).into_par_iter().map(|number| format!("{:016x}", mix(number))).collect();
    let mut expected = words.clone();
    expected.sort();
    words.par_sort();
    assert_eq!(words, expected);

    let lengths: HashMap<u64, Vec<u64>> = (0..50_000u64)
        .into_par_iter()
        .fold(HashMap::<u64, Vec<u64>>::new, |mut groups, number| {
            groups.entry(mix(number) % 97).or_default().push(number);
            groups
        })
        .reduce(HashMap::new, |mut left, right| {
            for (key, numbers) in right {
                left.entry(key).or_default().extend(numbers);
            }
            left
        });
    assert_eq!(lengths.values().map(Vec::len).sum::<usize>(), 50_000);
    assert!(lengths.par_iter().all(|(&key, numbers)| numbers.iter().all(|&number| mix(number) % 97 == key)));

    // Vectors of vectors: what a worker grows, others concatenate and free.
    let flat: Vec<u64> =
        (0..2000u64).into_par_iter().flat_map(|from| vec![from; from as usize % 100]).collect();
    let expected: Vec<u64> = (0..2000u64).flat_map(|from| vec![from; from as usize % 100]).collect();
    assert_eq!(flat, expected);
}

/// What goes through the channels: a box, or several kinds of memory at once.
struct Parcel {
    number: u64,
    bytes: Box<[u8]>,
    label: Box<dyn Fn() -> String + Send>,
}

impl Parcel {
    fn new(number: u64) -> Parcel {
        let bytes = vec![number as u8; (mix(number) % 3000) as usize].into_boxed_slice();
        let text = number.to_string();
        Parcel { number, bytes, label: Box::new(move || text.clone()) }
    }

    fn is_whole(&self) -> bool {
        self.bytes.len() as u64 == mix(self.number) % 3000
            && self.bytes.iter().all(|&byte| byte == self.number as u8)
            && (self.label)() == self.number.to_string()
    }
}

#[test]
fn crossbeam_channels_carry_boxes() {
    const PRODUCERS: u64 = 3;
    const EACH: u64 = 10_000;
    let (produce, forward) = crossbeam_channel::bounded::<Box<Parcel>>(100);
    let (pass_on, consume) = crossbeam_channel::unbounded::<Box<Parcel>>();
    let seen: Vec<Vec<u64>> = std::thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let produce = produce.clone();
            scope.spawn(move || {
                for number in producer * EACH..(producer + 1) * EACH {
                    produce.send(Box::new(Parcel::new(number))).unwrap();
                }
            });
        }
        for _ in 0..2 {
            let (forward, pass_on) = (forward.clone(), pass_on.clone());
            scope.spawn(move || {
                for parcel in forward {
                    assert!(parcel.is_whole(), "parcel {} on its way", parcel.number);
                    // Half of them are freed here and made anew.
                    let next =
                        if parcel.number % 2 == 0 { parcel } else { Box::new(Parcel::new(parcel.number)) };
                    pass_on.send(next).unwrap();
                }
            });
        }
        drop((produce, pass_on));
        let consumers: Vec<_> = (0..2)
            .map(|_| {
                let consume = consume.clone();
                scope.spawn(move || {
                    let check = |parcel: Box<Parcel>| {
                        assert!(parcel.is_whole(), "parcel {} at its end", parcel.number);
                        parcel.number
                    };
                    consume.into_iter().map(check).collect::<Vec<u64>>()
                })
            })
            .collect();
        drop(forward);
        consumers.into_iter().map(|consumer| consumer.join().unwrap()).collect()
    });
    let mut all: Vec<u64> = seen.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (0..PRODUCERS * EACH).collect::<Vec<_>>());
}

#[test]
fn tokio_tasks_pass_blocks_on() {
    const TASKS: u64 = 200;
    const STEPS: u64 = 50;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let total = runtime.block_on(async {
        let (results, mut collected) = tokio::sync::mpsc::unbounded_channel::<(u64, String)>();
        for task in 0..TASKS {
            let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Vec<u8>, Box<u64>)>(4);
            tokio::spawn(async move {
                for step in 0..STEPS {
                    let size = (mix(task * STEPS + step) % 5000) as usize;
                    sender.send((vec![step as u8; size], Box::new(size as u64))).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            let results = results.clone();
            tokio::spawn(async move {
                let (mut whole, mut text) = (Vec::new(), String::new());
                let mut step = 0;
                while let Some((bytes, size)) = receiver.recv().await {
                    assert!(bytes.len() as u64 == *size && bytes.iter().all(|&byte| byte == step));
                    whole.extend_from_slice(&bytes);
                    text.push_str(&format!("{size},"));
                    step += 1;
                    // What another worker made is freed while this task may move to a third.
                    tokio::task::yield_now().await;
                }
                let sizes: u64 = text.split_terminator(',').map(|size| size.parse::<u64>().unwrap()).sum();
                assert_eq!((whole.len() as u64, u64::from(step)), (sizes, STEPS));
                results.send((task, text)).unwrap();
            });
        }
        drop(results);
        let mut seen = vec![false; TASKS as usize];
        let mut total = 0;
        while let Some((task, text)) = collected.recv().await {
            assert!(!std::mem::replace(&mut seen[task as usize], true), "task {task} twice");
            total += text.split_terminator(',').map(|size| size.parse::<u64>().unwrap()).sum::<u64>();
        }
        assert!(seen.iter().all(|&seen| seen));
        total
    });
    assert_eq!(total, (0..TASKS * STEPS).map(|number| mix(number) % 5000).sum::<u64>());
}
