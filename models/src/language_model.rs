//! A language model: decoder, tokenizer, chat templates, what its makers suggest for sampling.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor};
use polylora_adapters::{BaseModel, ChatFault, ChatFiles, Digest, LowRank, OwnChat, SiteCatalog};
use polylora_kernels::device::OpenDevice;
use polylora_kernels::extent::SiteId;
use polylora_kernels::{KvMemoryError, LoraBatch};

use crate::causal_lm::Decoder;
use crate::random_weights::RandomWeights;
use crate::special_tokens::SpecialTokens;
use crate::{
    BatchError, CausalLm, ChatTemplates, DecoderConfig, GenerationConfig, KvCache, ModelError, PagedBatch,
    PagedLimits, PagedRow, TextTokenizer, dora, rope,
};

/// A loaded language model.
pub struct LanguageModel {
    decoder: Box<dyn CausalLm>,
    config: DecoderConfig,
    tokenizer: TextTokenizer,
    chat: Option<ChatTemplates>,
    generation: GenerationConfig,
    end_token_ids: Vec<u32>,
    context: usize,
    digest: Digest,
    device: Device,
    dtype: DType,
    dir: PathBuf,
}

impl LanguageModel {
    /// Loads a Hugging Face directory onto a device, for sequences of at most `context` tokens; without it, as many as its
    /// files say.
    ///
    /// # Errors
    /// With the file, the field or tensor, what was found and what was expected.
    pub fn load(dir: &Path, on: &OpenDevice, context: Option<usize>) -> Result<Self, ModelError> {
        let config = DecoderConfig::read(dir)?;
        let tokenizer = TextTokenizer::read(dir, None, config.positions(), false)?;
        tokenizer.check_vocabulary(config.vocab_size)?;
        let context = context.unwrap_or(usize::MAX).min(tokenizer.max_tokens());
        check_context(&config, context, &dir.join("config.json"))?;
        let generation = GenerationConfig::read(dir)?;
        let chat = ChatTemplates::read(dir)?;
        let end_token_ids = end_tokens(&config, &generation, &tokenizer, &SpecialTokens::read(dir)?);
        let mut checkpoint = Decoder::open(dir)?;
        let decoder = Decoder::load(&config, context, &mut checkpoint, on)?;
        Decoder::warn_of_unused(&config, &checkpoint);
        let digest = Digest(checkpoint.digest(&config.canonical())?);
        Ok(Self {
            decoder: Box::new(decoder),
            config,
            tokenizer,
            chat,
            generation,
            end_token_ids,
            context,
            digest,
            device: on.device.clone(),
            dtype: on.dtype,
            dir: dir.to_owned(),
        })
    }

    /// A model without files: weights that `seed` names, tokens that are written as their numbers. For sequences of at most
    /// `context` tokens.
    ///
    /// # Errors
    /// When `config` has no place for such sequences.
    pub fn with_random_weights(
        config: DecoderConfig,
        on: &OpenDevice,
        context: usize,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let context = context.min(config.positions());
        check_context(&config, context, Path::new("config.json"))?;
        let tokenizer = TextTokenizer::numbered(config.vocab_size, context)?;
        let mut weights = RandomWeights::new(seed, on);
        let decoder = Decoder::load(&config, context, &mut weights, on)?;
        Ok(Self {
            decoder: Box::new(decoder),
            tokenizer,
            chat: None,
            generation: GenerationConfig::default(),
            end_token_ids: vec![],
            context,
            digest: Digest(weights.digest(&config.canonical())),
            device: on.device.clone(),
            dtype: on.dtype,
            dir: PathBuf::new(),
            config,
        })
    }

    /// A cache of `blocks` blocks of `block_size` tokens each.
    ///
    /// # Errors
    /// When the host or the device has not so much memory.
    pub fn new_cache(&self, blocks: usize, block_size: usize) -> Result<KvCache, KvMemoryError> {
        KvCache::new(&self.config, (blocks, block_size), (&self.device, self.dtype))
    }

    /// Bytes that one block of `block_size` tokens takes in the cache.
    pub fn bytes_per_block(&self, block_size: usize) -> usize {
        KvCache::bytes_per_block(&self.config, block_size, (&self.device, self.dtype))
    }

    /// Most blocks of `block_size` tokens that a cache on the model's device can have, whatever its memory.
    pub fn most_blocks(&self, block_size: usize) -> usize {
        KvCache::most_blocks(&self.config, block_size, (&self.device, self.dtype))
    }

    /// One step: the logits that the rows want, `[wanted, vocabulary]` f32 in the order of the rows, each row through its
    /// adapter. The keys and values of all rows are in `cache` afterwards.
    ///
    /// # Errors
    /// When a row does not fit the model or the cache.
    ///
    /// # Panics
    /// When two rows write to one block, or the cache is of another model.
    pub fn forward(
        &self,
        rows: &[PagedRow<'_>],
        cache: &mut KvCache,
        lora: &LoraBatch,
    ) -> Result<Tensor<2>, BatchError> {
        let limits = PagedLimits {
            positions: self.context,
            vocab_size: self.config.vocab_size,
            blocks: cache.blocks(),
            block_size: cache.block_size(),
        };
        let batch = PagedBatch::new(rows, limits, &self.device)?;
        Ok(self.decoder.forward(&batch, cache, lora))
    }

    /// Sizes and facts of the decoder.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The chat templates, where the directory has any.
    pub fn chat(&self) -> Option<&ChatTemplates> {
        self.chat.as_ref()
    }

    /// What its makers suggest for sampling.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Tokens that end a text: those of generation_config.json, or else of config.json, and the tokenizer's own. Sorted.
    pub fn end_token_ids(&self) -> &[u32] {
        &self.end_token_ids
    }

    /// Tokens that a sequence may have, prompt and answer together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Logits of a row.
    pub fn vocab_size(&self) -> usize {
        self.config.vocab_size
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

impl BaseModel for LanguageModel {
    fn catalog(&self) -> &SiteCatalog {
        self.decoder.catalog()
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn dora_row_norms(&self, site: SiteId, delta: LowRank<'_>) -> Vec<f32> {
        let site = self.catalog().site(site);
        dora::site_row_norms(self.decoder.layer_of(site.group), site, delta)
    }

    fn holds_conversations(&self) -> bool {
        true
    }

    fn own_chat(&self, files: &ChatFiles) -> Result<Option<OwnChat>, ChatFault> {
        let own = ChatTemplates::of_adapter(files, self.chat())?;
        Ok(own.map(|own| OwnChat::new(own, files.bytes())))
    }
}

fn check_context(config: &DecoderConfig, context: usize, path: &Path) -> Result<(), ModelError> {
    let width = config.heads.width;
    let most = rope::most_positions(width);
    if context <= most {
        return Ok(());
    }
    Err(ModelError::Unsupported {
        path: path.to_owned(),
        field: "max_position_embeddings".into(),
        found: context.to_string(),
        expected: format!("at most {most} with heads of {width} columns, or a shorter context"),
    })
}

fn end_tokens(
    config: &DecoderConfig,
    generation: &GenerationConfig,
    tokenizer: &TextTokenizer,
    special: &SpecialTokens,
) -> Vec<u32> {
    let mut ids = generation.eos_token_ids.clone().unwrap_or_else(|| config.eos_token_ids.clone());
    ids.extend(special.of_role("eos_token").and_then(|token| tokenizer.id_of(token)));
    ids.sort_unstable();
    ids.dedup();
    ids
}
