//! DoRA's denominator (arXiv 2402.09353): the L2 norm of each row of `W + s B A`.

use polylora_adapters::{LowRank, Site};
use polylora_kernels::Linear;

/// The norms for a site of a fused layer, `[out]`.
pub(crate) fn site_row_norms(layer: &Linear, site: &Site, delta: LowRank<'_>) -> Vec<f32> {
    let fused = layer.weight.to_f32();
    let weight = &fused[site.offset * site.in_width..][..site.out_width * site.in_width];
    row_norms(weight, site.in_width, delta)
}

/// `weight` is `[out, in]` row-major; gives `[out]`. Sums in f64: the norm divides every output.
fn row_norms(weight: &[f32], inputs: usize, delta: LowRank<'_>) -> Vec<f32> {
    let rows = weight.chunks_exact(inputs).enumerate();
    rows.map(|(o, row)| {
        let mut changed: Vec<f64> = row.iter().map(|w| *w as f64).collect();
        for (j, a) in delta.a.chunks_exact(inputs).enumerate() {
            let factor = delta.scale as f64 * delta.b[o * delta.rank + j] as f64;
            for (w, a) in changed.iter_mut().zip(a) {
                *w += factor * *a as f64;
            }
        }
        changed.iter().map(|w| w * w).sum::<f64>().sqrt() as f32
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_are_those_of_the_changed_rows() {
        let weight = [3.0, 4.0, 1.0, 0.0];
        let still = LowRank { a: &[0.0, 0.0], b: &[1.0, 1.0], rank: 1, scale: 2.0 };
        assert_eq!(row_norms(&weight, 2, still), [5.0, 1.0]);
        // Row 0 becomes (3 + 2, 4 + 8), row 1 (1 - 1, 0 - 4).
        let delta = LowRank { a: &[1.0, 4.0], b: &[1.0, -0.5], rank: 1, scale: 2.0 };
        assert_eq!(row_norms(&weight, 2, delta), [13.0, 4.0]);
    }
}
