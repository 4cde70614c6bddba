//! The sites of a decoder under Hugging Face's module names, fused where they share an input.

use polylora_adapters::{Site, SiteCatalog};
use polylora_kernels::extent::SiteId;

use crate::DecoderConfig;

/// Fused layers of one decoder layer: qkv, attention output, gate and up, down.
pub(crate) const GROUPS_PER_LAYER: u32 = 4;

/// The module that gives logits.
const HEAD: &str = "lm_head";

/// The group of the head, after those of all layers.
pub(crate) fn head_group(config: &DecoderConfig) -> u32 {
    config.num_hidden_layers as u32 * GROUPS_PER_LAYER
}

/// The sites of a decoder with its head. A head of its own is a site; one that shares the embedding table is none.
pub(crate) fn with_head(config: &DecoderConfig) -> SiteCatalog {
    let mut sites = layers(config, "model.");
    let table = "model.embed_tokens".to_owned();
    if config.tie_word_embeddings {
        return SiteCatalog::new(sites).with_embeddings(vec![table]).with_tied(vec![HEAD.into()]);
    }
    let id = SiteId(sites.len() as u32);
    let (in_width, out_width, group) = (config.hidden_size, config.vocab_size, head_group(config));
    sites.push(Site { id, name: HEAD.into(), in_width, out_width, group, offset: 0 });
    SiteCatalog::new(sites).with_embeddings(vec![table]).with_output(id)
}

/// The sites of a decoder without its head, as an embedding model has them; adapters trained with the head name them behind
/// `model.`.
pub(crate) fn without_head(config: &DecoderConfig) -> SiteCatalog {
    SiteCatalog::new(layers(config, ""))
        .with_embeddings(vec!["embed_tokens".into()])
        .with_prefixes(vec!["model.".into()])
}

fn layers(config: &DecoderConfig, prefix: &str) -> Vec<Site> {
    let (hidden, inner, heads) = (config.hidden_size, config.intermediate_size, config.heads);
    let (queries, keys) = (heads.query * heads.width, heads.kv * heads.width);
    let mut sites = vec![];
    for layer in 0..config.num_hidden_layers {
        let group = layer as u32 * GROUPS_PER_LAYER;
        for (part, in_width, out_width, group, offset) in [
            ("self_attn.q_proj", hidden, queries, group, 0),
            ("self_attn.k_proj", hidden, keys, group, queries),
            ("self_attn.v_proj", hidden, keys, group, queries + keys),
            ("self_attn.o_proj", queries, hidden, group + 1, 0),
            ("mlp.gate_proj", hidden, inner, group + 2, 0),
            ("mlp.up_proj", hidden, inner, group + 2, inner),
            ("mlp.down_proj", inner, hidden, group + 3, 0),
        ] {
            let id = SiteId(sites.len() as u32);
            let name = format!("{prefix}layers.{layer}.{part}");
            sites.push(Site { id, name, in_width, out_width, group, offset });
        }
    }
    sites
}
