//! Which encoder a model directory holds, by its config.json.

use std::path::Path;

use polylora_kernels::device::OpenDevice;

use crate::bert::Bert;
use crate::config_fields::ConfigFields;
use crate::decoder_encoder::DecoderEncoder;
use crate::{BertConfig, Checkpoint, DecoderConfig, DecoderFamily, Encoder, ModelError};

/// The config of an encoder.
pub(crate) enum EncoderConfig {
    /// BERT's.
    Bert(BertConfig),
    /// A decoder's, whose hidden states are the tokens' (Qwen3-Embedding, E5-Mistral).
    Decoder(Box<DecoderConfig>),
}

impl EncoderConfig {
    /// Reads and checks `dir/config.json`.
    pub(crate) fn read(dir: &Path) -> Result<Self, ModelError> {
        let Some(config) = ConfigFields::read(dir, "config.json")? else {
            return BertConfig::read(dir).map(Self::Bert);
        };
        let named = config.text("model_type")?;
        if !DecoderFamily::ALL.iter().any(|family| named == Some(family.name())) {
            return BertConfig::read(dir).map(Self::Bert);
        }
        // Embedding models that were turned into encoders say so in one of these ways.
        for (field, causal) in [("is_causal", true), ("use_bidirectional_attention", false)] {
            if config.flag(field)? == Some(!causal) {
                return config.refuse(field, &format!("{causal} (rows see what stands before them)"));
            }
        }
        Ok(Self::Decoder(Box::new(DecoderConfig::of(&config)?)))
    }

    /// Positions that a text may have.
    pub(crate) fn positions(&self) -> usize {
        match self {
            Self::Bert(config) => config.max_position_embeddings,
            Self::Decoder(config) => config.positions(),
        }
    }

    /// Number of token ids.
    pub(crate) fn vocab_size(&self) -> usize {
        match self {
            Self::Bert(config) => config.vocab_size,
            Self::Decoder(config) => config.vocab_size,
        }
    }

    /// Width of a hidden state.
    pub(crate) fn hidden_size(&self) -> usize {
        match self {
            Self::Bert(config) => config.hidden_size,
            Self::Decoder(config) => config.hidden_size,
        }
    }

    /// The line that enters the digest. The same weights with a head are another base model: their sites have other names.
    pub(crate) fn canonical(&self) -> String {
        match self {
            Self::Bert(config) => config.canonical(),
            Self::Decoder(config) => format!("encoder of {}", config.canonical()),
        }
    }

    /// Opens the directory's checkpoint.
    pub(crate) fn open(&self, dir: &Path) -> Result<Checkpoint, ModelError> {
        match self {
            Self::Bert(_) => Bert::open(dir),
            Self::Decoder(_) => DecoderEncoder::open(dir),
        }
    }

    /// Takes the weights from `checkpoint`, for texts of at most `tokens` tokens.
    pub(crate) fn load(
        &self,
        tokens: usize,
        checkpoint: &mut Checkpoint,
        on: &OpenDevice,
    ) -> Result<Box<dyn Encoder>, ModelError> {
        Ok(match self {
            Self::Bert(config) => Box::new(Bert::load(config, checkpoint, on)?),
            Self::Decoder(config) => Box::new(DecoderEncoder::load(config, tokens, checkpoint, on)?),
        })
    }
}
