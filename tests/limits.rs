//! Limits of a Rust program: what the function for it gives back lets an allocation go on.

use specmalloc::SpecMalloc;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const MIB: usize = 1 << 20;

#[global_allocator]
static ALLOC: SpecMalloc = SpecMalloc::new().limit(256 * MIB).soft_limit(128 * MIB);

static CACHE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
static TOLD: AtomicUsize = AtomicUsize::new(0);

/// Fails where the process would end otherwise.
fn try_block(size: usize) -> Option<Vec<u8>> {
    let mut block = Vec::new();
    block.try_reserve_exact(size).ok()?;
    block.resize(size, 1);
    Some(block)
}

#[test]
fn a_cache_gives_way() {
    ALLOC.on_pressure(Some(|pressure| {
        TOLD.fetch_add(1, Ordering::Relaxed);
        let _noted = std::format!("{pressure:?}");
        if pressure.is_failing
            && let Ok(mut cache) = CACHE.try_lock()
        {
            let keep = cache.len() * 3 / 4;
            cache.truncate(keep);
        }
    }));
    for _ in 0..220 {
        let block = try_block(MIB - 100).expect("room for it");
        CACHE.lock().unwrap().push(block);
    }
    assert_eq!(TOLD.load(Ordering::Relaxed), 1, "the soft limit is told once");
    let large = try_block(100 * MIB).expect("the cache gives way");
    assert!(ALLOC.held_bytes() <= 256 * MIB && TOLD.load(Ordering::Relaxed) > 1);
    assert!((100..156).contains(&CACHE.lock().unwrap().len()));
    assert!(try_block(257 * MIB).is_none(), "more than there may be");
    drop(large);
    ALLOC.set_limit(0);
    assert!(try_block(300 * MIB).is_some());
}

#[test]
fn the_environment_has_the_last_word() {
    const CONF: &str = "limit:1G";
    if std::env::var("SPECMALLOC_CONF").is_ok_and(|conf| conf == CONF) {
        assert!(try_block(300 * MIB).is_some(), "the program's own limit");
        return;
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "the_environment_has_the_last_word"]).env("SPECMALLOC_CONF", CONF);
    assert!(again.status().unwrap().success());
}
