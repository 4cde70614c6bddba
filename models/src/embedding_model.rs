//! An embedding model: encoder, tokenizer, pooling, prompts.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::tensor::{DType, Device};
use polylora_adapters::{BaseModel, Digest, LowRank, SiteCatalog};
use polylora_kernels::device::OpenDevice;
use polylora_kernels::extent::SiteId;
use polylora_kernels::{LoraBatch, team};

use crate::encoder_config::EncoderConfig;
use crate::row_output::{PoolingRule, RowOutput, read_out};
use crate::text_shares::text_shares;
use crate::{BatchError, Encoder, ModelError, PackedBatch, SentenceTransformersConfig, TextTokenizer, dora};

/// A loaded embedding model.
pub struct EmbeddingModel {
    encoder: Box<dyn Encoder>,
    tokenizer: TextTokenizer,
    settings: SentenceTransformersConfig,
    digest: Digest,
    device: Device,
    dtype: DType,
    /// About how many tokens a thread takes through all layers at once; `None` where the device takes the batch as it is.
    share_tokens: Option<usize>,
    width: usize,
    vocab_size: usize,
    dir: PathBuf,
}

impl EmbeddingModel {
    /// Loads a sentence-transformers or Hugging Face directory onto a device.
    ///
    /// # Errors
    /// With the file, the field or tensor, what was found and what was expected.
    pub fn load(dir: &Path, on: &OpenDevice) -> Result<Self, ModelError> {
        let config = EncoderConfig::read(dir)?;
        let settings = SentenceTransformersConfig::read(dir)?;
        let stated = settings.max_seq_length;
        let positions = config.positions();
        let tokenizer = TextTokenizer::read(dir, stated, positions, settings.do_lower_case)?;
        tokenizer.check_vocabulary(config.vocab_size())?;
        let mut checkpoint = config.open(dir)?;
        let digest = Digest(checkpoint.digest(&config.canonical())?);
        let encoder = config.load(tokenizer.max_tokens(), &mut checkpoint, on)?;
        Ok(Self {
            encoder,
            tokenizer,
            settings,
            digest,
            device: on.device.clone(),
            dtype: on.dtype,
            share_tokens: on.rows_together(),
            width: config.hidden_size(),
            vocab_size: config.vocab_size(),
            dir: dir.to_owned(),
        })
    }

    /// Embeds packed rows, each through its adapter: one vector a row, `[width]` f32, pooled and normalised as the
    /// model's files say.
    ///
    /// # Errors
    /// When a row does not fit the model.
    pub fn embed(&self, rows: &[&[u32]], lora: &LoraBatch) -> Result<Vec<Vec<f32>>, BatchError> {
        self.compute(rows, &vec![RowOutput::Embedding; rows.len()], lora)
    }

    /// What each of the packed rows asks for, each through its adapter: [`RowOutput::values`] f32 a row.
    ///
    /// On a CPU the rows are shared out among the threads first; what a row becomes does not depend on it.
    ///
    /// # Errors
    /// When a row does not fit the model.
    ///
    /// # Panics
    /// When there are not as many outputs as rows.
    pub fn compute(
        &self,
        rows: &[&[u32]],
        outputs: &[RowOutput],
        lora: &LoraBatch,
    ) -> Result<Vec<Vec<f32>>, BatchError> {
        assert_eq!(rows.len(), outputs.len(), "every row has an output");
        PackedBatch::check(rows, self.max_tokens(), self.vocab_size)?;
        let Some(share_tokens) = self.share_tokens else {
            return Ok(self.compute_at_once(rows, outputs, lora));
        };
        let lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
        let shares = text_shares(&lengths, team::threads(), share_tokens);
        if shares.len() <= 1 {
            return Ok(self.compute_at_once(rows, outputs, lora));
        }
        // The tokens before each share, and all.
        let mut bounds = vec![0];
        for share in &shares {
            bounds.push(bounds[bounds.len() - 1] + lengths[share.clone()].iter().sum::<usize>());
        }
        let parts: Vec<OnceLock<_>> = shares.iter().map(|_| OnceLock::new()).collect();
        // The longest first, so that what is left for the end is short.
        let mut order: Vec<usize> = (0..shares.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(bounds[i + 1] - bounds[*i]));
        team::for_each(shares.len(), |task| {
            let i = order[task];
            let share = shares[i].clone();
            let lora = lora.part(bounds[i]..bounds[i + 1]);
            let part = self.compute_at_once(&rows[share.clone()], &outputs[share], &lora);
            assert!(parts[i].set(part).is_ok(), "a share is computed once");
        });
        let computed = parts.into_iter().flat_map(|part| part.into_inner().expect("every share is computed"));
        Ok(computed.collect())
    }

    /// [`Self::compute`] for rows that have been checked, on the calling thread's device as one batch.
    fn compute_at_once(&self, rows: &[&[u32]], outputs: &[RowOutput], lora: &LoraBatch) -> Vec<Vec<f32>> {
        let batch = PackedBatch::pack(rows, &self.device);
        let hidden = self.encoder.forward(&batch, lora);
        let asked: Vec<_> = rows.iter().zip(outputs).map(|(row, output)| (row.len(), *output)).collect();
        let rule = PoolingRule { pooling: self.settings.pooling, normalize: self.settings.normalize };
        read_out(hidden, &batch.sequences, &asked, rule)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// Pooling, normalisation, prompts.
    pub fn settings(&self) -> &SentenceTransformersConfig {
        &self.settings
    }

    /// Tokens one row may have, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.tokenizer.max_tokens()
    }

    /// Width of an embedding.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of token ids.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The directory it was loaded from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The device it computes on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The dtype it computes in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
}

impl BaseModel for EmbeddingModel {
    fn catalog(&self) -> &SiteCatalog {
        self.encoder.catalog()
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn dora_row_norms(&self, site: SiteId, delta: LowRank<'_>) -> Vec<f32> {
        let site = self.catalog().site(site);
        dora::site_row_norms(self.encoder.layer_of(site.group), site, delta)
    }
}
