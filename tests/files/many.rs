//! Many regions, and lookups of addresses beside a mirror of what is there.

use crate::support::{filled, memory};
use specmalloc::files::{Error, FileOptions, FileRegion};
use specmalloc::internals::global::process;
use std::collections::BTreeMap;

#[test]
fn ten_thousand_regions_are_no_trouble() {
    // 12 pages at most: where they lie beside each other several share a node of pages.
    let file = memory(48 << 10);
    let regions: Vec<_> = (0..10_000)
        .map(|number| {
            let folder = FileOptions::new().offset(number % 40_000).len(number as usize % 8000).headroom(0);
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            // SAFETY: nobody changes the file. By name: no descriptor is kept.
            unsafe { folder.open(path).unwrap() }
        })
        .collect();
    let all = filled(48 << 10);
    for (number, region) in regions.iter().enumerate() {
        let guard = region.guard().unwrap();
        assert_eq!(&*guard, &all[number % 40_000..][..number % 8000]);
        let rcu = process().space().rcu().enter_guest();
        for address in [guard.as_ptr().addr(), guard.as_ptr().addr() + guard.len().saturating_sub(1)] {
            let found = process().space().find(address, &rcu).expect("is found at both ends");
            assert!(found.contains(guard.as_ptr().addr()));
        }
    }
    regions[17].unmap().unwrap();
}

/// Maps and unmaps at random, while others look random addresses up; what is found must be what the mirror has there.
#[test]
fn lookups_agree_with_a_mirror() {
    const ROUNDS: usize = 3000;
    let file = memory(300 << 10);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut mirror: BTreeMap<usize, (usize, FileRegion)> = BTreeMap::new();
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    std::thread::scope(|scope| {
        for seed in 1..3usize {
            let stop = &stop;
            scope.spawn(move || {
                let mut at = seed;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let address = at % (1 << 47);
                    let section = process().space().rcu().enter_guest();
                    if let Some(region) = process().space().find(address, &section) {
                        assert!(region.base() <= address);
                    }
                }
            });
        }
        scopeguard::defer!(stop.store(true, std::sync::atomic::Ordering::Relaxed));
        for _ in 0..ROUNDS {
            if mirror.len() < 60 || random(2) == 0 {
                let (offset, len) = (random(100_000), 1 + random(200_000));
                let options = FileOptions::new().offset(offset as u64).len(len).headroom(0);
                // SAFETY: nobody changes the file.
                let region = unsafe { options.map(&file).unwrap() };
                let start = region.guard().unwrap().as_ptr().addr();
                mirror.insert(start, (len, region));
            } else {
                let nth = random(mirror.len());
                let start = *mirror.keys().nth(nth).unwrap();
                let (_, region) = mirror.remove(&start).unwrap();
                let life_at_start = || {
                    let section = process().space().rcu().enter_guest();
                    let found = process().space().find(start, &section);
                    found.map(|region| (std::ptr::from_ref(region).addr(), region.generation()))
                };
                let life = life_at_start().expect("is there");
                region.unmap().unwrap();
                // A test beside this one may have mapped a file there.
                assert_ne!(life_at_start(), Some(life));
            }
            for _ in 0..8 {
                let nth = random(mirror.len());
                let (&start, (len, _)) = mirror.iter().nth(nth).unwrap();
                let address = start + random(*len);
                let section = process().space().rcu().enter_guest();
                let found = process().space().find(address, &section).expect("is there");
                assert!(found.contains(start) && found.file().bytes() == *len);
            }
        }
    });
}

/// In a process of its own, which uses up its mappings.
#[test]
fn too_many_mappings_are_named() {
    const CHILD: &str = "SPECMALLOC_TEST_MAPPINGS";
    if std::env::var_os(CHILD).is_none() {
        let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
        if limit.trim().parse::<usize>().unwrap() > 200_000 {
            return println!("skipped: vm.max_map_count is large");
        }
        let name = "many::too_many_mappings_are_named";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads=1", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&child.stderr)
        );
        return;
    }
    let (file, region) = crate::support::region(4096);
    // Pages of which every other one may be written to: as many mappings, and none of them merges.
    let len = 4096usize << 20;
    // SAFETY: address space of the test's own.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let base = libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0);
        assert_ne!(base, libc::MAP_FAILED);
        let mut at = 0;
        while libc::mprotect(base.add(at), 4096, libc::PROT_READ) == 0 {
            at += 8192;
            assert!(at < len);
        }
        // SAFETY: nobody changes the file.
        let mut regions = Vec::with_capacity(16);
        let error = loop {
            match FileRegion::map(&file) {
                Ok(region) if regions.len() < 16 => regions.push(region),
                Ok(_) => panic!("there is room for more mappings"),
                Err(error) => break error,
            }
        };
        libc::munmap(base, len);
        assert!(matches!(error, Error::TooManyMappings { .. }), "{error}");
        assert!(error.to_string().contains("vm.max_map_count"));
    }
    assert_eq!(region.guard().unwrap().len(), 4096);
}
