//! The replies of text-generation-inference's `/generate` and `/generate_stream`.

use polylora_engine::{Finish, GeneratedToken, GenerationEvent, StopMatch};
use serde::Serialize;
use utoipa::ToSchema;

use super::generation_usage::GenerationUsage;
use super::logprobs::told;
use super::streamed_usage::StreamedUsage;
use super::tgi::GenerateForm;
use super::tgi_error::TgiError;
use crate::event_stream::{EventWriter, data};
use crate::generation_replies::{Arrival, Progress, PromptError, PromptFacts, WholeReply};

/// The body of a whole reply.
#[derive(Debug, Serialize, ToSchema)]
pub struct GenerateResponse {
    generated_text: String,
    /// With `details`.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<GenerateDetails>,
}

/// The tokens of a reply.
#[derive(Debug, Serialize, ToSchema)]
pub struct GenerateDetails {
    #[schema(required)]
    finish_reason: Option<FinishReason>,
    prompt_tokens: usize,
    generated_tokens: usize,
    /// The seed that was asked for.
    #[schema(required)]
    seed: Option<u64>,
    /// The prompt's, with `decoder_input_details`.
    prefill: Vec<PrefillToken>,
    tokens: Vec<OutputToken>,
    /// With `top_n_tokens`: the likeliest in the place of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    top_tokens: Option<Vec<Vec<PrefillToken>>>,
}

/// Why a reply ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It has as many tokens as it may.
    Length,
    /// The model ended it.
    EosToken,
    /// A text of `stop` came.
    StopSequence,
}

/// A token of a prompt, or one that could have been drawn.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PrefillToken {
    id: u32,
    text: String,
    /// `null` for the first token of a prompt.
    #[schema(required)]
    logprob: Option<f32>,
}

/// A token of a reply.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OutputToken {
    id: u32,
    /// What it adds; parts of a character come with the last of them.
    text: String,
    #[schema(required)]
    logprob: Option<f32>,
    /// Whether it is no text but, say, the end of it.
    special: bool,
    /// With `return_k_alternatives`: the likeliest in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    alternative_tokens: Option<Vec<PrefillToken>>,
}

/// A piece of a streamed reply: one token.
#[derive(Debug, Serialize, ToSchema)]
pub struct GeneratePiece {
    /// Its number, from 1.
    index: usize,
    #[schema(required)]
    token: Option<OutputToken>,
    /// With `top_n_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    top_tokens: Option<Vec<PrefillToken>>,
    /// All of it, in the last piece.
    #[schema(required)]
    generated_text: Option<String>,
    /// In the last piece, with `details`.
    #[schema(required)]
    details: Option<PieceDetails>,
}

/// How a streamed reply ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct PieceDetails {
    #[schema(required)]
    finish_reason: Option<FinishReason>,
    prompt_tokens: usize,
    generated_tokens: usize,
    #[schema(required)]
    seed: Option<u64>,
}

impl GenerateForm {
    /// The tokens of `text`, each with what it adds: parts of a character come with the last of them, and what the text's
    /// end left of one with the last token that is no special one.
    fn tokens(&self, text: &str, tokens: &[GeneratedToken]) -> Vec<OutputToken> {
        let mut rest = text.chars();
        let mut bearers = tokens.iter().filter(|token| !token.is_special).peekable();
        let one = |token: &GeneratedToken| {
            if token.is_special {
                return self.token(token, String::new());
            }
            bearers.next();
            let end = bearers.peek().map_or(usize::MAX, |next| next.text_offset);
            self.token(token, rest.by_ref().take(end.saturating_sub(token.text_offset)).collect())
        };
        tokens.iter().map(one).collect()
    }

    /// A token that adds `text`; special ones have their own.
    fn token(&self, token: &GeneratedToken, text: String) -> OutputToken {
        OutputToken {
            id: token.id,
            text: if token.is_special { token.text.clone() } else { text },
            logprob: token.logprob.map(told),
            special: token.is_special,
            alternative_tokens: self.alternatives.then(|| top_tokens(token)),
        }
    }

    /// The text that is continued, where it comes first.
    fn before<'a>(&self, facts: &'a PromptFacts) -> &'a str {
        facts.text.as_deref().filter(|_| self.full_text).unwrap_or_default()
    }
}

impl GenerateResponse {
    /// The whole reply.
    pub fn new(form: GenerateForm, reply: WholeReply) -> Self {
        let WholeReply { facts, copies } = reply;
        let copy = copies.into_iter().next().unwrap_or_default();
        let prefill = facts.logprobs.as_deref().filter(|_| form.prefill).unwrap_or_default();
        let details = form.details.then(|| GenerateDetails {
            finish_reason: copy.finish.as_ref().map(FinishReason::of),
            prompt_tokens: facts.tokens.len(),
            generated_tokens: copy.tokens.len(),
            seed: form.seed,
            prefill: prefill.iter().map(PrefillToken::of).collect(),
            tokens: form.tokens(&copy.text, &copy.tokens),
            top_tokens: form.top_tokens.then(|| copy.tokens.iter().map(top_tokens).collect()),
        });
        Self { generated_text: format!("{}{}", form.before(&facts), copy.text), details }
    }
}

impl FinishReason {
    fn of(finish: &Finish) -> Self {
        match finish {
            Finish::Length => Self::Length,
            Finish::Stop { by: Some(StopMatch::Text(_)) } => Self::StopSequence,
            Finish::Stop { .. } => Self::EosToken,
        }
    }
}

impl PrefillToken {
    fn of(token: &GeneratedToken) -> Self {
        Self { id: token.id, text: token.text.clone(), logprob: token.logprob.map(told) }
    }
}

fn top_tokens(token: &GeneratedToken) -> Vec<PrefillToken> {
    let one = |top: &polylora_engine::TopToken| PrefillToken {
        id: top.id,
        text: top.text.clone(),
        logprob: Some(told(top.logprob)),
    };
    token.top.iter().map(one).collect()
}

/// Writes a reply token by token.
#[derive(Debug)]
pub(crate) struct GenerateWriter {
    form: GenerateForm,
    facts: PromptFacts,
    usage: StreamedUsage,
    text: String,
    index: usize,
}

impl GenerateWriter {
    /// Tells `form` of the reply.
    pub(crate) fn new(form: GenerateForm) -> Self {
        Self {
            form,
            facts: PromptFacts::default(),
            usage: StreamedUsage::default(),
            text: String::new(),
            index: 0,
        }
    }

    fn pieces(&mut self, piece: GenerationEvent) -> String {
        let GenerationEvent { text, tokens, finish, .. } = piece;
        self.text.push_str(&text);
        self.usage.generated(0, 0, tokens.len());
        // The text goes with the last token that has any: clients pass over special ones. What the end leaves of a character
        // comes when its tokens have been sent: it is in `generated_text` alone.
        let bearer = tokens.iter().rposition(|token| !token.is_special);
        let mut pieces = Vec::with_capacity(tokens.len());
        for (place, token) in tokens.iter().enumerate() {
            let text = if Some(place) == bearer { text.clone() } else { String::new() };
            self.index += 1;
            let top_tokens = self.form.top_tokens.then(|| top_tokens(token));
            let token = Some(self.form.token(token, text));
            pieces.push(GeneratePiece {
                index: self.index,
                token,
                top_tokens,
                generated_text: None,
                details: None,
            });
        }
        if let Some(finish) = finish {
            if pieces.is_empty() {
                let index = self.index + 1;
                pieces.push(GeneratePiece {
                    index,
                    token: None,
                    top_tokens: None,
                    generated_text: None,
                    details: None,
                });
            }
            if let Some(last) = pieces.last_mut() {
                last.generated_text = Some(format!("{}{}", self.form.before(&self.facts), self.text));
                let usage = self.usage.total();
                last.details = self.form.details.then(|| PieceDetails {
                    finish_reason: Some(FinishReason::of(&finish)),
                    prompt_tokens: usage.prompt_tokens,
                    generated_tokens: usage.completion_tokens,
                    seed: self.form.seed,
                });
            }
        }
        pieces.iter().map(data).collect()
    }
}

impl EventWriter for GenerateWriter {
    fn arrived(&mut self, Arrival { progress, .. }: Arrival) -> String {
        match progress {
            Progress::Started(facts) => {
                self.usage.started(0, &facts);
                self.facts = facts;
                String::new()
            }
            Progress::Piece(piece) => self.pieces(piece),
        }
    }

    fn ended(&mut self) -> String {
        String::new()
    }

    fn failed(&self, PromptError { error, .. }: &PromptError) -> String {
        data(&TgiError::generating(error).body())
    }

    fn usage(&self) -> GenerationUsage {
        self.usage.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_tokens_are_the_text_whatever_they_have_of_a_character() {
        let token = |text_offset, text: &str, is_special| GeneratedToken {
            text: text.to_owned(),
            text_offset,
            is_special,
            ..GeneratedToken::default()
        };
        let tokens = [
            token(0, "é", false),
            token(1, "\u{FFFD}", false),
            token(1, "\u{FFFD}", false),
            token(2, " x", false),
            token(4, "</s>", true),
        ];
        let added_texts = |text: &str, tokens: &[GeneratedToken]| -> Vec<String> {
            GenerateForm::default().tokens(text, tokens).into_iter().map(|token| token.text).collect()
        };
        assert_eq!(added_texts("é✓ x", &tokens), ["é", "", "✓", " x", "</s>"]);
        assert_eq!(added_texts("é", &tokens[..3]), ["é", "", ""]);
        let cut = [token(0, "é", false), token(1, "\u{FFFD}", false), token(1, "</s>", true)];
        assert_eq!(added_texts("é\u{FFFD}", &cut), ["é", "\u{FFFD}", "</s>"]);
        let split =
            [token(0, "<a>", true), token(0, "é", false), token(1, "<a>", true), token(1, "x", false)];
        assert_eq!(added_texts("éx", &split), ["<a>", "é", "<a>", "x"]);
        assert!(added_texts("", &[]).is_empty());
    }
}
