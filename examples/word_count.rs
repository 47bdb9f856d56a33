//! Counts the words of the files named on the command line (or of this source), on specmalloc, and says what that took:
//!
//! ```text
//! cargo run --release --example word_count -- README.md DESIGN.md
//! ```

use specmalloc::SpecMalloc;
use std::collections::HashMap;

#[global_allocator]
static ALLOC: SpecMalloc = SpecMalloc::new();

fn main() -> std::io::Result<()> {
    let mut files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        files.push(file!().to_string());
    }
    let mut words: HashMap<String, usize> = HashMap::new();
    for file in &files {
        for word in std::fs::read_to_string(file)?.split_whitespace() {
            *words.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    let mut most: Vec<_> = words.iter().collect();
    most.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    for (word, count) in most.iter().take(10) {
        println!("{count:6} {word}");
    }

    let figures = ALLOC.statistics();
    println!("{} blocks live, {} bytes", figures.live_blocks, figures.live_bytes);
    println!("{} bytes reserved, {} system calls to map", figures.reserved_bytes, figures.calls.map);
    Ok(())
}
