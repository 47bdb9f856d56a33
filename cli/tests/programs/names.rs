//! Names that have to be read back.

mod garden {
    #[inline(always)]
    fn seeds(count: usize) -> Vec<u64> {
        std::hint::black_box(Vec::with_capacity(count))
    }

    #[inline(never)]
    pub fn planted(count: usize) -> Vec<u64> {
        let mut all = seeds(count);
        all.push(1);
        all
    }
}

fn main() {
    std::mem::forget(garden::planted(5000));
}
