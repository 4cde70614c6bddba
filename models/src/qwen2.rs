//! Qwen 2 and 2.5 (arXiv 2407.10671, 2412.15115): Llama's form with biases on queries, keys and values.

use crate::decoder_family::{BiasRule, FamilyBiases, FamilyFacts, WindowRule};

/// What config.json leaves to the family, as `Qwen2Config` of transformers has it.
pub(crate) const FACTS: FamilyFacts = FamilyFacts {
    model_type: "qwen2",
    architectures: ["Qwen2ForCausalLM", "Qwen2Model"],
    default_positions: 32_768,
    default_head_width: None,
    biases: FamilyBiases { qkv: BiasRule::Always, output: BiasRule::Never, mlp: BiasRule::Never },
    head_norms: false,
    windows: WindowRule::ByLayer,
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::decoder_config::tests::{config, refused};

    #[test]
    fn a_window_that_is_not_used_is_none() {
        let fields = json!({"use_sliding_window": false, "sliding_window": 32, "max_window_layers": 1});
        assert_eq!(config("qwen2", fields).windows, [None; 3]);
    }

    #[test]
    fn layers_from_max_window_layers_on_have_the_window() {
        let fields = json!({"use_sliding_window": true, "sliding_window": 32, "max_window_layers": 1});
        assert_eq!(config("qwen2", fields).windows, [None, Some(32), Some(32)]);
    }

    #[test]
    fn layer_types_decide_where_they_are_given() {
        let with = |types| json!({"use_sliding_window": true, "sliding_window": 32, "max_window_layers": 3, "layer_types": types});
        let types = json!(["sliding_attention", "full_attention", "sliding_attention"]);
        assert_eq!(config("qwen2", with(types)).windows, [Some(32), None, Some(32)]);
        let message = refused("qwen2", with(json!(["full_attention"])));
        assert!(message.contains("`layer_types`") && message.contains("3 layers"), "{message}");
        let message =
            refused("qwen2", with(json!(["chunked_attention", "full_attention", "full_attention"])));
        assert!(message.contains("chunked_attention"), "{message}");
    }
}
