//! Layers and batches of adapters, the same on every device.

use std::sync::Arc;

use burn::tensor::Tensor;
use polylora_kernels::extent::{ExtentLayout, HostExtent, SiteId, SiteShape};
use polylora_kernels::{
    Activation, AdapterMemory, Linear, LoraBatch, Norm, PlacedAdapter, SiteGroup, SiteSpan, Weight, linear,
    linear_add, linear_add_norm, segments_of,
};

use super::devices::Gpu;
use super::values::{matrix, read, round, values, vector};

/// A fused layer of two sites.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    pub inputs: usize,
    pub outputs: usize,
    pub activation: Activation,
    pub seed: u64,
}

/// The layer on a device: with its activation, and without for residual and norm.
pub struct Parts {
    pub linear: Linear,
    pub normed: Linear,
    pub norm: Norm,
}

/// The ops' values.
pub struct Results {
    pub linear: Vec<f32>,
    pub added: Vec<f32>,
    pub normed: Vec<f32>,
}

/// Adapters by rank, and rows by adapter.
#[derive(Clone, Debug)]
pub struct Fleet {
    pub ranks: Vec<usize>,
    pub rows: Vec<(usize, Option<usize>)>,
}

/// How rows choose adapters.
#[derive(Clone, Copy, Debug)]
pub enum Popularity {
    One,
    Distinct,
    Uniform,
    Zipf,
}

impl Popularity {
    pub const ALL: [Popularity; 4] =
        [Popularity::One, Popularity::Distinct, Popularity::Uniform, Popularity::Zipf];

    /// `rows` rows over `adapters` adapters, one in seven through the base model.
    pub fn fleet(self, rows: usize, adapters: usize) -> Fleet {
        let pick = |row: usize| match self {
            Popularity::One => 0,
            Popularity::Distinct => row % adapters,
            Popularity::Uniform => row * adapters / rows,
            // The k-th most popular has a share of 1/k.
            Popularity::Zipf => {
                let harmonic: f32 = (1..=adapters).map(|k| 1.0 / k as f32).sum();
                let place = (row as f32 + 0.5) / rows as f32 * harmonic;
                let mut sum = 0.0;
                (1..=adapters)
                    .find(|k| {
                        sum += 1.0 / *k as f32;
                        sum >= place
                    })
                    .map_or(adapters - 1, |k| k - 1)
            }
        };
        let rows = (0..rows).map(|row| (1, (row % 7 != 6).then(|| pick(row)))).collect();
        Fleet { ranks: (0..adapters).map(|a| 1 + a * 5 % 24).collect(), rows }
    }
}

impl Layer {
    fn cut(&self) -> usize {
        self.outputs / 2
    }

    pub fn parts(&self, gpu: &Gpu) -> Parts {
        let spans = [(0, 0..self.cut()), (1, self.cut()..self.outputs)];
        let spans = spans.map(|(id, columns)| SiteSpan { site: SiteId(id), columns });
        let sites = Arc::new(SiteGroup::new(spans.to_vec()));
        let layer = |activation| {
            let weight = gpu.put(matrix(self.seed, self.outputs, self.inputs));
            // The oracle's weight stays plain: then the CPU computes with the reference.
            let weight = if gpu.oracle { Weight::plain(weight) } else { Weight::prepare(weight) };
            let bias = Some(gpu.put(vector(self.seed + 1, self.outputs)));
            Linear { weight, bias, activation, sites: sites.clone() }
        };
        let norm = Norm {
            gamma: gpu.put(vector(self.seed + 4, self.outputs)),
            beta: gpu.put(vector(self.seed + 5, self.outputs)),
            epsilon: 1e-5,
        };
        Parts { linear: layer(self.activation), normed: layer(Activation::Identity), norm }
    }

    pub fn on(&self, gpu: &Gpu, fleet: &Fleet) -> Results {
        let parts = self.parts(gpu);
        let (lora, rows) = fleet.batch(gpu, self);
        let x: Tensor<2> = gpu.put(matrix(self.seed + 2, rows, self.inputs));
        let residual = gpu.put(matrix(self.seed + 3, rows, self.outputs));
        Results {
            linear: read(linear(x.clone(), &parts.linear, &lora)),
            added: read(linear_add(x.clone(), &parts.normed, residual.clone(), &lora)),
            normed: read(linear_add_norm(x, &parts.normed, residual, &parts.norm, &lora)),
        }
    }

    /// The oracle's values, for a device of that dtype.
    pub fn on_cpu(&self, fleet: &Fleet, rounding: burn::tensor::DType) -> Results {
        let oracle = Gpu {
            name: String::new(),
            device: burn::tensor::Device::flex(),
            dtype: burn::tensor::DType::F32,
            rounding,
            oracle: true,
        };
        self.on(&oracle, fleet)
    }

    /// An adapter over both sites, every fifth over the first alone: gain and bias differ by number. What it adds is as large
    /// as the product, so that it cannot hide behind a tolerance.
    fn adapter(&self, number: usize, rank: usize, rounding: burn::tensor::DType) -> Arc<HostExtent> {
        let shape = |site: u32, out_width: usize, rank: usize| SiteShape {
            site: SiteId(site),
            in_width: self.inputs,
            out_width,
            rank,
            has_gain: number % 2 == 1,
            has_bias: number % 3 == 1,
        };
        let mut shapes = vec![shape(0, self.cut(), rank)];
        if number % 5 != 4 {
            shapes.push(shape(1, self.outputs - self.cut(), rank / 2));
        }
        let mut extent = HostExtent::zeroed(ExtentLayout::new(shapes, |_| 0));
        let small = (rank.max(1) as f32).powf(-0.25);
        let random = values(self.seed + 100 + number as u64, extent.values().len());
        extent.values_mut().iter_mut().zip(random).for_each(|(v, r)| *v = r * small);
        round(extent.values_mut(), rounding);
        Arc::new(extent)
    }
}

impl Fleet {
    /// The batch in the device's arena, and its number of rows. Adapters lie in reverse with poisoned holes between.
    pub fn batch(&self, gpu: &Gpu, layer: &Layer) -> (LoraBatch, usize) {
        let known = |a: &Option<usize>| a.filter(|_| !self.ranks.is_empty()).map(|a| a % self.ranks.len());
        let segments = segments_of(self.rows.iter().map(|(len, a)| (*len, known(a))));
        let adapters: Vec<_> =
            self.ranks.iter().enumerate().map(|(i, rank)| layer.adapter(i, *rank, gpu.rounding)).collect();
        let hole = 32;
        let capacity = adapters.iter().map(|a| a.layout().len() + hole).sum::<usize>() + hole;
        let mut memory = AdapterMemory::arena(&gpu.device, gpu.dtype, capacity);
        if let AdapterMemory::Arena(arena) = &mut memory {
            **arena = arena.as_ref().clone().mul_scalar(0.0).add_scalar(f32::NAN);
        }
        let mut at = hole;
        let mut placed: Vec<PlacedAdapter> = vec![];
        for extent in adapters.iter().rev() {
            memory.store(at, extent);
            placed.insert(0, PlacedAdapter { extent: extent.clone(), offset: at });
            at += extent.layout().len() + hole;
        }
        (LoraBatch::new(segments, placed, memory), self.rows.iter().map(|r| r.0).sum())
    }
}
