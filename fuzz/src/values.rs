//! Numbers that a few bytes of fuzzer's input stand for.

use polylora_kernels_cpu::Element;

/// Deterministic values in (-1, 1), by splitmix64.
pub fn values<E: Element>(seed: u64, count: usize) -> Vec<E> {
    let mut state = seed.wrapping_mul(0x2545_F491_4F6C_DD1D);
    let numbers = (0..count).map(|_| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        E::from_f32(((mixed ^ (mixed >> 31)) >> 40) as f32 / 8_388_608.0 - 1.0)
    });
    numbers.collect()
}

/// Bits of each value: what must be equal to the last of them.
pub fn bits<E: Element>(values: &[E]) -> Vec<u32> {
    values.iter().map(|value| value.to_f32().to_bits()).collect()
}
