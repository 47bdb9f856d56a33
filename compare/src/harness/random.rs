//! A small generator of pseudo-random numbers: the same seed gives every allocator the same requests.

/// Weyl sequence with a multiply-and-fold finish (64 bits of state). Not for secrets.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// A generator; near seeds give unrelated sequences.
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ 0x9E37_79B9_7F4A_7C15);
        random.next_u64();
        random
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xA076_1D64_78BD_642F);
        let product = u128::from(self.0) * u128::from(self.0 ^ 0xE703_7ED1_A0B4_28DB);
        (product >> 64) as u64 ^ product as u64
    }

    /// The next 32 bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    /// A number below `bound` (at most 2^32, not zero).
    #[inline]
    pub fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.next_u32()) * bound as u64) >> 32) as usize
    }

    /// A number from `low` to `high`, both included, all equally likely.
    #[inline]
    pub fn uniform(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// A number above `low` and up to `high`, both powers of two, in which each doubling is equally likely: small
    /// numbers are common, large ones are rare.
    #[inline]
    pub fn log_uniform(&mut self, low: usize, high: usize) -> usize {
        debug_assert!(low.is_power_of_two() && high.is_power_of_two() && low < high);
        let base = low << self.below((high / low).trailing_zeros() as usize);
        base + 1 + self.below(base)
    }

    /// Puts `items` in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_and_are_covered() {
        let mut random = Random::new(7);
        let mut seen = [0u32; 16];
        for _ in 0..10_000 {
            assert!((16..=100).contains(&random.uniform(16, 100)));
            assert!((17..=1024).contains(&random.log_uniform(16, 1024)));
            seen[random.below(16)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 400), "{seen:?}");
    }

    #[test]
    fn shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..1000).collect();
        Random::new(9).shuffle(&mut items);
        assert!(items.windows(2).any(|pair| pair[0] > pair[1]));
        items.sort_unstable();
        assert!(items.iter().copied().eq(0..1000));
    }
}
