//! Where a Rust program allocates, by `specmalloc::profile`: what an HTTP server says of its own process, read by another
//! decoder than the one that the file was made with.

#[path = "../examples/debug_pprof.rs"]
mod debug_pprof;

use pprof::protos::{Message, Profile};
use specmalloc::profile;
use std::collections::HashMap;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread;

/// Tests share the process, and what is sampled in it.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|failed| failed.into_inner())
}

fn server() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        thread::spawn(move || debug_pprof::serve(&listener));
        address
    })
}

/// Status, headers and body.
fn get(target: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(server()).expect("a server");
    write!(stream, "GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it listens");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("headers");
    (String::from_utf8(answer[..head].to_vec()).expect("ASCII"), answer[head + 4..].to_vec())
}

/// What the server says, by a decoder that is not ours.
fn fetch(target: &str) -> Profile {
    let (head, body) = get(target);
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).expect("gzip");
    Profile::decode(&*plain).expect("a profile")
}

/// Values of each sample type, of all stacks that come by a function whose name contains `name`.
fn values(profile: &Profile, name: &str) -> HashMap<String, i64> {
    let string = |number: i64| profile.string_table[number as usize].as_str();
    let functions: Vec<u64> = profile
        .function
        .iter()
        .filter(|function| string(function.name).contains(name))
        .map(|function| function.id)
        .collect();
    let has = |id: &u64| {
        let location = profile.location.iter().find(|location| location.id == *id).expect("a location");
        location.line.iter().any(|line| functions.contains(&line.function_id))
    };
    let mut sums = HashMap::new();
    for sample in profile.sample.iter().filter(|sample| sample.location_id.iter().any(has)) {
        for (kind, value) in profile.sample_type.iter().zip(&sample.value) {
            *sums.entry(string(kind.ty).to_owned()).or_insert(0) += value;
        }
    }
    sums
}

#[expect(clippy::vec_box, reason = "blocks, large and small")]
#[inline(never)]
fn keeps_large_and_small() -> (Vec<Vec<u8>>, Vec<Box<[u8; 48]>>) {
    let large = (0..40).map(|_| black_box(vec![1; 100_000])).collect();
    (large, (0..20_000).map(|_| black_box(Box::new([1; 48]))).collect())
}

#[inline(never)]
fn comes_and_goes() {
    for _ in 0..100_000 {
        black_box(vec![0_u8; 300]);
    }
}

#[inline(never)]
fn grows() -> Vec<u8> {
    let mut grown = vec![1; 50_000];
    for size in (100_000..3_000_000).step_by(100_000) {
        grown.resize(black_box(size), 1);
    }
    grown
}

/// Whether an estimate is right but for what as many samples as there were leave to chance.
fn is_near(estimate: i64, truth: i64, rate: i64) -> bool {
    let deviation = ((truth * rate) as f64).sqrt();
    (estimate - truth).abs() as f64 <= 5.0 * deviation + rate as f64
}

#[test]
fn what_the_server_says_is_true() {
    const RATE: i64 = 4 << 10;
    let _alone = alone();
    // Before it is sampled, nothing of a size class is counted that lies ready: another thread has nothing ready.
    profile::start(RATE as usize);
    let kept = thread::spawn(keeps_large_and_small).join().expect("no panic");
    thread::spawn(comes_and_goes).join().expect("no panic");
    let grown = thread::spawn(grows).join().expect("no panic");
    let found = fetch("/debug/pprof/heap?names=1");
    profile::stop();

    let string = |number: i64| found.string_table[number as usize].as_str();
    let kinds: Vec<_> = found.sample_type.iter().map(|kind| (string(kind.ty), string(kind.unit))).collect();
    let heap = ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"];
    assert_eq!(kinds[..4].iter().map(|kind| kind.0).collect::<Vec<_>>(), heap);
    assert_eq!((kinds[3].1, string(found.default_sample_type), found.period), ("bytes", "inuse_space", RATE));
    assert!(
        found.mapping.iter().any(|mapping| mapping.build_id != 0 || !string(mapping.filename).is_empty())
    );

    let held = values(&found, "keeps_large_and_small");
    assert!(is_near(held["inuse_space"], 4_000_000 + 960_000, RATE), "{held:?}");
    assert_eq!(held["alloc_objects"] - held["inuse_objects"], 0, "{held:?}");
    let gone = values(&found, "comes_and_goes");
    assert!(is_near(gone["alloc_space"], 30_000_000, RATE), "{gone:?}");
    assert!(gone["inuse_space"] == 0, "{gone:?}");
    let grew = values(&found, "grows");
    assert!(grew["inuse_space"] >= 2_900_000 && grew["inuse_objects"] == 1, "{grew:?}");
    drop((kept, grown));

    let allocs = fetch("/debug/pprof/allocs");
    assert_eq!(allocs.string_table[allocs.default_sample_type as usize], "alloc_space");
    assert!(allocs.function.is_empty() && allocs.location.iter().all(|location| location.address != 0));
    let text = String::from_utf8(get("/debug/pprof/heap?debug=1").1).expect("text");
    assert!(
        !text.contains("keeps_large_and_small"),
        "what was freed after the end of sampling is not live:\n{text}"
    );
    assert!(get("/debug").0.starts_with("HTTP/1.1 404"));
}

/// Stacks begin with whoever wanted memory, in the program or the standard library's collections: nothing of the allocator
/// is in them, nor of what notes samples, nor how they ask for it.
#[test]
fn stacks_begin_in_the_program() {
    // (A function with a name of its own, also where a build has no debug information.)
    #[inline(never)]
    fn keeps_some() -> [Vec<u8>; 2] {
        [black_box(vec![1; 77]), black_box(vec![1; 77_777])]
    }
    let _alone = alone();
    profile::start(1);
    let kept = thread::spawn(keeps_some).join().expect("no panic");
    let mut found = profile::take().expect("samples");
    profile::stop();
    profile::resolve(&mut found);
    for leak in found.leaks() {
        let text = leak.to_string();
        let ours = ["specmalloc_samples", "specmalloc::api::samples", "specmalloc::global", "_slow"];
        assert!(!ours.iter().any(|name| text.contains(name)), "{text}");
        let first = &leak.lines[0].function;
        let door = ["GlobalAlloc", "alloc::alloc::", "__rust_alloc", "__rustc::", "__rg_"];
        assert!(!door.iter().any(|name| first.contains(name)), "{text}");
    }
    assert!(found.leaks().iter().any(|leak| leak.to_string().contains("keeps_some")));
    drop(kept);
}

/// Off, on and off again, beside threads that allocate and free for each other: every figure comes back to nothing.
#[test]
fn switched_while_threads_allocate() {
    let _alone = alone();
    profile::stop();
    let blocks: Vec<Mutex<Vec<u64>>> = (0..64).map(|_| Mutex::new(Vec::new())).collect();
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let blocks = &blocks;
            scope.spawn(move || {
                for round in 0..20_000 {
                    let at = (round * 7 + thread * 13) % 64;
                    let len = 1 + (round * 31 + thread) % 3_000;
                    let new = vec![len; len as usize];
                    let old = std::mem::replace(&mut *blocks[at as usize].lock().expect("no panic"), new);
                    assert!(old.iter().all(|&word| word == old.len() as u64));
                }
            });
        }
        for rate in [1 << 10, 0, 64, 0, 16 << 10, 0, 1, 0] {
            profile::start(rate);
            assert_eq!(profile::rate(), rate);
            thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    drop(blocks);
    let mut found = profile::take().expect("samples");
    profile::resolve(&mut found);
    let left: Vec<_> = found
        .leaks()
        .into_iter()
        .filter(|leak| leak.to_string().contains("switched_while_threads"))
        .collect();
    assert!(left.is_empty(), "{}", left[0]);
}

/// What a watcher is told: of one thread's blocks, all from beginning to end, with where that was.
#[test]
fn watchers_are_told() {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
    static TOLD: Mutex<Vec<(bool, u64, usize, u64)>> = Mutex::new(Vec::new());
    static DEPTHS: AtomicUsize = AtomicUsize::new(0);
    static OTHERS: AtomicU64 = AtomicU64::new(0);
    /// A size that nothing else here has.
    const SIZE: usize = 123_457;
    fn note(told: &profile::Told, is_new: bool) {
        if told.size != SIZE {
            OTHERS.fetch_add(1, Relaxed);
            return;
        }
        assert!(told.usable >= SIZE && told.counted == SIZE && told.rate == 1 && told.block != 0);
        DEPTHS.fetch_max(told.stack().len(), Relaxed);
        // Allocates, and is not told of that.
        TOLD.lock().expect("no panic").push((is_new, told.id, told.block, told.age));
    }
    static WATCHER: profile::Watcher =
        profile::Watcher { allocated: |told| note(told, true), freed: |told| note(told, false) };
    let _alone = alone();
    profile::watch(Some(&WATCHER));
    profile::start(1);
    let thread = thread::spawn(|| {
        (0..100).for_each(|_| drop(black_box(vec![1_u8; SIZE])));
        // (Small ones may come from what the thread has at hand since before it began to sample.)
        drop(black_box(vec![1_u8; 2 * SIZE]));
        black_box(vec![1_u8; SIZE])
    });
    let kept = thread.join().expect("no panic");
    profile::watch(None);
    drop(kept);
    profile::stop();
    // Freed with this test: the next one would find it among what is live.
    let told = std::mem::take(&mut *TOLD.lock().expect("no panic"));
    assert_eq!(told.len(), 201, "what was freed after the end was not told");
    for pair in told.chunks_exact(2) {
        let ((is_new, id, block, age), (is_live, same, there, life)) = (pair[0], pair[1]);
        assert!(is_new && !is_live && (id, block, age) == (same, there, 0) && life > 0);
    }
    let (depth, others) = (DEPTHS.load(Relaxed), OTHERS.load(Relaxed));
    assert!(depth > 3 && others > 0, "{depth} frames at most, {others} blocks of other sizes");
}
