//! Files to map.

use specmalloc::files::{FileRegion, memfd};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder of the test's own, gone with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("specmalloc-files-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The byte at a place of the pattern that files are filled with.
pub fn pattern(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}

pub fn filled(len: usize) -> Vec<u8> {
    (0..len).map(pattern).collect()
}

/// A file in memory with the pattern in it.
pub fn memory(len: usize) -> File {
    let file = memfd("test", 0).unwrap();
    file.write_all_at(&filled(len), 0).unwrap();
    file
}

/// That file, mapped.
pub fn region(len: usize) -> (File, FileRegion) {
    let file = memory(len);
    // SAFETY: the tests change no byte that is borrowed.
    let region = unsafe { FileRegion::map(&file).unwrap() };
    (file, region)
}

/// Whether the file is mapped there no more, as soon as the guards of tests beside this one are gone, which hold for a moment
/// whatever is unmapped meanwhile: it goes at the next mapping or unmapping of any region.
pub fn goes(file: &File, address: usize) -> bool {
    (0..1_000).any(|_| {
        let gone = !is_mapped(file, address);
        if !gone {
            region(1).1.unmap().unwrap();
        }
        gone
    })
}

/// Whether `file` is mapped at `address`: beside a test others map their files, there too once it is free.
pub fn is_mapped(file: &File, address: usize) -> bool {
    let number = file.metadata().unwrap().ino().to_string();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().any(|line| {
        // Addresses, rights, offset, device, number of the file.
        let mut words = line.split_whitespace();
        let (from, to) = words.next().unwrap().split_once('-').unwrap();
        let hexadecimal = |text| usize::from_str_radix(text, 16).unwrap();
        (hexadecimal(from)..hexadecimal(to)).contains(&address) && words.nth(3) == Some(&number)
    })
}
