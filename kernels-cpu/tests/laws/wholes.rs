//! Shapes of real models: whole panels, whole tiles, more rows than a block.

use half::bf16;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::*;

use crate::layer::{After, LayerFixture};
use crate::{assert_close, on_threads};

#[test]
fn layers_of_a_models_size_equal_the_naive_one() {
    for (rows, inputs, outputs) in [(130, 384, 96), (33, 64, 1536), (16, 1536, 64), (500, 64, 64)] {
        let layer = LayerFixture::new(5, rows, inputs, outputs, &[8, 0, 16, 4]);
        let want = layer.naive(Activation::Gelu, After::AddNorm);
        let layer16 = LayerFixture::new(5, rows, inputs, outputs, &[8, 0, 16, 4])
            .into_rounded::<bf16>(WeightFormat::Bf16);
        let want16 = layer16.naive(Activation::Gelu, After::AddNorm);
        for isa in Isa::available() {
            for threads in [1, 2] {
                on_threads(threads, || {
                    let what = format!("{} {rows}x{inputs}x{outputs}", isa.name());
                    let got = layer.run::<f32>(isa, WeightFormat::F32, Activation::Gelu, After::AddNorm);
                    assert_close(&got, &want, 3e-4, &what);
                    let got = layer16.run::<bf16>(isa, WeightFormat::Bf16, Activation::Gelu, After::AddNorm);
                    assert_close(&got, &want16, 1e-2, &what);
                });
            }
        }
    }
}
