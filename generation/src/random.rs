//! Random numbers by counter: the n-th number is a function of the seed and n, whatever was drawn elsewhere.

/// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC'11), keyed by a seed.
///
/// A stream has no state, so a sequence that is computed again, or beside other batch mates, gets the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomStream {
    seed: u64,
    copy: u64,
}

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

impl RandomStream {
    /// The stream of the sequence number `copy` among those that one request draws with `seed`.
    pub fn new(seed: u64, copy: u64) -> Self {
        Self { seed, copy }
    }

    /// The stream of the sequence number `copy` beside this one.
    pub fn sibling(&self, copy: u64) -> Self {
        Self { copy, ..*self }
    }

    /// Number `step` of the stream, uniform over all 64-bit numbers.
    pub fn at(&self, step: u64) -> u64 {
        let [step_low, step_high] = halves(step);
        let [copy_low, copy_high] = halves(self.copy);
        let words = philox([step_low, step_high, copy_low, copy_high], halves(self.seed));
        u64::from(words[0]) | u64::from(words[1]) << 32
    }

    /// Number `step` of the stream, brought to `0..total`; `total` is not 0.
    ///
    /// An outcome's chance is off by at most 2^-64.
    pub fn below(&self, step: u64, total: u64) -> u64 {
        ((u128::from(self.at(step)) * u128::from(total)) >> 64) as u64
    }
}

fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [low0, high0] = halves(u64::from(MULTIPLIERS[0]) * u64::from(counter[0]));
        let [low1, high1] = halves(u64::from(MULTIPLIERS[1]) * u64::from(counter[2]));
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_the_known_answers_of_its_authors() {
        let known = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, answer) in known {
            assert_eq!(philox(counter, key), answer);
        }
    }

    #[test]
    fn seeds_copies_and_steps_give_different_numbers() {
        let mut numbers: Vec<u64> = (0..4)
            .flat_map(|seed| (0..4).map(move |copy| RandomStream::new(seed, copy)))
            .flat_map(|stream| (0..4).map(move |step| stream.at(step)))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 64);
    }

    #[test]
    fn a_bounded_number_is_below_its_bound() {
        let stream = RandomStream::new(7, 0);
        for total in [1, 2, 3, 1 << 40, u64::MAX] {
            assert!((0..200).all(|step| stream.below(step, total) < total));
        }
    }
}
