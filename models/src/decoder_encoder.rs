//! A decoder as an encoder: its last hidden states, which an embedding model pools (Qwen3-Embedding, arXiv 2506.05176).

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Tensor};
use polylora_adapters::SiteCatalog;
use polylora_kernels::device::OpenDevice;
use polylora_kernels::{
    KvHeads, KvLayer, KvShape, Linear, LoraBatch, PagedRows, PagedSequence, RmsNorm, embed, rms_norm,
};

use crate::decoder_layer::{DecoderLayer, LayerPlace};
use crate::decoder_sites::{self, GROUPS_PER_LAYER};
use crate::rope::Frequencies;
use crate::weight_loader::WeightLoader;
use crate::{Checkpoint, DecoderConfig, Encoder, ModelError, PackedBatch};

/// Names of checkpoints that were stored with their head.
const REMAP: [(&str, &str); 1] = [(r"^model\.", "")];

/// Tokens a block of the scratch cache.
const BLOCK_SIZE: usize = 16;

/// A decoder without its head.
pub(crate) struct DecoderEncoder {
    table: Tensor<2>,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    catalog: SiteCatalog,
    heads: KvHeads,
    dtype: DType,
    /// Keys and values of one layer, for one batch at a time; every layer of a pass writes over those of the one before.
    scratch: Mutex<Vec<KvLayer>>,
}

impl Encoder for DecoderEncoder {
    fn forward(&self, batch: &PackedBatch, lora: &LoraBatch) -> Tensor<2> {
        let device = batch.ids.device();
        let mut blocks = 0u32;
        let sequences = batch.sequences.lengths().map(|rows| {
            let first = blocks;
            blocks += rows.div_ceil(BLOCK_SIZE) as u32;
            PagedSequence { rows, context: 0, blocks: (first..blocks).collect() }
        });
        let sequences: Vec<_> = sequences.collect();
        let rows = PagedRows::new(&sequences, BLOCK_SIZE, &device);
        let mut cache = self.scratch_of(blocks as usize, &batch.ids.device());
        let mut hidden = embed(batch.ids.clone(), &self.table);
        for layer in &self.layers {
            hidden = layer.forward(hidden, &mut cache, &rows, lora);
        }
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(cache);
        rms_norm(hidden, &self.norm)
    }

    fn catalog(&self) -> &SiteCatalog {
        &self.catalog
    }

    fn layer_of(&self, group: u32) -> &Linear {
        self.layers[(group / GROUPS_PER_LAYER) as usize].linear(group % GROUPS_PER_LAYER)
    }
}

impl DecoderEncoder {
    /// Opens the checkpoint of a directory, stored with or without the head.
    pub(crate) fn open(dir: &Path) -> Result<Checkpoint, ModelError> {
        Checkpoint::open(dir, &REMAP)
    }

    /// Takes the weights from `checkpoint`, for texts of at most `tokens` tokens.
    pub(crate) fn load(
        config: &DecoderConfig,
        tokens: usize,
        checkpoint: &mut Checkpoint,
        on: &OpenDevice,
    ) -> Result<Self, ModelError> {
        let catalog = decoder_sites::without_head(config);
        let mut weights = WeightLoader { source: checkpoint, on };
        let table = weights.table("embed_tokens.weight", [config.vocab_size, config.hidden_size])?;
        let rotary = Frequencies::new(config.rope, config.heads.width).tables(tokens, &on.device);
        let place = |index| LayerPlace { index, prefix: "", catalog: &catalog, rotary: &rotary };
        let layers = (0..config.num_hidden_layers)
            .map(|index| DecoderLayer::load(config, &place(index), &mut weights))
            .collect::<Result<_, _>>()?;
        let gamma = weights.vector("norm.weight", config.hidden_size)?;
        let norm = RmsNorm { gamma, epsilon: config.rms_norm_eps };
        let (heads, dtype) = (config.heads, on.dtype);
        Ok(Self { table, layers, norm, catalog, heads, dtype, scratch: Mutex::default() })
    }

    /// A cache of at least so many blocks: one that an earlier batch left, or a new one.
    fn scratch_of(&self, blocks: usize, device: &burn::tensor::Device) -> KvLayer {
        let left = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match left {
            Some(cache) if cache.shape().blocks >= blocks => cache,
            // The smaller one is dropped first.
            _ => {
                drop(left);
                let shape =
                    KvShape { blocks: blocks.next_power_of_two(), block_size: BLOCK_SIZE, heads: self.heads };
                // One layer's keys and values of a batch take less than its activations.
                KvLayer::new(shape, device, self.dtype).expect("memory for the batch")
            }
        }
    }
}
