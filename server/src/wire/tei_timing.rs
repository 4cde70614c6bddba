//! text-embeddings-inference's headers about what a request cost and where its time went.

use std::time::Instant;

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use polylora_engine::{EmbedInput, EmbedReply, ModelInfo};

/// What a request has that its reply does not know.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    started: Instant,
    characters: usize,
}

impl Timer {
    /// Begins with a request for these inputs; a token id counts as a character.
    pub fn start(inputs: &[EmbedInput]) -> Self {
        let characters = |input: &EmbedInput| match input {
            EmbedInput::Text(text) => text.chars().count(),
            EmbedInput::Tokens(ids) => ids.len(),
        };
        Self { started: Instant::now(), characters: inputs.iter().map(characters).sum() }
    }

    /// Adds the headers to the response of `reply`. Times are whole milliseconds.
    pub fn tell(self, response: &mut Response, reply: &EmbedReply, model: &ModelInfo) {
        let total = self.started.elapsed();
        let kind = if model.device.starts_with("cpu") { "cpu+optimized" } else { "gpu+optimized" };
        let headers = response.headers_mut();
        headers.insert("x-compute-type", HeaderValue::from_static(kind));
        let mut number = |name, value: u128| {
            headers.insert(HeaderName::from_static(name), HeaderValue::from(saturated(value)));
        };
        number("x-compute-time", total.as_millis());
        number("x-compute-characters", self.characters as u128);
        number("x-compute-tokens", reply.tokens as u128);
        number("x-total-time", total.as_millis());
        number("x-tokenization-time", reply.timings.tokenize.as_millis());
        number("x-queue-time", reply.timings.queue.as_millis());
        number("x-inference-time", reply.timings.compute.as_millis());
    }
}

fn saturated(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
