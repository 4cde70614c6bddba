//! BERT encoders (arXiv 1810.04805) as Hugging Face lays them out: MiniLM, BGE, E5, GTE.

use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};
use polylora_adapters::{IgnoredModule, Site, SiteCatalog};
use polylora_kernels::device::OpenDevice;
use polylora_kernels::extent::SiteId;
use polylora_kernels::{
    Activation, Attention, AttentionMask, Embedding, HeadShape, Linear, LoraBatch, Norm, attention_packed,
    embed_norm, linear, linear_add_norm,
};

use crate::weight_loader::{FusedLinear, WeightLoader};
use crate::{BertConfig, Checkpoint, Encoder, ModelError, PackedBatch};

/// Names that older checkpoints and task heads use, and what they are called here.
const REMAP: [(&str, &str); 3] =
    [(r"^bert\.", ""), (r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")];

/// Fused layers of one encoder layer: qkv, attention output, intermediate, output.
const GROUPS_PER_LAYER: u32 = 4;

/// A BERT encoder.
pub(crate) struct Bert {
    embedding: Embedding,
    layers: Vec<Layer>,
    attention: Attention,
    catalog: SiteCatalog,
}

struct Layer {
    qkv: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
}

impl Encoder for Bert {
    fn forward(&self, batch: &PackedBatch, lora: &LoraBatch) -> Tensor<2> {
        let mut hidden = embed_norm(batch.ids.clone(), batch.positions.clone(), &self.embedding);
        for layer in &self.layers {
            let qkv = linear(hidden.clone(), &layer.qkv, lora);
            let context = attention_packed(qkv, &batch.sequences, self.attention);
            let attended =
                linear_add_norm(context, &layer.attention_output, hidden, &layer.attention_norm, lora);
            let inner = linear(attended.clone(), &layer.intermediate, lora);
            hidden = linear_add_norm(inner, &layer.output, attended, &layer.output_norm, lora);
        }
        hidden
    }

    fn catalog(&self) -> &SiteCatalog {
        &self.catalog
    }

    fn layer_of(&self, group: u32) -> &Linear {
        let layer = &self.layers[(group / GROUPS_PER_LAYER) as usize];
        match group % GROUPS_PER_LAYER {
            0 => &layer.qkv,
            1 => &layer.attention_output,
            2 => &layer.intermediate,
            _ => &layer.output,
        }
    }
}

impl Bert {
    /// Opens the checkpoint of a BERT directory under the names this family uses.
    pub(crate) fn open(dir: &Path) -> Result<Checkpoint, ModelError> {
        Checkpoint::open(dir, &REMAP)
    }

    /// Takes the encoder's weights from `checkpoint`.
    pub(crate) fn load(
        config: &BertConfig,
        checkpoint: &mut Checkpoint,
        on: &OpenDevice,
    ) -> Result<Self, ModelError> {
        let mut loader = Loader { config, weights: WeightLoader { source: checkpoint, on } };
        let catalog = catalog(config);
        let embedding = loader.embedding()?;
        let layers =
            (0..config.num_hidden_layers).map(|i| loader.layer(i, &catalog)).collect::<Result<_, _>>()?;
        let unused: Vec<&str> = checkpoint.unused().filter(|name| !has_no_effect(name)).collect();
        if !unused.is_empty() {
            tracing::warn!(
                count = unused.len(),
                first = unused[0],
                "the checkpoint has tensors that BERT has not"
            );
        }
        let attention = Attention {
            heads: HeadShape { heads: config.num_attention_heads, width: config.head_width() },
            scale: 1.0 / (config.head_width() as f32).sqrt(),
            mask: AttentionMask::Full,
        };
        Ok(Self { embedding, layers, attention, catalog })
    }
}

/// Tensors that a checkpoint may have beside the encoder's: the pooler, heads of pre-training, a buffer of indices.
fn has_no_effect(name: &str) -> bool {
    name.starts_with("pooler.") || name.starts_with("cls.") || name == "embeddings.position_ids"
}

/// What BERT takes beside the shared layers.
struct Loader<'a> {
    config: &'a BertConfig,
    weights: WeightLoader<'a>,
}

impl Loader<'_> {
    fn norm(&mut self, name: &str) -> Result<Norm, ModelError> {
        let width = self.config.hidden_size;
        Ok(Norm {
            gamma: self.weights.vector(&format!("{name}.weight"), width)?,
            beta: self.weights.vector(&format!("{name}.bias"), width)?,
            epsilon: self.config.layer_norm_eps,
        })
    }

    fn embedding(&mut self) -> Result<Embedding, ModelError> {
        let BertConfig { hidden_size: width, vocab_size, max_position_embeddings, type_vocab_size, .. } =
            *self.config;
        let table = |part: &str| format!("embeddings.{part}_embeddings.weight");
        let words = self.weights.table(&table("word"), [vocab_size, width])?;
        let WeightLoader { source, on } = &mut self.weights;
        let mut positions = source.take_values(&table("position"), &[max_position_embeddings, width])?;
        // Single texts have token type 0 throughout, so its row is part of every position's.
        let types = source.take_values(&table("token_type"), &[type_vocab_size, width])?;
        for row in positions.chunks_exact_mut(width) {
            row.iter_mut().zip(&types).for_each(|(p, t)| *p += t);
        }
        let data = TensorData::new(positions, [max_position_embeddings, width]);
        let positions = Tensor::<2>::from_data(data, (&on.device, DType::F32)).cast(on.dtype);
        Ok(Embedding { words, positions, norm: self.norm("embeddings.LayerNorm")? })
    }

    fn layer(&mut self, index: usize, catalog: &SiteCatalog) -> Result<Layer, ModelError> {
        let group = index as u32 * GROUPS_PER_LAYER;
        let prefix = format!("encoder.layer.{index}");
        let fused = |group, activation| FusedLinear { group, catalog, bias: true, activation };
        Ok(Layer {
            qkv: self.weights.linear(&fused(group, Activation::Identity))?,
            attention_output: self.weights.linear(&fused(group + 1, Activation::Identity))?,
            attention_norm: self.norm(&format!("{prefix}.attention.output.LayerNorm"))?,
            intermediate: self.weights.linear(&fused(group + 2, self.config.activation))?,
            output: self.weights.linear(&fused(group + 3, Activation::Identity))?,
            output_norm: self.norm(&format!("{prefix}.output.LayerNorm"))?,
        })
    }
}

/// The sites of a BERT encoder under Hugging Face's module names.
fn catalog(config: &BertConfig) -> SiteCatalog {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let mut sites = vec![];
    for layer in 0..config.num_hidden_layers {
        let group = layer as u32 * GROUPS_PER_LAYER;
        for (part, in_width, out_width, group, offset) in [
            ("attention.self.query", width, width, group, 0),
            ("attention.self.key", width, width, group, width),
            ("attention.self.value", width, width, group, 2 * width),
            ("attention.output.dense", width, width, group + 1, 0),
            ("intermediate.dense", width, inner, group + 2, 0),
            ("output.dense", inner, width, group + 3, 0),
        ] {
            let id = SiteId(sites.len() as u32);
            let name = format!("encoder.layer.{layer}.{part}");
            sites.push(Site { id, name, in_width, out_width, group, offset });
        }
    }
    let pooler = IgnoredModule { name: "pooler.dense".into(), in_width: width, out_width: width };
    let tables = ["word", "position", "token_type"].map(|t| format!("embeddings.{t}_embeddings"));
    SiteCatalog::new(sites)
        .with_ignored(vec![pooler])
        .with_embeddings(tables.to_vec())
        .with_prefixes(vec!["bert.".into()])
}
