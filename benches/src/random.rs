//! Random numbers that are the same in every run.

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence that `seed` names.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, which is not 0; the bias is of no account for bounds this small.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// A number from -`most` to `most`.
    pub fn symmetric(&mut self, most: f32) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1u64 << 24) as f32;
        (2.0 * unit - 1.0) * most
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_within_their_bounds_and_differ_by_seed() {
        let (mut one, mut two) = (Random::new(1), Random::new(2));
        let mut equal = 0;
        for _ in 0..1000 {
            let (a, b) = (one.symmetric(0.5), two.symmetric(0.5));
            assert!(a.abs() <= 0.5 && b.abs() <= 0.5 && one.below(7) < 7);
            equal += usize::from(a == b);
        }
        assert!(equal < 10);
    }
}
