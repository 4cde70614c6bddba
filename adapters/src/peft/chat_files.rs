//! The texts that an adapter's folder may bring for conversations: a chat template of its own, and the special tokens in it.

use std::path::Path;

use super::folder::{self, FileTrust};
use crate::AdapterError;

/// The file with nothing but a chat template.
pub const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";
/// The tokenizer's settings, where older folders have the template.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";

/// Longest template that is read, in bytes.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;
/// Longest settings of a tokenizer that are read, in bytes.
const MAX_TOKENIZER_CONFIG_BYTES: u64 = 4 << 20;

/// What the files hold; nothing of it has been looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatFiles {
    /// `chat_template.jinja`.
    pub template: Option<String>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<String>,
}

impl ChatFiles {
    /// Reads the files that are there.
    pub(super) fn read(folder: &Path, trust: FileTrust) -> Result<Self, AdapterError> {
        let text = |name: &str, max: u64| -> Result<Option<String>, AdapterError> {
            let Some(open) = folder::open(folder, name, trust)? else { return Ok(None) };
            let file = open.path.clone();
            let text = String::from_utf8(folder::read_whole(open, max)?);
            text.map(Some)
                .map_err(|_| AdapterError::ChatUnusable { file, reason: "it is no UTF-8".to_owned() })
        };
        Ok(Self {
            template: text(CHAT_TEMPLATE_FILE, MAX_TEMPLATE_BYTES)?,
            tokenizer_config: text(TOKENIZER_CONFIG_FILE, MAX_TOKENIZER_CONFIG_BYTES)?,
        })
    }

    /// Bytes of both.
    pub fn bytes(&self) -> usize {
        self.template.as_ref().map_or(0, String::len) + self.tokenizer_config.as_ref().map_or(0, String::len)
    }
}
