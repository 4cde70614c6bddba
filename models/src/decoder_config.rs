//! `config.json` of a decoder: Llama, Mistral, Qwen 2 and 3, as the Hub has it and as transformers 5 writes it.

use std::path::Path;

use polylora_kernels::{Activation, KvHeads};

use crate::config_fields::ConfigFields;
use crate::decoder_family::DecoderFamily;
use crate::rope_parameters::RopeParameters;
use crate::{ModelError, canonical};

/// Sizes and facts of a decoder, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The family.
    pub family: DecoderFamily,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Heads of queries, of keys and values, and their width, which is even.
    pub heads: KvHeads,
    /// Rows of the embedding table, and logits of a row.
    pub vocab_size: usize,
    /// Positions of a sequence, as config.json names them; see [`DecoderConfig::positions`].
    pub max_position_embeddings: usize,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f32,
    /// Activation of the gate.
    pub activation: Activation,
    /// Whether logits are products with the embedding table.
    pub tie_word_embeddings: bool,
    /// Which projections have biases.
    pub biases: Biases,
    /// Whether heads of queries and keys are normed.
    pub head_norms: bool,
    /// How many positions each layer sees, a row's own included; `None` for all.
    pub windows: Vec<Option<usize>>,
    /// Rotary positions.
    pub rope: RopeParameters,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
}

/// Which projections of a decoder have biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// Output of the attention.
    pub output: bool,
    /// The feed-forward layer's.
    pub mlp: bool,
}

impl DecoderConfig {
    /// Reads and checks `dir/config.json`.
    ///
    /// # Errors
    /// With the field, its value and what would be served.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let hint = "a model directory needs config.json, tokenizer.json and model.safetensors";
        let missing = ModelError::Missing { path: dir.join("config.json"), hint };
        Self::of(&ConfigFields::read(dir, "config.json")?.ok_or(missing)?)
    }

    /// Reads and checks a config.json of any name, without a model beside it.
    ///
    /// # Errors
    /// As [`DecoderConfig::read`].
    pub fn read_file(path: &Path) -> Result<Self, ModelError> {
        let missing =
            || ModelError::Missing { path: path.to_owned(), hint: "a decoder's config.json is needed" };
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(missing)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        Self::of(&ConfigFields::read(dir, name)?.ok_or_else(missing)?)
    }

    pub(crate) fn of(config: &ConfigFields) -> Result<Self, ModelError> {
        let family = DecoderFamily::of(config)?;
        let facts = family.facts();
        if config.get("quantization_config").is_some() {
            return config.refuse("quantization_config", "none (weights in f32, f16 or bf16)");
        }
        let activation = match config.text("hidden_act")? {
            None | Some("silu" | "swish") => Activation::Silu,
            Some("gelu") => Activation::Gelu,
            Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluTanh,
            Some(_) => return config.refuse("hidden_act", "`silu`, `gelu`, `gelu_new`, `gelu_pytorch_tanh`"),
        };
        let hidden_size = config.needed_size("hidden_size", 1..=1 << 16)?;
        let num_hidden_layers = config.needed_size("num_hidden_layers", 1..=1 << 10)?;
        let vocab_size = config.needed_size("vocab_size", 1..=1 << 24)?;
        let positions = config.size("max_position_embeddings", 1..=1 << 24)?;
        let max_position_embeddings = positions.unwrap_or(facts.default_positions);
        let bos_token_id = config.token_ids("bos_token_id")?.and_then(|ids| ids.first().copied());
        Ok(Self {
            family,
            hidden_size,
            num_hidden_layers,
            intermediate_size: config.needed_size("intermediate_size", 1..=1 << 20)?,
            heads: heads(config, hidden_size, facts.default_head_width)?,
            vocab_size,
            max_position_embeddings,
            rms_norm_eps: config.number("rms_norm_eps", 1e-30..=1.0)?.unwrap_or(1e-6) as f32,
            activation,
            tie_word_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(false),
            biases: Biases {
                qkv: facts.biases.qkv.read(config)?,
                output: facts.biases.output.read(config)?,
                mlp: facts.biases.mlp.read(config)?,
            },
            head_norms: facts.head_norms,
            windows: facts.windows.read(config, num_hidden_layers)?,
            rope: RopeParameters::read(config, max_position_embeddings)?,
            bos_token_id,
            eos_token_ids: config.token_ids("eos_token_id")?.unwrap_or_default(),
        })
    }

    /// Positions that a sequence may have: those of the file, or those that its scaling of positions reaches.
    pub fn positions(&self) -> usize {
        self.rope.positions(self.max_position_embeddings)
    }

    /// Numbers of the weights, each once.
    pub fn parameters(&self) -> u64 {
        let wide = |a: usize, b: usize| a as u64 * b as u64;
        let biased = |on: bool, width: usize| if on { width as u64 } else { 0 };
        let (hidden, inner, heads) = (self.hidden_size, self.intermediate_size, self.heads);
        let (qkv, queries) = (heads.qkv_columns(), heads.query * heads.width);
        let attention = wide(hidden, qkv)
            + wide(queries, hidden)
            + biased(self.biases.qkv, qkv)
            + biased(self.biases.output, hidden)
            + biased(self.head_norms, 2 * heads.width);
        let mlp = 3 * wide(hidden, inner) + biased(self.biases.mlp, 2 * inner + hidden);
        let tables = if self.tie_word_embeddings { 1 } else { 2 } * wide(self.vocab_size, hidden);
        self.num_hidden_layers as u64 * (attention + mlp + 2 * hidden as u64) + tables + hidden as u64
    }

    /// Numbers that a step reads whatever its tokens are: all weights but the embedding table, of which it reads its tokens'
    /// rows only, unless the table is the head as well.
    pub fn parameters_of_a_step(&self) -> u64 {
        let table =
            if self.tie_word_embeddings { 0 } else { self.vocab_size as u64 * self.hidden_size as u64 };
        self.parameters() - table
    }

    /// What these facts mean to the forward pass, in one line: part of the base model's digest, so its form is fixed.
    /// Fields of config.json that change nothing are not in it.
    pub fn canonical(&self) -> String {
        let KvHeads { query, kv, width } = self.heads;
        let Biases { qkv, output, mlp } = self.biases;
        let windows: Vec<_> = self.windows.iter().map(|w| w.unwrap_or(0).to_string()).collect();
        format!(
            "{} hidden={} layers={} heads={query}/{kv}x{width} intermediate={} vocab={} eps={:e} act={} tied={} \
             bias={qkv}/{output}/{mlp} head_norms={} windows={} rope={:?}",
            self.family.name(),
            self.hidden_size,
            self.num_hidden_layers,
            self.intermediate_size,
            self.vocab_size,
            self.rms_norm_eps,
            canonical::activation(self.activation),
            self.tie_word_embeddings,
            self.head_norms,
            windows.join(","),
            self.rope,
        )
    }
}

fn heads(config: &ConfigFields, hidden: usize, width: Option<usize>) -> Result<KvHeads, ModelError> {
    let query = config.needed_size("num_attention_heads", 1..=1 << 10)?;
    let kv = config.size("num_key_value_heads", 1..=1 << 10)?.unwrap_or(query);
    if !query.is_multiple_of(kv) {
        return config.refuse("num_key_value_heads", &format!("a divisor of num_attention_heads {query}"));
    }
    let width = match config.size("head_dim", 1..=1 << 10)?.or(width) {
        Some(width) => width,
        None if hidden.is_multiple_of(query) => hidden / query,
        None => {
            let expected = format!("a divisor of hidden_size {hidden}, or head_dim given");
            return config.refuse("num_attention_heads", &expected);
        }
    };
    if !width.is_multiple_of(2) {
        return config.refuse("head_dim", &format!("even (rotated by halves), and it comes to {width}"));
    }
    Ok(KvHeads { query, kv, width })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// A config of three layers with some fields changed.
    fn read(family: &str, changes: Value) -> Result<DecoderConfig, ModelError> {
        let mut config = json!({
            "model_type": family, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 256,
        });
        config.as_object_mut().expect("fields").extend(changes.as_object().expect("fields").clone());
        DecoderConfig::of(&ConfigFields::of("config.json", config))
    }

    pub(crate) fn config(family: &str, changes: Value) -> DecoderConfig {
        read(family, changes).expect("a config")
    }

    pub(crate) fn refused(family: &str, changes: Value) -> String {
        read(family, changes).expect_err("refused").to_string()
    }

    #[test]
    fn what_is_not_served_is_refused_by_field_value_and_what_would_be() {
        for (changes, words) in [
            (json!({"model_type": "gemma2"}), ["`model_type`", "`gemma2`", "`qwen3`"]),
            (json!({"quantization_config": {"bits": 4}}), ["`quantization_config`", "bits", "bf16"]),
            (json!({"hidden_act": "relu6"}), ["`hidden_act`", "`relu6`", "`silu`"]),
            (json!({"hidden_size": 0}), ["`hidden_size`", "0", "1 to 65536"]),
            (json!({"hidden_size": null}), ["`hidden_size`", "null", "1 to 65536"]),
            (json!({"vocab_size": u64::MAX}), ["`vocab_size`", "18446744073709551615", "16777216"]),
            (
                json!({"num_attention_heads": 5, "num_key_value_heads": 5}),
                ["`num_attention_heads`", "5", "64"],
            ),
            (json!({"num_key_value_heads": 3}), ["`num_key_value_heads`", "3", "num_attention_heads 4"]),
            (json!({"head_dim": 15}), ["`head_dim`", "15", "even"]),
            (json!({"rms_norm_eps": -1}), ["`rms_norm_eps`", "-1", "1"]),
            (json!({"rope_scaling": {"type": "longrope"}}), ["`rope_scaling.type`", "`longrope`", "`yarn`"]),
            (json!({"eos_token_id": "</s>"}), ["`eos_token_id`", "`</s>`", "token id"]),
            (json!({"tie_word_embeddings": "yes"}), ["`tie_word_embeddings`", "`yes`", "true or false"]),
        ] {
            let message = refused("llama", changes);
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }

    #[test]
    fn architectures_name_the_family_where_model_type_does_not() {
        let qwen3 = config("llama", json!({"model_type": null, "architectures": ["Qwen3ForCausalLM"]}));
        assert_eq!(qwen3.family, DecoderFamily::Qwen3);
        assert!(refused("llama", json!({"model_type": null})).contains("`model_type` is null"));
    }

    #[test]
    fn what_changes_the_forward_pass_changes_the_canonical_line_and_nothing_else_does() {
        let line = config("qwen3", json!({})).canonical();
        for same in
            [json!({"bos_token_id": 3}), json!({"torch_dtype": "float16"}), json!({"use_cache": false})]
        {
            assert_eq!(config("qwen3", same).canonical(), line);
        }
        for other in [
            json!({"head_dim": 16}),
            json!({"rope_theta": 1e6}),
            json!({"attention_bias": true}),
            json!({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 0}),
            json!({"tie_word_embeddings": true}),
            json!({"rope_scaling": {"type": "linear", "factor": 2}}),
        ] {
            assert_ne!(config("qwen3", other.clone()).canonical(), line, "{other}");
        }
    }

    #[test]
    fn parameters_are_those_of_the_published_model() {
        // Qwen3-0.6B: 751,632,384 tensors' values on the Hub with the head stored apart, 596,049,920 tied.
        let sizes = json!({"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151_936, "tie_word_embeddings": true});
        let tied = config("qwen3", sizes.clone());
        assert_eq!([tied.parameters(), tied.parameters_of_a_step()], [596_049_920; 2]);
        let mut apart = sizes;
        apart["tie_word_embeddings"] = false.into();
        let apart = config("qwen3", apart);
        assert_eq!([apart.parameters(), apart.parameters_of_a_step()], [751_632_384, 596_049_920]);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (0i64..5).prop_map(Value::from),
            "[a-z_]{0,8}".prop_map(Value::from),
            prop::sample::select(vec!["yarn", "llama3", "linear", "default", "sliding_attention"])
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 12, 4, |inner| {
            let keys =
                vec!["type", "rope_type", "factor", "original_max_position_embeddings", "attention_factor"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(prop::sample::select(keys), inner, 0..4)
                    .prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Value>()),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_config_panics_and_what_is_accepted_is_within_bounds(
            family in prop::sample::select(vec!["llama", "mistral", "qwen2", "qwen3"]),
            changes in prop::collection::btree_map(
                prop::sample::select(vec![
                    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
                    "num_key_value_heads", "vocab_size", "max_position_embeddings", "rms_norm_eps", "hidden_act",
                    "rope_theta", "rope_scaling", "rope_parameters", "sliding_window", "use_sliding_window",
                    "max_window_layers", "layer_types", "eos_token_id", "bos_token_id", "architectures",
                    "tie_word_embeddings", "attention_bias", "partial_rotary_factor", "quantization_config",
                ]),
                any_value(),
                0..6,
            ),
        ) {
            let changes: Value = changes.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            if let Ok(config) = read(family, changes) {
                prop_assert_eq!(config.windows.len(), config.num_hidden_layers);
                prop_assert!(config.heads.query.is_multiple_of(config.heads.kv));
                prop_assert!(config.heads.width.is_multiple_of(2) && config.parameters() < 1 << 60);
                let _ = (config.canonical(), config.positions());
            }
        }
    }
}
