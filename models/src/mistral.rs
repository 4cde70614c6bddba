//! Mistral 7B (arXiv 2310.06825): Llama's form, where every layer sees a window only.

use crate::decoder_family::{BiasRule, FamilyBiases, FamilyFacts, WindowRule};

/// What config.json leaves to the family, as `MistralConfig` of transformers has it.
pub(crate) const FACTS: FamilyFacts = FamilyFacts {
    model_type: "mistral",
    architectures: ["MistralForCausalLM", "MistralModel"],
    default_positions: 4096 * 32,
    default_head_width: None,
    biases: FamilyBiases { qkv: BiasRule::Never, output: BiasRule::Never, mlp: BiasRule::Never },
    head_norms: false,
    windows: WindowRule::All(4096),
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::decoder_config::tests::{config, refused};

    #[test]
    fn every_layer_has_the_window_unless_it_is_null() {
        assert_eq!(config("mistral", json!({"sliding_window": 8})).windows, [Some(8); 3]);
        assert_eq!(config("mistral", json!({"sliding_window": null})).windows, [None; 3]);
        assert_eq!(config("mistral", json!({})).windows, [Some(4096); 3]);
    }

    #[test]
    fn a_window_of_nothing_is_refused() {
        let message = refused("mistral", json!({"sliding_window": 0}));
        assert!(message.contains("`sliding_window` is 0"), "{message}");
    }
}
