//! Norms, gates and lookups of decoders on every GPU.

use burn::tensor::Tensor;
use polylora_kernels::launches::Kernel;
use polylora_kernels::{Activation, RmsNorm, embed, gated, rms_norm};

use super::devices::{Gpu, on_every_gpu};
use super::values::{assert_close, matrix, read, tolerance, vector};

/// Widths with and without whole vectors, within and beyond what a workgroup reads at once.
const WIDTHS: [usize; 8] = [1, 7, 64, 130, 1024, 1030, 4096, 9001];

/// How often a kernel ran meanwhile.
fn launched(kernel: Kernel, run: impl FnOnce() -> Vec<f32>) -> (u64, Vec<f32>) {
    let before = kernel.launches();
    let values = run();
    (kernel.launches() - before, values)
}

#[test]
fn rms_norm_equals_its_reference() {
    on_every_gpu(|gpu| {
        for width in WIDTHS {
            for rows in [1, 3, 130] {
                let on = |gpu: &Gpu| {
                    let norm = RmsNorm { gamma: gpu.put(vector(2, width)), epsilon: 1e-6 };
                    read(rms_norm(gpu.put(matrix(1, rows, width)), &norm))
                };
                let (count, got) = launched(Kernel::RmsNorm, || on(gpu));
                assert_eq!(count, 1, "not the fallback");
                let close = 4.0 * tolerance(gpu.dtype, 1);
                assert_close(&got, &on(&gpu.reference()), close, &format!("{} {rows}x{width}", gpu.name));
            }
        }
    });
}

#[test]
fn gates_equal_their_reference() {
    on_every_gpu(|gpu| {
        for (i, width) in WIDTHS.into_iter().enumerate() {
            for activation in [Activation::Silu, Activation::ALL[i % Activation::ALL.len()]] {
                // SiLU also where the exponential of the gate is beyond f16, and f32.
                let scale = if activation == Activation::Silu { [1.0, 30.0, 120.0][i % 3] } else { 2.0 };
                let gate_up = matrix(3, 5, 2 * width).mul_scalar(scale);
                let on = |gpu: &Gpu| read(gated(gpu.put(gate_up.clone()), activation));
                let (count, got) = launched(Kernel::Gated, || on(gpu));
                assert_eq!(count, 1, "not the fallback");
                let close = 4.0 * tolerance(gpu.dtype, 1);
                let what = format!("{} {width} {activation:?}", gpu.name);
                assert_close(&got, &on(&gpu.reference()), close, &what);
            }
        }
    });
}

#[test]
fn a_lookup_copies_rows_bit_by_bit() {
    on_every_gpu(|gpu| {
        for width in WIDTHS {
            let table: Tensor<2> = gpu.put(matrix(4, 11, width));
            let ids = [10, 0, 3, 3, 7];
            let (count, got) = launched(Kernel::Embed, || read(embed(gpu.ints(&ids), &table)));
            assert_eq!(count, 1, "not the fallback");
            let table = read(table);
            let want: Vec<f32> =
                ids.iter().flat_map(|id| &table[*id as usize * width..][..width]).copied().collect();
            assert_eq!(got, want, "{} {width}", gpu.name);
        }
    });
}

#[test]
fn a_view_of_columns_is_read_as_what_it_shows() {
    on_every_gpu(|gpu| {
        let wide: Tensor<2> = gpu.put(matrix(5, 6, 160));
        let view = wide.clone().slice([0..6, 32..104]);
        let copy = gpu.put(matrix(5, 6, 160).slice([0..6, 32..104]));
        let norm = RmsNorm { gamma: gpu.put(vector(6, 72)), epsilon: 1e-6 };
        assert_eq!(read(rms_norm(view.clone(), &norm)), read(rms_norm(copy.clone(), &norm)), "{}", gpu.name);
        let silu = Activation::Silu;
        assert_eq!(read(gated(view.clone(), silu)), read(gated(copy.clone(), silu)), "{}", gpu.name);
        let ids = || gpu.ints(&[5, 0, 2]);
        assert_eq!(read(embed(ids(), &view)), read(embed(ids(), &copy)), "{}", gpu.name);
    });
}

#[test]
fn no_rows_are_no_result() {
    on_every_gpu(|gpu| {
        let norm = RmsNorm { gamma: gpu.put(vector(6, 8)), epsilon: 1e-6 };
        let nothing = || gpu.put(matrix(1, 0, 8));
        assert!(read(rms_norm(nothing(), &norm)).is_empty());
        assert!(read(gated(nothing(), Activation::Silu)).is_empty());
        assert!(read(embed(gpu.ints(&[]), &gpu.put(matrix(1, 4, 8)))).is_empty());
    });
}

#[test]
fn more_rows_than_one_dimension_has_are_all_computed() {
    on_every_gpu(|gpu| {
        let rows = 70_000;
        let ids: Vec<i32> = (0..rows).map(|row| row % 5).collect();
        let on = |gpu: &Gpu| {
            let looked_up = embed(gpu.ints(&ids), &gpu.put(matrix(1, 5, 8)));
            let norm = RmsNorm { gamma: gpu.put(vector(3, 8)), epsilon: 1e-6 };
            read(gated(rms_norm(looked_up, &norm), Activation::Silu))
        };
        let close = 8.0 * tolerance(gpu.dtype, 1);
        assert_close(&on(gpu), &on(&gpu.reference()), close, &gpu.name);
    });
}
