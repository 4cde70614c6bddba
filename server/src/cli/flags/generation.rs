//! Flags of the model that generates text, under vLLM's names where it has one.

use std::num::NonZeroUsize;

use clap::Args;

use super::{put, put_some};
use crate::settings::{ByteSize, Settings, Share, parse_setting};

/// Which model generates text, and the room for it.
#[derive(Debug, Default, Args)]
pub struct GenerationFlags {
    /// Model that generates text: a name of the catalogue, a Hub repository as owner/name, or a folder in the Hugging Face layout
    /// [default: none].
    #[arg(long, value_name = "NAME|DIR", value_parser = parse_setting::<String>)]
    pub llm: Option<String>,
    /// Most tokens of a sequence, prompt and output together [default: what the model's files say].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub max_model_len: Option<NonZeroUsize>,
    /// Bytes for keys and values, e.g. 4GiB [default: 1GiB where nothing tells what is free].
    #[arg(long, value_name = "BYTES", value_parser = parse_setting::<ByteSize>)]
    pub kv_cache_memory_bytes: Option<ByteSize>,
    /// Share of the device's memory that is free after the weights, for keys and values; on the CPU of the host's free memory
    /// [default: 0.9 on devices that tell their memory].
    #[arg(long, value_name = "SHARE", conflicts_with = "kv_cache_memory_bytes", value_parser = parse_setting::<Share>)]
    pub gpu_memory_utilization: Option<Share>,
    /// Tokens in a block of the KV cache [default: 16].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub block_size: Option<NonZeroUsize>,
    /// Most sequences that hold blocks at one time [default: 256].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub max_num_seqs: Option<NonZeroUsize>,
    /// Most tokens in one step [default: 512 on the CPU, 2048 elsewhere].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub max_num_batched_tokens: Option<NonZeroUsize>,
    /// Compute every prompt anew, also where others began alike.
    #[arg(long)]
    pub no_enable_prefix_caching: bool,
}

impl GenerationFlags {
    /// Lays the flags that were given over the settings.
    pub fn lay_over(self, settings: &mut Settings) {
        put_some(&mut settings.llm, self.llm);
        put_some(&mut settings.max_model_len, self.max_model_len);
        put_some(&mut settings.kv_cache_memory_bytes, self.kv_cache_memory_bytes);
        put_some(&mut settings.gpu_memory_utilization, self.gpu_memory_utilization);
        put(&mut settings.block_size, self.block_size);
        put(&mut settings.max_num_seqs, self.max_num_seqs);
        put_some(&mut settings.max_num_batched_tokens, self.max_num_batched_tokens);
        settings.no_enable_prefix_caching |= self.no_enable_prefix_caching;
    }
}
