//! A file that is compressed by blocks, read as if it were not: each block is decompressed when it is first needed, by
//! whichever thread needs it, and the least recently used ones are evicted.
//!
//! ```text
//! cargo run --release --example blocks --features paging
//! ```

use specmalloc::paging::{Error, PagedRegion, PagerError};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const BLOCK: usize = 64 << 10;
const BLOCKS: usize = 256;
/// Blocks that are to be there at the same time, about.
const KEPT: usize = 32;

/// Runs of equal bytes: how many, and which.
fn compress(block: &[u8]) -> Vec<u8> {
    let runs = block.chunk_by(|one, next| one == next);
    runs.flat_map(|run| [(run.len() as u32).to_le_bytes().as_slice(), &run[..1]].concat()).collect()
}

fn decompress(runs: &[u8], to: &mut [u8]) -> Result<(), PagerError> {
    let mut at = 0;
    for run in runs.chunks_exact(5) {
        let len = u32::from_le_bytes([run[0], run[1], run[2], run[3]]) as usize;
        to.get_mut(at..at + len).ok_or("a block is too long")?.fill(run[4]);
        at += len;
    }
    if at == to.len() { Ok(()) } else { Err("a block is too short".into()) }
}

/// The text that is compressed: the number of each thousand bytes.
fn text(at: usize) -> u8 {
    (at / 1000) as u8
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::temp_dir().join(format!("blocks-{}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    let (mut places, mut end) = (Vec::new(), 0);
    for block in 0..BLOCKS {
        let bytes: Vec<u8> = (block * BLOCK..(block + 1) * BLOCK).map(text).collect();
        let compressed = compress(&bytes);
        file.write_all(&compressed)?;
        places.push((end, compressed.len()));
        end += compressed.len() as u64;
    }
    println!("{} bytes in {end}", BLOCKS * BLOCK);

    let pager = move |offset: usize, to: &mut [u8]| -> Result<(), PagerError> {
        let (place, len) = places[offset / BLOCK];
        let mut runs = vec![0; len];
        file.read_exact_at(&mut runs, place)?;
        decompress(&runs, to)
    };
    let region = match PagedRegion::new(BLOCKS * BLOCK, pager) {
        Err(error @ Error::NotAllowed { .. }) => {
            println!("{error}");
            return Ok(());
        }
        region => region?,
    };
    // When each block was used last, by a clock of reads.
    let (used, clock) = (Vec::from_iter((0..BLOCKS).map(|_| AtomicU64::new(0))), AtomicU64::new(1));
    std::thread::scope(|scope| {
        for reader in 0..4usize {
            let (region, used, clock) = (&region, &used, &clock);
            scope.spawn(move || {
                let mut at = reader * 1_000_003;
                for _ in 0..5000 {
                    at = (at * 5 + 77_777) % (BLOCKS * BLOCK - 8);
                    let word = region.hold(at..at + 8).expect("the file is whole");
                    assert!(word.iter().zip(at..).all(|(&byte, at)| byte == text(at)));
                    used[at / BLOCK].store(clock.fetch_add(1, Relaxed), Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while clock.load(Relaxed) <= 4 * 5000 {
                if region.resident() > KEPT * BLOCK {
                    let oldest = (0..BLOCKS).filter(|&block| used[block].load(Relaxed) != 0);
                    if let Some(block) = oldest.min_by_key(|&block| used[block].load(Relaxed)) {
                        used[block].store(0, Relaxed);
                        region.evict(block * BLOCK..(block + 1) * BLOCK).expect("it lies in the region");
                    }
                }
                std::thread::yield_now();
            }
        });
    });
    println!("{} blocks decompressed for 20000 reads, {} there", region.fetched(), region.resident() / BLOCK);
    println!("unmapped after {:?}", region.unmap()?.waited);
    Ok(())
}
