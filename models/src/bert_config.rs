//! `config.json` of a BERT-type encoder (Hugging Face `BertConfig`): MiniLM, BGE, E5, GTE.

use std::path::Path;

use polylora_kernels::Activation;
use serde::Deserialize;

use crate::{ModelError, canonical, json_file};

/// Sizes of a BERT encoder, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads; they divide the width.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Rows of the token type table.
    pub type_vocab_size: usize,
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f32,
    /// Activation of the feed-forward layer.
    pub activation: Activation,
}

/// What the file says; other fields do not change the forward pass.
#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    vocab_size: usize,
    #[serde(default = "default_epsilon")]
    layer_norm_eps: f64,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    add_cross_attention: bool,
}

impl BertConfig {
    /// Reads and checks `dir/config.json`.
    ///
    /// # Errors
    /// With the field, its value and what would be served.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let raw: Raw = json_file::read(dir, "config.json")?.ok_or(ModelError::Missing {
            path: path.clone(),
            hint: "a model directory needs config.json, tokenizer.json and model.safetensors",
        })?;
        let refuse = |field: &str, found: String, expected: &str| {
            Err(ModelError::Unsupported {
                path: path.clone(),
                field: field.to_owned(),
                found,
                expected: expected.to_owned(),
            })
        };
        match raw.model_type.as_deref() {
            None | Some("bert") => {}
            Some(other) => return refuse("model_type", format!("`{other}`"), "`bert`"),
        }
        let activation = match raw.hidden_act.as_deref() {
            None | Some("gelu") => Activation::Gelu,
            Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluTanh,
            Some("relu") => Activation::Relu,
            Some(other) => {
                let expected = "`gelu`, `gelu_new`, `gelu_pytorch_tanh`, `relu`";
                return refuse("hidden_act", format!("`{other}`"), expected);
            }
        };
        if let Some(other) = raw.position_embedding_type.filter(|t| t != "absolute") {
            return refuse("position_embedding_type", format!("`{other}`"), "`absolute`");
        }
        if raw.is_decoder || raw.add_cross_attention {
            return refuse("is_decoder", "true".into(), "false (an encoder)");
        }
        for (field, value, most) in [
            ("hidden_size", raw.hidden_size, 1 << 16),
            ("num_hidden_layers", raw.num_hidden_layers, 1 << 10),
            ("num_attention_heads", raw.num_attention_heads, 1 << 10),
            ("intermediate_size", raw.intermediate_size, 1 << 20),
            ("max_position_embeddings", raw.max_position_embeddings, 1 << 20),
            ("type_vocab_size", raw.type_vocab_size, 1 << 10),
            ("vocab_size", raw.vocab_size, 1 << 24),
        ] {
            if value == 0 || value > most {
                return refuse(field, value.to_string(), &format!("1 to {most}"));
            }
        }
        if !raw.hidden_size.is_multiple_of(raw.num_attention_heads) {
            let expected = format!("a divisor of hidden_size {}", raw.hidden_size);
            return refuse("num_attention_heads", raw.num_attention_heads.to_string(), &expected);
        }
        if !(raw.layer_norm_eps > 0.0 && raw.layer_norm_eps < 1.0) {
            return refuse("layer_norm_eps", raw.layer_norm_eps.to_string(), "between 0 and 1");
        }
        Ok(Self {
            hidden_size: raw.hidden_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: raw.num_attention_heads,
            intermediate_size: raw.intermediate_size,
            max_position_embeddings: raw.max_position_embeddings,
            type_vocab_size: raw.type_vocab_size,
            vocab_size: raw.vocab_size,
            layer_norm_eps: raw.layer_norm_eps as f32,
            activation,
        })
    }

    /// What these sizes mean to the forward pass, in one line: part of the base model's digest, so its form is fixed.
    /// Fields of config.json that change nothing are not in it.
    pub fn canonical(&self) -> String {
        format!(
            "bert hidden={} layers={} heads={} intermediate={} positions={} types={} vocab={} eps={:e} act={}",
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
            self.max_position_embeddings,
            self.type_vocab_size,
            self.vocab_size,
            self.layer_norm_eps,
            canonical::activation(self.activation),
        )
    }

    /// Width of one attention head.
    pub fn head_width(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}

fn two() -> usize {
    2
}

fn default_epsilon() -> f64 {
    1e-12
}
