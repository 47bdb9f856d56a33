//! A key-value store over a mapped file: readers that never wait, a writer that appends, and now and then writes what is
//! live to a new file, puts it in the old one's place, and unmaps the old one while readers go on.
//!
//! ```text
//! cargo run --release --features files --example key_values
//! ```

use specmalloc::files::{FileOptions, FileRegion, Pin, Reopened};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Records are eight bytes of key, eight of length, and the value. The last one of a key counts.
struct Store {
    path: PathBuf,
    /// Where each key's value lies, and in which file: the lock is held to look, never to read or to map.
    index: RwLock<Index>,
}

struct Index {
    region: std::sync::Arc<FileRegion>,
    places: HashMap<u64, (usize, usize)>,
    file: File,
    end: usize,
}

impl Store {
    fn create(path: &Path) -> std::io::Result<Store> {
        let file = File::options().read(true).append(true).create_new(true).open(path)?;
        // SAFETY: this program alone writes to the file, and only behind its end.
        let region = unsafe { FileOptions::new().headroom(1 << 20).map(&file)? }.into();
        let index = Index { region, places: HashMap::new(), file, end: 0 };
        Ok(Store { path: path.to_owned(), index: RwLock::new(index) })
    }

    /// The value of a key: a pin on the file's bytes, which stays whatever the writer does.
    fn get(&self, key: u64) -> Option<Pin> {
        let index = self.index.read().unwrap();
        let &(at, len) = index.places.get(&key)?;
        Some(index.region.pin().ok()?.slice(at..at + len))
    }

    /// Whether a key's value is as `check` wants it, looked at in place.
    fn check(&self, key: u64, check: impl FnOnce(&[u8]) -> bool) -> Option<bool> {
        let (region, at, len) = {
            let index = self.index.read().unwrap();
            let &(at, len) = index.places.get(&key)?;
            (index.region.clone(), at, len)
        };
        // Closed: compacted in between. Once more.
        match region.guard() {
            Ok(bytes) => Some(check(&bytes[at..at + len])),
            Err(_) => self.check(key, check),
        }
    }

    fn append(&self, key: u64, value: &[u8]) -> std::io::Result<Reopened> {
        let mut index = self.index.write().unwrap();
        let record = [&key.to_le_bytes(), &(value.len() as u64).to_le_bytes(), value].concat();
        index.file.write_all(&record)?;
        let reopened = index.region.reopen()?;
        let at = index.end + 16;
        index.places.insert(key, (at, value.len()));
        index.end += record.len();
        Ok(reopened)
    }

    /// Writes what is live to a new file, and returns how many bytes that saved. Readers of the old one go on.
    fn compact(&self) -> std::io::Result<usize> {
        let next = self.path.with_extension("next");
        let mut index = self.index.write().unwrap();
        let mut to = BufWriter::new(File::options().read(true).append(true).create_new(true).open(&next)?);
        let (mut end, mut places) = (0, HashMap::new());
        for (&key, &(at, len)) in &index.places {
            to.write_all(&key.to_le_bytes())?;
            to.write_all(&(len as u64).to_le_bytes())?;
            index.region.copy_to(at..at + len, &mut to)?;
            places.insert(key, (end + 16, len));
            end += 16 + len;
        }
        let file = to.into_inner()?;
        fs::rename(&next, &self.path)?;
        // SAFETY: as in `create`.
        let region = unsafe { FileOptions::new().headroom(1 << 20).map(&file)? }.into();
        let saved = index.end - end;
        let old = std::mem::replace(&mut *index, Index { region, places, file, end });
        drop(index);
        // Readers may hold pins for as long as they like: nobody waits for them here.
        old.region.unmap_later()?;
        Ok(saved)
    }
}

/// What belongs to a key, whichever version.
fn value(key: u64, version: u64) -> Vec<u8> {
    vec![(key * 31) as u8; 20 + ((key + version) % 200) as usize]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::temp_dir().join(format!("key_values-{}", std::process::id()));
    let store = Store::create(&path)?;
    let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut grown, mut moved, mut saved) = (0, 0, 0);
    thread::scope(|scope| {
        for reader in 0..4u64 {
            let (store, stop, reads) = (&store, &stop, &reads);
            scope.spawn(move || {
                let (mut key, mut held) = (reader, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    key = (key * 5 + 7) % 1000;
                    let is_right = |bytes: &[u8]| bytes.iter().all(|&byte| byte == (key * 31) as u8);
                    assert_ne!(store.check(key, is_right), Some(false));
                    if let Some(pin) = store.get(key).filter(|_| key % 16 == 0) {
                        held.push((key, pin));
                    }
                    // The oldest may lie in a file that has had no name for long.
                    if held.len() > 10 {
                        let (key, pin) = held.remove(0);
                        assert!(pin.iter().all(|&byte| byte == (key * 31) as u8));
                    }
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let written = (0..20_000u64).try_for_each(|round| {
            let reopened = store.append(round * 17 % 1000, &value(round * 17 % 1000, round))?;
            grown += usize::from(!reopened.moved);
            moved += usize::from(reopened.moved);
            if round % 4000 == 3999 {
                saved += store.compact()?;
            }
            std::io::Result::Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        written
    })?;
    println!("{} reads; the file grew in place {grown} times, and moved {moved} times", reads.into_inner());
    println!("compacted 5 times, {saved} bytes less");
    fs::remove_file(&path)?;
    Ok(())
}
