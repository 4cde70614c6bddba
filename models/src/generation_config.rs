//! `generation_config.json`: what a model's makers suggest for sampling, and which tokens end a text.

use std::path::Path;

use crate::ModelError;
use crate::config_fields::ConfigFields;

/// What generation_config.json says; `None` where it is silent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a text.
    pub eos_token_ids: Option<Vec<u32>>,
    /// Whether to sample at all; without it, transformers takes the most likely token.
    pub do_sample: Option<bool>,
    /// Divides the logits, 0 or more.
    pub temperature: Option<f32>,
    /// Share of the probability mass that is sampled from, above 0.
    pub top_p: Option<f32>,
    /// Number of tokens that are sampled from; 0 for all.
    pub top_k: Option<u32>,
    /// Least probability of a token, as a share of the greatest.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens that have occurred, above 0.
    pub repetition_penalty: Option<f32>,
    /// Most tokens of an answer.
    pub max_new_tokens: Option<u32>,
}

impl GenerationConfig {
    /// Reads `dir/generation_config.json`; without the file, nothing is said.
    ///
    /// # Errors
    /// With the field, its value and what would be served.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        match ConfigFields::read(dir, "generation_config.json")? {
            Some(fields) => Self::of(&fields),
            None => Ok(Self::default()),
        }
    }

    fn of(fields: &ConfigFields) -> Result<Self, ModelError> {
        let number = |name, least: f64, most: f64| {
            fields.number(name, least..=most).map(|number| number.map(|number| number as f32))
        };
        let above_zero = f64::from(f32::MIN_POSITIVE);
        let count = |name| fields.size(name, 0..=u32::MAX as usize).map(|count| count.map(|c| c as u32));
        Ok(Self {
            eos_token_ids: fields.token_ids("eos_token_id")?,
            do_sample: fields.flag("do_sample")?,
            temperature: number("temperature", 0.0, 1e3)?,
            top_p: number("top_p", above_zero, 1.0)?,
            top_k: count("top_k")?,
            min_p: number("min_p", 0.0, 1.0)?,
            repetition_penalty: number("repetition_penalty", above_zero, 1e3)?,
            max_new_tokens: count("max_new_tokens")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(fields: serde_json::Value) -> Result<GenerationConfig, ModelError> {
        GenerationConfig::of(&ConfigFields::of("generation_config.json", fields))
    }

    #[test]
    fn what_the_file_says_is_taken_and_its_silence_kept() {
        // Qwen2.5-0.5B-Instruct's.
        let config = of(json!({
            "bos_token_id": 151643, "pad_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643],
            "repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
            "transformers_version": "4.37.0",
        }));
        let expected = GenerationConfig {
            eos_token_ids: Some(vec![151_645, 151_643]),
            do_sample: Some(true),
            temperature: Some(0.7),
            top_p: Some(0.8),
            top_k: Some(20),
            repetition_penalty: Some(1.1),
            ..GenerationConfig::default()
        };
        assert_eq!(config.expect("reads"), expected);
        assert_eq!(of(json!({"eos_token_id": 2})).expect("reads").eos_token_ids, Some(vec![2]));
        assert_eq!(of(json!({})).expect("reads"), GenerationConfig::default());
    }

    #[test]
    fn values_beyond_their_bounds_are_refused_by_name() {
        for (fields, name) in [
            (json!({"temperature": -1}), "temperature"),
            (json!({"top_p": 0}), "top_p"),
            (json!({"top_p": 1.5}), "top_p"),
            (json!({"top_k": -1}), "top_k"),
            (json!({"repetition_penalty": 0}), "repetition_penalty"),
            (json!({"eos_token_id": "x"}), "eos_token_id"),
            (json!({"do_sample": 1}), "do_sample"),
        ] {
            let message = of(fields).expect_err("refused").to_string();
            assert!(message.contains(&format!("`{name}`")), "{message}");
        }
    }
}
