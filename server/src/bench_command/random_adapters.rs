//! Adapters with random weights, made in memory.

use std::sync::Arc;

use polylora_adapters::{BaseModel, Digest, LoadedAdapter};
use polylora_kernels::extent::{ExtentLayout, HostExtent, SiteShape};

/// Largest weight: small enough that texts stay sound, and no adapter is without effect.
const LARGEST: f32 = 0.02;

/// `count` adapters of `rank` on every linear layer of a model, its head left out.
pub fn random_adapters(model: &dyn BaseModel, count: usize, rank: usize) -> Vec<LoadedAdapter> {
    let catalog = model.catalog();
    let shapes = catalog.sites().iter().filter(|site| site.name != "lm_head").map(|site| {
        let (in_width, out_width) = (site.in_width, site.out_width);
        SiteShape { site: site.id, in_width, out_width, rank, has_gain: false, has_bias: false }
    });
    let shapes: Vec<SiteShape> = shapes.collect();
    let adapter = |number: usize| {
        let layout = ExtentLayout::new(shapes.clone(), |site| catalog.site(site).group);
        let mut extent = HostExtent::zeroed(layout);
        let mut state = number as u64 + 1;
        for value in extent.values_mut() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *value = LARGEST * ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0);
        }
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&(number as u64).to_le_bytes());
        LoadedAdapter { digest: Digest(digest), extent: Arc::new(extent), chat: None }
    };
    (0..count).map(adapter).collect()
}
