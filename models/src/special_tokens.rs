//! The names of a tokenizer's special tokens.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{ModelError, json_file};

/// What tokenizer_config.json and special_tokens_map.json say; the former wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpecialTokens {
    /// By role: `bos_token`, `eos_token`.
    pub(crate) named: BTreeMap<String, String>,
    /// `additional_special_tokens`.
    pub(crate) additional: Vec<String>,
}

impl SpecialTokens {
    /// Reads the files of `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self, ModelError> {
        let mut tokens = Self::default();
        for file in ["special_tokens_map.json", "tokenizer_config.json"] {
            tokens.take(json_file::read(dir, file)?.unwrap_or_default());
        }
        Ok(tokens)
    }

    /// Takes what a file's fields say over what is there.
    pub(crate) fn take(&mut self, fields: Map<String, Value>) {
        // A token is its text, or an object that has it as `content`.
        let text =
            |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned);
        if let Some(Value::Array(additional)) = fields.get("additional_special_tokens") {
            self.additional = additional.iter().filter_map(text).collect();
        }
        let named = fields.into_iter().filter(|(role, _)| role.ends_with("_token"));
        self.named.extend(named.filter_map(|(role, value)| Some((role, text(&value)?))));
    }

    /// The token of a role.
    pub(crate) fn of_role(&self, role: &str) -> Option<&str> {
        self.named.get(role).map(String::as_str)
    }
}
