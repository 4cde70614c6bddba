//! What every piece of a generated reply repeats, and what ends a copy in OpenAI's words.

use polylora_engine::{Finish, LlmInfo, StopMatch};
use serde::Serialize;
use utoipa::ToSchema;

use std::time::{SystemTime, UNIX_EPOCH};

/// Digits of the model's digest in a fingerprint.
const FINGERPRINT_DIGITS: usize = 12;

/// What every piece of a reply repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// Names the reply.
    pub id: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// The model's name, as the request had it.
    pub model: String,
    /// Stands for the weights that computed.
    pub fingerprint: String,
}

impl ReplyHead {
    /// The head of the reply to `request`, whose id begins with `prefix`.
    pub fn new(prefix: &str, request: &str, model: String, llm: &LlmInfo) -> Self {
        // A clock before 1970 is no reason not to answer.
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let digits: String = llm.digest.chars().take(FINGERPRINT_DIGITS).collect();
        Self { id: format!("{prefix}-{request}"), created, model, fingerprint: format!("fp_{digits}") }
    }
}

/// What of the request ended a copy, vLLM's field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum StopReason {
    /// A token id.
    Token(u32),
    /// A text.
    Text(String),
}

/// `finish_reason` and `stop_reason`.
pub(super) fn reasons(finish: Option<Finish>) -> (Option<&'static str>, Option<StopReason>) {
    match finish {
        None => (None, None),
        Some(Finish::Length) => (Some("length"), None),
        Some(Finish::Stop { by }) => {
            let reason = by.map(|by| match by {
                StopMatch::Token(id) => StopReason::Token(id),
                StopMatch::Text(text) => StopReason::Text(text),
            });
            (Some("stop"), reason)
        }
    }
}
