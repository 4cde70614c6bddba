//! A layer with its adapters on a device, in several copies, so that repeated launches do not find all in the cache.

use std::sync::Arc;

use burn::tensor::{DType, Distribution, Tensor};
use polylora_kernels::device::OpenDevice;
use polylora_kernels::extent::{ExtentLayout, HostExtent, SiteId, SiteShape};
use polylora_kernels::{
    Activation, AdapterMemory, Linear, LoraBatch, Norm, PlacedAdapter, SiteGroup, SiteSpan, Weight, linear,
    linear_add_norm, segments_of,
};

use crate::{BenchError, KernelShape, Random};

/// Bytes that all copies together should have at least: more than caches hold.
const ROUND: f64 = 256e6;
const MOST_SETS: usize = 16;
/// Largest value of an adapter.
const LARGEST: f32 = 0.02;

/// A layer of one site without bias, the same with residual and norm, and inputs and adapters for a shape.
pub struct DeviceLayer {
    layer: Linear,
    norm: Norm,
    base: LoraBatch,
    sets: Vec<Set>,
    /// Bytes that the sets have together.
    pub bytes: f64,
}

/// Inputs and adapters that one launch reads.
struct Set {
    x: Tensor<2>,
    residual: Tensor<2>,
    lora: LoraBatch,
}

impl DeviceLayer {
    /// Random values for `shape` on `on`.
    ///
    /// # Errors
    /// When the device has no memory for the adapters.
    pub fn new(on: &OpenDevice, shape: &KernelShape) -> Result<Self, BenchError> {
        let (width, rows) = (shape.width, shape.rows());
        let set_bytes = shape.lora(on.dtype.size()).after_product().bytes;
        let count = ((ROUND / set_bytes).ceil() as usize).clamp(1, MOST_SETS);
        let site = SiteShape {
            site: SiteId(0),
            in_width: width,
            out_width: width,
            rank: shape.rank,
            has_gain: false,
            has_bias: false,
        };
        let adapters = Adapters::new(on, site, count * shape.segments.len())?;
        let numbered = || shape.segments.iter().enumerate().map(|(adapter, rows)| (*rows, Some(adapter)));
        let sets = (0..count).map(|set| {
            let first = set * shape.segments.len();
            let placed = (first..first + shape.segments.len()).map(|number| adapters.placed(number));
            Set {
                x: random_matrix(on, rows, width, 1.0),
                residual: random_matrix(on, rows, width, 1.0),
                lora: LoraBatch::new(segments_of(numbered()), placed.collect(), adapters.memory.clone()),
            }
        });
        let span = SiteSpan { site: SiteId(0), columns: 0..width };
        Ok(Self {
            sets: sets.collect(),
            layer: Linear {
                weight: Weight::prepare(random_matrix(on, width, width, 0.05)),
                bias: None,
                activation: Activation::Identity,
                sites: Arc::new(SiteGroup::new(vec![span])),
            },
            norm: Norm {
                gamma: random_vector(on, width, 1.0),
                beta: random_vector(on, width, 1.0),
                epsilon: 1e-5,
            },
            base: LoraBatch::base(),
            bytes: set_bytes * count as f64,
        })
    }

    /// `W x` of launch `number`, with adapters or without.
    pub fn linear(&self, number: usize, adapted: bool) -> Tensor<2> {
        let set = &self.sets[number % self.sets.len()];
        linear(set.x.clone(), &self.layer, if adapted { &set.lora } else { &self.base })
    }

    /// `norm(W x + residual)` of launch `number`, with adapters or without.
    pub fn linear_add_norm(&self, number: usize, adapted: bool) -> Tensor<2> {
        let set = &self.sets[number % self.sets.len()];
        let lora = if adapted { &set.lora } else { &self.base };
        linear_add_norm(set.x.clone(), &self.layer, set.residual.clone(), &self.norm, lora)
    }

    /// Whether adapters change the values of every set, and all values are finite.
    ///
    /// # Errors
    /// When one is not: what follows would be the time of something else.
    pub fn check(&self, what: &str) -> Result<(), BenchError> {
        for number in 0..self.sets.len() {
            let changed = self.linear(number, true) - self.linear(number, false);
            let sum: f32 = changed.cast(DType::F32).abs().sum().into_scalar();
            if !sum.is_finite() || sum == 0.0 {
                return Err(BenchError::NoEffect { what: what.to_owned() });
            }
        }
        assert!(self.sets.iter().all(|set| set.lora.launches() > 0), "adapters ran");
        Ok(())
    }
}

/// Equal-sized adapters one after the other in the device's memory.
struct Adapters {
    memory: AdapterMemory,
    extents: Vec<Arc<HostExtent>>,
}

impl Adapters {
    fn new(on: &OpenDevice, site: SiteShape, count: usize) -> Result<Self, BenchError> {
        let layout = ExtentLayout::new(vec![site], |_| 0);
        let mut memory = AdapterMemory::new(&on.device, on.dtype, 0)?;
        let extents = match &memory {
            AdapterMemory::HostAlias => (0..count).map(|number| filled(&layout, number as u64)).collect(),
            // The arena's values are drawn on the device; the extent tells where they lie.
            AdapterMemory::Arena(_) => {
                let values = random_vector(on, count * layout.len(), LARGEST);
                memory = AdapterMemory::Arena(Box::new(values));
                let extent = Arc::new(HostExtent::zeroed(layout));
                vec![extent; count]
            }
        };
        Ok(Self { memory, extents })
    }

    fn placed(&self, number: usize) -> PlacedAdapter {
        let extent = self.extents[number].clone();
        PlacedAdapter { offset: number * extent.layout().len(), extent }
    }
}

fn filled(layout: &ExtentLayout, seed: u64) -> Arc<HostExtent> {
    let (mut extent, mut random) = (HostExtent::zeroed(layout.clone()), Random::new(seed));
    extent.values_mut().iter_mut().for_each(|value| *value = random.symmetric(LARGEST));
    Arc::new(extent)
}

/// `[rows, columns]` of values from -`most` to `most`, drawn on the device.
pub fn random_matrix(on: &OpenDevice, rows: usize, columns: usize, most: f32) -> Tensor<2> {
    Tensor::<2>::random([rows, columns], spread(most), (&on.device, DType::F32)).cast(on.dtype)
}

/// `[len]` of values from -`most` to `most`, drawn on the device.
pub fn random_vector(on: &OpenDevice, len: usize, most: f32) -> Tensor<1> {
    Tensor::<1>::random([len], spread(most), (&on.device, DType::F32)).cast(on.dtype)
}

fn spread(most: f32) -> Distribution {
    Distribution::Uniform(f64::from(-most), f64::from(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Phase, Popularity};
    use polylora_kernels::device::{DTypeSpec, DeviceSpec, open};

    #[test]
    fn adapters_change_every_copy_of_the_inputs() {
        let cpu = open(DeviceSpec::Cpu, DTypeSpec::F32).expect("a cpu");
        let shape = KernelShape {
            phase: Phase::Decode,
            popularity: Popularity::Distinct,
            width: 32,
            rank: 4,
            segments: vec![1, 2],
        };
        let layer = DeviceLayer::new(&cpu, &shape).expect("a layer");
        layer.check("the layer").expect("adapters have an effect");
        assert_eq!(layer.sets.len(), MOST_SETS);
        assert_eq!(layer.linear_add_norm(17, true).dims(), [3, 32]);
    }
}
