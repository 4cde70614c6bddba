//! Llama (arXiv 2302.13971, 2407.21783): the form that most open decoders have.

use crate::decoder_family::{BiasRule, FamilyBiases, FamilyFacts, WindowRule};

/// What config.json leaves to the family, as `LlamaConfig` of transformers has it.
pub(crate) const FACTS: FamilyFacts = FamilyFacts {
    model_type: "llama",
    architectures: ["LlamaForCausalLM", "LlamaModel"],
    default_positions: 2048,
    default_head_width: None,
    biases: FamilyBiases {
        qkv: BiasRule::Field("attention_bias"),
        output: BiasRule::Field("attention_bias"),
        mlp: BiasRule::Field("mlp_bias"),
    },
    head_norms: false,
    windows: WindowRule::Never,
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::decoder_config::tests::{config, refused};

    #[test]
    fn biases_are_where_the_config_says() {
        let plain = config("llama", json!({})).biases;
        assert!(!plain.qkv && !plain.output && !plain.mlp);
        let attention = config("llama", json!({"attention_bias": true})).biases;
        assert!(attention.qkv && attention.output && !attention.mlp);
        assert!(config("llama", json!({"mlp_bias": true})).biases.mlp);
    }

    #[test]
    fn a_window_means_nothing_to_it() {
        assert_eq!(config("llama", json!({"sliding_window": 8})).windows, [None; 3]);
    }

    #[test]
    fn a_classifier_is_refused() {
        let message = refused("llama", json!({"architectures": ["LlamaForSequenceClassification"]}));
        assert!(message.contains("`architectures`") && message.contains("LlamaForCausalLM"), "{message}");
    }
}
