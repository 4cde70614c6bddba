//! What a device gives in practice: the two rates that kernels are held against beside the data sheet's.

use std::time::Duration;

use burn::tensor::Tensor;
use polylora_kernels::device::OpenDevice;
use polylora_kernels::{LoraBatch, SiteGroup, Weight};

use crate::{BenchError, LayerSize, bursts, random_matrix, random_vector};

/// Practical rates of a device.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Bytes a second of `y = x + 1` over a tensor far larger than any cache, read and written.
    pub bandwidth: f64,
    /// Operations a second of a large matrix product in the device's dtype, through the op that the models use.
    pub flops: f64,
}

impl Ceilings {
    /// Measures both for about `budget`, on small tensors when `quick`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn measure(on: &OpenDevice, budget: Duration, quick: bool) -> Result<Self, BenchError> {
        let value = on.dtype.size();
        let len = if quick { 1 << 18 } else { (1 << 29) / value };
        let big: Tensor<1> = random_vector(on, len, 1.0);
        let added = bursts(&on.device, budget, |_| drop(big.clone().add_scalar(1.0)))?;
        let bandwidth = (2 * len * value) as f64 / (added.launch.median() / 1e3);
        drop(big);

        let side = if quick { 128 } else { 8192 };
        let size = LayerSize { rows: side, inputs: side, outputs: side, value };
        let layer = polylora_kernels::Linear {
            weight: Weight::prepare(random_matrix(on, side, side, 0.02)),
            bias: None,
            activation: polylora_kernels::Activation::Identity,
            sites: SiteGroup::new(vec![]).into(),
        };
        let x = random_matrix(on, side, side, 1.0);
        let base = LoraBatch::base();
        let product =
            bursts(&on.device, budget, |_| drop(polylora_kernels::linear(x.clone(), &layer, &base)))?;
        Ok(Self { bandwidth, flops: size.product().flops / (product.launch.median() / 1e3) })
    }
}
