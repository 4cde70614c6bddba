//! One layer of a decoder, as Llama has it and the other families with it.

use burn::tensor::Tensor;
use polylora_adapters::SiteCatalog;
use polylora_kernels::{
    Activation, HeadNorms, KvLayer, Linear, LoraBatch, PagedAttention, PagedRows, QkvForm, RmsNorm, Rotary,
    attention_paged, gated, linear, linear_add, rms_norm, store_kv,
};

use crate::decoder_sites::GROUPS_PER_LAYER;
use crate::weight_loader::{FusedLinear, WeightLoader};
use crate::{DecoderConfig, ModelError};

/// A decoder layer.
#[derive(Debug)]
pub(crate) struct DecoderLayer {
    attention_norm: RmsNorm,
    qkv: Linear,
    form: QkvForm,
    attention: PagedAttention,
    output: Linear,
    mlp_norm: RmsNorm,
    gate_up: Linear,
    activation: Activation,
    down: Linear,
}

/// Where a layer is loaded from and what it is told.
pub(crate) struct LayerPlace<'a> {
    pub(crate) index: usize,
    /// What stands before `layers.` in the names of the tensors.
    pub(crate) prefix: &'a str,
    pub(crate) catalog: &'a SiteCatalog,
    pub(crate) rotary: &'a Rotary,
}

impl DecoderLayer {
    /// `[T, hidden] -> [T, hidden]`, each row through its adapter; writes the rows' keys and values into `cache`.
    pub(crate) fn forward(
        &self,
        hidden: Tensor<2>,
        cache: &mut KvLayer,
        rows: &PagedRows,
        lora: &LoraBatch,
    ) -> Tensor<2> {
        let qkv = linear(rms_norm(hidden.clone(), &self.attention_norm), &self.qkv, lora);
        let queries = store_kv(qkv, cache, rows, &self.form);
        let context = attention_paged(queries, cache, rows, self.attention);
        let attended = linear_add(context, &self.output, hidden, lora);
        let gate_up = linear(rms_norm(attended.clone(), &self.mlp_norm), &self.gate_up, lora);
        linear_add(gated(gate_up, self.activation), &self.down, attended, lora)
    }

    /// The fused layer of group `part` of this layer.
    pub(crate) fn linear(&self, part: u32) -> &Linear {
        match part {
            0 => &self.qkv,
            1 => &self.output,
            2 => &self.gate_up,
            _ => &self.down,
        }
    }

    pub(crate) fn load(
        config: &DecoderConfig,
        place: &LayerPlace<'_>,
        weights: &mut WeightLoader<'_>,
    ) -> Result<Self, ModelError> {
        let LayerPlace { index, prefix, catalog, rotary } = *place;
        let name = format!("{prefix}layers.{index}");
        let group = index as u32 * GROUPS_PER_LAYER;
        let fused = |part: u32, bias| {
            let activation = Activation::Identity;
            FusedLinear { group: group + part, catalog, bias, activation }
        };
        let norm = |weights: &mut WeightLoader<'_>, part: &str, width| {
            let gamma = weights.vector(&format!("{name}.{part}.weight"), width)?;
            Ok::<_, ModelError>(RmsNorm { gamma, epsilon: config.rms_norm_eps })
        };
        let (hidden, heads) = (config.hidden_size, config.heads);
        let head_norms = if config.head_norms {
            let q = norm(weights, "self_attn.q_norm", heads.width)?;
            Some(HeadNorms { q, k: norm(weights, "self_attn.k_norm", heads.width)? })
        } else {
            None
        };
        Ok(Self {
            attention_norm: norm(weights, "input_layernorm", hidden)?,
            qkv: weights.linear(&fused(0, config.biases.qkv))?,
            form: QkvForm { heads, rotary: rotary.clone(), head_norms },
            attention: PagedAttention {
                heads,
                scale: 1.0 / (heads.width as f32).sqrt(),
                window: config.windows[index],
            },
            output: weights.linear(&fused(1, config.biases.output))?,
            mlp_norm: norm(weights, "post_attention_layernorm", hidden)?,
            gate_up: weights.linear(&fused(2, config.biases.mlp))?,
            activation: config.activation,
            down: weights.linear(&fused(3, config.biases.mlp))?,
        })
    }
}
