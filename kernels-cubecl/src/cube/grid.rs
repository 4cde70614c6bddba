//! How many workgroups where.

use cubecl::prelude::CubeCount;

/// Most workgroups a dimension: WebGPU's limit, which every backend has at least.
const MOST: usize = 65_535;

/// `groups` workgroups over x and z, more than [`MOST`] spread over both, times `across` in y. The kernel's
/// `group_number` says which one it is; numbers of `groups` and above have nothing to do.
pub(crate) fn grid(groups: usize, across: usize) -> CubeCount {
    assert!((1..=MOST).contains(&across), "{across} workgroups across");
    let (x, z) = spread(groups);
    CubeCount::Static(x as u32, across as u32, z as u32)
}

fn spread(groups: usize) -> (usize, usize) {
    let z = groups.div_ceil(MOST).max(1);
    (groups.div_ceil(z).max(1), z)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_group_has_a_number_within_the_limits(groups in 0usize..5_000_000) {
            let (x, z) = spread(groups);
            prop_assert!((1..=MOST).contains(&x) && (1..=MOST).contains(&z));
            prop_assert!(x * z >= groups);
            prop_assert!(x * z < groups + x.max(2));
        }
    }
}
