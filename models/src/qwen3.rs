//! Qwen 3 (arXiv 2505.09388): Llama's form with norms on each head of queries and keys. As an embedding model, too
//! (Qwen3-Embedding, arXiv 2506.05176).

use crate::decoder_family::{BiasRule, FamilyBiases, FamilyFacts, WindowRule};

/// What config.json leaves to the family, as `Qwen3Config` of transformers has it.
pub(crate) const FACTS: FamilyFacts = FamilyFacts {
    model_type: "qwen3",
    architectures: ["Qwen3ForCausalLM", "Qwen3Model"],
    default_positions: 32_768,
    default_head_width: Some(128),
    biases: FamilyBiases {
        qkv: BiasRule::Field("attention_bias"),
        output: BiasRule::Field("attention_bias"),
        mlp: BiasRule::Never,
    },
    head_norms: true,
    windows: WindowRule::ByLayer,
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::decoder_config::tests::config;

    #[test]
    fn heads_are_normed_and_128_wide_unless_the_config_says_otherwise() {
        assert!(config("qwen3", json!({})).head_norms);
        assert_eq!(config("qwen3", json!({})).heads.width, 128);
        assert_eq!(config("qwen3", json!({"head_dim": 24})).heads.width, 24);
        assert_eq!(config("qwen2", json!({})).heads.width, 16);
    }
}
