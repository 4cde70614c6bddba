//! Layers out of a checkpoint: what the families share when they are loaded.

use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData};
use polylora_adapters::{Site, SiteCatalog};
use polylora_kernels::device::OpenDevice;
use polylora_kernels::{Activation, Linear, SiteGroup, SiteSpan, Weight, WeightCoding};

use crate::ModelError;
use crate::stored_values::widened;
use crate::weight_source::WeightSource;

/// Takes a model's tensors from where they come from and brings them to its device.
pub(crate) struct WeightLoader<'a> {
    pub(crate) source: &'a mut dyn WeightSource,
    pub(crate) on: &'a OpenDevice,
}

/// A fused layer that is to be loaded.
pub(crate) struct FusedLinear<'a> {
    /// Its group in the catalogue.
    pub(crate) group: u32,
    /// The sites.
    pub(crate) catalog: &'a SiteCatalog,
    /// Whether each site has a bias.
    pub(crate) bias: bool,
    /// Activation after the bias.
    pub(crate) activation: Activation,
}

impl WeightLoader<'_> {
    /// A vector in the dtype that is computed in.
    pub(crate) fn vector(&mut self, name: &str, len: usize) -> Result<Tensor<1>, ModelError> {
        self.source.take(name, [len], (&self.on.device, self.on.dtype))
    }

    /// A table in the dtype that is computed in.
    pub(crate) fn table(&mut self, name: &str, shape: [usize; 2]) -> Result<Tensor<2>, ModelError> {
        self.source.take(name, shape, (&self.on.device, self.on.dtype))
    }

    /// The fused layer of all sites in a group, one below the other.
    pub(crate) fn linear(&mut self, layer: &FusedLinear<'_>) -> Result<Linear, ModelError> {
        let sites: Vec<&Site> = layer.catalog.sites().iter().filter(|s| s.group == layer.group).collect();
        let (mut parts, mut bias) = (vec![], vec![]);
        for Site { name, in_width, out_width, .. } in &sites {
            parts.push(self.source.take_data(&format!("{name}.weight"), &[*out_width, *in_width])?);
            if layer.bias {
                bias.extend(self.source.take_values(&format!("{name}.bias"), &[*out_width])?);
            }
        }
        let shape = [sites.iter().map(|s| s.out_width).sum(), sites[0].in_width];
        let OpenDevice { device, dtype, weights, .. } = self.on;
        let spans = sites.iter().map(|s| SiteSpan { site: s.id, columns: s.offset..s.offset + s.out_width });
        let bias = layer.bias.then(|| {
            let bias = Tensor::<1>::from_data(TensorData::new(bias, [shape[0]]), (device, DType::F32));
            bias.cast(*dtype)
        });
        let weight = match weights {
            WeightCoding::Plain => Weight::prepare(self.fused(parts, shape)),
            // From the f32 values: what rounded them before would be lost for nothing.
            coding => Weight::prepare_as(self.fused_wide(parts, shape), *coding),
        };
        let sites = Arc::new(SiteGroup::new(spans.collect()));
        Ok(Linear { weight, bias, activation: layer.activation, sites })
    }

    /// The parts, one below the other, in the dtype that is computed in; where they are stored in it, without a step between.
    fn fused(&self, parts: Vec<TensorData>, shape: [usize; 2]) -> Tensor<2> {
        let OpenDevice { device, dtype, .. } = self.on;
        if parts.iter().any(|part| part.dtype() != *dtype) {
            return self.fused_wide(parts, shape).cast(*dtype);
        }
        let data = match <[TensorData; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => {
                let bytes: Vec<&[u8]> = parts.iter().map(TensorData::as_bytes).collect();
                TensorData::from_bytes_vec(bytes.concat(), shape, *dtype)
            }
        };
        Tensor::from_data(data, (device, *dtype))
    }

    fn fused_wide(&self, parts: Vec<TensorData>, shape: [usize; 2]) -> Tensor<2> {
        let mut values = Vec::with_capacity(shape[0] * shape[1]);
        parts.iter().for_each(|part| values.extend(widened(part)));
        Tensor::from_data(TensorData::new(values, shape), (&self.on.device, DType::F32))
    }
}
