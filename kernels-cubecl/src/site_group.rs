//! Which sites one fused linear layer serves, and which of its columns are whose.

use std::ops::Range;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteGroup {
    spans: Vec<SiteSpan>,
}

impl SiteGroup {
    /// A group of `spans`.
    ///
    /// # Panics
    /// When columns overlap or are not in order.
    pub fn new(spans: Vec<SiteSpan>) -> Self {
        let ordered = spans.windows(2).all(|w| w[0].columns.end <= w[1].columns.start);
        assert!(ordered, "the sites of a group overlap or are out of order");
        Self { spans }
    }

    /// The spans, by column.
    pub fn spans(&self) -> &[SiteSpan] {
        &self.spans
    }
}
