//! A file, its maker, and processes that write to it.

use super::*;
use std::ffi::CString;
use std::os::unix::fs::{FileExt, MetadataExt};

fn path(file: &StatisticsFile) -> CString {
    CString::new(format!("/proc/{}/fd/{}", std::process::id(), file.fd())).unwrap()
}

fn figures(live: u64) -> Statistics {
    Statistics { live_bytes: live, ..Statistics::new() }
}

#[test]
fn what_is_published_is_read() {
    let file = StatisticsFile::create(4).unwrap();
    assert_eq!((file.claimed(), file.records().count()), (0, 0));
    let record = SharedRecord::open(&path(&file)).unwrap();
    let before = file.records().next().unwrap();
    assert_eq!((before.pid, before.finished, before.statistics), (std::process::id(), false, None));
    assert!(record.publish(&figures(7)));
    record.finish(&figures(9));
    let after: Vec<_> = file.records().collect();
    assert_eq!(after.len(), 1);
    assert_eq!((after[0].finished, after[0].statistics), (true, Some(figures(9))));
    let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    assert!(after[0].name.starts_with(name.trim_end().as_bytes()));
}

#[test]
fn a_reader_opens_the_file_and_sees_the_detail_of_the_last_program() {
    let file = StatisticsFile::create(4).unwrap();
    let (before, record) =
        (SharedRecord::open(&path(&file)).unwrap(), SharedRecord::open(&path(&file)).unwrap());
    let reader = StatisticsFile::open(&path(&file)).unwrap();
    assert_eq!(reader.detail(std::process::id()), None);
    before.publish_detail(|detail| detail.heap(0, 1, 0, 0, false));
    record.publish_detail(|detail| {
        detail.heap(0, 7, 64, 1, true);
        detail.share(0, 100, 28);
    });
    let detail = reader.detail(std::process::id()).unwrap();
    assert_eq!((detail.heap_count, detail.arena_count, detail.heaps().len()), (1, 0, 1));
    assert_eq!((detail.heaps()[0].possessor, detail.heaps()[0].live_bytes), (7, 100));
    assert_eq!((reader.records().count(), reader.detail(1)), (2, None));
    assert_eq!(StatisticsFile::open(c"/dev/null").err(), Some(Errno(libc::EINVAL)));
}

#[test]
fn a_rate_is_asked_of_a_process_and_taken_once() {
    let file = StatisticsFile::create(2).unwrap();
    let (path, pid) = (path(&file), std::process::id());
    assert_eq!(StatisticsFile::ask_rate(&path, pid, 1), Err(Errno(libc::ESRCH)));
    let record = SharedRecord::open(&path).unwrap();
    assert_eq!(record.take_asked_rate(), None);
    for rate in [512 << 10, 0] {
        StatisticsFile::ask_rate(&path, pid, rate).unwrap();
        assert_eq!((record.take_asked_rate(), record.take_asked_rate()), (Some(rate), None));
    }
}

#[test]
fn a_killed_child_of_fork_has_its_own_record_and_figures() {
    let file = StatisticsFile::create(4).unwrap();
    let record = SharedRecord::open(&path(&file)).unwrap();
    record.publish(&figures(1));
    let last = figures(2);
    // SAFETY: the child only calls async-signal-safe functions and never returns.
    let child = unsafe { libc::fork() };
    if child == 0 {
        record.after_fork();
        record.publish(&last);
        // SAFETY: ends the child.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid for the write.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    let records: Vec<_> = file.records().collect();
    assert_eq!((records[0].pid, records[0].statistics), (std::process::id(), Some(figures(1))));
    assert_eq!((records[1].pid, records[1].parent), (child as u32, std::process::id()));
    assert_eq!((records[1].name, records[1].finished), (records[0].name, false));
    assert_eq!(records[1].statistics, Some(figures(2)));
}

#[test]
fn processes_beyond_the_capacity_are_counted_and_do_no_harm() {
    let file = StatisticsFile::create(1).unwrap();
    let first = SharedRecord::open(&path(&file)).unwrap();
    let second = SharedRecord::open(&path(&file)).unwrap();
    assert!(first.publish(&figures(1)) && !second.publish(&figures(2)));
    second.finish(&figures(2));
    assert_eq!((file.claimed(), file.records().count()), (2, 1));
    assert_eq!(file.records().next().unwrap().statistics, Some(figures(1)));
}

#[test]
fn other_files_are_refused_and_no_descriptor_stays() {
    let refused = |path: &CStr| SharedRecord::open(path).err();
    assert_eq!(refused(c"/proc/self/no such file"), Some(Errno(libc::ENOENT)));
    assert_eq!(refused(c"/dev/null"), Some(Errno(libc::EINVAL)));
    assert_eq!(refused(c"/proc/self/comm"), Some(Errno(libc::EINVAL)));
    let file = StatisticsFile::create(1).unwrap();
    let inode = |path: &std::path::Path| std::fs::metadata(path).map(|file| file.ino()).ok();
    let ours = inode(path(&file).to_str().unwrap().as_ref());
    let descriptors = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        links.filter(|link| inode(&link.as_ref().unwrap().path()) == ours).count()
    };
    let _record = SharedRecord::open(&path(&file)).unwrap();
    assert_eq!(descriptors(), 1, "the maker's own, and no other");
    // A file of the right layout and the wrong length: the header of a larger one.
    let mut head = [0; 64];
    let maker = std::fs::File::open(path(&file).to_str().unwrap()).unwrap();
    maker.read_exact_at(&mut head, 0).unwrap();
    let short = std::env::temp_dir().join(format!("specmalloc-short-{}", std::process::id()));
    std::fs::write(&short, head).unwrap();
    assert_eq!(refused(&CString::new(short.to_str().unwrap()).unwrap()), Some(Errno(libc::EINVAL)));
    std::fs::remove_file(short).unwrap();
}
