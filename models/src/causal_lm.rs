//! What every decoder offers, and the one decoder that all families are.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{DType, Int, Tensor, TensorData};
use polylora_adapters::SiteCatalog;
use polylora_kernels::device::OpenDevice;
use polylora_kernels::{
    Activation, Linear, LoraBatch, RmsNorm, SiteGroup, Weight, WeightCoding, embed, linear, rms_norm,
};

use crate::decoder_layer::{DecoderLayer, LayerPlace};
use crate::decoder_sites::{self, GROUPS_PER_LAYER, head_group};
use crate::rope::Frequencies;
use crate::weight_loader::{FusedLinear, WeightLoader};
use crate::weight_source::WeightSource;
use crate::{Checkpoint, DecoderConfig, KvCache, ModelError, PagedBatch};

/// A causal language model over paged rows.
pub trait CausalLm: Send + Sync {
    /// The logits of the rows that are wanted, `[wanted, vocabulary]` f32, each row through its adapter; the keys and values of
    /// all rows are in `cache` afterwards.
    ///
    /// # Panics
    /// When batch and cache are of another model.
    fn forward(&self, batch: &PagedBatch, cache: &mut KvCache, lora: &LoraBatch) -> Tensor<2>;
    /// The sites that adapters may change.
    fn catalog(&self) -> &SiteCatalog;
    /// The fused layer of a site group.
    ///
    /// # Panics
    /// When the group is of another model.
    fn layer_of(&self, group: u32) -> &Linear;
}

/// A decoder with its head.
pub(crate) struct Decoder {
    table: Tensor<2>,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    head: Linear,
    catalog: SiteCatalog,
}

impl CausalLm for Decoder {
    fn forward(&self, batch: &PagedBatch, cache: &mut KvCache, lora: &LoraBatch) -> Tensor<2> {
        assert_eq!(cache.layers_mut().len(), self.layers.len(), "the cache is of another model");
        let mut hidden = embed(batch.ids.clone(), &self.table);
        for (layer, cache) in self.layers.iter().zip(cache.layers_mut()) {
            hidden = layer.forward(hidden, cache, &batch.rows, lora);
        }
        let [rows, _] = hidden.dims();
        if batch.wanted.is_empty() {
            return Tensor::zeros([0, self.head.weight.outputs()], (&hidden.device(), DType::F32));
        }
        if batch.wanted.len() == rows {
            return linear(rms_norm(hidden, &self.norm), &self.head, lora).cast(DType::F32);
        }
        let wanted: Vec<i32> = batch.wanted.iter().map(|row| *row as i32).collect();
        let data = TensorData::new(wanted, [batch.wanted.len()]);
        let wanted = Tensor::<1, Int>::from_data(data, (&hidden.device(), DType::I32));
        let hidden = rms_norm(hidden.select(0, wanted), &self.norm);
        let lora = if lora.acts_on(&self.head) { lora.select(&batch.wanted) } else { LoraBatch::base() };
        linear(hidden, &self.head, &lora).cast(DType::F32)
    }

    fn catalog(&self) -> &SiteCatalog {
        &self.catalog
    }

    fn layer_of(&self, group: u32) -> &Linear {
        match self.layers.get((group / GROUPS_PER_LAYER) as usize) {
            Some(layer) => layer.linear(group % GROUPS_PER_LAYER),
            None => &self.head,
        }
    }
}

impl Decoder {
    /// Opens the checkpoint of a decoder's directory.
    pub(crate) fn open(dir: &Path) -> Result<Checkpoint, ModelError> {
        Checkpoint::open(dir, &[])
    }

    /// Takes the weights from `source`, for sequences of at most `positions` tokens.
    pub(crate) fn load(
        config: &DecoderConfig,
        positions: usize,
        source: &mut dyn WeightSource,
        on: &OpenDevice,
    ) -> Result<Self, ModelError> {
        let catalog = decoder_sites::with_head(config);
        let mut weights = WeightLoader { source, on };
        let shape = [config.vocab_size, config.hidden_size];
        let table = weights.table("model.embed_tokens.weight", shape)?;
        let rotary = Frequencies::new(config.rope, config.heads.width).tables(positions, &on.device);
        let place = |index| LayerPlace { index, prefix: "model.", catalog: &catalog, rotary: &rotary };
        let layers = (0..config.num_hidden_layers)
            .map(|index| DecoderLayer::load(config, &place(index), &mut weights))
            .collect::<Result<_, _>>()?;
        let gamma = weights.vector("model.norm.weight", config.hidden_size)?;
        let norm = RmsNorm { gamma, epsilon: config.rms_norm_eps };
        let head = if config.tie_word_embeddings {
            tied_head(&table, on)
        } else {
            let (group, activation) = (head_group(config), Activation::Identity);
            weights.linear(&FusedLinear { group, catalog: &catalog, bias: false, activation })?
        };
        Ok(Self { table, layers, norm, head, catalog })
    }

    /// Warns of what a checkpoint has beside the model's tensors, once they are taken.
    pub(crate) fn warn_of_unused(config: &DecoderConfig, checkpoint: &Checkpoint) {
        let unused: Vec<&str> = checkpoint.unused().filter(|name| !has_no_effect(name, config)).collect();
        if !unused.is_empty() {
            tracing::warn!(
                count = unused.len(),
                first = unused[0],
                "the checkpoint has tensors that the model has not"
            );
        }
    }
}

/// The head that shares the table's values; adapters do not change it.
fn tied_head(table: &Tensor<2>, on: &OpenDevice) -> Linear {
    let weight = match on.weights {
        WeightCoding::Plain => Weight::prepare(table.clone()),
        coding => Weight::prepare_as(table.clone().cast(DType::F32), coding),
    };
    let sites = Arc::new(SiteGroup::new(vec![]));
    Linear { weight, bias: None, activation: Activation::Identity, sites }
}

/// Tensors that a checkpoint may have beside the model's: a stored copy of the tied table, buffers of older versions.
fn has_no_effect(name: &str, config: &DecoderConfig) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight")
}
