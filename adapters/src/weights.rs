//! From stored tensors to the values that are computed with: widening, the finite scan, folding, layout.

use polylora_kernels::extent::{ExtentLayout, HostExtent, SiteId, SiteShape};

use crate::{BaseModel, LowRank, SiteCatalog};

/// A number format that adapters are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredDtype {
    F32,
    F16,
    Bf16,
}

impl StoredDtype {
    /// The format of that safetensors name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Its safetensors name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// Bytes of an element.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Little-endian `bytes` as f32: exact for all three formats.
    pub(crate) fn widen(self, bytes: &[u8]) -> Vec<f32> {
        fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks::<N>().0.iter().map(|&chunk| value(chunk)).collect()
        }
        match self {
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F16 => each(bytes, |b| half::f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => each(bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
        }
    }
}

/// The first value that is a NaN or an infinity, with its index.
pub(crate) fn first_not_finite(values: &[f32]) -> Option<(usize, f32)> {
    values.iter().copied().enumerate().find(|(_, value)| !value.is_finite())
}

/// What an adapter's file holds for one site, widened.
#[derive(Clone, Debug)]
pub(crate) struct SiteValues {
    pub(crate) site: SiteId,
    pub(crate) in_width: usize,
    pub(crate) out_width: usize,
    pub(crate) rank: usize,
    /// alpha/r, or alpha/sqrt(r) with rsLoRA.
    pub(crate) scale: f32,
    /// `A`, `[rank, in_width]`.
    pub(crate) a: Vec<f32>,
    /// `B`, `[out_width, rank]`.
    pub(crate) b: Vec<f32>,
    /// DoRA's `m`, `[out_width]`.
    pub(crate) magnitude: Option<Vec<f32>>,
    /// The bias that replaces the base's, `[out_width]`.
    pub(crate) bias: Option<Vec<f32>>,
}

/// Values that are finite as stored but not once folded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FoldFault {
    /// `magnitude / norm` is not finite at `row`.
    Gain { row: usize, magnitude: f32, norm: f32 },
    /// `value * factor` is not finite at `index` of `B [out_width, rank]`.
    Overflow { index: usize, value: f32, factor: f32 },
}

/// One site as the device has it: `y = g * (W x) + B' (A x) + bias`, with `B' = scale * g * B`.
#[derive(Clone, Debug)]
pub(crate) struct FoldedSite {
    shape: SiteShape,
    a: Vec<f32>,
    /// `B'` transposed, `[rank, out_width]`.
    b: Vec<f32>,
    gain: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

impl FoldedSite {
    /// What is brought to a site of width `in_width` to `out_width`, without what has no effect: a product that is
    /// zero, a gain that is one throughout. `a` is `[rank, in_width]`; `b` is transposed, with everything folded in,
    /// `[rank, out_width]`; the rest `[out_width]`. `None` when nothing is left.
    pub(crate) fn new(
        site: SiteId,
        [in_width, out_width]: [usize; 2],
        [a, b]: [Vec<f32>; 2],
        gain: Option<Vec<f32>>,
        bias: Option<Vec<f32>>,
    ) -> Option<Self> {
        let product = b.iter().any(|&v| v != 0.0) && a.iter().any(|&v| v != 0.0);
        let gain = gain.filter(|g| g.iter().any(|&v| v != 1.0));
        let (rank, a, b) = if product { (a.len() / in_width, a, b) } else { (0, vec![], vec![]) };
        let (has_gain, has_bias) = (gain.is_some(), bias.is_some());
        let shape = SiteShape { site, in_width, out_width, rank, has_gain, has_bias };
        (product || has_gain || has_bias).then_some(Self { shape, a, b, gain, bias })
    }
}

impl SiteValues {
    /// Folds scale and gain into `B`. `None` when the site has no effect: no low-rank product, no gain other than
    /// one, no bias.
    pub(crate) fn fold(self, base: &dyn BaseModel) -> Result<Option<FoldedSite>, FoldFault> {
        let gain = self.magnitude.as_deref().map(|m| self.gain(m, base)).transpose()?;
        let mut b = vec![0.0; self.b.len()];
        for (o, row) in self.b.chunks_exact(self.rank).enumerate() {
            let factor = self.scale * gain.as_ref().map_or(1.0, |g| g[o]);
            for (r, &value) in row.iter().enumerate() {
                let folded = value * factor;
                if !folded.is_finite() {
                    return Err(FoldFault::Overflow { index: o * self.rank + r, value, factor });
                }
                b[r * self.out_width + o] = folded;
            }
        }
        Ok(FoldedSite::new(self.site, [self.in_width, self.out_width], [self.a, b], gain, self.bias))
    }

    /// DoRA's `g = m / ||W + scale * B A||` by row (arXiv 2402.09353).
    fn gain(&self, magnitude: &[f32], base: &dyn BaseModel) -> Result<Vec<f32>, FoldFault> {
        let delta = LowRank { a: &self.a, b: &self.b, rank: self.rank, scale: self.scale };
        let norms = base.dora_row_norms(self.site, delta);
        assert_eq!(norms.len(), self.out_width, "a base model gives one norm for each row");
        let gains = magnitude.iter().zip(&norms).enumerate().map(|(row, (&magnitude, &norm))| {
            let gain = magnitude / norm;
            if gain.is_finite() { Ok(gain) } else { Err(FoldFault::Gain { row, magnitude, norm }) }
        });
        gains.collect()
    }
}

/// Lays the folded sites out as one extent.
pub(crate) fn lay_out(sites: &[FoldedSite], catalog: &SiteCatalog) -> HostExtent {
    let shapes = sites.iter().map(|s| s.shape).collect();
    let mut extent = HostExtent::zeroed(ExtentLayout::new(shapes, |site| catalog.site(site).group));
    for site in sites {
        let slot = *extent.layout().slot(site.shape.site).expect("each folded site has a slot");
        let mut put =
            |at: usize, values: &[f32]| extent.values_mut()[at..][..values.len()].copy_from_slice(values);
        put(slot.a, &site.a);
        put(slot.b, &site.b);
        if let (Some(at), Some(gain)) = (slot.gain, &site.gain) {
            put(at, gain);
        }
        if let (Some(at), Some(bias)) = (slot.bias, &site.bias) {
            put(at, bias);
        }
    }
    extent
}

#[cfg(test)]
mod tests;
