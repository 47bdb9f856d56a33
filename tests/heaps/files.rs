//! Heaps in files: blocks are there before they are touched, and go when they are not needed.

use allocator_api2::alloc::{Allocator, Layout};
use allocator_api2::vec::Vec;
use specmalloc::files::{Error, memfd};
use specmalloc::heaps::{Heap, HeapOptions};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::ptr::NonNull;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 1).unwrap()
}

/// Bytes that the file has blocks for.
fn reserved(file: &File) -> u64 {
    file.metadata().unwrap().blocks() * 512
}

#[test]
fn a_file_has_blocks_for_what_the_heap_holds_and_is_as_before_when_it_is_gone() {
    let file = memfd("mine", 0).unwrap();
    file.write_all_at(b"what was there", 0).unwrap();
    // SAFETY: nobody else has the file.
    let heap = unsafe { HeapOptions::new().in_file(&file).unwrap() };
    let mut all = std::vec::Vec::new();
    for size in [10, 1000, 20_000, 300_000, 9 << 20] {
        for _ in 0..20 {
            let block = heap.allocate(layout(size)).unwrap();
            // SAFETY: the block is ours.
            unsafe { block.cast::<u8>().write_bytes(1, block.len()) };
            all.push((block, size));
            assert!(reserved(&file) >= heap.held_bytes() as u64);
        }
    }
    let most = reserved(&file);
    assert!(most < heap.held_bytes() as u64 + (1 << 20), "{most}");
    for (block, size) in all {
        // SAFETY: allocated above.
        unsafe { heap.deallocate(block.cast(), layout(size)) };
    }
    heap.trim();
    assert_eq!(heap.held_bytes(), 0);
    assert!(reserved(&file) < 1 << 20, "{} of {most} bytes stay", reserved(&file));
    // And once more, in what was given back.
    let block = heap.allocate_zeroed(layout(300_000)).unwrap();
    // SAFETY: zero, all of it.
    assert!(unsafe { block.as_ref() }.iter().all(|&byte| byte == 0));
    drop(heap);
    assert_eq!(file.metadata().unwrap().len(), 4096);
    let mut there = [0; 14];
    file.read_exact_at(&mut there, 0).unwrap();
    assert_eq!(&there, b"what was there");
}

/// Of the mappings with this name: resident kilobytes, and how many of them are dirty.
fn resident(name: &str) -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut all, mut dirty, mut counts) = (0, 0, false);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if first.contains('-') && !first.ends_with(':') {
            counts = line.contains(name);
        } else if counts {
            match first {
                "Rss:" => all += second.parse::<usize>().unwrap(),
                "Shared_Dirty:" | "Private_Dirty:" => dirty += second.parse::<usize>().unwrap(),
                _ => {}
            }
        }
    }
    (all, dirty)
}

#[test]
fn flushed_pages_are_clean() {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = directory.join(format!("heap-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&name).unwrap();
    // SAFETY: nobody else uses the file.
    let heap = unsafe { HeapOptions::new().in_file(&file) };
    let _gone = scopeguard::guard((), |()| std::fs::remove_file(&name).unwrap());
    let heap = match heap {
        Ok(heap) => heap,
        Err(Error::System { call: "fallocate", .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let mut bytes = Vec::new_in(&heap);
    bytes.resize(16 << 20, 7u8);
    let name = name.file_name().unwrap().to_str().unwrap().to_owned();
    let (all, dirty) = resident(&name);
    assert!(all >= 16 << 10 && dirty >= 16 << 10, "{all} {dirty}");
    heap.flush().unwrap();
    let (all, dirty) = resident(&name);
    // SAFETY: the call fills the structure.
    let is_tmpfs = unsafe {
        let mut about = std::mem::zeroed::<libc::statfs>();
        libc::fstatfs(std::os::fd::AsRawFd::as_raw_fd(&file), &mut about);
        about.f_type == libc::TMPFS_MAGIC
    };
    assert!(is_tmpfs || dirty < 64, "{all} {dirty}");
    // Freeing touches no page of the file.
    drop(bytes);
    assert!(is_tmpfs || resident(&name).1 < 64);
}

#[test]
fn a_directory_will_do() {
    let heap = HeapOptions::new().in_directory(env!("CARGO_TARGET_TMPDIR"));
    let heap = match heap {
        Ok(heap) => heap,
        // No such files, or no blocks to reserve, on this file system.
        Err(Error::System { call: "open" | "fallocate", .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let mut bytes = Vec::new_in(&heap);
    bytes.resize(1 << 20, 7u8);
    assert!(bytes.iter().all(|&byte| byte == 7));
    assert!(matches!(HeapOptions::new().in_directory("/proc"), Err(Error::System { .. })));
}

#[test]
fn a_file_that_cannot_be_written_is_an_error() {
    let file = File::open("/proc/self/exe").unwrap();
    // SAFETY: nothing is written.
    let heap = unsafe { HeapOptions::new().in_file(&file) };
    assert!(matches!(heap, Err(Error::ReadOnly)), "{heap:?}");
}

/// A filter of system calls stands for a file system that cannot.
#[test]
fn where_no_blocks_can_be_reserved_there_is_no_heap() {
    let statement =
        |code: u32, k: u32, yes: u8, no: u8| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_fallocate as u32, 0, 1),
        statement(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP as u32, 0, 0),
        statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    // It is this one thread's.
    let heap = std::thread::spawn(move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: a program as the kernel expects it.
        let is_filtered = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        assert!(is_filtered, "{}", std::io::Error::last_os_error());
        HeapOptions::new().in_memfd("none")
    });
    let heap = heap.join().unwrap();
    let Err(Error::System { call: "fallocate", error }) = heap else { panic!("{heap:?}") };
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
}

/// Runs `body` in a child process with a tmpfs of 16 MiB at a directory of its own; skipped where that is not allowed.
fn on_a_small_disk(body: impl FnOnce(&std::path::Path)) {
    let directory =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("small-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let target = std::ffi::CString::new(directory.to_str().unwrap()).unwrap();
    // SAFETY: the child changes its own mounts, runs the body, and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        let mounted = unsafe {
            (libc::unshare(libc::CLONE_NEWNS) == 0
                || libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUSER) == 0)
                && libc::mount(
                    c"none".as_ptr(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    std::ptr::null(),
                ) == 0
                && libc::mount(
                    c"none".as_ptr(),
                    target.as_ptr(),
                    c"tmpfs".as_ptr(),
                    0,
                    c"size=16m".as_ptr().cast(),
                ) == 0
        };
        if mounted {
            let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&directory))).is_err();
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(failed)) };
        }
        println!("no tmpfs can be mounted here: not tested");
        // SAFETY: as above.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for the child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    std::fs::remove_dir(&directory).unwrap();
    assert_eq!(status, 0, "the child failed, or was killed");
}

#[test]
fn a_full_disk_is_no_memory() {
    on_a_small_disk(|directory| {
        let file =
            File::options().read(true).write(true).create_new(true).open(directory.join("heap")).unwrap();
        for size in [100, 20_000, 500_000, 5 << 20] {
            // SAFETY: nobody else uses the file.
            let heap = unsafe { HeapOptions::new().in_file(&file).unwrap() };
            let mut mapped = 0;
            for round in 0..3 {
                let mut all = std::vec::Vec::new();
                while let Ok(block) = heap.allocate(layout(size)) {
                    // SAFETY: the block is ours.
                    unsafe { block.cast::<u8>().write_bytes(1, block.len()) };
                    all.push(block);
                    assert!(all.len() * size <= 16 << 20);
                }
                assert!(all.len() * size > 9 << 20, "{} of {size}", all.len());
                (0..100).for_each(|_| assert!(heap.allocate(layout(size)).is_err()));
                // A block that cannot grow is as before.
                if let Some(&last) = all.last() {
                    // SAFETY: allocated above.
                    let grown = unsafe { heap.grow(last.cast(), layout(size), layout(12 << 20)) };
                    assert!(grown.is_err());
                }
                for block in all {
                    // SAFETY: allocated above; all of it was written.
                    unsafe {
                        assert_eq!(block.cast::<u8>().add(size - 1).read(), 1);
                        heap.deallocate(block.cast(), layout(size));
                    }
                }
                heap.trim();
                let figures = heap.statistics();
                let live = (figures.held_bytes, figures.live_blocks, figures.live_bytes);
                assert_eq!(live, (0, 0, 0), "what could not be had is not held");
                mapped = if round == 0 { figures.mapped_bytes } else { mapped };
                assert_eq!(figures.mapped_bytes, mapped, "and can be had again");
            }
        }
        assert_eq!(file.metadata().unwrap().len(), 0);
    });
}

#[test]
fn a_child_of_fork_reads_a_heap_in_a_file_and_leaves_it_alone() {
    let heap = HeapOptions::new().in_memfd("parent's").unwrap();
    let mut numbers = Vec::new_in(&heap);
    numbers.extend(0..1000u64);
    let (large, huge) = (layout(300_000), layout(9 << 20));
    let blocks = [large, huge].map(|layout| (heap.allocate(layout).unwrap().cast(), layout));
    let before = heap.statistics();
    // SAFETY: the child uses what the library promises after a fork, and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut fine = numbers.iter().sum::<u64>() == 499_500;
        fine &= heap.allocate(layout(1)).is_err() && heap.allocate(layout(1 << 30)).is_err();
        for (block, old) in blocks {
            for size in [old.size() - 100_000, old.size() + 100_000] {
                let new = layout(size);
                // SAFETY: the block is the heap's.
                let changed = unsafe {
                    if size < old.size() { heap.shrink(block, old, new) } else { heap.grow(block, old, new) }
                };
                fine &= changed.is_ok() == (size < old.size());
            }
        }
        drop(numbers);
        fine &= heap.trim() == 0 && heap.statistics() == before;
        drop(heap);
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!fine)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    numbers.extend(1000..100_000);
    assert_eq!(numbers.iter().sum::<u64>(), 4_999_950_000);
    let _used: &Heap = &heap;
}

/// A seal against writing lets no hole be punched, and what is mapped be written: what stays is known not to be zero.
#[test]
fn what_the_system_does_not_take_back_is_written_to_be_zero() {
    // SAFETY: makes a descriptor, and nobody else has the file.
    let (file, heap) = unsafe {
        let file = libc::memfd_create(c"sealed".as_ptr(), libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC);
        let file = File::from(OwnedFd::from_raw_fd(file));
        let heap = HeapOptions::new().in_file(&file).unwrap();
        (file, heap)
    };
    let (long, short) = (layout(6 << 20), layout(5 << 20));
    let [freed, shrunk]: [NonNull<u8>; 2] = [(); 2].map(|()| heap.allocate(long).unwrap().cast());
    let [freed_end, shrunk_end] = [freed, shrunk].map(|at| at.as_ptr().wrapping_add((6 << 20) - 1));
    // SAFETY: the blocks are the heap's, at whatever length, and go on in what is returned.
    unsafe {
        assert_eq!(libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE), 0);
        shrunk_end.write(1);
        heap.shrink(shrunk, long, short).unwrap();
        let grown = heap.grow_zeroed(shrunk, short, long).unwrap();
        assert_eq!((grown.cast(), *shrunk_end), (shrunk, 0), "after a shrink");
        freed_end.write(1);
        heap.deallocate(freed, long);
        assert_eq!((heap.allocate_zeroed(long).unwrap().cast(), *freed_end), (freed, 0), "after a free");
        // A run that is to be given back and cannot is somebody's again.
        let run = layout(1 << 20);
        let first: NonNull<u8> = heap.allocate(run).unwrap().cast();
        heap.deallocate(first, run);
        assert_eq!((heap.trim(), heap.statistics().dirty_bytes), (0, 1 << 20));
        assert_eq!(heap.allocate(run).unwrap().cast(), first);
        assert_eq!(heap.statistics().dirty_bytes, 0);
        // Who has less of it in between keeps it in mind.
        freed_end.write(1);
        heap.deallocate(freed, long);
        assert_eq!(heap.allocate(short).unwrap().cast(), freed);
        let grown = heap.grow_zeroed(freed, short, long).unwrap();
        assert_eq!((grown.cast(), *freed_end), (freed, 0), "behind a shorter block");
    }
}
