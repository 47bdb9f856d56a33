//! What the tests write into blocks, so that any page or word that is lost, mixed up or shared is noticed.

const CHUNK: usize = 4096;

/// The first word of the chunk at `index` of a block filled with `seed`.
fn stamp(seed: u8, index: usize) -> [u8; 8] {
    ((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(seed)).to_le_bytes()
}

/// Fills a block. Every 4 KiB begin with a word of their own, all other bytes are `seed`.
pub fn fill(block: &mut [u8], seed: u8) {
    block.fill(seed);
    for (index, chunk) in block.chunks_mut(CHUNK).enumerate() {
        if let Some(word) = chunk.first_chunk_mut() {
            *word = stamp(seed, index);
        }
    }
}

/// Whether the block's first `len` bytes are as `fill` left them.
pub fn is_intact(block: &[u8], len: usize, seed: u8) -> bool {
    let plain = [seed; CHUNK];
    block[..len].chunks(CHUNK).enumerate().all(|(index, chunk)| {
        // A word that the cut goes through is not compared.
        let stamped = block.len() - index * CHUNK >= 8;
        let head = if stamped { chunk.len().min(8) } else { 0 };
        chunk[..head] == stamp(seed, index)[..head] && chunk[head..] == plain[head..chunk.len()]
    })
}

/// Whether every 4 KiB of the block still begin with their word: no page is lost or in another's place.
pub fn has_its_pages(block: &[u8], seed: u8) -> bool {
    let mut words = block.chunks(CHUNK).map(<[u8]>::first_chunk).enumerate();
    words.all(|(index, word)| word.is_none_or(|word| *word == stamp(seed, index)))
}

/// Whether all bytes are zero.
pub fn is_zero(block: &[u8]) -> bool {
    block.chunks(CHUNK).all(|chunk| *chunk == [0; CHUNK][..chunk.len()])
}

#[test]
fn a_changed_byte_or_page_is_noticed() {
    for len in [1, 7, 8, 9, 4095, 4096, 4100, 20_000] {
        let mut block = vec![0; len];
        assert!(is_zero(&block));
        fill(&mut block, 7);
        assert!(!is_zero(&block) && (0..=len).all(|part| is_intact(&block, part, 7)));
        for at in [0, len / 2, len - 1] {
            block[at] ^= 1;
            assert!(!is_intact(&block, len, 7));
            block[at] ^= 1;
        }
        if len > 2 * CHUNK {
            assert!(has_its_pages(&block, 7));
            block.copy_within(CHUNK..2 * CHUNK, 0);
            assert!(!is_intact(&block, len, 7) && !has_its_pages(&block, 7));
        }
    }
}
