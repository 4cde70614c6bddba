//! What the adapters need to know of a base model, whatever its architecture.

use polylora_kernels::extent::SiteId;

use crate::{ChatFault, ChatFiles, Digest, OwnChat, SiteCatalog};

/// One site's low-rank factors as PEFT stores them, widened to f32.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// `A`, `[rank, in_width]` row-major.
    pub a: &'a [f32],
    /// `B`, `[out_width, rank]` row-major.
    pub b: &'a [f32],
    /// Rank.
    pub rank: usize,
    /// Effective scale: alpha/r, or alpha/sqrt(r) with rsLoRA.
    pub scale: f32,
}

/// A base model as the adapters see it.
pub trait BaseModel: Send + Sync {
    /// The sites an adapter may change.
    fn catalog(&self) -> &SiteCatalog;
    /// Content digest of the base model.
    fn digest(&self) -> Digest;
    /// L2 norm of each row of `W + scale * B A`, `[out_width]`: DoRA's denominator
    /// (arXiv 2402.09353), over the unpacked base weight `W [out_width, in_width]` of `site`.
    fn dora_row_norms(&self, site: SiteId, delta: LowRank<'_>) -> Vec<f32>;
    /// Whether it holds conversations, so that the texts which an adapter brings for them are read.
    fn holds_conversations(&self) -> bool {
        false
    }
    /// What it makes of these texts; `None` where there is no template among them.
    ///
    /// # Errors
    /// What is wrong with a template: the adapter is refused for it.
    fn own_chat(&self, files: &ChatFiles) -> Result<Option<OwnChat>, ChatFault> {
        let _ = files;
        Ok(None)
    }
}
