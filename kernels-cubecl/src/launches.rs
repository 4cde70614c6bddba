//! How often each kernel of ours was launched in this process: what shows that a GPU computes with them.

use std::sync::atomic::{AtomicU64, Ordering};

/// A kernel of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// LoRA's `A x` over tiles of rows.
    SgmvShrink,
    /// LoRA's `A x` row by row.
    BgmvShrink,
    /// LoRA's `B h` over tiles of rows, with bias, activation and residual.
    SgmvExpand,
    /// LoRA's `B h` row by row, with bias, activation and residual.
    BgmvExpand,
    /// Bias, activation and residual without adapters.
    BiasActivation,
    /// The end of a layer, perhaps with LoRA's `B h`, then residual and layer normalisation.
    AddNorm,
    /// Embedding lookup and layer normalisation.
    EmbedNorm,
    /// Embedding lookup.
    Embed,
    /// Root mean square normalisation.
    RmsNorm,
    /// Gated linear units.
    Gated,
    /// Attention over packed rows.
    Attention,
    /// Pooling and L2 normalisation.
    Pool,
    /// Norms of heads, rotary positions, and keys and values into their blocks.
    StoreKv,
    /// Paged attention of a prompt's rows.
    AttentionPrompt,
    /// Paged attention of a decoding row over one chunk of keys.
    DecodeChunk,
    /// The sum of a decoding row's chunks.
    DecodeSum,
    /// Copies of blocks of keys and values.
    CopyBlocks,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Kernel; 17] = [
        Kernel::SgmvShrink,
        Kernel::BgmvShrink,
        Kernel::SgmvExpand,
        Kernel::BgmvExpand,
        Kernel::BiasActivation,
        Kernel::AddNorm,
        Kernel::EmbedNorm,
        Kernel::Embed,
        Kernel::RmsNorm,
        Kernel::Gated,
        Kernel::Attention,
        Kernel::Pool,
        Kernel::StoreKv,
        Kernel::AttentionPrompt,
        Kernel::DecodeChunk,
        Kernel::DecodeSum,
        Kernel::CopyBlocks,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Kernel::SgmvShrink => "sgmv_shrink",
            Kernel::BgmvShrink => "bgmv_shrink",
            Kernel::SgmvExpand => "sgmv_expand",
            Kernel::BgmvExpand => "bgmv_expand",
            Kernel::BiasActivation => "bias_activation",
            Kernel::AddNorm => "add_norm",
            Kernel::EmbedNorm => "embed_norm",
            Kernel::Embed => "embed",
            Kernel::RmsNorm => "rms_norm",
            Kernel::Gated => "gated",
            Kernel::Attention => "attention",
            Kernel::Pool => "pool",
            Kernel::StoreKv => "store_kv",
            Kernel::AttentionPrompt => "attention_prompt",
            Kernel::DecodeChunk => "decode_chunk",
            Kernel::DecodeSum => "decode_sum",
            Kernel::CopyBlocks => "copy_blocks",
        }
    }

    /// Launches of this kernel so far, on all devices.
    pub fn launches(self) -> u64 {
        LAUNCHES[self as usize].load(Ordering::Relaxed)
    }

    /// Counts one launch.
    #[cfg_attr(not(feature = "cube"), expect(dead_code, reason = "only GPU backends launch kernels"))]
    pub(crate) fn count(self) {
        LAUNCHES[self as usize].fetch_add(1, Ordering::Relaxed);
    }
}

static LAUNCHES: [AtomicU64; Kernel::ALL.len()] = [const { AtomicU64::new(0) }; Kernel::ALL.len()];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_counts_for_itself_under_its_own_name() {
        let mut names: Vec<_> = Kernel::ALL.iter().map(|k| k.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kernel::ALL.len());
        for (i, kernel) in Kernel::ALL.into_iter().enumerate() {
            assert_eq!(kernel as usize, i);
        }
    }
}
