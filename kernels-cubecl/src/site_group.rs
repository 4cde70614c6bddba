//! Which sites one fused linear layer serves, and which of its columns are whose.

use std::ops::Range;
use std::sync::OnceLock;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::extent::SiteId;

/// One site's columns in the output of a fused layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteSpan {
    /// The site.
    pub site: SiteId,
    /// Its columns.
    pub columns: Range<usize>,
}

/// The sites that share one input and one fused weight (q, k and v; gate and up), in order of their columns.
#[derive(Clone, Debug)]
pub struct SiteGroup {
    spans: Vec<SiteSpan>,
    /// The spans on the device of the first batch, for all later ones.
    uploaded: OnceLock<Tensor<1, Int>>,
}

impl SiteGroup {
    /// A group of `spans`.
    ///
    /// # Panics
    /// When columns overlap or are not in order.
    pub fn new(spans: Vec<SiteSpan>) -> Self {
        let ordered = spans.windows(2).all(|w| w[0].columns.end <= w[1].columns.start);
        assert!(ordered, "the sites of a group overlap or are out of order");
        Self { spans, uploaded: OnceLock::new() }
    }

    /// The spans, by column.
    pub fn spans(&self) -> &[SiteSpan] {
        &self.spans
    }

    /// `[spans * 3]` i32: site, first column, one past the last.
    pub(crate) fn on_device(&self, device: &Device) -> Tensor<1, Int> {
        let uploaded = self.uploaded.get_or_init(|| self.upload(device));
        if uploaded.device() == *device { uploaded.clone() } else { self.upload(device) }
    }

    fn upload(&self, device: &Device) -> Tensor<1, Int> {
        let numbers = |s: &SiteSpan| [s.site.0 as i32, s.columns.start as i32, s.columns.end as i32];
        let values: Vec<i32> = self.spans.iter().flat_map(numbers).collect();
        let shape = [values.len()];
        Tensor::from_data(TensorData::new(values, shape), (device, DType::I32))
    }
}
