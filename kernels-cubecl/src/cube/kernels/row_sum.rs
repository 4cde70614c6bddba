//! Sums over a row whose columns are spread over a workgroup's units.

use cubecl::prelude::*;

/// For each of `rows` rows, the sum of all units' `parts`, in every unit. `scratch` has
/// `rows * units` values and may be used again afterwards; `units` is a power of two.
#[cube]
pub(crate) fn row_sums(
    parts: &Array<f32>,
    scratch: &mut Shared<[f32]>,
    #[comptime] rows: usize,
    #[comptime] units: usize,
) -> Array<f32> {
    let unit = UNIT_POS as usize;
    #[unroll]
    for row in 0..rows {
        scratch[row * units + unit] = parts[row];
    }
    fold_rows(scratch, rows, units);
    let mut sums = Array::<f32>::new(rows);
    #[unroll]
    for row in 0..rows {
        sums[row] = scratch[row * units];
    }
    sync_cube();
    sums
}

/// Leaves the sum of the `units` values from `row * units` on in the first of them, for each of `rows` rows, once every
/// unit has written its own. The order of addition is fixed; `units` is a power of two.
#[cube]
pub(crate) fn fold_rows(scratch: &mut Shared<[f32]>, #[comptime] rows: usize, #[comptime] units: usize) {
    let unit = UNIT_POS as usize;
    sync_cube();
    let steps = comptime!(units.ilog2() as usize);
    #[unroll]
    for step in 0..steps {
        let half = comptime!(units >> (step + 1));
        if unit < half {
            #[unroll]
            for row in 0..rows {
                scratch[row * units + unit] += scratch[row * units + unit + half];
            }
        }
        sync_cube();
    }
}
